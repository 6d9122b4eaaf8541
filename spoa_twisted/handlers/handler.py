"""A function, and the options that it was registered with."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, final

from spoa_twisted.handlers.binding import Binding
from spoa_twisted.spop.actions import Variables, encode_actions

#: What a handler returns: variables, ``None`` for none, or a Deferred, coroutine or other awaitable of that.
Result = Variables | None | Awaitable[Variables | None]

#: A handler, as its author writes it. Its parameters are bound to a message's arguments by name.
HandlerFunction = Callable[..., Result]


@final
class Handler:
    """The handler of one message.

    :param name: the message's name, for the texts of errors.
    :param timeout: how long it may take, in seconds; 0 for no limit, ``None`` for the agent's ``handler_timeout``.
    :param on_error: the variables to set when it fails.
    :param blocking: whether to run it in a thread.
    :raises TypeError: for an object that is not a function, or a function that cannot be called with named arguments.
    :raises ValueError: for a negative timeout, or variables that cannot be sent.
    """

    __slots__ = ("_function", "blocking", "call", "on_error", "timeout")

    def __init__(
        self, name: str, function: HandlerFunction, timeout: float | None, on_error: Variables | None, blocking: bool
    ) -> None:
        if timeout is not None and not timeout >= 0:
            raise ValueError(f"the timeout of the message {name!r} is {timeout}; it cannot be negative")
        if not callable(function):
            raise TypeError(f"the handler of the message {name!r} is a {type(function).__name__}, not a function")
        if blocking and inspect.iscoroutinefunction(function):
            raise TypeError(f"the handler of the message {name!r} is async, and does not run in a thread")
        self._function = function
        self.timeout = timeout
        self.blocking = blocking
        try:
            #: The LIST-OF-ACTIONS to send when the handler fails.
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
    """Return the variables that a handler returned as a dict.

    :raises TypeError: when ``result`` is neither a mapping nor ``None``; and whatever a mapping of the user's raises.
    """
    if result is None:
        return {}
    if not isinstance(result, Mapping):
        raise TypeError(f"a {type(result).__name__} is no mapping of variables")
    # A mapping may compute its items when they are read: this reads each once, and in the handler's thread.
    return dict(result)
