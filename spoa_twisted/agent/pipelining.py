"""Which engines of HAProxy >= 3.1 may have several NOTIFYs in flight on one connection (SPOE.txt, section 3.2.1).

With the capability ``pipelining``, HAProxy needs fewer connections, and the agent less time for each NOTIFY. But a
HAProxy >= 3.1 must never have more unread ACKs on a connection than its buffer holds (see
:mod:`spoa_twisted.spop.unread`). So with pipelining, long ACKs wait for each other: for 10 ms if HAProxy is on this
machine, and for 200 ms if it is elsewhere. Without pipelining, HAProxy has one NOTIFY in flight on each connection, and
no ACK waits.

The agent announces its capabilities once for each connection, in the AGENT-HELLO. So :class:`Pipelining` decides for
each engine of a HAProxy what its next connections get:

- A new engine gets connections without pipelining. HAProxy may have 20 NOTIFYs in flight on its first connection, and
  nobody knows how long the answers will be.
- If the ACKs of an engine are short, its next connections have pipelining. :data:`SHORT_ACKS` short ACKs in a row are
  needed for this. The agent also ends connections without pipelining, so that HAProxy opens others: it sends
  AGENT-DISCONNECT together with an ACK. HAProxy has no other NOTIFY on the connection then, so no request fails.
- If long ACKs follow, the next connections have no pipelining again. HAProxy prefers the open connections with
  pipelining to all others while they are in use, so :class:`~spoa_twisted.agent.retirement.Retirement` ends them.

HAProxy's engine-ids are UUIDs. A peer whose engine-id is not a UUID is another program, such as a load generator, which
does not have this fault of HAProxy. It begins with pipelining. A peer without an engine-id always has pipelining: the
agent cannot tell which connections belong together.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Final, final

from twisted.internet.interfaces import IReactorTime

from spoa_twisted.agent.retirement import Retirable, Retirement
from spoa_twisted.observer import IObserver, PipeliningChanged
from spoa_twisted.spop.connection import ASYNC, PIPELINING
from spoa_twisted.spop.frames import HAProxyHello

#: The values of the keyword ``pipelining`` of ``SPOAFactory``, and of the option ``--pipelining``.
AUTO: Final = "auto"
ALWAYS: Final = "always"
NEVER: Final = "never"
MODES: Final = (AUTO, ALWAYS, NEVER)

#: So many short ACKs in a row allow pipelining. If long ACKs followed soon, the agent would have to end the connections
#: again. Without pipelining nothing fails: the agent only needs more time for each NOTIFY, and more connections.
SHORT_ACKS: Final = 20_000

#: So many long ACKs on one connection with pipelining end pipelining, even if none of them had to wait.
LONG_ACKS: Final = 10

#: Seconds without a long ACK before an engine that has lost pipelining gets it again. Each time, the next wait is twice
#: as long, up to LONGEST_QUIET_TIME.
FIRST_QUIET_TIME: Final = 60.0
LONGEST_QUIET_TIME: Final = 3600.0

#: Seconds between two connections of one engine that the agent ends because they lack pipelining. HAProxy opens a
#: connection with pipelining in the place of the first one, and then uses it for up to 20 NOTIFYs at a time.
END_INTERVAL: Final = 0.05

# How many engines are remembered. HAProxy chooses a new engine-id at each start and each reload, and a peer could
# invent many.
_MAX_ENGINES: Final = 1024

# So many characters of an engine-id tell the engines apart. HAProxy's have 36; another peer's may have thousands.
_MAX_NAME: Final = 64

_UUID: Final = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def check_mode(mode: object) -> None:
    """Check the keyword ``pipelining`` of ``SPOAFactory``.

    :raises ValueError: if ``mode`` is none of :data:`MODES`.
    """
    if mode not in MODES:
        raise ValueError(f"pipelining is {mode!r}, which is none of {', '.join(MODES)}")


@final
class Pipelining:
    """Decides which connections have pipelining.

    :param mode: one of :data:`MODES`.
    """

    def __init__(self, mode: str, reactor: IReactorTime, observer: IObserver) -> None:
        check_mode(mode)
        self._mode = mode
        self._reactor = reactor
        self._observer = observer
        # By engine-id, the least recently used first.
        self._engines: OrderedDict[str, EngineAnswers] = OrderedDict()
        # True while the agent drains.
        self._stopped = False

    def allows(self, hello: HAProxyHello) -> bool:
        """Return whether the AGENT-HELLO that answers ``hello`` announces ``pipelining``."""
        engine = self.engine(hello)
        return self._mode != NEVER if engine is None else engine.pipelined

    def engine(self, hello: HAProxyHello) -> EngineAnswers | None:
        """Return the engine that sent ``hello``. ``None`` if its answers make no difference."""
        if self._mode != AUTO or not _is_adaptive(hello):
            return None
        name = hello.engine_id[:_MAX_NAME]
        engine = self._engines.get(name)
        if engine is None:
            if len(self._engines) >= _MAX_ENGINES:
                _, forgotten = self._engines.popitem(last=False)
                # Its connections may still be open, and stop() would not find it.
                forgotten.stop()
            pipelined = _UUID.fullmatch(name) is None
            engine = self._engines[name] = EngineAnswers(name, pipelined, self._reactor, self._observer)
            if self._stopped:
                engine.stop()
        self._engines.move_to_end(name)
        return engine

    def stop(self) -> None:
        """End no more connections: the agent drains, and ends all of them."""
        self._stopped = True
        for engine in list(self._engines.values()):
            engine.stop()

    def forget_all(self) -> None:
        """Forget all engines. All connections have ended, but the agent may listen again."""
        self._stopped = False
        self._engines.clear()


def _is_adaptive(hello: HAProxyHello) -> bool:
    """Return whether ``hello`` comes from a HAProxy >= 3.1, or looks so, and pipelining makes a difference to it."""
    return bool(hello.engine_id) and PIPELINING in hello.capabilities and ASYNC not in hello.capabilities


@final
class EngineAnswers:
    """What is known about the answers to one engine, and its open connections with pipelining."""

    def __init__(self, name: str, pipelined: bool, reactor: IReactorTime, observer: IObserver) -> None:
        self._name = name
        self._reactor = reactor
        self._observer = observer
        #: True if the next connections have pipelining.
        self.pipelined = pipelined
        # True when the first decision was reported.
        self._decided = False
        # The number of short ACKs since the last long one, on connections without pipelining.
        self._short_acks = 0
        # No pipelining before this time, and the seconds that the next long ACK adds to it.
        self._not_before = 0.0
        self._quiet_time = 0.0
        # No other connection is ended before this time because it lacks pipelining.
        self._end_not_before = 0.0
        self._retirement = Retirement(reactor)
        self._stopped = False

    def add(self, connection: Retirable) -> None:
        """Add an open connection with pipelining."""
        self._retirement.connections.add(connection)

    def remove(self, connection: Retirable) -> None:
        """Forget a connection, which has ended."""
        self._retirement.remove(connection)

    def stop(self) -> None:
        """End no more connections."""
        self._stopped = True
        self._retirement.stop()

    def on_ack(self, connection: Retirable, peer: str, size: int, max_short: int) -> None:
        """Count an ACK that is queued on a connection without pipelining. End the connection with it, if that is due.

        :param size: the size of the ACK, in bytes, its length field included.
        :param max_short: the size of the longest ACK that counts as short, in bytes.
        """
        if size > max_short:
            self._on_long(peer, max_short)
            return
        self._short_acks += 1
        if self._short_acks < SHORT_ACKS:
            return
        now = self._reactor.seconds()
        if not self.pipelined:
            if now < self._not_before:
                return
            self.pipelined = self._decided = True
            self._observer.on_event(PipeliningChanged(peer, self._name, True, max_short))
            # After the event: this sends the ACKs that are held back, and long ones end pipelining again.
            self._retirement.stop()
        if now >= self._end_not_before and not self._stopped and connection.can_end_at_once():
            self._end_not_before = now + END_INTERVAL
            connection.disconnect()

    def on_unread(self, peer: str, long_acks: int, held_back: bool, max_short: int) -> None:
        """Handle long ACKs on a connection with pipelining.

        :param long_acks: their number on this connection so far.
        :param held_back: true if ACKs have to wait now.
        :param max_short: the size of the longest ACK that counts as short, in bytes.
        """
        if long_acks >= LONG_ACKS or (held_back and long_acks):
            self._on_long(peer, max_short)

    @property
    def in_haste(self) -> bool:
        """True if connections that have pipelining are about to end, because the answers are long. In a drain too."""
        return not self.pipelined

    def _on_long(self, peer: str, max_short: int) -> None:
        self._short_acks = 0
        if self.pipelined:
            self._quiet_time = min(max(2 * self._quiet_time, FIRST_QUIET_TIME), LONGEST_QUIET_TIME)
        self._not_before = self._reactor.seconds() + self._quiet_time
        if self.pipelined or not self._decided:
            self.pipelined = False
            self._decided = True
            self._observer.on_event(PipeliningChanged(peer, self._name, False, max_short))
            if not self._stopped:
                self._retirement.start()
