"""Limits the rate of requests, for each address or for each API key.

Run it with: twistd -n spoa --handlers handlers.py
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, NamedTuple

from twisted.internet import reactor
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint
from twisted.logger import Logger

from spoa_twisted import Handlers, Variables


def number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 1_000_000):
        raise ValueError(f"{name} must be a whole number from 1 to 1000000: {text!r}")
    return int(text)


def choice(name: str, *values: str) -> str:
    text = os.environ.get(name) or values[0]
    if text not in values:
        raise ValueError(f"{name} must be {' or '.join(values)}: {text!r}")
    return text


# LIMIT requests in PERIOD seconds.
LIMIT = number("LIMIT", 10)
PERIOD = number("PERIOD", 60)

# Whose requests are counted together: those of an address, or those with the same X-API-Key.
BY = choice("BY", "address", "key")

# HOST:PORT, or the path of a Unix socket. Without it, the counts are in this process.
REDIS = os.environ.get("REDIS", "")
HOST, _, PORT = REDIS.rpartition(":")
if REDIS and "/" not in REDIS and not (HOST and PORT.isascii() and PORT.isdigit() and 0 < int(PORT) < 65536):
    raise ValueError(f"REDIS must be HOST:PORT or the path of a Unix socket: {REDIS!r}")

# What happens to requests while Redis does not answer. "pass" means: they pass without any limit.
WHEN_REDIS_FAILS = choice("WHEN_REDIS_FAILS", "refuse", "pass")

# In this process: when there are more keys, the key that was used least recently is forgotten. About 20 MB.
MAX_KEYS = 100_000

# Seconds. Redis gets less time than the handler: a query that the handler cancels has no timeout any more, and its
# connection would stay open to a server that never answers.
REDIS_TIMEOUT = 0.5
HANDLER_TIMEOUT = 1.0

handlers = Handlers(on_error={"txn.error": "handler"})
log = Logger("rate_limit")


class Result(NamedTuple):
    within: bool
    remaining: int
    # Microseconds until the next request is within the limit; 0 if this one is.
    wait: int


# The algorithm is GCRA, a token bucket that needs one number for each key: the time when the bucket is full again. Each
# request moves that time ahead by STEP. A request that would move it further than PERIOD from now is refused, and
# changes nothing. All times are in microseconds.
STEP = PERIOD * 1_000_000 // LIMIT
# A whole number of steps, or rounding would allow a request more or less.
WINDOW = STEP * LIMIT


def gcra(full: int, now: int) -> tuple[int, Result]:
    """Return when the bucket is full after this request, and what the request gets. The Lua script does the same."""
    # If the clock was set back, a key must not be refused for longer than PERIOD.
    begin = min(max(full, now), now + WINDOW)
    after = begin + STEP
    room = now + WINDOW - after
    if room < 0:
        return begin, Result(False, 0, -room)
    return after, Result(True, room // STEP, 0)


# Redis runs a script as a whole: no other command runs in between. Its own clock is used, so the clocks of the agents
# do not matter. The key expires when the bucket is full: then it is the same as an unknown one.
SCRIPT = """
local window, step = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full = tonumber(redis.call('GET', KEYS[1]) or 0)
local after = math.min(math.max(full, now), now + window) + step
local room = now + window - after
if room < 0 then
    return {0, 0, -room}
end
redis.call('SET', KEYS[1], string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
return {1, math.floor(room / step), 0}
"""


class InMemory:
    """Counts in this process."""

    def __init__(self, clock: Callable[[], int] = lambda: time.monotonic_ns() // 1000) -> None:
        self._clock = clock
        # The key that was used least recently comes first.
        self._full: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full)

    async def open(self) -> None:
        """There is nothing to open."""

    async def take(self, key: str) -> Result:
        after, result = gcra(self._full.get(key, 0), self._clock())
        self._full[key] = after
        self._full.move_to_end(key)
        if len(self._full) > MAX_KEYS:
            self._full.popitem(last=False)
        return result

    async def close(self) -> None:
        """There is nothing to close."""


class InRedis:
    """Counts that several agents share."""

    def __init__(self, endpoint: Any, connections: int = 4) -> None:
        # Imported here: without REDIS, txredisapi need not be installed.
        from txredisapi import RedisFactory

        class Factory(RedisFactory):  # type: ignore[misc]
            # Seconds between attempts to connect.
            initialDelay = 0.2
            maxDelay = 2

            def stopTrying(self) -> None:
                """Go on. txredisapi calls it when a login fails, even if Redis was only too slow to answer it."""

        self._endpoint = endpoint
        password = os.environ.get("REDIS_PASSWORD") or None
        self._factory = Factory(None, None, connections, isLazy=True, password=password, replyTimeout=REDIS_TIMEOUT)
        self._next = 0

    async def open(self) -> None:
        """Wait a moment for the connections. If Redis is down, the agent starts nevertheless, and refuses requests."""
        connected = self._factory.deferred
        self._factory.startConnecting(self._endpoint)
        try:
            await connected.addTimeout(1, reactor)
        except (DeferredTimeout, ValueError) as error:
            # txredisapi raises ValueError if the login fails.
            log.warn(
                "no connection to Redis at {redis} ({error}): until there is one, requests {happens}",
                redis=REDIS,
                error=str(error) or "no answer",
                happens="pass without a limit" if WHEN_REDIS_FAILS == "pass" else "get 503",
            )

    async def query(self, script: str, keys: list[str], args: list[int]) -> Any:
        connections = self._factory.pool
        if not connections:
            # txredisapi's own handler would wait for a connection: requests would pile up while Redis is down.
            raise ConnectionError(f"there is no connection to Redis at {REDIS}")
        self._next += 1
        return await connections[self._next % len(connections)].eval(script, keys, args)

    async def take(self, key: str) -> Result:
        within, remaining, wait = await self.query(SCRIPT, [f"rate:{key}"], [WINDOW, STEP])
        return Result(bool(within), remaining, wait)

    async def close(self) -> None:
        await self._factory.disconnect()


def endpoint() -> Any:
    if "/" in REDIS:
        return UNIXClientEndpoint(reactor, REDIS, timeout=REDIS_TIMEOUT)
    return HostnameEndpoint(reactor, HOST.strip("[]"), int(PORT), timeout=REDIS_TIMEOUT)


limits: InMemory | InRedis = InRedis(endpoint()) if REDIS else InMemory()
failing = False


@handlers.startup(timeout=10)
async def open_limits() -> None:
    await limits.open()


@handlers.shutdown
async def close_limits() -> None:
    await limits.close()


def bucket(ip: IPv4Address | IPv6Address, key: str | None) -> str:
    """Return the key of the count. It is a hash: it is short however long the header is, and Redis gets no API keys."""
    if BY == "key" and key:
        name = f"key {key}"
    elif isinstance(ip, IPv6Address) and ip.ipv4_mapped is None:
        # A client with one IPv6 address can use all 2**64 addresses of its network.
        name = f"address {ip_network((ip, 64), strict=False)}"
    else:
        name = f"address {getattr(ip, 'ipv4_mapped', None) or ip}"
    # A lone surrogate stands for a byte of the header that is not UTF-8.
    return sha256(name.encode(errors="surrogateescape")).hexdigest()[:32]


@handlers.message(
    "check-rate",
    args={"ip": "src", "key": "req.hdr(x-api-key)"},
    event="on-frontend-http-request",
    sets={"txn.within": bool, "txn.remaining": int, "txn.retry_after": int},
    timeout=HANDLER_TIMEOUT,
)
async def check_rate(ip: IPv4Address | IPv6Address, key: str | None) -> Variables:
    global failing
    try:
        result = await limits.take(bucket(ip, key))
        failing = False
    except Exception:
        if WHEN_REDIS_FAILS == "refuse":
            raise
        # Logged once, and not for each request.
        if not failing:
            log.failure("Redis at {redis} fails: requests pass without a limit", redis=REDIS)
        failing = True
        result = Result(True, 0, 0)
    # Retry-After is in whole seconds: rounded up, or the client would come too early.
    return {
        "txn.within": result.within,
        "txn.remaining": result.remaining,
        "txn.retry_after": -(-result.wait // 1_000_000),
    }
