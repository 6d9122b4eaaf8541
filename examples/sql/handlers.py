"""Looks up the API key of a request in an SQL database: SQLite, or PostgreSQL.

Run it with: twistd -n spoa --handlers handlers.py
"""

import os
import time
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from typing import Any

from twisted.enterprise import adbapi
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from spoa_twisted import Handlers, Variables

# The path of an SQLite file, or postgresql://USER@HOST/NAME.
DATABASE = os.environ.get("DATABASE") or str(Path(__file__).parent / "keys.db")
POSTGRESQL = DATABASE.startswith(("postgresql://", "postgres://"))
if "://" in DATABASE and not POSTGRESQL:
    raise ValueError("DATABASE must be the path of an SQLite file, or postgresql://USER@HOST/NAME")


def number(name: str, default: int, least: int) -> int:
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and least <= int(text) <= 1000):
        raise ValueError(f"{name} must be a whole number from {least} to 1000: {text!r}")
    return int(text)


# How many queries run at the same time. Each has a thread and a connection.
THREADS = number("THREADS", 4, 1)

# For so many seconds, the result of a query is used again. So long a deleted key still works.
CACHE = number("CACHE", 5, 0)
MAX_CACHED = 10_000

# Seconds. When the handler's time is over, the request gets its answer, but the thread is still busy with the query.
# So the database has to end the query earlier, or slow queries would block all threads.
HANDLER_TIMEOUT = 1.0
QUERY_TIMEOUT = 0.5

# Further requests fail at once, so that they do not pile up in memory while the database is slow.
MAX_WAITING = 100

# The value is never part of the text: the database gets it apart, so no value can change the query.
QUERY = f"SELECT owner FROM api_key WHERE hash = {'%s' if POSTGRESQL else '?'}"

handlers = Handlers(on_error={"txn.error": "handler"})
log = Logger("sql")


class Connection(adbapi.Connection):
    """A connection that commits each query by itself, so there is nothing to commit or to roll back.

    adbapi rolls back after each error. On a connection that the server has closed, this fails too, and adbapi keeps the
    broken connection, unless it has cp_reconnect. Even then, the first query of each thread fails.
    """

    def commit(self) -> None: ...

    def rollback(self) -> None: ...


def open_pool() -> adbapi.ConnectionPool:
    size = {"cp_min": 1, "cp_max": THREADS}
    if not POSTGRESQL:
        # mode=ro: the agent never writes, and a file that does not exist is an error. adbapi closes connections in
        # another thread than it opens them. The timeout is for a file that another program has locked.
        return adbapi.ConnectionPool(
            "sqlite3",
            f"{Path(DATABASE).absolute().as_uri()}?mode=ro",
            uri=True,
            check_same_thread=False,
            timeout=QUERY_TIMEOUT,
            isolation_level=None,
            **size,
        )
    return adbapi.ConnectionPool(
        "psycopg",
        DATABASE,
        autocommit=True,
        # The least that libpq takes. A thread is busy for so long if the host does not answer.
        connect_timeout=2,
        # Milliseconds. The server ends slow queries; the client notices a host that is gone.
        options=f"-c statement_timeout={QUERY_TIMEOUT * 1000:.0f} -c default_transaction_read_only=on",
        tcp_user_timeout=1000,
        **size,
    )


def look_up(connection: Any, digest: str, deadline: float) -> str | None:
    """Return the owner of a key. This runs in a thread.

    A connection that was closed, because the server was restarted for example, is opened again once.
    """
    if time.monotonic() > deadline:
        raise TimeoutError("all threads were busy with slow queries: the request has its answer already")
    try:
        row = connection.execute(QUERY, (digest,)).fetchone()
    except Exception:
        # Only connections of psycopg have this attribute.
        if not getattr(connection, "closed", False):
            raise
        connection.reconnect()
        row = connection.execute(QUERY, (digest,)).fetchone()
    return str(row[0]) if row else None


pool: adbapi.ConnectionPool
waiting = 0
# The end of each entry's time, and the owner, by the hash of the key. The oldest entry comes first.
cache: OrderedDict[str, tuple[float, str | None]] = OrderedDict()


async def owner_of(key: str) -> str | None:
    global waiting
    # The database has hashes only: who gets to read it, or a copy of it, has no keys. One round of sha256 is enough for
    # long random keys. It is not enough for passwords. A lone surrogate stands for a byte that is not UTF-8.
    digest = sha256(key.encode(errors="surrogateescape")).hexdigest()
    now = time.monotonic()
    until, owner = cache.get(digest, (0.0, None))
    if now < until:
        return owner
    if waiting >= MAX_WAITING:
        raise RuntimeError(f"{MAX_WAITING} requests wait for the database already")
    waiting += 1
    result: Deferred[str | None] = Deferred()

    def done(outcome: Any) -> None:
        global waiting
        waiting -= 1
        result.callback(outcome)

    # A timeout cancels "result", and not the query: its thread is still busy, and counts until it is done.
    pool.runWithConnection(look_up, digest, now + HANDLER_TIMEOUT).addBoth(done)
    owner = await result
    if CACHE:
        cache.pop(digest, None)
        cache[digest] = now + CACHE, owner
        if len(cache) > MAX_CACHED:
            cache.popitem(last=False)
    return owner


@handlers.startup(timeout=10)
async def open_database() -> None:
    """Try a query. A missing file or table ends the agent. A server that is down does not: it may come later."""
    global pool
    pool = open_pool()
    pool.connectionFactory = Connection
    try:
        await owner_of("")
    except Exception as error:
        if not (POSTGRESQL and isinstance(error, pool.dbapi.OperationalError)):
            pool.close()
            raise
        log.warn("no connection to the database ({error}): until there is one, requests get 503", error=error)


@handlers.shutdown
def close_database() -> None:
    pool.close()


@handlers.message(
    "check-key",
    args={"key": "req.hdr(x-api-key)"},
    event="on-frontend-http-request",
    sets={"txn.known": bool, "req.owner": str | None},
    timeout=HANDLER_TIMEOUT,
)
async def check_key(key: str | None) -> Variables:
    owner = await owner_of(key) if key else None
    return {"txn.known": owner is not None, "req.owner": owner}
