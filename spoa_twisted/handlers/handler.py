"""A function, and the options that it was registered with."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from typing import Any, final

from twisted.python.failure import Failure

from spoa_twisted.handlers.binding import Binding
from spoa_twisted.handlers.declaration import UNDECLARED, Declaration
from spoa_twisted.handlers.plain import is_plain
from spoa_twisted.handlers.undeclared import Undeclared
from spoa_twisted.spop.actions import Variables, encode_actions
from spoa_twisted.spop.hints import type_of

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
        with ``blocking``, for a timeout that is not a number, or for a variable in ``on_error`` whose value has no SPOP
        type.
    :raises ValueError: for a negative timeout, or a variable in ``on_error`` that cannot be encoded.
    """

    __slots__ = (
        "binding",
        "blocking",
        "declaration",
        "doubtful",
        "doubtful_on_error",
        "function",
        "is_coroutine",
        "label",
        "on_error",
        "timeout",
        "undeclared",
    )

    def __init__(
        self, name: str, function: HandlerFunction, timeout: Any, on_error: Variables | None, blocking: bool
    ) -> None:
        # A float or None. The type is not checked yet. With the type Any, mypyc compiles no type check.
        check_timeout(timeout, f"the message {name!a}")
        if not callable(function):
            raise TypeError(f"the handler of the message {name!r} is {type_of(function)}, not a function")
        #: Whether the function is an ``async def``.
        self.is_coroutine = inspect.iscoroutinefunction(function)
        if blocking and self.is_coroutine:
            raise TypeError(
                f"the handler of the message {name!r} is an async function: it cannot run in a thread, so leave out"
                " blocking=True"
            )
        #: The function that was registered.
        self.function = function
        #: What HAProxy's configuration needs for the handler.
        self.declaration = UNDECLARED
        #: Compares the first results with the declaration, and is then ``None``.
        self.undeclared: Undeclared | None = None
        #: The name in the status of the agent. The default handler has another label than its name.
        self.label = name
        self.timeout: float | None = timeout
        self.blocking = blocking
        #: The names in the handler's results, and in ``on_error``, that :func:`encode_actions` calls doubtful. Those of
        #: results are removed when they are reported.
        self.doubtful: list[str] = []
        self.doubtful_on_error: list[str] = []
        #: The LIST-OF-ACTIONS that the agent sends if the handler fails.
        self.on_error = encode_on_error(on_error, f"the message {name!a}", self.doubtful_on_error)
        #: Calls the function with a :class:`Message`'s arguments.
        self.binding = Binding(name, function)

    def __str__(self) -> str:
        return name_of(self.function)

    def declare(self, declaration: Declaration) -> None:
        """Set the declaration. Without ``sets``, the handler may set any variable."""
        self.declaration = declaration
        self.undeclared = None if declaration.sets is None else Undeclared(declaration.sets)

    @property
    def kind(self) -> str:
        """How the function runs: ``blocking``, ``async``, ``plain``, or ``may wait`` if it may return a Deferred."""
        if self.blocking:
            return "blocking"
        if self.is_coroutine:
            return "async"
        return "plain" if is_plain(self.function) else "may wait"


def name_of(function: Callable[..., Any]) -> str:
    """Return the name of ``function`` with its module, for error texts."""
    module = getattr(function, "__module__", None)
    name = getattr(function, "__qualname__", None)
    return f"{module}.{name}" if name else repr(function)


def check_timeout(timeout: object, owner: str) -> None:
    """Check the value of a ``timeout`` option. ``None`` means that the option was not given.

    :param owner: the owner of the option, for error texts.
    :raises TypeError: for a value that is not a number.
    :raises ValueError: for a negative number and for NaN.
    """
    if timeout is None:
        return
    # bool is a subclass of int, but an application that sets a timeout to True has made a mistake.
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"the timeout of {owner} is {timeout!r}; it is a number of seconds, or 0 for no limit")
    # Each comparison with NaN is false.
    if not timeout >= 0:
        raise ValueError(f"the timeout of {owner} is {timeout}; it cannot be negative, and 0 is no limit")


def encode_on_error(on_error: object, owner: str, doubtful: list[str] | None = None) -> bytes:
    """Return the actions for the variables of an ``on_error`` option. ``None`` means that the option was not given.

    :param owner: the owner of the option, for error texts.
    :param doubtful: as for :func:`encode_actions`.
    :raises TypeError: for an object that is not a mapping, or a variable whose value has no SPOP type.
    :raises ValueError: for a variable that cannot be encoded.
    """
    if on_error is not None and not isinstance(on_error, Mapping):
        raise TypeError(
            f"on_error of {owner} is {type_of(on_error)}, not a dict of variables; write"
            ' on_error={"txn.error": "handler"}'
        )
    try:
        return encode_actions(as_variables(on_error), doubtful)
    except (TypeError, ValueError) as error:
        raise type(error)(f"on_error of {owner}: {error}") from error


def as_variables(result: Any) -> Variables:
    """Return ``result``, the variables that a handler returned, as a dict.

    :raises TypeError: if ``result`` is neither a mapping nor ``None``.
    :raises BaseException: any exception of the methods of a mapping.
    """
    if result is None:
        return {}
    if not isinstance(result, Mapping):
        raise TypeError(f"{type_of(result)} is no mapping of variables; {_advice(result)}")
    # A mapping may compute its items when they are read. dict() reads each item once, and in the handler's thread.
    return dict(result)


def _advice(result: object) -> str:
    """Return what to do instead of returning ``result``."""
    if isinstance(result, Failure):
        return "raise its exception instead"
    if isinstance(result, Generator):
        return "a function with yield needs @inlineCallbacks"
    if isinstance(result, AsyncGenerator):
        return "an async function that is a handler must not use yield"
    if isinstance(result, Awaitable):
        return "await it, and return its result"
    if callable(result):
        return "call it, and return its result"
    return 'return a dict, such as {"txn.denied": True}, or None'
