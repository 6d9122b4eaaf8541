"""Message -> handler -> variables: who answers which message, with which of its arguments, and what if that fails."""

from __future__ import annotations

# PyPy reads this file when the first text is made ASCII, in a log's line say, when no descriptor may be left.
import encodings.ascii  # noqa: F401
import inspect
import re
import weakref
from asyncio import isfuture
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import takewhile
from typing import Any, Final, TypeVar, final, overload

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorThreads, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.reflect import safe_str
from zope.interface import implementer

from spoa_twisted.coroutines import pass_on, step
from spoa_twisted.interfaces import IHandlers
from spoa_twisted.spop.actions import Variables, decode_actions, encode_actions
from spoa_twisted.spop.messages import Message
from spoa_twisted.threads import BlockingThreads

#: What a handler returns: variables, ``None`` for none, or a Deferred, coroutine or other awaitable of that.
Result = Variables | None | Awaitable[Variables | None]

#: A handler, as its author writes it. Its parameters are bound to a message's arguments by name.
HandlerFunction = Callable[..., Result]

HandlerT = TypeVar("HandlerT", bound=HandlerFunction)

#: HAProxy drops a variable when ``scope.prefix.name`` is longer than 63 characters. The prefix is HAProxy's
#: secret; one as long as most still goes with a name of this length.
LONGEST_SAFE_NAME: Final = 40

# What is logged once per name is remembered for so many names: they may come from what clients sent.
_MOST_NAMES_REMEMBERED: Final = 1000
_LONGEST_NAME_LOGGED: Final = 64

# Messages of one name may come with other arguments, as several HAProxys do; each such list has its plan.
_MOST_PLANS: Final = 64
_LONGEST_PLANNED_NAMES: Final = 4096

# What a failure says.
_LONGEST_TEXT_LOGGED: Final = 2000
_LONGEST_TRACEBACK_LOGGED: Final = 10_000
_UNPRINTABLE: Final = re.compile(r"[^ -~]")
_CONTROLS: Final = re.compile(r"[^ -~\n]")

_NOT_OF_A_PARAMETER: Final = re.compile(r"[-.]")


@final
@implementer(IHandlers)
class Handlers:
    """The handlers of an agent, by the name of the message that each answers.

    ::

        handlers = Handlers()

        @handlers.message("get-ip-reputation")
        def get_ip_reputation(ip):
            return {"txn.allowed": ip not in blocked}

    The mapping form registers functions and bound methods: ``Handlers({"get-ip-reputation": app.check})``.

    A parameter takes the argument of its name; ``-`` and ``.`` in the argument's name match ``_``. The parameter
    ``message`` takes the :class:`Message`, and ``**kwargs`` every other named argument, under the name that a
    parameter would have. A missing argument that has no default is an error of that handler.

    A handler that raises, takes longer than its timeout, or returns what cannot be sent, costs its own message only:
    the variables of ``on_error`` are set in its stead.

    :param handlers: message names and their handlers.
    :param default: answers the messages that have no handler of their own.
    :param timeout: the seconds that a handler may take when it is registered without; 0 for any time. Without
        it, the agent's ``handler_timeout`` counts. A plain function cannot be interrupted, only awaited results.
    :param on_error: the variables to set in the stead of a handler that is registered without.
    :param blocking_threads: how many handlers registered with ``blocking=True`` may run at a time.
    :raises TypeError: :raises ValueError: for what :meth:`message` raises them.
    """

    _log = Logger()

    def __init__(
        self,
        handlers: Mapping[str, HandlerFunction] | None = None,
        *,
        default: HandlerFunction | None = None,
        timeout: float | None = None,
        on_error: Variables | None = None,
        blocking_threads: int = 10,
    ) -> None:
        if blocking_threads < 1:
            raise ValueError(f"blocking_threads is {blocking_threads}; at least one is needed")
        # Judged now, not when the first handler is registered.
        _Handler("default", lambda: None, timeout, on_error, blocking=False)
        self._timeout = timeout
        self._on_error = on_error
        self._blocking_threads = blocking_threads
        self._threads: BlockingThreads | None = None
        self._deadlines: _Deadlines | None = None
        self._by_name: dict[str, _Handler] = {}
        self._default: _Handler | None = None
        self._names_logged: set[str] = set()
        for name, function in (handlers or {}).items():
            self.message(name)(function)
        if default is not None:
            self.default(default)

    def message(
        self,
        name: str,
        *,
        timeout: float | None = None,
        on_error: Variables | None = None,
        blocking: bool = False,
    ) -> Callable[[HandlerT], HandlerT]:
        """Register the decorated function, which stays as it is, as the handler of the message called ``name``.

        :param timeout: the seconds it may take; 0 for any time.
        :param on_error: the variables to set when it fails.
        :param blocking: run it in a thread, because it blocks. It must be a plain function.
        :raises TypeError: for what is no function, or takes arguments in a way that names cannot be bound to.
        :raises ValueError: when the name has a handler already, or ``on_error`` cannot be sent.
        """
        if not isinstance(name, str):
            raise TypeError(f"the name of a message is a str, not a {type(name).__name__}: @handlers.message('name')")

        def register(function: HandlerT) -> HandlerT:
            handler = self._handler(name, function, timeout, on_error, blocking)
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
        """Register the decorated function as the handler of every message that has none of its own.

        To be used plain, ``@handlers.default``, or with the options of :meth:`message`. Without it, such
        messages set no variables, and are logged once per name.

        :raises TypeError: :raises ValueError: as :meth:`message` does.
        """

        def register(function: HandlerT) -> HandlerT:
            handler = self._handler("default", function, timeout, on_error, blocking)
            if self._default is not None:
                raise ValueError(f"there are two default handlers: {self._default} and {handler}")
            self._default = handler
            return function

        return register if function is None else register(function)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the messages that have a handler."""
        return iter(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    @classmethod
    def merged(cls, *sets: Handlers) -> Handlers:
        """Return the handlers of all ``sets`` as one; each keeps the timeout and ``on_error`` that it had.

        :raises ValueError: when two of them have a handler for the same message, or a default handler.
        """
        merged = cls(blocking_threads=max((handlers._blocking_threads for handlers in sets), default=1))
        for handlers in sets:
            for name, handler in handlers._by_name.items():
                merged._add(name, handler)
            if handlers._default is not None:
                if merged._default is not None:
                    raise ValueError(f"there are two default handlers: {merged._default} and {handlers._default}")
                merged._default = handlers._default
        return merged

    def respond(
        self, messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float
    ) -> bytes | Deferred[bytes]:
        """Answer the messages of one NOTIFY; see :meth:`IHandlers.respond`."""
        parts: list[bytes] = []
        waiting: list[_Waiting] | None = None
        for message in messages:
            handler = self._by_name.get(message.name) or self._default
            actions = b""
            if handler is None:
                self._log_once(message.name, "no handler for the message {name!a}: it sets no variables")
            else:
                try:
                    result = self._in_thread(handler, message, reactor) if handler.blocking else handler.call(message)
                    if type(result) is not dict:
                        result = _begin(result)
                except BaseException:
                    actions = self._failed(handler, message, Failure())
                else:
                    if type(result) is not dict and isinstance(result, Deferred):
                        waiting = waiting or []
                        waiting.append(_Waiting(handler, message, len(parts), result))
                    else:
                        actions = self._returned(handler, message, result)
            parts.append(actions)
        if waiting is None:
            if len(parts) == 1 and len(parts[0]) <= max_size:
                return parts[0]
            return self._join(messages, parts, max_size)
        return _Exchange(self, messages, parts, waiting, max_size).start(reactor, timeout)

    def _handler(
        self,
        name: str,
        function: HandlerFunction,
        timeout: float | None,
        on_error: Variables | None,
        blocking: bool,
    ) -> _Handler:
        if timeout is None:
            timeout = self._timeout
        if on_error is None:
            on_error = self._on_error
        return _Handler(name, function, timeout, on_error, blocking)

    def _add(self, name: str, handler: _Handler) -> None:
        if name in self._by_name:
            raise ValueError(f"the message {name!a} has two handlers: {self._by_name[name]} and {handler}")
        self._by_name[name] = handler

    def _deadlines_on(self, reactor: IReactorTime) -> _Deadlines:
        if self._deadlines is None or self._deadlines.reactor is not reactor:
            self._deadlines = _Deadlines(reactor)
        return self._deadlines

    def _in_thread(self, handler: _Handler, message: Message, reactor: IReactorTime) -> Any:
        if not IReactorThreads.providedBy(reactor):
            return handler.call(message)
        if self._threads is None:
            self._threads = BlockingThreads(self._blocking_threads)
            # Handlers that were replaced leave none behind.
            weakref.finalize(self, self._threads.end).atexit = False
        return self._threads.run(reactor, lambda: _as_variables(handler.call(message)))

    def _returned(self, handler: _Handler, message: Message, result: Any) -> bytes:
        try:
            variables = result if type(result) is dict else _as_variables(result)
            actions = encode_actions(variables)
            # A list no longer than that holds no longer name.
            if len(actions) > LONGEST_SAFE_NAME:
                for variable in variables:
                    self._check_length(variable)
            return actions
        except BaseException as error:
            self._log.error(
                "the handler of the message {name!a} returned what cannot be sent: {error}",
                name=_name_of(message),
                error=_in_one_line(safe_str(error)),
            )
            return handler.on_error

    def _check_length(self, variable: str) -> None:
        scope, dot, name = variable.partition(".")
        if len(name if dot else scope) > LONGEST_SAFE_NAME:
            self._log_once(
                variable,
                "the variable {name!a} may be too long for HAProxy, which drops it silently when scope.prefix.name"
                " has more than 63 characters",
            )

    def _log_once(self, name: str, text: str) -> None:
        # Names may come from a peer, and be as long as a frame.
        name = name[:_LONGEST_NAME_LOGGED]
        if name not in self._names_logged and len(self._names_logged) < _MOST_NAMES_REMEMBERED:
            self._names_logged.add(name)
            self._log.warn(text, name=name)

    def _failed(self, handler: _Handler, message: Message, failure: Failure) -> bytes:
        _log_failure(self._log, "the handler of the message {name!a} failed", failure, name=_name_of(message))
        return handler.on_error

    def _timed_out(self, handler: _Handler, message: Message, timeout: float) -> bytes:
        self._log.error(
            "the handler of the message {name!a} took longer than {timeout} s",
            name=_name_of(message),
            timeout=timeout,
        )
        return handler.on_error

    def _join(self, messages: list[Message], parts: list[bytes], max_size: int) -> bytes:
        """Return the ``parts``, the actions of one message each, as far as they fit."""
        joined = b"".join(parts)
        if len(joined) <= max_size:
            return joined
        fitting: list[bytes] = []
        room = max_size
        for message, actions in zip(messages, parts, strict=True):
            if len(actions) > room:
                self._log.error(
                    "the variables of the message {name!a} do not fit in the frame: {size} bytes, where {room} are"
                    " left; the largest is {largest}",
                    name=_name_of(message),
                    size=len(actions),
                    room=room,
                    largest=_largest(actions)[:_LONGEST_NAME_LOGGED],
                )
                handler = self._by_name.get(message.name) or self._default
                actions = handler.on_error if handler is not None else b""
                if len(actions) > room:
                    continue
            fitting.append(actions)
            room -= len(actions)
        return b"".join(fitting)


@final
class _Waiting:
    """One message of a NOTIFY, and the Deferred that its handler returned."""

    __slots__ = ("deadline", "deferred", "exchange", "handler", "message", "position", "seconds")

    #: Until when it has to finish, if it may not take any time.
    deadline: float

    def __init__(self, handler: _Handler, message: Message, position: int, deferred: Deferred[Any]) -> None:
        self.handler = handler
        self.message = message
        self.position = position
        self.deferred = deferred
        self.seconds = 0.0
        #: Who waits for it: nobody any more when it has finished or was given up.
        self.exchange: _Exchange | None = None

    def finished(self, result: Any) -> Any:
        """Pass on what the Deferred came to."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.finished(self, result)
        return pass_on(result, self.deferred)


@final
class _Exchange:
    """A NOTIFY with handlers that have not finished: waits for all of them, for each no longer than it may take."""

    __slots__ = ("_deadlines", "_handlers", "_max_size", "_messages", "_missing", "_parts", "_result", "_waiting")

    def __init__(
        self, handlers: Handlers, messages: list[Message], parts: list[bytes], waiting: list[_Waiting], max_size: int
    ) -> None:
        self._handlers = handlers
        self._messages = messages
        self._parts = parts
        self._waiting = waiting
        self._missing = len(waiting)
        self._max_size = max_size
        self._result: Deferred[bytes] | None = None

    def start(self, reactor: IReactorTime, timeout: float) -> bytes | Deferred[bytes]:
        """Return the actions of all messages, or a Deferred of them."""
        deadlines = self._deadlines = self._handlers._deadlines_on(reactor)
        for one in self._waiting:
            one.exchange = self
            one.deferred.addBoth(one.finished)
            seconds = timeout if one.handler.timeout is None else one.handler.timeout
            if seconds and one.exchange is not None:
                deadlines.add(one, seconds)
        if not self._missing:
            return self._join()
        self._result = Deferred(self._cancel)
        return self._result

    def finished(self, one: _Waiting, result: Any) -> None:
        """Take what ``one`` came to."""
        self._deadlines.discard(one)
        answered = self._handlers._failed if isinstance(result, Failure) else self._handlers._returned
        self._parts[one.position] = answered(one.handler, one.message, result)
        self._settle()

    def give_up(self, one: _Waiting) -> None:
        """Wait no longer for ``one``."""
        one.exchange = None
        self._parts[one.position] = self._handlers._timed_out(one.handler, one.message, one.seconds)
        self._cancel_one(one)
        self._settle()

    def _settle(self) -> None:
        self._missing -= 1
        # What ends one handler may give up the whole: it has been called then.
        if not self._missing and self._result is not None and not self._result.called:
            self._result.callback(self._join())

    def _join(self) -> bytes:
        return self._handlers._join(self._messages, self._parts, self._max_size)

    def _cancel(self, result: Deferred[bytes]) -> None:
        given_up = [one for one in self._waiting if one.exchange is not None]
        # What ends one handler may end others: that interests nobody any more.
        for one in given_up:
            one.exchange = None
        for one in given_up:
            self._deadlines.discard(one)
            self._cancel_one(one)

    def _cancel_one(self, one: _Waiting) -> None:
        try:
            one.deferred.cancel()
        except BaseException:
            _log_failure(self._handlers._log, "a handler's Deferred failed to be cancelled", Failure())


@final
class _Deadlines:
    """Until when each handler has to finish: one timer for all, since nearly all finish long before."""

    __slots__ = ("_by_seconds", "_timers", "reactor")

    def __init__(self, reactor: IReactorTime) -> None:
        self.reactor = reactor
        # Of those that may take equally long, the first to begin is the first to be late.
        self._by_seconds: dict[float, dict[_Waiting, None]] = {}
        self._timers: dict[float, IDelayedCall] = {}

    def add(self, one: _Waiting, seconds: float) -> None:
        """Let ``one`` take so many ``seconds`` from now on."""
        one.seconds = seconds
        one.deadline = self.reactor.seconds() + seconds
        waiting = self._by_seconds.get(seconds)
        if waiting is None:
            waiting = self._by_seconds[seconds] = {}
            self._timers[seconds] = self.reactor.callLater(seconds, self._time_is_up, seconds)
        elif self._timers[seconds].getTime() > one.deadline:
            self._clock_was_set_back(seconds, one.deadline)
        waiting[one] = None

    def _clock_was_set_back(self, seconds: float, deadline: float) -> None:
        # Twisted's reactors go by the time of day.
        for one in self._by_seconds[seconds]:
            one.deadline = min(one.deadline, deadline)
        timer = self._timers[seconds]
        if timer.active():
            timer.reset(seconds)

    def discard(self, one: _Waiting) -> None:
        """Forget ``one``, which has finished."""
        waiting = self._by_seconds.get(one.seconds)
        if waiting is None:
            return
        waiting.pop(one, None)
        if not waiting:
            del self._by_seconds[one.seconds]
            timer = self._timers.pop(one.seconds)
            if timer.active():
                timer.cancel()

    def _time_is_up(self, seconds: float) -> None:
        now = self.reactor.seconds()
        first = next(iter(self._by_seconds[seconds]))
        if first.deadline > now:
            self._timers[seconds] = self.reactor.callLater(first.deadline - now, self._time_is_up, seconds)
        else:
            # If the reactor was blocked, what they wait for may have come in time: that is read first.
            self._timers[seconds] = self.reactor.callLater(0, self._give_up, seconds, now)

    def _give_up(self, seconds: float, deadline: float) -> None:
        late = list(takewhile(lambda one: one.deadline <= deadline, self._by_seconds[seconds]))
        for one in late:
            # To give one up may end others.
            if one in self._by_seconds.get(seconds, ()):
                self.discard(one)
                assert one.exchange is not None
                one.exchange.give_up(one)
        if seconds in self._by_seconds and not self._timers[seconds].active():
            self._time_is_up(seconds)


@final
class _Handler:
    """A function with what was said when it was registered, and how a message's arguments become its parameters."""

    __slots__ = ("_defaults", "_function", "_parameters", "_plans", "blocking", "on_error", "timeout")

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
            #: The LIST-OF-ACTIONS to send in the stead of what the function failed to return.
            self.on_error = encode_actions(_as_variables(on_error))
        except (TypeError, ValueError) as error:
            raise type(error)(f"on_error of the message {name!a}: {error}") from error
        self._parameters = tuple(inspect.signature(function).parameters.values())
        for parameter in self._parameters:
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                raise TypeError(
                    f"the handler of the message {name!a} takes *{parameter.name}, but arguments are bound by name:"
                    " take **kwargs, or message"
                )
        self._defaults = tuple([parameter.default for parameter in self._parameters])
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def call(self, message: Message) -> Any:
        """Call the function with the message's arguments.

        :raises TypeError: when an argument is missing; and whatever the function raises.
        """
        plan = self._plans.get(message.names)
        if plan is None:
            plan = self._make_plan(message)
            if len(self._plans) >= _MOST_PLANS:
                self._plans.clear()
            if sum(map(len, message.names)) <= _LONGEST_PLANNED_NAMES:
                self._plans[message.names] = plan
        positional, keywords = plan
        if positional is None:
            return self._function(*message.values)
        sources = (*message.values, message, *self._defaults)
        if keywords:
            return self._function(*[sources[i] for i in positional], **{name: sources[i] for name, i in keywords})
        return self._function(*[sources[i] for i in positional])

    def _make_plan(self, message: Message) -> _Plan:
        """Find for each parameter its place in the message's values, the message, and the defaults, in a row."""
        arguments: dict[str, int] = {}
        for position, name in enumerate(message.names):
            if name:
                arguments.setdefault(_NOT_OF_A_PARAMETER.sub("_", name), position)
        the_message = len(message.names)
        positional: list[int] = []
        keywords: list[tuple[str, int]] = []
        for index, parameter in enumerate(self._parameters):
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                # It comes last: what is left is its.
                keywords += arguments.items()
                continue
            if parameter.name == "message":
                arguments.pop("message", None)
                source = the_message
            elif parameter.name in arguments:
                source = arguments.pop(parameter.name)
            elif parameter.default is not inspect.Parameter.empty:
                source = the_message + 1 + index
            else:
                has = ", ".join([repr(name) for name in message.names]) or "none"
                raise TypeError(f"the message {message.name!r} has no argument {parameter.name!r}; it has: {has}")
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                keywords.append((parameter.name, source))
            else:
                positional.append(source)
        if not keywords and positional == list(range(the_message)):
            return None, ()
        return tuple(positional), tuple(keywords)

    def __str__(self) -> str:
        module = getattr(self._function, "__module__", None)
        name = getattr(self._function, "__qualname__", None)
        return f"{module}.{name}" if name else repr(self._function)


#: Where a handler's parameters come from: those given by position, ``None`` when they are the message's values as they
#: come, then those given by name.
_Plan = tuple[tuple[int, ...] | None, tuple[tuple[str, int], ...]]


def _begin(result: Any) -> Any:
    """Return what a handler returned, or a Deferred of it when that is to be awaited.

    :raises BaseException: what a coroutine raises before it waits for anything.
    """
    if result is None or isinstance(result, (Deferred, Mapping)):
        return result
    if inspect.iscoroutine(result):
        return step(result)
    if isfuture(result):
        return Deferred.fromFuture(result)
    if inspect.isawaitable(result):
        return step(_await(result))
    return result


async def _await(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _log_failure(log: Logger, text: str, failure: Failure, **fields: Any) -> None:
    """Log ``failure`` with its traceback, in which nothing that a client sent can forge a line, or fill the log."""
    said = safe_str(failure.value)
    traceback = failure.getTraceback()
    plain = not _CONTROLS.search(traceback) and len(traceback) <= _LONGEST_TRACEBACK_LOGGED
    if plain and said.isprintable() and len(said) <= _LONGEST_TEXT_LOGGED:
        log.failure(text, failure, **fields)
        return
    frames, found, _ = traceback.rpartition(f": {said}\n")
    if found:
        # The last frame is the one that matters, and a recursion has a thousand.
        frames = _CONTROLS.sub(_escape, frames[-_LONGEST_TRACEBACK_LOGGED:])
        traceback = f"{frames}: {_in_one_line(said)}"
    else:
        traceback = _in_one_line(traceback)
    text += "\n{traceback}"
    log.critical(text, traceback=traceback, **fields)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def _in_one_line(text: str) -> str:
    """Return the beginning of ``text``, in which what a client sent may stand, as one line of any log."""
    text = text[:_LONGEST_TEXT_LOGGED]
    return _UNPRINTABLE.sub(_escape, text)


def _name_of(message: Message) -> str:
    """Return the message's name for the log: it may come from a peer, and be as long as a frame."""
    return message.name[:_LONGEST_NAME_LOGGED]


def _as_variables(result: Any) -> Variables:
    """Return what a handler returned as a dict of variables.

    :raises TypeError: when it is neither a mapping nor ``None``.
    """
    if result is None:
        return {}
    if not isinstance(result, Mapping):
        raise TypeError(f"a {type(result).__name__} is no mapping of variables")
    # A mapping may compute its items when it is read: this reads each once, and in the handler's thread.
    return dict(result)


def _largest(actions: bytes) -> str:
    """Return the name of the variable that takes most room in a LIST-OF-ACTIONS."""
    variables = decode_actions(actions)
    return max(variables, key=lambda name: len(encode_actions({name: variables[name]})), default="")
