"""The handlers as a checker sees them: parameters, timeouts, and the variables that their sources tell."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from types import NoneType
from typing import Any

import pytest
from twisted.internet.defer import Deferred, inlineCallbacks, succeed

from spoa_twisted import Declaration, Handlers, Message
from spoa_twisted.haproxy.answers import Answer, Parameter, answers
from spoa_twisted.haproxy.inference import infer_variables


def declared(ip: IPv4Address, agent: str | None = None) -> dict[str, int]:
    return {"sess.score": int(ip)}


def waits(message: Message, **others: object) -> Deferred[dict[str, bool]]:
    return succeed({"txn.found": True})


def test_answers() -> None:
    """An answer has the parameters with their annotations, the effective timeout, and the declaration."""
    handlers = Handlers(on_error={"txn.error": "handler"})
    handlers.message("get-score", args={"ip": "src"}, sets={"sess.score": int})(declared)
    handlers.message("wait", timeout=3)(waits)
    handlers.message("wait-for-default", on_error={"txn.found": False, "gone": None})(waits)
    seen = answers(handlers, 1.5)
    assert seen.default is None
    assert seen.by_message["get-score"] == Answer(
        message="get-score",
        function=f"{__name__}.declared",
        parameters=(Parameter("ip", True, "IPv4Address"), Parameter("agent", False, "str | None")),
        takes_message=False,
        takes_rest=False,
        # The agent cannot interrupt it.
        timeout=0,
        on_error=("txn.error",),
        declaration=Declaration(args={"ip": "src"}, sets={"sess.score": int}),
        sets={"sess.score": int},
    )
    wait = seen.by_message["wait"]
    assert (wait.parameters, wait.takes_message, wait.takes_rest) == ((), True, True)
    assert (wait.timeout, wait.sets, wait.declaration) == (3, None, Declaration())
    assert seen.by_message["wait-for-default"].timeout == 1.5
    assert seen.by_message["wait-for-default"].on_error == ("txn.found", "proc.gone")


def test_the_default_handler_and_blocking_ones() -> None:
    """The default handler stands apart. A blocking handler can be given up, because it has a thread."""

    def scan(body: bytes = b"") -> None:
        return None

    seen = answers(Handlers(default=waits), 2)
    assert seen.by_message == {}
    assert seen.default is not None
    assert (seen.default.message, seen.default.timeout) == ("", 2)
    handlers = Handlers()
    handlers.message("scan", blocking=True)(scan)
    assert answers(handlers, 2).by_message["scan"].timeout == 2


def test_annotations_without_a_future_import() -> None:
    """Annotations that Python has evaluated are shown as their source, as far as it is known."""
    scope: dict[str, Any] = {}
    source = "def f(a: int, b: str | None, c): return None"
    # The future import of this module does not apply.
    exec(compile(source, "source", "exec", dont_inherit=True), scope)
    (answer,) = answers(Handlers({"m": scope["f"]}), 1).by_message.values()
    assert [parameter.annotation for parameter in answer.parameters] == ["int", "str | None", None]
    # exec keeps no source.
    assert answer.sets is None


def nothing() -> None:
    """Set nothing."""


def one_of_two(a: int | None) -> Any:
    if a:
        return {"txn.denied": True, "sess.score": 5, "txn.name": f"{a}", "req.user": None}
    if a is None:
        return None
    return {"txn.denied": False, "req.user": "x", "txn.same": a, "sess.size": len([a]), "sess.float": 1.5}


async def asynchronous(a: int) -> Any:
    def inner() -> int:
        return 5

    await succeed(None)
    return {"a": a > 5, "txn.not": not a} if a else {"txn.b": "x" if a else None, "txn.c": "x" if a else inner()}


def computed(a: str) -> Any:
    return {a: 5}


def spread(a: dict[str, int]) -> Any:
    return {"txn.a": 5, **a}


def another(a: dict[str, int]) -> Any:
    return a


def number_as_key() -> Any:
    return {5: 5}


@inlineCallbacks
def generator() -> Any:
    yield succeed(None)
    return {"txn.a": 5}


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (nothing, {}),
        (
            one_of_two,
            {
                "txn.denied": bool,
                "sess.score": int,
                "txn.name": str,
                "req.user": NoneType | str,
                "txn.same": None,
                "sess.size": int,
                "sess.float": None,
            },
        ),
        (asynchronous, {"proc.a": bool, "txn.not": bool, "txn.b": str | None, "txn.c": None}),
        (computed, None),
        (spread, None),
        (another, None),
        (number_as_key, None),
        (generator, None),
        (lambda: {"txn.a": 5}, None),
        (print, None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_variables_of_a_source(function: Callable[..., Any], expected: object) -> None:
    """They are known if each return has None, or a dict display with constant keys."""
    assert infer_variables(function) == expected
