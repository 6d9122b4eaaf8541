"""The phases of closing a connection, and their deadlines.

The reasons to close a connection, and the code that closes it:

- HAProxy broke the protocol: ``spop`` raises one of :mod:`spoa_twisted.spop.errors`, and queues AGENT-DISCONNECT. To
  add an error, add a class there.
- HAProxy sent HAPROXY-DISCONNECT, or made a health check: ``spop`` queues the last frame.
- HAProxy sent no HAPROXY-HELLO in time: ``SPOAProtocol._on_phase_timeout``.
- HAProxy does not read its ACKs: :class:`~spoa_twisted.agent.outbox.Outbox` calls ``SPOAProtocol._drop``.
- HAProxy closed its side: ``SPOAProtocol.readConnectionLost``.
- The agent stops: :mod:`spoa_twisted.agent.drain`.
- The next connections of the engine have pipelining and this one has not, or the other way round:
  :mod:`spoa_twisted.agent.pipelining` and :mod:`spoa_twisted.agent.retirement`.
- ``max_connections`` connections are open: :mod:`spoa_twisted.agent.refusal`.

Code with a new reason reports an event of :mod:`spoa_twisted.observer`. Then it calls either
:func:`queue_disconnect` and ``SPOAProtocol._flush``, which close the connection when AGENT-DISCONNECT is written, or
``SPOAProtocol._close``, which sends no frame.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import final

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from spoa_twisted.spop.connection import AgentConnection, State
from spoa_twisted.spop.errors import StatusCode


class Phase(IntEnum):
    """A phase of a connection. A connection enters phases only in this order, and may skip some of them."""

    #: The agent waits for HAPROXY-HELLO, or answers NOTIFYs.
    OPEN = 0
    #: ``SPOAProtocol.disconnect`` has sent AGENT-DISCONNECT, and the agent waits until HAProxy closes the connection.
    DISCONNECTING = 1
    #: The agent closes the connection when the last frames are written. They are held back for a HAProxy >= 3.1.
    FLUSHING = 2
    #: The agent called ``loseConnection``, or Twisted called ``connectionLost``.
    CLOSING = 3


def queue_disconnect(
    connection: AgentConnection, status_code: StatusCode = StatusCode.NORMAL, message: str = "normal"
) -> None:
    """Close ``connection``, and queue an AGENT-DISCONNECT, unless the peer has sent no bytes."""
    if connection.state is State.HELLO and not connection.receiving:
        # The peer may not use TLS at all: to send a frame, Twisted would wait for a TLS handshake that never begins. So
        # the agent closes the connection without a frame.
        connection.close()
    else:
        connection.disconnect(status_code, message)


def ignore(*arguments: object) -> None:
    """Take the place of a callback of a connection that has ended.

    The parts of a connection refer to it by their callbacks. If they kept them, only the garbage collector would free
    the connection, and an application may have turned it off.
    """


@final
class Closing:
    """The phase of one connection, and the deadline of this phase.

    :param on_timeout: called with the phase when its deadline has passed.
    """

    __slots__ = ("_on_timeout", "_reactor", "_timer", "phase")

    def __init__(self, reactor: IReactorTime, on_timeout: Callable[[Phase], None]) -> None:
        self._reactor = reactor
        self._on_timeout = on_timeout
        self._timer: IDelayedCall | None = None
        self.phase = Phase.OPEN

    def enter(self, phase: Phase, seconds: float | None = None) -> None:
        """Enter ``phase``, which lasts for at most ``seconds``. Without ``seconds``, it has no deadline so far."""
        assert phase >= self.phase
        self.phase = phase
        self.stop()
        if seconds is not None:
            self.end_after(seconds)

    def end_after(self, seconds: float) -> None:
        """Set the deadline of the phase: ``seconds`` from now."""
        self.stop()
        self._timer = self._reactor.callLater(seconds, self._on_timer)

    def shorten(self, seconds: float) -> None:
        """Move the deadline to ``seconds`` from now, if the phase has a deadline."""
        if self._timer is not None:
            self._timer.reset(seconds)

    def stop(self) -> None:
        """Remove the deadline of the phase."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def end(self) -> None:
        """Stop for good: the connection has ended."""
        self.stop()
        self._on_timeout = ignore

    def _on_timer(self) -> None:
        if self.phase is Phase.OPEN:
            # If the reactor was blocked, HAPROXY-HELLO may have arrived in time. The reactor reads it before it makes
            # this call.
            self._timer = self._reactor.callLater(0, self._time_out)
        else:
            self._time_out()

    def _time_out(self) -> None:
        self._timer = None
        self._on_timeout(self.phase)
