"""Handlers that come to what no ACK can hold, behind a real HAProxy."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any, NoReturn

from spoa_twisted import Handlers
from tests.conftest import Logged

from .conftest import Serve, StartHAProxy
from .harness import bounded, shown


class Spoilt(IPv4Address):
    @property
    def packed(self) -> bytes:
        return b"no address"


def recurse() -> Any:
    return recurse()


async def leave() -> NoReturn:
    raise SystemExit("why")


FAILING: dict[str, Callable[[], Any]] = {
    "name": lambda: {"txn.no\nname": 1},
    "value": lambda: {"txn.value": 1.5},
    "large": lambda: {"txn.large": "x" * 70_000},
    "recurse": recurse,
    "leave": leave,
}


@bounded
async def test_hostile_handlers(serve: Serve, start_haproxy: StartHAProxy, logged: Logged) -> None:
    """Each yields its on_error, on every request; the messages beside them keep what they set, and HAProxy sees no
    error.
    """
    handlers = Handlers({"first": lambda: {"txn.first": Spoilt("192.0.2.1")}, "last": lambda: {"txn.last": "x" * 9000}})
    for name, function in FAILING.items():
        handlers.message(name, on_error={f"txn.on_error_{name}": True})(function)
    names = ["first", *FAILING, "last"]
    haproxy = start_haproxy(
        serve(handlers),
        spoe=f"    messages {' '.join(names)}\n"
        + "".join([f"\nspoe-message {name}\n    event on-frontend-http-request\n" for name in names]),
        web="    http-request set-var(txn.length) var(txn.spoa.last),length\n"
        + shown("txn.spoa.first", "txn.length", *[f"txn.spoa.on_error_{name}" for name in FAILING]),
    )

    responses = [await haproxy.get() for _ in range(3)]

    for response in responses:
        assert response.error is None
        assert response["txn.spoa.first"] == "192.0.2.1"
        assert response["txn.length"] == "9000"
        assert {name: response[f"txn.spoa.on_error_{name}"] for name in FAILING} == dict.fromkeys(FAILING, "1")
    lines = logged.take()
    for name in FAILING:
        assert len([line for line in lines if f"the message '{name}'" in line]) == 3
    assert len(lines) == 3 * len(FAILING)
