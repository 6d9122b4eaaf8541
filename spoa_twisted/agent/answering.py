"""NOTIFY -> handlers -> ACK, on one connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, final

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from spoa_twisted.agent.awaited import Awaited
from spoa_twisted.agent.closing import ignore
from spoa_twisted.agent.engines import Engine
from spoa_twisted.agent.in_flight import InFlight
from spoa_twisted.agent.intake import WRITE_SIZE
from spoa_twisted.agent.next_turn import NextTurn
from spoa_twisted.agent.observation import Observation
from spoa_twisted.agent.slow import Stopwatch
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.pending import Actions, PendingAnswer
from spoa_twisted.limits import Limits
from spoa_twisted.observer import IObserver, PayloadRefused, RespondFailed, ResponseUnsendable
from spoa_twisted.spop.connection import ABORTED_ACK, AgentConnection, Notify, PayloadTooBig, State
from spoa_twisted.spop.frames import Flags

_RUNNING: Final = State.RUNNING
_CLOSED: Final = State.CLOSED
_FIN: Final = int(Flags.FIN)


class Agent(Protocol):
    """The attributes of ``SPOAFactory`` that :class:`Answering` reads. ``SPOAFactory.use`` replaces ``responder``."""

    responder: IHandlers
    limits: Limits
    outcomes: Outcomes
    reactor: IReactorTime
    awaited: Awaited

    @property
    def observer(self) -> IObserver:
        """Receives all events."""

    @property
    def notify_observer(self) -> IObserver | None:
        """Receives the results of each NOTIFY; ``None`` if the application has no observer."""

    def cancel(self, answer: PendingAnswer) -> None:
        """Cancel a pending answer, whose connection has ended."""


@final
class Answering:
    """Passes the NOTIFYs of one connection to the handlers, and queues the ACKs.

    :param connection: the connection that queues the ACKs.
    :param peer: the peer's address as text.
    :param serve: writes the queued ACKs of NOTIFYs that were pending, and handles the NOTIFYs that waited for the
        in-flight limit. Its argument is true to call the kernel at once.
    """

    __slots__ = (
        "_agent",
        "_answered",
        "_connection",
        "_engine",
        "_handler_timeout",
        "_peer",
        "_serve",
        "_timed",
        "in_flight",
        "next_turn",
        "stopwatch",
    )

    def __init__(self, agent: Agent, connection: AgentConnection, peer: str, serve: Callable[[bool], None]) -> None:
        self._agent = agent
        self._connection = connection
        self._peer = peer
        self._serve = serve
        #: The call of ``serve`` for ACKs that wait for others. Who writes them cancels it.
        self.next_turn = NextTurn(agent.reactor, lambda: self._serve(True))
        self._engine: Engine | None = None
        self._handler_timeout = agent.limits.handler_timeout
        #: Reports slow NOTIFYs; ``None`` without the option.
        self.stopwatch: Stopwatch | None = None
        # The pending answers that are timed, each with the time when its read began, and the number of NOTIFYs for
        # which it counts.
        self._timed: dict[PendingAnswer, tuple[float, int]] = {}
        # The NOTIFYs that were answered in the present read, if its time is taken.
        self._answered = 0
        #: The NOTIFYs whose handlers have not finished.
        self.in_flight = InFlight(agent.limits.max_in_flight, agent.limits.max_in_flight_size)

    def join(self, engine: Engine) -> None:
        """Let ``engine`` send ACKs of its other connections on this one. Called with the capability ``async`` only."""
        self._engine = engine
        engine.add(self)

    def on_notify(self, notify: Notify) -> bool:
        """Pass ``notify`` to the handlers. Queue the ACK now, or when the handlers have finished.

        :return: whether the ACK is queued.
        """
        agent = self._agent
        handlers = agent.responder
        if self.stopwatch is not None:
            handlers = self.stopwatch.timing(handlers, notify)
        if agent.notify_observer is not None:
            handlers = Observation(agent.notify_observer, handlers, self._peer, notify)
        room = self._connection.ack_room - len(notify.ids)
        # Another IHandlers than Handlers may return any object. With the type Any, mypyc compiles no type check.
        answer: Any
        try:
            answer = handlers.respond(notify.messages, room, agent.reactor, self._handler_timeout, agent.outcomes)
        except BaseException:
            answer = self._failed(Failure())
        if type(answer) is not bytes and isinstance(answer, PendingAnswer):
            if answer.actions is None:
                hold_ups = agent.outcomes.hold_ups
                if hold_ups.weight:
                    self._timed[answer] = hold_ups.began, hold_ups.weight
                self.in_flight.add(answer, notify)
                answer.on_actions = self._on_actions
                return False
            answer = self._failed(answer.actions) if isinstance(answer.actions, Failure) else answer.actions
        # This is _queue_ack without the call, for speed.
        try:
            self._connection.send_ack(notify.ids, answer)
        except (TypeError, ValueError) as error:
            self._send_no_actions(notify.ids, _FIN, error)
        return True

    def on_timed_notify(self, notify: Notify) -> None:
        """Do the same as :meth:`on_notify` in a read whose time may be taken."""
        self._answered += self.on_notify(notify)

    def end_read(self, began: float, now: float) -> None:
        """Add the durations of the NOTIFYs that were answered in a read, if its time is taken: all ACKs leave together.

        :param began: ``reactor.seconds()`` at the beginning of the read.
        :param now: ``reactor.seconds()``.
        """
        answered, self._answered = self._answered, 0
        outcomes = self._agent.outcomes
        weight = outcomes.hold_ups.weight * answered
        if weight:
            outcomes.counters.notify.end(began, weight, now)

    def refuse(self, refused: PayloadTooBig) -> None:
        """Queue an ACK with the flag ABORT. It sets the ``on_error`` variables of the messages that are known."""
        agent = self._agent
        agent.observer.on_event(PayloadRefused(self._peer, refused.names, refused.limit, refused.max_size))
        try:
            actions = agent.responder.refuse(refused.names, self._connection.ack_room - len(refused.ids))
        except BaseException:
            actions = self._failed(Failure())
        self._queue_ack(refused.ids, actions, ABORTED_ACK)

    def acknowledge(self, ids: bytes, actions: Any) -> None:
        """Send the ACK for a NOTIFY of this connection, or of another one of the same engine.

        :param actions: a LIST-OF-ACTIONS. The ACK sets no variables if it is another object.
        """
        self._queue_ack(ids, actions)
        if not self.in_flight.count:
            self._serve(True)
            return
        # Other handlers are pending, and more of them may finish in this turn of the reactor. Then all their ACKs leave
        # in one write, in the next turn.
        if self._connection.bytes_to_send >= WRITE_SIZE:
            # The transport gets what is long, because only there it counts for max_unsent.
            self._serve(False)
        elif self.next_turn.timer is None:
            self.next_turn.schedule()

    def has_disconnected(self) -> bool:
        """Return whether no further ACK can be sent."""
        return self._connection.state is _CLOSED

    def cancel(self) -> None:
        """Cancel all pending answers."""
        # Answers that are cancelled do not come, so nothing else would remove them.
        self._timed.clear()
        for answer in self.in_flight.take_all():
            self._agent.cancel(answer)

    def end(self) -> None:
        """Pass all pending answers on to the engine. Without an engine, cancel them. The connection is closed."""
        self._serve = ignore
        self.next_turn.end()
        if self._engine is None:
            self.cancel()
        else:
            self._timed.clear()
            self._engine.remove(self, self.in_flight.take_all())

    def _on_actions(self, answer: PendingAnswer, actions: Actions) -> None:
        ids = self.in_flight.remove(answer)
        if isinstance(actions, Failure):
            actions = self._failed(actions)
        if self._timed and (timed := self._timed.pop(answer, None)) is not None and ids is not None:
            self._add_duration(*timed)
        if ids is not None:
            self.acknowledge(ids, actions)
        elif self._engine is not None and self._engine.awaits(answer):
            self._engine.on_answer(answer, actions)
        # Otherwise the answer was cancelled, and has no ACK.
        if self._agent.awaited.waits:
            self._agent.awaited.end(answer)

    def _add_duration(self, began: float, weight: int) -> None:
        agent = self._agent
        agent.outcomes.counters.notify.end(began, weight, agent.reactor.seconds())

    def _failed(self, failure: Failure) -> bytes:
        """Report that the handlers have failed as a whole. Return the actions, which are none."""
        self._agent.observer.on_event(RespondFailed(self._peer, failure))
        return b""

    def _queue_ack(self, ids: bytes, actions: Any, flags: int = _FIN) -> None:
        try:
            self._connection.send_ack(ids, actions, flags)
        except (TypeError, ValueError) as error:
            self._send_no_actions(ids, flags, error)

    def _send_no_actions(self, ids: bytes, flags: int, error: Exception) -> None:
        """Report that the actions of an ACK cannot be sent. Send the ACK without actions, if that is possible."""
        if self._connection.state is not _RUNNING:
            return
        # Another IHandlers than Handlers may return a value that is not bytes, or is too long. With the capability
        # async, this may also be another connection than that of the NOTIFY, with a smaller max-frame-size.
        self._agent.observer.on_event(ResponseUnsendable(self._peer, error))
        self._connection.send_ack(ids, b"", flags)
