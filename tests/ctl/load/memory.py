"""A load on a clock, and connections whose bytes come from the test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import connectionDone
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from spoa_twisted.ctl.load.local import Load
from spoa_twisted.ctl.load.plan import Outcome, Plan
from spoa_twisted.ctl.load.window import Window
from spoa_twisted.spop.connection import AgentConnection
from spoa_twisted.spop.messages import Message, encode_messages
from tests.ctl.agents import ack

PLAN = Plan(
    "tcp:127.0.0.1:1", encode_messages([Message("m")]).hex(), connections=1, in_flight=2, timeout=5, async_=True
)


class Connection:
    """The agent's side of a connection of a load."""

    def __init__(self, client: Any) -> None:
        self._protocol = client.buildProtocol(None)
        self.wire = StringTransport()
        self._agent = AgentConnection()
        self._protocol.makeConnection(self.wire)

    def receive(self, data: bytes) -> None:
        """Let the load receive these bytes."""
        self._protocol.dataReceived(data)

    def hello(self) -> bytes:
        """Return the frame of the AGENT-HELLO, for a load that has sent its HAPROXY-HELLO."""
        self.sent()
        return self._agent.data_to_send()

    def sent(self) -> list[Any]:
        """Return what the load has sent since the last call: the events of the agent."""
        self._agent.receive_data(self.wire.value())
        self.wire.clear()
        return list(iter(self._agent.next_event, None))

    def acknowledge(self) -> None:
        """Answer the NOTIFYs that the load has sent since the last call."""
        self.receive(b"".join([ack(event.ids) for event in self.sent()]))

    def lose(self) -> None:
        """Close the connection."""
        self._protocol.connectionLost(Failure(connectionDone.value))


class NoTimer:
    """The timer of a load with a rate: the test calls the schedule itself."""

    def wake_at(self, nanoseconds: int) -> None:
        pass

    def stop(self) -> None:
        pass


class MemoryLoad:
    """A load that has begun to connect, on a clock and without sockets."""

    def __init__(self, connections: int = 1, rate: float | None = None) -> None:
        self.reactor = MemoryReactorClock()
        self.load = Load(self.reactor, replace(PLAN, connections=connections, rate=rate), lambda call: NoTimer())
        #: The time of a load with a rate, in nanoseconds. The test sets it.
        self.now = 0
        if self.load._schedule is not None:
            self.load._schedule._now = lambda: self.now
        #: The results of Load.connect() and of Load.run().
        self.greetings: list[Any] = []
        self.outcomes: list[Outcome] = []
        Deferred.fromCoroutine(self.load.connect()).addBoth(self.greetings.append)
        self._accepted = 0

    @property
    def errors(self) -> dict[str, int]:
        """The errors so far."""
        return {kind: number for kind, number in self.load._tally.errors.items() if number}

    @property
    def connecting(self) -> int:
        """How many connections are neither accepted nor refused yet."""
        return len(self.reactor.tcpClients) - self._accepted

    def accept(self, greet: bool = True) -> Connection:
        """Accept the next connection, and send the AGENT-HELLO."""
        connection = Connection(self._next())
        if greet:
            connection.receive(connection.hello())
        return connection

    def refuse(self) -> None:
        """Refuse the next connection."""
        self._next().clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def _next(self) -> Any:
        self._accepted += 1
        return self.reactor.tcpClients[self._accepted - 1][2]

    def run(self) -> Window:
        """Begin to send NOTIFYs."""
        window = Window(self.reactor, 0, 300)
        self.reactor.advance(0)
        Deferred.fromCoroutine(self.load.run(window)).addCallback(self.outcomes.append)
        return window
