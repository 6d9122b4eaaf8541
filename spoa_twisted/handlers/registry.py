"""``Handlers``: the registered functions, each by the name of the message that it answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Any, Final, TypeVar, final, overload

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from spoa_twisted.handlers.calling import Responder
from spoa_twisted.handlers.declaration import Declaration
from spoa_twisted.handlers.declaring import declare
from spoa_twisted.handlers.handler import Handler, HandlerFunction, check_timeout, encode_on_error
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.lifecycle import LifeCycle
from spoa_twisted.handlers.names import list_messages
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.pending import PendingAnswer
from spoa_twisted.handlers.plain import is_plain
from spoa_twisted.handlers.threads import LazyThreads
from spoa_twisted.spop.actions import Variables
from spoa_twisted.spop.hints import type_of
from spoa_twisted.spop.messages import Message
from spoa_twisted.status.report import DEFAULT

# HAProxy allows these characters in the name of a spoe-message.
_NAME: Final = re.compile(r"[A-Za-z0-9_.:-]+\Z")

HandlerT = TypeVar("HandlerT", bound=HandlerFunction)


@final
@implementer(IHandlers)
class Handlers(LifeCycle):
    """The handlers of an agent, by the name of the message that each answers.

    ::

        handlers = Handlers()

        @handlers.message("get-ip-reputation")
        def get_ip_reputation(ip):
            return {"txn.allowed": ip not in blocked}

    The mapping form registers functions and bound methods: ``Handlers({"get-ip-reputation": app.check})``.

    Each parameter receives the argument of the same name; ``-`` and ``.`` in the argument's name match ``_``. The
    parameter ``message`` receives the :class:`Message`. ``**kwargs`` receives every other named argument; ``-`` and
    ``.`` in its name become ``_``. If an argument is missing or ``None``, its parameter takes its default. Without a
    default, the parameter receives the ``None``, and the handler fails if the argument is missing.

    A handler fails if it raises an exception, takes longer than its timeout, or returns a value that cannot be sent.
    Only its own message is affected: the message sets the variables of ``on_error``.

    HAProxy's rules must refuse a request when the agent does not answer, too. So let a handler set a variable that
    *allows*, never only one that forbids, and write rules for all three cases::

        # spoe.conf: HAProxy sets this variable to a number when the agent is stopped, frozen or late
        option set-on-error error

        # haproxy.cfg: the agent failed (set-on-error), or the handler failed (on_error={"txn.error": "handler"})
        http-request deny deny_status 503 if { var(txn.iprep.error) -m found }
        # the handler said no, or nothing was set, for whatever reason: an absent variable is not true
        http-request deny unless { var(txn.iprep.allowed) -m bool }

    The decorators ``startup``, ``shutdown`` and ``every(seconds)``, of the base class :class:`LifeCycle`, register
    functions for the life of the agent: to open and close a pool, or to read a file that changes.

    :param handlers: message names and their handlers.
    :param default: the handler of all messages that have no handler of their own.
    :param timeout: the default timeout of a handler, in seconds; 0 for no limit. Without it, the agent's
        ``handler_timeout`` applies. A timeout ends only a handler that returned a Deferred or a coroutine: a plain
        function cannot be interrupted.
    :param on_error: the variables that a message sets if its handler fails. A handler may have its own ``on_error``.
    :param blocking_threads: how many handlers registered with ``blocking=True`` may run at the same time.
    :raises TypeError, ValueError: as :meth:`message` does.
    """

    def __init__(
        self,
        handlers: Mapping[str, HandlerFunction] | None = None,
        *,
        default: HandlerFunction | None = None,
        timeout: float | None = None,
        on_error: Variables | None = None,
        blocking_threads: int = 10,
    ) -> None:
        super().__init__()
        if blocking_threads < 1:
            raise ValueError(f"blocking_threads is {blocking_threads}; at least one is needed")
        # The errors of timeout and on_error are raised now, not when the first handler is registered.
        check_timeout(timeout, "Handlers")
        encode_on_error(on_error, "Handlers")
        self._timeout = timeout
        self._on_error = on_error
        self._threads = LazyThreads(blocking_threads)
        # Has the handlers, and calls them.
        self._responder = Responder(self._threads)
        self._by_name = self._responder.by_name
        for name, function in (handlers or {}).items():
            self.message(name)(function)
        if default is not None:
            self.default(default)

    def message(
        self,
        name: str,
        *,
        args: Mapping[str, str] | None = None,
        event: str | None = None,
        rule: str | None = None,
        sets: Mapping[str, type | UnionType] | None = None,
        timeout: float | None = None,
        on_error: Variables | None = None,
        blocking: bool = False,
    ) -> Callable[[HandlerT], HandlerT]:
        """Register the decorated function as the handler of the message called ``name``. The function stays unchanged.

        ``args``, ``event`` or ``rule``, and ``sets`` are for ``spoactl config`` and ``spoactl check``: see
        :class:`Declaration`. The agent only warns of results that differ from ``sets``.

        :param timeout: the timeout of the handler, in seconds; 0 for no limit. Only for a handler that returns a
            Deferred or a coroutine, or has ``blocking=True``: a plain function cannot be interrupted.
        :param on_error: the variables that the message sets if the handler fails.
        :param blocking: run the handler in a thread, because it blocks. It must be a plain function.
        :raises TypeError: for an object that is not a function, for a function that takes ``*args``, for an ``async
            def`` with ``blocking``, for a timeout that is not a number or belongs to a plain function, or for a
            variable in ``on_error`` whose value has no SPOP type.
        :raises ValueError: if the message already has a handler, HAProxy does not allow its name, the timeout is
            negative, a variable in ``on_error`` cannot be encoded, or the handler cannot work as it is declared.
        """
        if not isinstance(name, str):
            raise TypeError(f"the name of a message is a str, not {type_of(name)}; write @handlers.message('name')")
        if not _NAME.match(name):
            raise ValueError(
                f"HAProxy does not allow the name {name!a} for a spoe-message, so the message can never come; use"
                " A-Z, a-z, 0-9, '_', '-', '.' and ':'"
            )

        def register(function: HandlerT) -> HandlerT:
            handler = self._handler(name, function, timeout, on_error, blocking)
            handler.declare(declare(name, function, handler.on_error, args, event, rule, sets))
            self._add(name, handler)
            return function

        return register

    @overload
    def default(self, function: HandlerT) -> HandlerT: ...

    @overload
    def default(
        self, *, timeout: float | None = None, on_error: Variables | None = None, blocking: bool = False
    ) -> Callable[[HandlerT], HandlerT]: ...

    def default(
        self,
        function: HandlerT | None = None,
        *,
        timeout: float | None = None,
        on_error: Variables | None = None,
        blocking: bool = False,
    ) -> HandlerT | Callable[[HandlerT], HandlerT]:
        """Register the decorated function as the handler of all messages that have no handler of their own.

        Use it as ``@handlers.default``, or with the options of :meth:`message`. Without a default handler, a message
        that has no handler sets no variables, and the agent logs the name of the message once.

        :raises TypeError, ValueError: as :meth:`message` does.
        """

        def register(function: HandlerT) -> HandlerT:
            handler = self._handler("default", function, timeout, on_error, blocking)
            if self._responder.default is not None:
                raise ValueError(f"there are two default handlers: {self._responder.default} and {handler}")
            handler.label = DEFAULT
            self._responder.default = handler
            return function

        return register if function is None else register(function)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the messages that have a handler."""
        return iter(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @property
    def is_empty(self) -> bool:
        """True if no handler is registered, not even a default handler, and no function for the life of the agent."""
        return not (self._by_name or self._responder.default or self._life_cycle)

    @property
    def has_default(self) -> bool:
        """Whether there is a default handler."""
        return self._responder.default is not None

    @property
    def blocking_waiting(self) -> int:
        """How many calls of handlers with ``blocking=True`` wait for a free thread."""
        return self._threads.waiting

    def registered(self) -> list[tuple[str, Handler]]:
        """Return the messages that have a handler, sorted, and their handlers. The default handler's name is empty."""
        return sorted(self._by_name.items()) + ([("", self._responder.default)] if self._responder.default else [])

    @property
    def declarations(self) -> dict[str, Declaration]:
        """What each handler declares for HAProxy's configuration, by the name of its message."""
        return {name: handler.declaration for name, handler in self._by_name.items()}

    def describe(self) -> str:
        """Return a text for the log about the messages that have a handler: ``the messages check-ip, scan-body``."""
        return list_messages(sorted(self._by_name), has_default=self.has_default)

    @classmethod
    def merged(cls, *sets: Handlers) -> Handlers:
        """Return one ``Handlers`` with the handlers of all ``sets``. Each keeps its timeout and its ``on_error``.

        Startup functions run in the order of ``sets``, and shutdown functions in the reverse order.

        :raises ValueError: if two of ``sets`` have a handler for the same message, or both have a default handler.
        """
        merged = cls(blocking_threads=max((handlers._threads.max_threads for handlers in sets), default=1))
        for handlers in sets:
            for name, handler in handlers._by_name.items():
                merged._add(name, handler)
            default = handlers._responder.default
            if default is not None:
                if merged._responder.default is not None:
                    raise ValueError(f"there are two default handlers: {merged._responder.default} and {default}")
                merged._responder.default = default
            merged._life_cycle += handlers._life_cycle
        return merged

    def respond(
        self, messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float, outcomes: Outcomes
    ) -> bytes | PendingAnswer:
        """Answer the messages of one NOTIFY; see :meth:`IHandlers.respond`."""
        return self._responder.respond(messages, max_size, reactor, timeout, outcomes)

    def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
        """Return the variables of each message's ``on_error``; see :meth:`IHandlers.refuse`."""
        return self._responder.refuse(names, max_size)

    def _handler(
        self, name: str, function: HandlerFunction, timeout: float | None, on_error: Variables | None, blocking: bool
    ) -> Handler:
        seconds = self._timeout if timeout is None else timeout
        handler = Handler(name, function, seconds, self._on_error if on_error is None else on_error, blocking)
        if timeout and not blocking and is_plain(function):
            raise TypeError(
                f"the handler of the message {name!r} is a plain function, which cannot be interrupted: leave out"
                " timeout, or say blocking=True"
            )
        return handler

    def _add(self, name: str, handler: Handler) -> None:
        if name in self._by_name:
            raise ValueError(f"the message {name!a} has two handlers: {self._by_name[name]} and {handler}")
        self._by_name[name] = handler


def responder_of(handlers: IHandlers) -> Any:
    """Return the object whose ``respond`` and ``refuse`` the agent calls for ``handlers``.

    For a :class:`Handlers` that is no subclass, it is the object that ``respond`` would call: that saves a call.
    """
    return handlers._responder if type(handlers) is Handlers else handlers
