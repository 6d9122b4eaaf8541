"""A function, and the options that it was registered with."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, final

from spoa_twisted.handlers.binding import Binding
from spoa_twisted.spop.actions import Variables, encode_actions

#: The result of a handler: variables, ``None`` for no variables, or a Deferred, coroutine or other awaitable of these.
Result = Variables | None | Awaitable[Variables | None]

#: The function of a handler. Each parameter receives the message's argument of the same name.
HandlerFunction = Callable[..., Result]


@final
class Handler:
    """The handler of one message.

    :param name: the message's name, for error texts.
    :param timeout: the timeout in seconds; 0 for no limit, ``None`` for the agent's ``handler_timeout``.
    :param on_error: the variables that the message sets if the handler fails.
    :param blocking: true to run the function in a thread.
    :raises TypeError: for an object that is not a function, for a function that takes ``*args``, for an ``async def``
        with ``blocking``, or for a variable in ``on_error`` whose value has no SPOP type.
    :raises ValueError: for a negative timeout, or a variable in ``on_error`` that cannot be encoded.
    """

    __slots__ = ("_function", "blocking", "call", "is_coroutine", "on_error", "timeout")

    def __init__(
        self, name: str, function: HandlerFunction, timeout: float | None, on_error: Variables | None, blocking: bool
    ) -> None:
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"the timeout of the message {name!r} is {timeout}; it cannot be negative")
        if not callable(function):
            raise TypeError(f"the handler of the message {name!r} is a {type(function).__name__}, not a function")
        #: Whether the function is an ``async def``.
        self.is_coroutine = inspect.iscoroutinefunction(function)
        if blocking and self.is_coroutine:
            raise TypeError(
                f"the handler of the message {name!r} is an async function: it cannot run in a thread, so leave out"
                " blocking=True"
            )
        self._function = function
        self.timeout = timeout
        self.blocking = blocking
        try:
            #: The LIST-OF-ACTIONS that the agent sends if the handler fails.
            self.on_error = encode_actions(as_variables(on_error))
        except (TypeError, ValueError) as error:
            raise type(error)(f"on_error of the message {name!a}: {error}") from error
        #: Calls the function with a :class:`Message`'s arguments; see :meth:`Binding.call`.
        self.call = Binding(name, function).call

    def __str__(self) -> str:
        module = getattr(self._function, "__module__", None)
        name = getattr(self._function, "__qualname__", None)
        return f"{module}.{name}" if name else repr(self._function)


def as_variables(result: Any) -> Variables:
    """Return ``result``, the variables that a handler returned, as a dict.

    :raises TypeError: if ``result`` is neither a mapping nor ``None``.
    :raises BaseException: any exception of the methods of a mapping.
    """
    if result is None:
        return {}
    if not isinstance(result, Mapping):
        raise TypeError(f"a {type(result).__name__} is no mapping of variables")
    # A mapping may compute its items when they are read. dict() reads each item once, and in the handler's thread.
    return dict(result)
