"""The calls of ``IObserver.on_notify``: the result of each message of a NOTIFY, and the duration.

Events, the arguments of ``IObserver.on_event``, are in :mod:`spoa_twisted.observer`.
"""

from __future__ import annotations

from typing import TypeVar, final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.observer import IObserver, Outcome
from spoa_twisted.spop.connection import Notify
from spoa_twisted.spop.messages import Message

AnswerT = TypeVar("AnswerT")


@final
@implementer(IHandlers)
class Observation:
    """Wraps the handlers for one NOTIFY, to report its results to ``observer``.

    It records the result of each message, and measures the time. An agent without an observer does not use it.

    :param handlers: the handlers that answer the NOTIFY.
    :param peer: the peer's address as text.
    """

    __slots__ = ("_handlers", "_notify", "_observer", "_outcomes", "_peer", "_reactor", "_started")

    def __init__(self, observer: IObserver, handlers: IHandlers, peer: str, notify: Notify) -> None:
        self._observer = observer
        self._handlers = handlers
        self._peer = peer
        self._notify = notify
        self._outcomes = [Outcome.OK] * len(notify.messages)

    def respond(
        self, messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float, outcomes: Outcomes
    ) -> bytes | Deferred[bytes]:
        """Let the handlers answer, and report the results when they have finished; see :meth:`IHandlers.respond`."""
        self._reactor = reactor
        self._started = reactor.seconds()
        recording = Outcomes(self._observer, self._outcomes, outcomes.hold_ups, outcomes.counters)
        # The time of an observer does not count for the handler that is called after it.
        outcomes.hold_ups.restart(self._started)
        try:
            answer = self._handlers.respond(messages, max_size, reactor, timeout, recording)
        except BaseException:
            self._finish(Failure())
            raise
        if isinstance(answer, Deferred):
            return answer.addBoth(self._finish)
        return self._finish(answer)

    def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
        """Let the handlers answer. A NOTIFY that is refused has no results; see :meth:`IHandlers.refuse`."""
        return self._handlers.refuse(names, max_size)

    def _finish(self, answer: AnswerT) -> AnswerT:
        if isinstance(answer, Failure):
            # Either the connection ended, and the agent cancelled the Deferred, or the handlers failed as a whole.
            outcome = Outcome.CANCELLED if isinstance(answer.value, CancelledError) else Outcome.ERROR
            self._outcomes[:] = [outcome if known is Outcome.OK else known for known in self._outcomes]
        # Twisted's reactors use the time of day. After it was set back, the difference would be negative.
        seconds = max(0.0, self._reactor.seconds() - self._started)
        self._observer.on_notify(self._peer, self._notify, self._outcomes, seconds)
        return answer
