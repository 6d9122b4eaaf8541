"""A function and the options that it is registered with."""

from __future__ import annotations

import asyncio
from collections import UserDict
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest

from spoa_twisted import Message
from spoa_twisted.handlers.handler import Handler, as_variables
from spoa_twisted.spop.actions import encode_actions


def handler_of(
    function: Any, timeout: float | None = None, on_error: Any = None, blocking: bool = False, name: str = "m"
) -> Handler:
    return Handler(name, function, timeout, on_error, blocking)


def test_it_calls_its_function() -> None:
    """With the arguments of the message."""
    assert handler_of(lambda ip: ip).call(Message("m", [("ip", 7)])) == 7


def test_it_has_its_options() -> None:
    """The variables of on_error are encoded once, at the registration."""
    handler = handler_of(lambda: None, 0.5, {"sess.e": 1}, blocking=True)
    assert (handler.timeout, handler.blocking) == (0.5, True)
    assert handler.on_error == encode_actions({"sess.e": 1})
    assert handler_of(lambda: None).on_error == b""


@pytest.mark.parametrize(
    ("function", "options", "error", "text"),
    [
        (42, {}, TypeError, "'m' is a int, not a function"),
        (lambda *names: None, {}, TypeError, r"'m' takes \*names"),
        (lambda: None, {"timeout": -1}, ValueError, "timeout of the message 'm' is -1"),
        (lambda: None, {"timeout": float("nan")}, ValueError, "timeout"),
        (lambda: None, {"on_error": {"bad.x": 1}}, ValueError, "on_error of the message 'm': variable 'bad.x'"),
        (lambda: None, {"on_error": {"sess.x": 1.0}}, TypeError, "on_error of the message 'm': variable 'sess.x'"),
        (lambda: None, {"on_error": [1]}, TypeError, "on_error of the message 'm': a list is no mapping of variables"),
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

    @pytest.mark.parametrize(("result", "name"), [([1], "list"), ("sess.a", "str"), (0, "int"), (False, "bool")])
    def test_other_objects_are_refused(self, result: Any, name: str) -> None:
        """The error names the type."""
        with pytest.raises(TypeError, match=f"^a {name} is no mapping of variables$"):
            as_variables(result)
