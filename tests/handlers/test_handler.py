"""A function and the options that it is registered with."""

from __future__ import annotations

import asyncio
from collections import UserDict
from collections.abc import AsyncIterator, Iterator
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest
from twisted.python.failure import Failure

from spoa_twisted import Message
from spoa_twisted.handlers.handler import Handler, as_variables
from spoa_twisted.spop.actions import encode_actions


def handler_of(
    function: Any, timeout: float | None = None, on_error: Any = None, blocking: bool = False, name: str = "m"
) -> Handler:
    return Handler(name, function, timeout, on_error, blocking)


def test_it_calls_its_function() -> None:
    """With the arguments of the message."""
    assert handler_of(lambda ip: ip).binding.call(Message("m", [("ip", 7)])) == 7


def test_it_has_its_options() -> None:
    """The variables of on_error are encoded once, at the registration."""
    handler = handler_of(lambda: None, 0.5, {"sess.e": 1}, blocking=True)
    assert (handler.timeout, handler.blocking) == (0.5, True)
    assert handler.on_error == encode_actions({"sess.e": 1})
    assert handler_of(lambda: None).on_error == b""


@pytest.mark.parametrize(
    ("function", "options", "error", "text"),
    [
        (42, {}, TypeError, "'m' is an int, not a function"),
        (lambda *names: None, {}, TypeError, r"'m' takes \*names"),
        (lambda: None, {"timeout": -1}, ValueError, "timeout of the message 'm' is -1"),
        (lambda: None, {"timeout": float("nan")}, ValueError, "timeout of the message 'm' is nan; it cannot be"),
        (lambda: None, {"timeout": "2s"}, TypeError, "timeout of the message 'm' is '2s'; it is a number of seconds"),
        (lambda: None, {"timeout": True}, TypeError, "timeout of the message 'm' is True; it is a number of seconds"),
        (lambda: None, {"on_error": {"bad.x": 1}}, ValueError, "on_error of the message 'm': variable 'bad.x'"),
        (lambda: None, {"on_error": {"sess.x": 1.0}}, TypeError, "on_error of the message 'm': variable 'sess.x'"),
        (lambda: None, {"on_error": [1]}, TypeError, "on_error of the message 'm' is a list, not a dict of variables"),
        (lambda: None, {"on_error": "txn.e"}, TypeError, "on_error of the message 'm' is a str, not a dict"),
        (lambda: None, {"on_error": False}, TypeError, "on_error of the message 'm' is a bool, not a dict"),
        (asyncio.sleep, {"blocking": True}, TypeError, "async"),
    ],
)
def test_a_handler_that_cannot_work_is_refused(
    function: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    """At the registration, not when the first message arrives."""
    with pytest.raises(error, match=text):
        handler_of(function, **options)


def test_its_text_names_the_function() -> None:
    """The error about two handlers of one message shows the text. Not every callable object has a name."""
    assert str(handler_of(test_it_calls_its_function)) == f"{__name__}.test_it_calls_its_function"
    unnamed = partial(test_it_calls_its_function)
    assert str(handler_of(unnamed)) == repr(unnamed)


class TestAsVariables:
    @pytest.mark.parametrize(
        ("result", "variables"),
        [
            (None, {}),
            ({"sess.a": 1}, {"sess.a": 1}),
            (MappingProxyType({"sess.a": None}), {"sess.a": None}),
            (UserDict({"sess.a": 1}), {"sess.a": 1}),
        ],
    )
    def test_a_mapping_is_read(self, result: Any, variables: dict[str, Any]) -> None:
        """Into a dict. ``None`` is no variables."""
        read = as_variables(result)
        assert read == variables
        assert type(read) is dict

    def test_a_mapping_that_computes_its_values_is_read_once(self) -> None:
        """To compute a value may take long, or give another value the next time."""
        read: list[str] = []

        class Lookups(UserDict[str, Any]):
            def __getitem__(self, name: str) -> Any:
                read.append(name)
                return super().__getitem__(name)

        assert as_variables(Lookups({"sess.a": 1, "sess.b": 2})) == {"sess.a": 1, "sess.b": 2}
        assert read == ["sess.a", "sess.b"]

    @pytest.mark.parametrize(
        ("result", "name"), [([1], "a list"), ("sess.a", "a str"), (0, "an int"), (False, "a bool")]
    )
    def test_other_objects_are_refused(self, result: Any, name: str) -> None:
        """The error names the type, and says what to return."""
        with pytest.raises(TypeError) as caught:
            as_variables(result)
        assert str(caught.value) == (
            f'{name} is no mapping of variables; return a dict, such as {{"txn.denied": True}}, or None'
        )

    def test_the_advice_fits_the_object(self) -> None:
        """These objects show what the author has forgotten."""

        def generator() -> Iterator[int]:
            yield 1

        async def async_generator() -> AsyncIterator[int]:
            yield 1

        async def coroutine() -> None: ...

        unawaited = coroutine()
        for result, advice in [
            (Failure(LookupError()), "raise its exception"),
            (generator(), "a function with yield needs @inlineCallbacks"),
            (async_generator(), "an async function that is a handler must not use yield"),
            (unawaited, "await it"),
            (coroutine, "call it"),
            (dict, "call it"),
        ]:
            with pytest.raises(TypeError, match=f"is no mapping of variables; {advice}"):
                as_variables(result)
        unawaited.close()
