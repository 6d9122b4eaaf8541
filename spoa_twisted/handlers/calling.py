"""The call of one handler -> its actions, or a :class:`PendingCall` if it waits."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from spoa_twisted.handlers.awaitables import begin
from spoa_twisted.handlers.coroutines import WAITING
from spoa_twisted.handlers.handler import Handler, as_variables
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.pending_call import PendingCall
from spoa_twisted.handlers.threads import BlockingThreads
from spoa_twisted.spop.messages import Message


def call_handler(
    handler: Handler,
    position: int,
    messages: list[Message],
    max_size: int,
    reactor: Any,
    timeout: float,
    outcomes: Outcomes,
    threads: BlockingThreads | None,
) -> bytes | PendingCall:
    """Call ``handler``. Return the actions for its result, or for its failure; or the call, if it waits.

    :param position: the position of the message in ``messages``, those of one NOTIFY.
    :param max_size: the longest LIST-OF-ACTIONS of a call that waits, in bytes. Other actions may be longer.
    :param threads: runs the function; ``None`` to run it here.
    """
    message = messages[position]
    hold_ups = outcomes.hold_ups
    tally = outcomes.counters.tallies[handler.label]
    weight = hold_ups.weight
    started = reactor.seconds() if weight else 0.0
    try:
        result = handler.call(message) if threads is None else _run(threads, handler, message, reactor)
        # Nearly every handler returns a dict, or None.
        if type(result) is not dict and result is not None:
            # Not isinstance, which takes long for objects that are no Deferreds: Deferred is an abstract base class.
            if type(result) is not Deferred:
                result = begin(result, (hold_ups, handler, message, messages, reactor))
            if isinstance(result, WAITING):
                call = PendingCall(
                    handler, message, position, max_size, result, reactor, outcomes, tally, started, weight, threads
                )
                if hold_ups.active:
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
    return threads.run(reactor, lambda: as_variables(handler.call(message)))
