"""A load in this process: it opens the connections, loads the agent during the window, and closes the connections."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NoReturn, final

from twisted.internet.defer import Deferred, DeferredSemaphore, gatherResults
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.python.failure import Failure

from spoa_twisted.client import DEFAULT_HELLO
from spoa_twisted.ctl.cpu import CPUMeter
from spoa_twisted.ctl.load.connection import LoadProtocol, Shared
from spoa_twisted.ctl.load.deferreds import all_of
from spoa_twisted.ctl.load.errors import NO_CONNECTION, UNANSWERED
from spoa_twisted.ctl.load.pacer import Pacer
from spoa_twisted.ctl.load.plan import Greeting, Outcome, Plan
from spoa_twisted.ctl.load.ring import Rings
from spoa_twisted.ctl.load.schedule import MakeTimer, Schedule
from spoa_twisted.ctl.load.tally import Tally
from spoa_twisted.ctl.load.verdicts import Verdicts
from spoa_twisted.ctl.load.window import Window
from spoa_twisted.spop.connection import PIPELINING
from spoa_twisted.spop.frames import AgentHello, HAProxyHello
from spoa_twisted.spop.messages import decode_messages

# Seconds from the end of a connection, or from a failed attempt to connect, to the next attempt. Without this pause, an
# agent that refuses all connections would keep the load busy with new attempts.
_RECONNECT_DELAY: Final = 0.1

# Seconds that the agent has to close the connections after HAPROXY-DISCONNECT. Then the load aborts them.
_CLOSE_TIMEOUT: Final = 1.0

# How many connections are opened at the same time. If the queue of the listening socket is full, connecting to a Unix
# socket fails, and TCP tries again only a second later.
_MAX_OPENING: Final = 32


@final
class Load:
    """Load from this process. Call :meth:`connect` once, and then :meth:`run` once.

    :param reactor: the clock; it also opens the connections.
    :param plan: the parameters of the load.
    :param make_timer: makes the timer of a load with a rate; by default a :class:`Pacer`.
    :param now: the time in nanoseconds, for a load with a rate.
    """

    def __init__(
        self,
        reactor: Any,
        plan: Plan,
        make_timer: MakeTimer | None = None,
        now: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._reactor = reactor
        self._plan = plan
        self._endpoint = clientFromString(reactor, plan.endpoint)
        self._tally = Tally()
        self._verdicts = Verdicts(plan.expected, plan.varying)
        self._schedule: Schedule | None = None
        if plan.rate is not None:
            make_timer = make_timer or partial(Pacer, reactor)
            self._schedule = Schedule(plan.rate, lambda: list(self._connections), make_timer, now)
        self._shared = Shared(
            # Without async, an agent may take the load for a HAProxy >= 3.1, and may hold back long ACKs.
            hello=DEFAULT_HELLO if plan.async_ else HAProxyHello(capabilities=frozenset({PIPELINING})),
            in_flight=plan.in_flight,
            rings=Rings(decode_messages(bytes.fromhex(plan.messages)), plan.in_flight),
            verdicts=self._verdicts,
            tally=self._tally,
            send_due=None if self._schedule is None else self._schedule.send,
        )
        # Open connections, including those that have no AGENT-HELLO yet.
        self._connections: set[LoadProtocol] = set()
        self._opening = DeferredSemaphore(_MAX_OPENING)
        # True from run() to the end of the window. Only during this time, connections that end are replaced.
        self._sending = False
        # True when a connection that is still being opened is no longer needed.
        self._finished = False
        # Fires when all ACKs have arrived; None while _drain does not wait for them.
        self._drained: Deferred[None] | None = None

    async def connect(self) -> Greeting:
        """Open the connections. Return the facts about the agent.

        :raises TimeoutError: if a connection or its AGENT-HELLO takes longer than ``plan.timeout``.
        :raises Exception: the exceptions of :meth:`LoadProtocol.hello` and of the endpoint.
        """
        opening = [self._open() for _ in range(self._plan.connections)]
        try:
            hellos = await all_of(opening)
        except BaseException:
            # A connection has failed. _connect aborts those that are still being opened.
            self._finished = True
            for connection in self._connections:
                connection.abort()
            raise
        hello = hellos[0]
        return Greeting(
            hello.version,
            hello.max_frame_size,
            sorted(hello.capabilities),
            # Several different agents may listen behind one endpoint. Report the smallest values.
            min(connection.max_in_flight for connection in self._connections),
            min(connection.notify_size for connection in self._connections),
        )

    async def run(self, window: Window) -> Outcome:
        """Load the agent until the window ends. Then wait for the last ACKs, and close the connections."""
        outcome = Outcome()
        ended: Deferred[None] = Deferred()
        cpu = CPUMeter.of_this_process()

        def end() -> None:
            cpu.end()
            outcome.notifys, outcome.seconds = self._tally.answered, cpu.measured
            outcome.cpu, outcome.waited = cpu.seconds, cpu.waited
            self._stop()
            ended.callback(None)

        def begin() -> None:
            cpu.begin()
            self._tally.begin()

        window.watch(begin, end)
        self._start()
        await ended
        await self._drain()
        await self._close()
        # These include the latencies of the last ACKs, which arrived after the window: they may be the longest ones.
        outcome.latencies = self._tally.latencies.to_json()
        if self._schedule is not None:
            outcome.late = self._schedule.late.to_json()
        outcome.errors = {kind: number for kind, number in self._tally.errors.items() if number}
        outcome.variables = self._verdicts.first
        outcome.other_variables = self._verdicts.first_other
        return outcome

    def _start(self) -> None:
        """Let all connections send NOTIFYs."""
        self._sending = True
        if self._schedule is not None:
            self._schedule.begin()
        else:
            for connection in list(self._connections):
                connection.start()
        # Some connections may have ended since connect().
        for _ in range(self._plan.connections - len(self._connections)):
            self._reconnect()

    def _stop(self) -> None:
        """Stop sending NOTIFYs on all connections, and open no more connections."""
        self._sending = False
        if self._schedule is not None:
            self._schedule.end()
        for connection in self._connections:
            connection.stop()

    async def _drain(self) -> None:
        """Wait for the last ACKs, until the timeout at most. Count the NOTIFYs that are still unanswered then."""
        if self._is_waiting():
            drained: Deferred[None] = Deferred()
            self._drained = drained
            await drained.addTimeout(self._plan.timeout, self._reactor, _ignore_timeout)
        if self._schedule is not None:
            self._tally.errors[UNANSWERED] += self._schedule.give_up()
        for connection in self._connections:
            connection.count_unanswered()

    def _is_waiting(self) -> bool:
        """Return whether a NOTIFY has no ACK yet, or is due and was not sent."""
        due = 0 if self._schedule is None else self._schedule.waiting
        return due > 0 or any(connection.waiting for connection in self._connections)

    async def _close(self) -> None:
        """Send HAPROXY-DISCONNECT on all connections, and wait until the agent has closed them."""
        # _connect aborts a connection that is still being opened.
        self._finished = True
        closing = gatherResults([connection.disconnect() for connection in self._connections], consumeErrors=True)
        await closing.addTimeout(_CLOSE_TIMEOUT, self._reactor, _ignore_timeout)
        for connection in list(self._connections):
            connection.abort()

    def _open(self) -> Deferred[AgentHello]:
        """Open a connection as soon as fewer than _MAX_OPENING others are being opened."""
        return self._opening.run(lambda: Deferred.fromCoroutine(self._connect()))

    async def _connect(self) -> AgentHello:
        """Open a connection, and wait for its AGENT-HELLO. If the load is running, begin to send NOTIFYs on it."""
        protocol = LoadProtocol(self._shared, self._on_idle, self._on_lost)
        timeout = self._plan.timeout
        await connectProtocol(self._endpoint, protocol).addTimeout(timeout, self._reactor, _raise_timeout)
        self._connections.add(protocol)
        # After abort(), hello() fails with the reason for the end of the connection.
        if self._finished:
            protocol.abort()
        try:
            hello = await protocol.hello().addTimeout(timeout, self._reactor, _raise_timeout)
        except BaseException:
            protocol.abort()
            raise
        if self._sending and self._schedule is None:
            protocol.start()
        return hello

    def _reconnect(self) -> None:
        """Open a connection in place of one that ended, unless the window has ended during the delay."""
        if self._sending:
            self._open().addErrback(self._on_reconnect_failed)

    def _on_reconnect_failed(self, reason: Failure) -> None:
        # After the end of the window, the connection is not needed, so its failure is not an error.
        if self._sending:
            self._tally.errors[NO_CONNECTION] += 1
            self._reactor.callLater(_RECONNECT_DELAY, self._reconnect)

    def _on_lost(self, connection: LoadProtocol, greeted: bool) -> None:
        """Replace a connection that ended. After the window, check instead whether others still wait for ACKs."""
        self._connections.discard(connection)
        if not self._sending:
            self._on_idle()
        elif greeted:
            self._reactor.callLater(_RECONNECT_DELAY, self._reconnect)
        # If the AGENT-HELLO had not arrived, _connect fails, and _on_reconnect_failed makes the next attempt.

    def _on_idle(self) -> None:
        """Let ``_drain`` continue if no connection waits for an ACK any more."""
        if self._drained is not None and not self._is_waiting():
            drained, self._drained = self._drained, None
            drained.callback(None)


def _raise_timeout(result: object, seconds: float) -> NoReturn:
    # addTimeout cancels the Deferred. The exception of the Deferred, for example ConnectingCancelledError, does not
    # mention a timeout.
    raise TimeoutError(f"no answer within {seconds:g} s")


def _ignore_timeout(result: object, seconds: float) -> None:
    """Do nothing: the caller continues after the timeout, without an error."""
