"""A message's arguments -> a function's parameters."""

from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest

from spoa_twisted import Message
from spoa_twisted.handlers.binding import Binding

MESSAGE = Message("m", [("ip", 1), ("user-agent", "x"), ("", 2), ("a.b", 3), ("ip", 4), ("message", 5)])


@pytest.mark.parametrize(
    ("function", "seen"),
    [
        (lambda ip: (ip,), (1,)),
        (lambda user_agent, ip: (user_agent, ip), ("x", 1)),
        (lambda a_b: (a_b,), (3,)),
        (lambda *, ip: (ip,), (1,)),
        (lambda ip, /: (ip,), (1,)),
        (lambda absent=7: (absent,), (7,)),
        (lambda absent=7, *, ip=8, other=9: (absent, ip, other), (7, 1, 9)),
        (lambda message: (message.name, message["message"]), ("m", 5)),
        (lambda ip, message: (ip, message[2]), (1, 2)),
        (lambda message, **rest: (message.name, *rest), ("m", "ip", "user_agent", "a_b")),
        (lambda **rest: tuple(rest.items()), (("ip", 1), ("user_agent", "x"), ("a_b", 3), ("message", 5))),
        (lambda ip, **rest: (ip, *rest), (1, "user_agent", "a_b", "message")),
        (lambda: (), ()),
        (partial(lambda x, ip: (x, ip), 0), (0, 1)),
        (partial(lambda x, ip: (x, ip), x=0), (0, 1)),
    ],
)
def test_parameters_take_arguments_by_name(function: Any, seen: tuple[Any, ...]) -> None:
    """The second call, which uses the plan of the first, passes the same arguments.

    Of a repeated name the first argument counts. A parameter has "_" where the argument has "-" or ".". The parameter
    "message" takes the message.
    """
    binding = Binding("m", function)
    assert binding.call(MESSAGE) == seen
    assert binding.call(MESSAGE) == seen


def test_an_object_may_have_a_signature() -> None:
    """The parameters are those that ``inspect.signature`` returns, for any callable object."""

    class Recorder:
        __signature__ = inspect.signature(lambda ip: None)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return args, kwargs

    assert Binding("m", Recorder()).call(MESSAGE) == ((1,), {})


def test_the_values_are_passed_in_order_when_they_are_the_parameters() -> None:
    """Also when the parameters have defaults, and when two messages of one name have other values."""
    binding = Binding("m", lambda ip, port=80: (ip, port))
    assert binding.call(Message("m", [("ip", 1), ("port", 2)])) == (1, 2)
    assert binding.call(Message("m", [("ip", 3), ("port", 4)])) == (3, 4)


NULLS = Message("m", [("ip", None), ("user-agent", None), ("port", 0), ("", None), ("message", None)])


@pytest.mark.parametrize(
    ("function", "seen"),
    [
        (lambda ip: (ip,), (None,)),
        (lambda ip=1: (ip,), (1,)),
        (lambda ip=None: (ip,), (None,)),
        (lambda ip=1, /: (ip,), (1,)),
        (lambda *, ip=1: (ip,), (1,)),
        (lambda port=80: (port,), (0,)),
        (lambda ip, user_agent="none": (ip, user_agent), (None, "none")),
        (lambda user_agent="none", ip=1: (user_agent, ip), ("none", 1)),
        (lambda ip, port=80, *, user_agent="none", absent=7: (ip, port, user_agent, absent), (None, 0, "none", 7)),
        (lambda ip=1, **others: (ip, *others.values()), (1, None, 0, None)),
        (lambda message=1, ip=2: (message["ip"], message[0], ip), (None, None, 2)),
        (partial(lambda ip, port: (ip, port), ip=1), (1, 0)),
    ],
)
def test_a_value_of_none_is_replaced_by_the_default(function: Any, seen: tuple[Any, ...]) -> None:
    """HAProxy sends an absent header as NULL. ``**kwargs`` and the message still have the ``None``.

    The second call uses the plan of the first one. A value that is false is not absent.
    """
    binding = Binding("m", function)
    assert binding.call(NULLS) == seen
    assert binding.call(NULLS) == seen


def test_the_plan_decides_for_each_message() -> None:
    """The values are exactly the parameters, in order. Messages with the same names may have other values."""
    binding = Binding("m", lambda ip, port=80, token="none": (ip, port, token))
    for values, seen in [
        ((1, 2, "a"), (1, 2, "a")),
        ((1, None, "a"), (1, 80, "a")),
        ((None, None, None), (None, 80, "none")),
        ((1, 2, ""), (1, 2, "")),
    ]:
        assert binding.call(Message("m", list(zip(("ip", "port", "token"), values, strict=True)))) == seen


@pytest.mark.parametrize(
    ("arguments", "present"), [([("ip", 1), ("a-b", 2)], "'ip', 'a-b'"), ([], "none"), ([("", 1)], "''")]
)
def test_a_missing_argument_is_an_error(arguments: list[tuple[str, Any]], present: str) -> None:
    """The error names the parameter, and the arguments of the message. It is raised again for the next message."""
    binding = Binding("m", lambda port: port)
    for _ in range(2):
        with pytest.raises(TypeError, match=f"^the message 'm' has no argument 'port'; it has: {present}$"):
            binding.call(Message("m", arguments))
    assert binding.call(Message("m", [("port", 80)])) == 80


def test_a_function_with_variable_positional_parameters_is_refused() -> None:
    """Names cannot be bound to ``*names``. The error says what to write instead."""
    with pytest.raises(TypeError, match=r"^the handler of the message 'm' takes \*names, .*: take \*\*kwargs, or mess"):
        Binding("m", lambda *names: None)


def test_what_the_function_raises_is_raised() -> None:
    """The binding catches nothing."""
    with pytest.raises(ZeroDivisionError):
        Binding("m", lambda: 1 / 0).call(Message("m"))


class Name(str):
    """An argument's name that can be referred to weakly, so that a test sees whether a plan still holds it."""

    __slots__ = ("__weakref__",)


class TestPlans:
    """A plan is kept for each list of argument names."""

    @staticmethod
    def kept(binding: Binding, names: Iterable[str]) -> int:
        """Call ``binding`` with messages that have an argument of each name. Return how many names are still held."""
        references: list[weakref.ref[Name]] = []
        for text in names:
            name = Name(text)
            references.append(weakref.ref(name))
            assert binding.call(Message("m", [("port", 1), (name, 3), ("ip", 2)])) == (2, 1)
            del name
        gc.collect()
        return sum(reference() is not None for reference in references)

    def test_messages_of_one_name_may_have_different_arguments(self) -> None:
        """Each message is bound by its own arguments. At most 64 plans are kept, because peers choose the names."""
        binding = Binding("m", lambda ip=0, port=0: (ip, port))
        assert 0 < self.kept(binding, [f"x{number}" for number in range(200)]) <= 64
        assert binding.call(Message("m", [("ip", 2)])) == (2, 0)

    def test_a_plan_with_long_names_is_not_kept(self) -> None:
        """Together, names of more than 4096 characters could fill the memory."""
        binding = Binding("m", lambda ip=0, port=0: (ip, port))
        assert self.kept(binding, ["x" * 5000]) == 0
        # With "ip" and "port", six characters more.
        assert self.kept(binding, ["y" * 4091]) == 0
        assert self.kept(binding, ["z" * 4090]) == 1
