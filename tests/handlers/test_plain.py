"""A timeout cannot interrupt a plain function. It is refused where the source shows that the function is one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, inlineCallbacks, succeed

from spoa_twisted import Handlers
from spoa_twisted.handlers.plain import is_plain


def returns_a_dict(ip: Any) -> dict[str, Any]:
    if ip is None:
        return {}
    for number in range(3):
        if ip == number:
            return {"sess.a": number}
    return {"sess.a": 1} if ip else {name: len(name) for name in ("sess.a", "sess.b")}


def returns_nothing(ip: Any) -> None:
    ip.lookups += 1


def returns_none(ip: Any) -> None:
    if ip:
        return
    return None  # noqa: RET501


def raises() -> dict[str, Any]:
    raise LookupError


def has_others_in_it() -> dict[str, Any]:
    def inner() -> Deferred[None]:
        return succeed(None)

    class Inner:
        def method(self) -> Any:
            return inner()

    return {"sess.a": callable(Inner), "sess.b": callable(lambda: inner())}


def returns_a_deferred() -> Any:
    return succeed({"sess.a": 1})


def returns_either(ip: Any) -> Any:
    if ip:
        return {"sess.a": 1}
    return succeed({"sess.a": 2}) if ip is None else {}


def returns_a_name() -> Any:
    result = {"sess.a": 1}
    return result  # noqa: RET504


def yields() -> Any:
    yield succeed(None)
    return {"sess.a": 1}


async def coroutine() -> dict[str, Any]:
    return {"sess.a": 1}


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any) -> Any:
        return succeed(function(*args))

    return wrapper


class Methods:
    def plain(self, ip: Any) -> dict[str, Any]:
        return {"sess.a": ip}

    def deferred(self, ip: Any) -> Any:
        return succeed({"sess.a": ip})

    @staticmethod
    def static(ip: Any) -> dict[str, Any]:
        """
        Its text is not indented, so that the source of the method alone is no valid Python for all versions.
        """
        return {"sess.a": ip}

    def __call__(self) -> dict[str, Any]:
        return {"sess.a": 1}


@pytest.mark.parametrize(
    "function",
    [returns_a_dict, returns_nothing, returns_none, raises, has_others_in_it, Methods().plain, Methods.plain],
    ids=lambda function: function.__qualname__,
)
def test_a_plain_function(function: Any) -> None:
    """Each return returns a dict that is written there, or None."""
    assert is_plain(function)


@pytest.mark.parametrize(
    "function",
    [
        returns_a_deferred,
        returns_either,
        returns_a_name,
        yields,
        coroutine,
        inlineCallbacks(yields),
        decorated(returns_a_dict),
        functools.wraps(returns_a_dict)(decorated(returns_a_dict)),
        functools.partial(returns_a_dict, 1),
        Methods().deferred,
        Methods(),
        Methods,
        dict,
        len,
        lambda: {"sess.a": 1},
    ],
    ids=lambda function: getattr(function, "__qualname__", type(function).__name__),
)
def test_a_function_that_may_return_a_deferred(function: Any) -> None:
    """Or of which that cannot be excluded: a lambda's source may hold another lambda."""
    assert not is_plain(function)


def test_a_function_without_a_source() -> None:
    """Nothing is known of it. The same if the file has changed, or if the source alone is no valid Python."""
    names: dict[str, Any] = {}
    exec("def made(): return {}", names)
    assert not is_plain(names["made"])


@pytest.mark.parametrize("source", ["", "  x\n y\n", "value = 1\n", "def other():\n    return {}\n"])
def test_a_source_that_is_another(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a change of the file."""
    monkeypatch.setattr(inspect, "getsource", lambda function: source)
    assert not is_plain(returns_a_dict)


class TestRegistration:
    def test_a_timeout_of_a_plain_function_is_refused(self) -> None:
        """The error says why, and what to do."""
        handlers = Handlers()
        text = (
            "^the handler of the message 'm' is a plain function, which cannot be interrupted: leave out timeout, or"
            " say blocking=True$"
        )
        with pytest.raises(TypeError, match=text):
            handlers.message("m", timeout=0.5)(returns_a_dict)
        with pytest.raises(TypeError, match=text.replace("message 'm'", "message 'default'")):
            handlers.default(timeout=0.5)(returns_a_dict)
        assert "m" not in handlers
        with pytest.raises(ValueError, match="cannot be negative"):
            handlers.message("m", timeout=-1)(returns_a_dict)

    def test_other_timeouts_are_not(self) -> None:
        """The timeout of all handlers, one that is no limit, one of a handler in a thread, and of other functions."""
        handlers = Handlers({"a": returns_a_dict}, default=returns_a_dict, timeout=0.5)
        handlers.message("b", timeout=0)(returns_a_dict)
        handlers.message("c", timeout=1, blocking=True)(returns_a_dict)
        handlers.message("d", timeout=1)(returns_a_deferred)
        handlers.message("e", timeout=1)(coroutine)
        assert list(handlers) == ["a", "b", "c", "d", "e"]
