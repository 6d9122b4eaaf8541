"""Delaying ACKs for a HAProxy >= 3.1.

A connection of HAProxy >= 3.1 hangs when one read fills HAProxy's buffer; see :mod:`spoa_twisted.spop.unread`. So while
ACKs may be unread, :class:`Pacing` asks the kernel at intervals what HAProxy has read. ``AgentConnection`` holds back
the ACKs that could fill the buffer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from spoa_twisted.agent.pipelining import EngineAnswers
from spoa_twisted.agent.receipt import receipt
from spoa_twisted.observer import AcksHeldBack, IObserver
from spoa_twisted.spop.connection import AgentConnection
from spoa_twisted.spop.unread import READ_INTERVAL, Receipt

# Seconds. While a peer reads nothing, the interval between two questions to the kernel doubles, up to this value.
_LONGEST_READ_INTERVAL: Final = 0.16


@final
class Pacing:
    """Reports to ``connection`` what HAProxy has read.

    :param on_read: called after each report: ``connection`` may now send ACKs that it held back.
    :param peer: the peer's address as text.
    :param observer: receives an event when the connection begins to hold back ACKs.
    :param answers: is notified of long ACKs; ``None`` if they change nothing.
    """

    __slots__ = (
        "_answers",
        "_connection",
        "_holding_back",
        "_interval",
        "_observer",
        "_on_read",
        "_peer",
        "_reactor",
        "_timer",
        "_transport",
    )

    def __init__(
        self,
        connection: AgentConnection,
        transport: Any,
        reactor: IReactorTime,
        on_read: Callable[[], None],
        peer: str,
        observer: IObserver,
        answers: EngineAnswers | None,
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._reactor = reactor
        self._on_read = on_read
        self._peer = peer
        self._observer = observer
        self._answers = answers if connection.pipelined else None
        self._interval = READ_INTERVAL
        self._timer: IDelayedCall | None = None
        self._holding_back = False

    def watch(self) -> None:
        """Ask the kernel after one interval. Called after each write that HAProxy may not have read."""
        if self._timer is None:
            self._timer = self._reactor.callLater(self._interval, self._on_interval)
        connection = self._connection
        was_holding_back, self._holding_back = self._holding_back, connection.held_back
        if self._holding_back and not was_holding_back:
            self._observer.on_event(AcksHeldBack(self._peer, connection.bytes_to_send))
        if self._answers is not None:
            self._answers.on_unread(self._peer, connection.long_acks, self._holding_back, connection.max_short_ack)

    def end(self) -> None:
        """Stop the timer: the connection has ended."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _on_interval(self) -> None:
        # The kernel is asked two turns of the reactor later. By then it has all bytes that were written before this
        # call: in this turn of the reactor, or with TLS in the next one. It may not have the bytes that are written
        # after this call, so the connection counts those for the next interval.
        self._connection.interval_ends()
        self._timer = self._reactor.callLater(0, self._on_next_turn)

    def _on_next_turn(self) -> None:
        self._timer = self._reactor.callLater(0, self._ask)

    def _ask(self) -> None:
        self._timer = None
        known = receipt(self._transport)
        if known is Receipt.UNKNOWN and self._answers is not None and self._answers.in_haste:
            known = Receipt.UNKNOWN_IN_HASTE
        if known is Receipt.MISSING:
            self._interval = min(2 * self._interval, _LONGEST_READ_INTERVAL)
        else:
            self._interval = READ_INTERVAL
        self._connection.interval_ended(known)
        self._on_read()
        # Not before: ACKs that HAProxy must wait for still longer are reported once. Here too, because watch is not
        # called when nothing is unread.
        self._holding_back = self._connection.held_back
