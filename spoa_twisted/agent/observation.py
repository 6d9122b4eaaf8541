"""The calls of ``IObserver.on_notify``: the result of each message of a NOTIFY, and the duration.

Events, the arguments of ``IObserver.on_event``, are in :mod:`spoa_twisted.observer`.
"""

from __future__ import annotations

from typing import final

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.pending import Actions, FollowedAnswer, PendingAnswer
from spoa_twisted.observer import IObserver, Outcome
from spoa_twisted.spop.connection import Notify
from spoa_twisted.spop.messages import Message


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
    ) -> bytes | PendingAnswer:
        """Let the handlers answer, and report the results when they have finished; see :meth:`IHandlers.respond`."""
        self._reactor = reactor
        self._started = reactor.seconds()
        recording = Outcomes(
            self._observer, self._outcomes, outcomes.hold_ups, outcomes.counters, outcomes.deadlines_on(reactor)
        )
        # The time of an observer does not count for the handler that is called after it.
        outcomes.hold_ups.restart(self._started)
        try:
            answer = self._handlers.respond(messages, max_size, reactor, timeout, recording)
        except BaseException:
            # The handlers failed as a whole.
            self._report(Outcome.ERROR)
            raise
        if isinstance(answer, PendingAnswer):
            return FollowedAnswer(answer, self._on_end)
        self._report(Outcome.OK)
        return answer

    def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
        """Let the handlers answer. A NOTIFY that is refused has no results; see :meth:`IHandlers.refuse`."""
        return self._handlers.refuse(names, max_size)

    def _on_end(self, actions: Actions | None) -> None:
        if actions is None:
            self._report(Outcome.CANCELLED)
        else:
            self._report(Outcome.ERROR if isinstance(actions, Failure) else Outcome.OK)

    def _report(self, otherwise: Outcome) -> None:
        """Report the NOTIFY.

        :param otherwise: the result of the messages that have not failed.
        """
        self._outcomes[:] = [otherwise if known is Outcome.OK else known for known in self._outcomes]
        # Twisted's reactors use the time of day. After it was set back, the difference would be negative.
        seconds = max(0.0, self._reactor.seconds() - self._started)
        self._observer.on_notify(self._peer, self._notify, self._outcomes, seconds)
