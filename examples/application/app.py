"""A website, the agent and an administration in one process. All use the same list of blocked addresses.

app.tac puts the parts together, and twistd runs it: PYTHONPATH=. twistd -n -y app.tac
"""

from __future__ import annotations

import hmac
import json
import os
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from klein import Klein
from twisted.application.service import Service
from twisted.enterprise.adbapi import ConnectionPool
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource
from twisted.web.server import Site

from spoa_twisted import Handlers, SPOAService, Variables
from spoa_twisted.status.site import StatusResource

log = Logger("app")


class Blocklist:
    """The blocked addresses, in an SQLite file. Queries run in the pool's threads, so they stop nothing else.

    :param path: the file. It is made if it is missing.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._pool: ConnectionPool | None = None

    async def open(self) -> None:
        # Another process may hold the file's lock: wait for less than the handler's timeout.
        self._pool = ConnectionPool("sqlite3", self._path, check_same_thread=False, timeout=0.3, cp_noisy=False)
        # With WAL, the agent reads while the administration writes.
        await self._query("PRAGMA journal_mode=WAL")
        await self._query("CREATE TABLE IF NOT EXISTS blocked (address TEXT PRIMARY KEY, reason TEXT NOT NULL)")

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    async def add(self, address: IPv4Address | IPv6Address, reason: str) -> None:
        await self._query("INSERT OR REPLACE INTO blocked VALUES (?, ?)", key(address), reason)

    async def remove(self, address: IPv4Address | IPv6Address) -> None:
        await self._query("DELETE FROM blocked WHERE address = ?", key(address))

    async def has(self, address: IPv4Address | IPv6Address) -> bool:
        return bool(await self._query("SELECT 1 FROM blocked WHERE address = ?", key(address)))

    async def all(self) -> dict[str, str]:
        return dict(await self._query("SELECT address, reason FROM blocked ORDER BY address"))

    def _query(self, text: str, *values: str) -> Deferred[Any]:
        if self._pool is None:
            raise RuntimeError("the list of blocked addresses is not open")
        # Not runQuery, which does not commit what it has written when the text is no SELECT.
        rows: Deferred[Any] = self._pool.runInteraction(lambda cursor: cursor.execute(text, values).fetchall())
        return rows


def key(address: IPv4Address | IPv6Address) -> str:
    """Return the text that stands for an address: the same for 192.0.2.1 and ::ffff:192.0.2.1."""
    return str(getattr(address, "ipv4_mapped", None) or address)


def make_handlers(blocklist: Blocklist) -> Handlers:
    """Return the handlers of the agent. It opens the list before it listens, and closes it when it has drained."""
    # The agent sets txn.error when the handler fails. The rules in haproxy.cfg then answer 503.
    handlers = Handlers(on_error={"txn.error": "handler"})
    handlers.startup(blocklist.open)
    handlers.shutdown(blocklist.close)

    @handlers.message(
        "check-address", args={"ip": "src"}, event="on-frontend-http-request", sets={"txn.allowed": bool}, timeout=0.5
    )
    async def check_address(ip: IPv4Address | IPv6Address) -> Variables:
        return {"txn.allowed": not await blocklist.has(ip)}

    return handlers


class Website:
    """What visitors see. It stands for your application, and HAProxy is in front of it."""

    app = Klein()

    @app.route("/")
    def index(self, request: IRequest) -> bytes:
        request.setHeader(b"content-type", b"text/plain")
        return b"Hello.\n"


class Administration:
    """An API to list, block and unblock addresses. All requests need the token."""

    app = Klein()

    def __init__(self, blocklist: Blocklist) -> None:
        self._blocklist = blocklist

    @app.route("/", methods=["GET"])
    async def list(self, request: IRequest) -> bytes:
        request.setHeader(b"content-type", b"application/json")
        return json.dumps(await self._blocklist.all()).encode() + b"\n"

    @app.route("/<address>", methods=["PUT"])
    async def block(self, request: IRequest, address: str) -> bytes:
        await self._blocklist.add(ip_address(address), request.content.read(200).decode("utf-8", "replace"))
        log.info("{address} is blocked", address=address)
        return b"blocked\n"

    @app.route("/<address>", methods=["DELETE"])
    async def unblock(self, request: IRequest, address: str) -> bytes:
        await self._blocklist.remove(ip_address(address))
        log.info("{address} is not blocked any more", address=address)
        return b"not blocked\n"

    @app.handle_errors(ValueError)
    def no_address(self, request: IRequest, failure: Any) -> bytes:
        request.setResponseCode(400)
        return f"{failure.getErrorMessage()}\n".encode()


class Protected(Resource):
    """Passes requests on that have the header ``Authorization: Bearer TOKEN``.

    :raises ValueError: if the token is too short to be a secret.
    """

    isLeaf = True

    def __init__(self, resource: Resource, token: str) -> None:
        super().__init__()
        if len(token) < 16:
            raise ValueError("ADMIN_TOKEN must have at least 16 characters")
        self._resource = resource
        self._expected = b"Bearer " + token.encode()

    def render(self, request: Any) -> Any:
        # compare_digest: the time of an answer must not tell how much of a token is right.
        if hmac.compare_digest(request.getHeader(b"authorization") or b"", self._expected):
            return self._resource.render(request)
        request.setResponseCode(401)
        request.setHeader(b"www-authenticate", b"Bearer")
        return b"this needs the header Authorization: Bearer ADMIN_TOKEN\n"


def website() -> Site:
    return Site(Website().app.resource())


def administration(blocklist: Blocklist, agent: SPOAService, token: str) -> Site:
    """Return the site with the API below /blocked, and the agent's status below /agent."""
    root = Resource()
    root.putChild(b"blocked", Protected(Administration(blocklist).app.resource(), token))
    root.putChild(b"agent", StatusResource(agent, check_host=True))
    return Site(root)


class SiteService(Service):
    """Serves a site from the time when the agent is ready to the time when it has drained.

    :param agent: if it cannot start, the process ends, so that a service manager notices.
    """

    def __init__(self, site: Site, endpoint: str, agent: SPOAService) -> None:
        self._site = site
        self._endpoint = endpoint
        self._agent = agent
        self._port: Any = None

    def startService(self) -> None:
        super().startService()
        self._agent.when_ready().addCallback(lambda _: self._listen()).addErrback(self._failed)

    async def _open(self) -> None:
        self._port = await serverFromString(reactor, self._endpoint).listen(self._site)

    def _listen(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._open())

    def _failed(self, failure: Any) -> None:
        if self.running:
            log.critical("cannot serve {endpoint}: {reason}", endpoint=self._endpoint, reason=failure.value)
            # Another service may have stopped it.
            with suppress(ReactorNotRunning):
                reactor.stop()

    async def _close(self) -> None:
        # In the next turn: twistd stops the agent after this service, and has not begun yet.
        await deferLater(reactor, 0)
        await self._agent.when_stopped()
        if self._port is not None:
            await self._port.stopListening()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._close())


# What app.tac and spoactl config use.
blocklist = Blocklist(os.environ.get("DATABASE") or "blocked.sqlite")
handlers = make_handlers(blocklist)
