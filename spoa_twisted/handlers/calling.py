"""The messages of a NOTIFY -> the handler of each -> the actions of the ACK, or an answer that comes later."""

from __future__ import annotations

import sys
from typing import Any, final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from spoa_twisted.handlers.awaitables import begin
from spoa_twisted.handlers.coroutines import WAITING
from spoa_twisted.handlers.exchange import Exchange
from spoa_twisted.handlers.handler import Handler, as_variables
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.pending import PendingAnswer
from spoa_twisted.handlers.pending_call import PendingCall
from spoa_twisted.handlers.threads import BlockingThreads, LazyThreads
from spoa_twisted.spop.messages import Message


@final
class Responder:
    """Finds the handler of each message, and calls it. ``Handlers`` has one object, and registers the handlers in it.

    It is a class of its own because mypyc can compile it, and ``Handlers`` not.
    """

    __slots__ = ("_threads", "by_name", "default")

    def __init__(self, threads: LazyThreads) -> None:
        self._threads = threads
        #: The handlers, by the names of their messages.
        self.by_name: dict[str, Handler] = {}
        #: The handler of all other messages.
        self.default: Handler | None = None

    def respond(
        self, messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float, outcomes: Outcomes
    ) -> bytes | PendingAnswer:
        """Answer the messages of one NOTIFY; see :meth:`IHandlers.respond`."""
        if len(messages) == 1:
            # Nearly every NOTIFY. Without the lists below, it takes less time.
            answer = self._call(0, messages, max_size, reactor, timeout, outcomes)
            if type(answer) is not bytes or len(answer) <= max_size:
                return answer
            return outcomes.join(messages, [answer], max_size, self.find)
        parts: list[bytes] = []
        exchange: Exchange | None = None
        for position in range(len(messages)):
            # Only all parts together have to fit.
            answer = self._call(position, messages, sys.maxsize, reactor, timeout, outcomes)
            if isinstance(answer, bytes):
                parts.append(answer)
            else:
                exchange = exchange or Exchange(messages, parts, max_size, self.find, outcomes)
                exchange.add(answer)
                parts.append(b"")
        return outcomes.join(messages, parts, max_size, self.find) if exchange is None else exchange.start()

    def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
        """Return the variables of each message's ``on_error``; see :meth:`IHandlers.refuse`."""
        # Several messages may have the same on_error, for example that of the default handler. It is sent once.
        parts = dict.fromkeys(
            handler.on_error for name in names if (handler := self.by_name.get(name) or self.default) is not None
        )
        actions = b""
        for part in parts:
            if len(actions) + len(part) <= max_size:
                actions += part
        return actions

    def find(self, message: Message) -> Handler | None:
        """Return the handler of ``message``."""
        return self.by_name.get(message.name) or self.default

    def _call(
        self,
        position: int,
        messages: list[Message],
        max_size: int,
        reactor: IReactorTime,
        timeout: float,
        outcomes: Outcomes,
    ) -> bytes | PendingCall:
        """Call the handler of a message. Return its actions, or those for its failure; or the call, if it waits.

        :param position: the position of the message in ``messages``, those of one NOTIFY.
        :param max_size: the longest LIST-OF-ACTIONS of a call that waits, in bytes. Other actions may be longer.
        """
        message = messages[position]
        # This is find() without the call, for speed.
        handler = self.by_name.get(message.name) or self.default
        if handler is None:
            return outcomes.unhandled(position, message, self.by_name.keys())
        # None to run the function here.
        threads = self._threads.on(reactor) if handler.blocking else None
        hold_ups = outcomes.hold_ups
        tally = outcomes.counters.tallies[handler.label]
        weight = hold_ups.weight
        started = reactor.seconds() if weight else 0.0
        try:
            result = handler.binding.call(message) if threads is None else _run(threads, handler, message, reactor)
            # Nearly every handler returns a dict, or None.
            if type(result) is not dict and result is not None:
                # Not isinstance, which takes long for an object that is none: Deferred is an abstract base class.
                if type(result) is not Deferred:
                    result = begin(result, (hold_ups, handler, message, messages, reactor))
                if isinstance(result, WAITING):
                    call = PendingCall(
                        handler, message, position, max_size, result, reactor, outcomes, tally, started, weight, threads
                    )
                    # It does nothing if hold_ups is not active.
                    hold_ups.check(handler, message, messages, reactor)
                    return call.wait(timeout)
        except BaseException:
            if weight:
                tally.durations.end(started, weight, reactor.seconds())
            actions = outcomes.failed(position, handler, message, Failure())
        else:
            if weight:
                tally.durations.end(started, weight, reactor.seconds())
            actions = outcomes.returned(position, handler, message, result)
        tally.calls += 1
        if hold_ups.active:
            hold_ups.check(handler, message, messages, reactor)
        return actions


def _run(threads: BlockingThreads, handler: Handler, message: Message, reactor: Any) -> Deferred[Any]:
    return threads.run(reactor, lambda: as_variables(handler.binding.call(message)))
