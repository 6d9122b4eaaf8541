"""Handlers that look up the score of an address in a service: Redis, PostgreSQL, or a web server.

``benchmarks.lookups`` runs ``twistd spoa --handlers benchmarks/lookup_handlers.py:redis``, and likewise ``postgresql``
and ``http``. The environment says where the services are: ``LOOKUP_REDIS`` is ``HOST:PORT``, ``LOOKUP_DATABASE`` is the
URL of the database, and ``LOOKUP_URL`` is the URL before the address. ``LOOKUP_SLEEP`` is the time in seconds that the
database lets each query wait.

Each handler asks once per NOTIFY, and keeps nothing in memory, so each request of a client needs the service.
"""

from __future__ import annotations

import os
import time
from ipaddress import IPv4Address
from typing import Any, Final, Protocol

from twisted.internet import protocol
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone

from spoa_twisted import Handlers, Variables

#: The score that each service has for each address.
SCORE: Final = b"20"

#: Connections of each agent process to Redis, and to the database. More look-ups wait for one of them. With the
#: database, each has a thread.
CONNECTIONS: Final = 10

#: Idle connections that are kept open to the web server. A request that finds none opens one, so there is no limit. As
#: many as clients of HAProxy: otherwise many requests would pay for a new connection.
IDLE_CONNECTIONS: Final = 200

#: Seconds. No look-up may last longer.
TIMEOUT: Final = 1.0

#: The table is in ``benchmarks/lookups.py``. pg_sleep stands for a query that takes the database some time.
QUERY: Final = "SELECT score, pg_sleep(%s) FROM reputation WHERE ip = %s"


class Service(Protocol):
    """A service that handlers ask."""

    async def open(self) -> None:
        """Open the connections. Packages are imported here: the other handlers of this module do not need them."""

    async def close(self) -> None:
        """Close the connections."""

    async def look_up(self, ip: IPv4Address) -> int:
        """Return the score of an address."""


class InRedis:
    """Redis, with a pool of txredisapi's connections."""

    async def open(self) -> None:
        """Wait until all connections of the pool are open."""
        from txredisapi import ConnectionPool

        host, _, port = os.environ["LOOKUP_REDIS"].rpartition(":")
        self._pool = await ConnectionPool(host, int(port), poolsize=CONNECTIONS, replyTimeout=TIMEOUT)

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.disconnect()

    async def look_up(self, ip: IPv4Address) -> int:
        """Send GET."""
        return int(await self._pool.get(f"reputation:{ip}"))


class InPostgreSQL:
    """PostgreSQL, with psycopg in the threads of :mod:`twisted.enterprise.adbapi`."""

    async def open(self) -> None:
        """Create the pool. Each thread opens its connection with its first query."""
        from twisted.enterprise import adbapi

        self._sleep = float(os.environ["LOOKUP_SLEEP"])
        # With autocommit, a query is one round trip, and not three with BEGIN and COMMIT.
        self._pool = adbapi.ConnectionPool(
            "psycopg", os.environ["LOOKUP_DATABASE"], autocommit=True, cp_min=CONNECTIONS, cp_max=CONNECTIONS
        )

    async def close(self) -> None:
        """Close the pool."""
        self._pool.close()

    async def look_up(self, ip: IPv4Address) -> int:
        """Run the query in a thread."""
        score: int = await self._pool.runWithConnection(self._query, ip)
        return score

    def _query(self, connection: Any, ip: IPv4Address) -> int:
        return int(connection.execute(QUERY, (self._sleep, ip)).fetchone()[0])


class _Body(protocol.Protocol):
    """Collects the body of a response. readBody of Twisted would warn of the client's transport for each response."""

    def __init__(self) -> None:
        self._received = b""
        #: Fires with the body.
        self.complete: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        """Add to the body."""
        self._received += data

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        """Pass on the body, or the failure if its end is missing."""
        self.complete.callback(self._received if reason.check(ResponseDone) else reason)


class OverHTTP:
    """A web server, with Twisted's own client and connections that stay open."""

    async def open(self) -> None:
        """Create the client. It connects when it needs a connection."""
        # Not at the top of the module: this import installs the default reactor, before twistd --reactor chooses one.
        from twisted.internet import reactor

        self._url = os.environ["LOOKUP_URL"].encode()
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.maxPersistentPerHost = IDLE_CONNECTIONS
        self._agent = Agent(reactor, connectTimeout=TIMEOUT, pool=self._pool)

    async def close(self) -> None:
        """Close the connections that are idle."""
        await self._pool.closeCachedConnections()

    async def look_up(self, ip: IPv4Address) -> int:
        """Send a GET request."""
        response = await self._agent.request(b"GET", self._url + str(ip).encode())
        body = _Body()
        response.deliverBody(body)
        return int(await body.complete)


def asking(service: Service) -> Handlers:
    """Return handlers that ask this service once for each NOTIFY.

    Besides the message of ``spoactl bench``, they answer ``time-look-up`` with the nanoseconds that a look-up took.
    """
    handlers = Handlers()
    handlers.startup(service.open)
    handlers.shutdown(service.close)

    @handlers.message("get-ip-reputation")
    async def get_ip_reputation(ip: IPv4Address) -> Variables:
        return {"sess.score": await service.look_up(ip)}

    @handlers.message("time-look-up")
    async def time_look_up(ip: IPv4Address) -> Variables:
        began = time.perf_counter_ns()
        await service.look_up(ip)
        return {"sess.nanoseconds": time.perf_counter_ns() - began}

    return handlers


redis = asking(InRedis())
postgresql = asking(InPostgreSQL())
http = asking(OverHTTP())
