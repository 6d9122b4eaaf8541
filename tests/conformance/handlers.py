"""The handlers of the agent under test. Each message tests one behaviour."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from pathlib import Path
from typing import Any, NoReturn

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from spoa_twisted import NULL, Handlers, Message, Value, Variables

handlers = Handlers()


@handlers.message("nothing")
def nothing() -> None:
    return None


@handlers.message("echo")
def echo(message: Message) -> Variables:
    return {f"txn.{name}": value for name, value in message}


@handlers.message("echo-null")
def echo_null(message: Message) -> Variables:
    return {f"txn.{name}": NULL if value is None else value for name, value in message}


@handlers.message("by-position")
def by_position(message: Message) -> Variables:
    return {f"txn.arg{index}": value for index, (_, value) in enumerate(message)}


@handlers.message("names")
def names(message: Message) -> Variables:
    return {f"txn.name{index}": name for index, (name, _) in enumerate(message)}


@handlers.message("length")
def length(content: bytes) -> Variables:
    return {"txn.length": len(content)}


@handlers.message("async")
async def asynchronous(x: Value) -> Variables:
    return {"txn.x": x}


@handlers.message("awaiting")
async def awaiting(x: Value) -> Variables:
    await deferLater(reactor, 0)
    return {"txn.x": x}


@handlers.message("deferred")
def deferred(x: Value) -> Deferred[Variables]:
    return deferLater(reactor, 0, lambda: {"txn.x": x})


SCOPES = ("proc", "sess", "txn", "req", "res")


@handlers.message("set-scopes")
def set_scopes() -> Variables:
    return {f"{scope}.x": index for index, scope in enumerate(SCOPES)}


@handlers.message("unset-scopes")
def unset_scopes() -> Variables:
    return {f"{scope}.x": None for scope in SCOPES}


@handlers.message("variable")
def variable(name: str, value: Value) -> Variables:
    return {name: value}


@handlers.message("constants")
def constants() -> Variables:
    """Return values that are not from an argument: their Python type alone chooses the SPOP type."""
    return {
        "txn.false": False,
        "txn.true": True,
        "txn.minus": -5,
        "txn.text": "é",
        "txn.bytes": b"\x00\xff",
        "txn.v4": ipaddress.IPv4Address("192.0.2.1"),
        "txn.v6": ipaddress.IPv6Address("2001:db8::1"),
    }


@handlers.message("raise")
def fail() -> NoReturn:
    raise ValueError("this handler always fails")


@handlers.message("raise-later")
async def fail_later() -> NoReturn:
    await deferLater(reactor, 0)
    raise ValueError("this handler always fails, later")


@handlers.message("raise-with-on-error", on_error={"txn.failed": True})
def fail_with_on_error() -> NoReturn:
    raise ValueError("this handler always fails, and has on_error")


BAD: dict[str, Any] = {
    "name": {"txn.a b": 1},
    "empty name": {"txn.": 1},
    "scope": {"nosuch.a": 1},
    "key": {7: 1},
    "float": {"txn.x": 1.5},
    "object": {"txn.x": object()},
    "list": {"txn.x": [1]},
    "too big": {"txn.x": 1 << 63},
    "too small": {"txn.x": -(1 << 63) - 1},
    "number": 7,
    "text": "txn.x",
    "good and bad": {"txn.good": 1, "txn.x": 1.5},
}


@handlers.message("bad")
def bad(kind: str) -> Any:
    return BAD[kind]


@handlers.message("big")
def big(size: int) -> Variables:
    return {"txn.big": b"x" * size}


@handlers.message("many")
def many(count: int) -> Variables:
    return {f"txn.variable{index}": index for index in range(count)}


# Handlers of requests that wait until another request or a test releases them.

_held: dict[str, list[Deferred[Variables]]] = defaultdict(list)
_dropped: dict[str, Deferred[Variables]] = defaultdict(Deferred)


@handlers.message("hold")
def hold(key: str) -> Deferred[Variables]:
    def drop(held: Deferred[Variables]) -> None:
        _held[key].remove(held)
        if not _dropped[key].called:
            _dropped[key].callback({"txn.dropped": key})

    held: Deferred[Variables] = Deferred(drop)
    _held[key].append(held)
    return held


@handlers.message("release")
def release(key: str, size: int = 0) -> Variables:
    variables = {"txn.big": b"x" * size} if size else {"txn.released": key}
    released = _held.pop(key, [])
    for held in released:
        held.callback(variables)
    return {"txn.count": len(released)}


@handlers.message("dropped")
def dropped(key: str) -> Deferred[Variables]:
    """Answer as soon as the agent has cancelled a request that was held under the key."""
    return _dropped[key]


@handlers.message("hold-until")
async def hold_until(path: str) -> Variables:
    """Wait for a file. So a test can release the request when the agent accepts no connections."""
    while not Path(path).exists():
        await deferLater(reactor, 0.01)
    return {"txn.released": path}
