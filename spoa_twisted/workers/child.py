"""One worker process, as the master sees it: from its start to its end."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypedDict, final

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory, ProcessProtocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from spoa_twisted.workers import control, spawning
from spoa_twisted.workers.control import ControlProtocol
from spoa_twisted.workers.logs import WorkerLog
from spoa_twisted.workers.stacks import find_line

#: Seconds that a worker has to end, after it was told to end at once, before it is killed.
GRACE: Final = 5.0

#: Seconds to read what an ended worker has left in its pipes. They stay open longer if it has started processes.
_READ_REST: Final = 0.2

# How often to read what it has left in the control socket. Linux keeps a few hundred kilobytes, and Twisted reads 64.
_MOST_READS: Final = 16

# The timers of limits for a worker, and the seconds that one may come late without another chance for the worker.
_LIMITS: Final = ("start", "stall")
_LATE: Final = 0.5

# How many reports may be asked for at the same time. A worker that stands still answers none, for as long as it likes.
_MOST_ASKED: Final = 64

#: Seconds between two pings.
PING_INTERVAL: Final = 1.0


class ReadyFacts(TypedDict):
    """What a worker says about itself when it is ready."""

    #: The names of the messages, for the log.
    messages: str
    #: The files of the modules that it has imported.
    files: list[str]


@dataclass(frozen=True, slots=True)
class Rules:
    """How the master treats a worker process."""

    #: Seconds until it must be ready, and seconds for which it may stand still; 0: no limit.
    start_timeout: float
    stall_timeout: float
    #: Whether each ping asks for a report, so that the last one of a killed process is not old.
    reports: bool


class Owner:
    """What a worker reports, and to whom: methods that :class:`Slot` has."""

    def on_ready(self, worker: Worker) -> None:
        """Report that ``worker`` can take connections."""

    def on_leaving(self, worker: Worker) -> None:
        """Report that ``worker`` has received SIGTERM."""

    def on_taken(self, worker: Worker, number: int) -> None:
        """Report that ``worker`` has taken a connection."""

    def on_returned(self, worker: Worker, number: int) -> None:
        """Report that ``worker``, which drains, does not take a connection."""

    def on_closed(self, worker: Worker, count: int) -> None:
        """Report that connections of ``worker`` were closed."""

    def on_ended(self, worker: Worker) -> None:
        """Report that the process has ended."""


@final
class Worker:
    """One worker process.

    :param number: the number of the worker, from 1. The process that replaces it has the same number.
    :param reactor: starts the process.
    :param settings: the settings of the process.
    """

    _log = Logger()

    def __init__(self, number: int, reactor: Any, settings: spawning.Settings, rules: Rules, owner: Owner) -> None:
        self.number = number
        #: ``starting``, ``ready``, ``draining`` or ``ended``.
        self.state = "starting"
        self.pid = 0
        #: The times, by the reactor's clock, at which the process was started, and became ready; 0 if it did not.
        self.started: float = reactor.seconds()
        self.ready_since = 0.0
        #: When it has last answered.
        self.answered = 0.0
        #: The line of code in which it stands still, if it does, and has told.
        self.stands_in = ""
        #: What it has said when it became ready. Before that, it is empty.
        self.facts: ReadyFacts = {"messages": "", "files": []}
        #: How it ended: ``exit``, ``signal`` or ``stall``.
        self.ending = "exit"
        #: Why it ended, in one line.
        self.reason = ""
        #: The last report that it has sent, as JSON.
        self.last_report = b""
        #: Called with the number of a watcher, and with lines that the process has sent for the watcher.
        self.on_watched: Callable[[int, bytes], object] = lambda number, lines: None
        self._reactor = reactor
        self._settings = settings
        self._rules = rules
        self._owner = owner
        self._timers: dict[str, IDelayedCall] = {}
        # How many reports it was asked for and has not sent.
        self._asked = 0
        self._ended: list[Deferred[None]] = []
        self._process: Any = None
        self._control = MasterControl(self)
        self._output = WorkerLog(number, self.on_cannot_start, self.on_standstill)
        self._output.add_events(spawning.LOG)

    def start(self) -> None:
        """Start the process."""
        parent, child = socket.socketpair()
        # Two descriptors: adoptStreamConnection makes copies.
        with parent, child:
            parent.setblocking(False)
            factory = Factory.forProtocol(lambda: self._control)
            factory.noisy = False
            self._reactor.adoptStreamConnection(parent.fileno(), socket.AF_UNIX, factory)
            protocol = _Process(self, self._output)
            title = f"spoa worker {self.number}"
            # The process inherits the mask. It ends the blocking when it has its own handlers for these signals.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, spawning.BLOCKED)
            try:
                self._process = self._reactor.spawnProcess(
                    protocol,
                    spawning.command(title)[0],
                    spawning.command(title),
                    spawning.environment(),
                    childFDs={0: "w", 1: "r", 2: "r", spawning.CONTROL: child.fileno(), spawning.LOG: "r"},
                )
            except OSError as error:
                # The system allows no more processes, or has no memory for one.
                self.reason = f"its process cannot be started: {error}"
                self._reactor.callLater(0, self._end)
                return
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self.pid = self._process.pid
        self._process.writeToChild(spawning.STDIN, spawning.settings_as_input(self._settings))
        self._process.closeChildFD(spawning.STDIN)
        if self._rules.start_timeout:
            self._set_timer("start", self._rules.start_timeout, self._on_start_timeout)

    def send_connection(self, descriptor: int, number: int, endpoint: int) -> None:
        """Send a connection to the process."""
        self._control.send(control.Connection, descriptor=descriptor, number=number, endpoint=endpoint)

    def begin_watch(self, number: int, count: int, *, values: bool) -> None:
        """Let the process send its next ``count`` NOTIFYs, for the watcher ``number``."""
        self._control.send(control.BeginWatch, number=number, count=count, values=values)

    def end_watch(self, number: int) -> None:
        """Let the process send no more NOTIFYs for the watcher ``number``."""
        self._control.send(control.EndWatch, number=number)

    def drain(self, timeout: float) -> None:
        """Let the process answer what is pending, for at most ``timeout`` seconds, and end."""
        if self.state == "ended":
            return
        if self.state == "starting":
            # It may be importing modules, and not read commands. It has no connections.
            self.kill(signal.SIGTERM)
        self.state = "draining"
        for name in ("start", "stall", "ping"):
            self._stop_timer(name)
        self._control.send(control.Drain, timeout=float(timeout))
        # Shutdown functions have a second at least, and closing connections by force takes another one.
        self._set_timer("drain", timeout + GRACE, self._on_drain_timeout)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process."""
        if self._process is not None:
            with suppress(ProcessExitedAlready):
                self._process.signalProcess(number)

    def get_report(self) -> Deferred[bytes]:
        """Return a Deferred of the process's report, as JSON. It fails if the process ends before.

        It does not fire if the process has been asked very often already, and has not answered.
        """
        if self._control.transport is None or self.state == "starting":
            return fail(ProcessExitedAlready())
        return self._ask_report() if self._asked < _MOST_ASKED else Deferred()

    def _ask_report(self) -> Deferred[bytes]:
        self._asked += 1
        asked: Deferred[dict[str, Any]] = self._control.ask(control.GetReport)
        # In front of the caller's Deferred, which may be cancelled: a late answer counts too.
        result: Deferred[bytes] = Deferred()

        def on_answer(answer: dict[str, Any]) -> None:
            self._asked -= 1
            self._on_answered()
            self.on_report(answer["report"])
            result.callback(self.last_report)

        asked.addCallbacks(on_answer, result.errback)
        return result

    def when_ended(self) -> Deferred[None]:
        """Return a Deferred that fires when the process has ended."""
        ended: Deferred[None] = Deferred()
        if self.state == "ended":
            ended.callback(None)
        else:
            self._ended.append(ended)
        return ended

    # What the process reports.

    def on_control_ready(self, facts: bytes) -> None:
        """Take the facts of a process that is ready."""
        if self.state != "starting":
            return
        self._stop_timer("start")
        self.state = "ready"
        self.facts = json.loads(facts)
        self.ready_since = self.answered = self._reactor.seconds()
        self._ping()
        self._owner.on_ready(self)

    def on_control_leaving(self) -> None:
        """Let a process that has received SIGTERM drain."""
        if self.state == "ready":
            self._owner.on_leaving(self)

    def on_taken(self, number: int) -> None:
        """Pass on that the process has taken a connection."""
        self._owner.on_taken(self, number)

    def on_returned(self, number: int) -> None:
        """Pass on that the process does not take a connection."""
        self._owner.on_returned(self, number)

    def on_closed(self, count: int) -> None:
        """Pass on that connections of the process were closed."""
        self._owner.on_closed(self, count)

    def on_report(self, report: bytes) -> None:
        """Keep the last report of the process."""
        self.last_report = report

    def on_standstill(self, place: str) -> None:
        """Keep the line of code in which the process stands still."""
        self.stands_in = place

    def on_cannot_start(self, reason: str, files: list[str]) -> None:
        """Keep the reason why the process ends."""
        self.reason = reason
        self.facts = {"messages": "", "files": files}
        self._stop_timer("start")
        # A thread that a module has started may keep the process alive.
        self._set_timer("abort", GRACE, self.kill)

    def on_control_lost(self) -> None:
        """Give the process time to end: its end closes the control socket."""
        if self.state != "ended" and "drain" not in self._timers:
            self._set_timer("lost", GRACE, self.kill)

    def on_exit(self, status: int | None, number: int | None) -> None:
        """Report how the process has ended. Its pipes may still have data."""
        if not self.reason:
            if number is not None:
                self.ending = "signal"
                self.reason = f"it was ended by the signal {spawning.describe_signal(number)}"
            else:
                self.reason = f"it ended with exit status {status}"
        self._set_timer("rest", _READ_REST, self._end)

    def on_pipes_closed(self) -> None:
        """Report that the process has ended, and that all its output was read."""
        self._end()

    def _end(self) -> None:
        if self.state == "ended":
            return
        self._control.read_rest()
        for name in list(self._timers):
            self._stop_timer(name)
        if self._control.transport is not None:
            # A process that the worker has started may have a copy of the socket.
            self._control.transport.loseConnection()
        if self.ending != "exit":
            self.reason += find_line(self._output.errors)
        self.state = "ended"
        self._owner.on_ended(self)
        ended, self._ended = self._ended, []
        for deferred in ended:
            deferred.callback(None)

    def _on_start_timeout(self) -> None:
        self.ending = "stall"
        self.reason = f"it was not ready within --start-timeout, {self._rules.start_timeout:g} s"
        self._abort()

    def _on_drain_timeout(self) -> None:
        self._log.warn("worker {worker}: killed: it did not end after its drain", worker=self.number)
        self.kill()

    def _ping(self) -> None:
        asked: Deferred[Any]
        asked = self._ask_report() if self._rules.reports else self._control.ask(control.Ping)
        if self._rules.stall_timeout:
            self._set_timer("stall", self._rules.stall_timeout, self._on_stall)

        def on_answer(answer: object) -> None:
            self._on_answered()
            self._stop_timer("stall")
            if self.state == "ready":
                self._set_timer("ping", PING_INTERVAL, self._ping)

        # The process has ended, or is about to: that is reported in another way.
        asked.addCallbacks(on_answer, lambda failure: None)

    def _on_answered(self) -> None:
        self.answered = self._reactor.seconds()
        self.stands_in = ""

    def _on_stall(self) -> None:
        self.ending = "stall"
        self.reason = f"it stood still for --stall-timeout, {self._rules.stall_timeout:g} s"
        self._log.error(
            "worker {worker}: {reason}; it is ended by SIGABRT, and the next lines say where it stands",
            worker=self.number,
            reason=self.reason,
        )
        self._abort()

    def _abort(self) -> None:
        """Let the process write where it stands, and end it."""
        self.kill(signal.SIGABRT)
        # A process that is stopped by SIGSTOP does not notice SIGABRT.
        self._set_timer("abort", GRACE, self.kill)

    def _set_timer(self, name: str, delay: float, function: Callable[[], None]) -> None:
        self._stop_timer(name)
        due = self._reactor.seconds() + delay

        def run() -> None:
            del self._timers[name]
            if name in _LIMITS and self._reactor.seconds() - due > _LATE:
                # This process has stood still itself: what the worker has sent meanwhile is still to be read.
                self._set_timer(name, delay, function)
                return
            function()

        self._timers[name] = self._reactor.callLater(delay, run)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()


@final
class MasterControl(ControlProtocol):
    """The master's end of the control socket of one worker."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker.on_control_lost)
        self._worker = worker

    def read_rest(self) -> None:
        """Read what an ended process has sent: its last report, and which connections it has taken.

        The reactor may tell of the end of a process before it reads the last bytes of the socket.
        """
        for _ in range(_MOST_READS):
            transport: Any = self.transport
            if transport is None or transport.doRead() is not None:
                return

    @control.Ready.responder
    def _ready(self, facts: bytes) -> dict[str, Any]:
        self._worker.on_control_ready(facts)
        return {}

    @control.Taken.responder
    def _taken(self, number: int) -> dict[str, Any]:
        self._worker.on_taken(number)
        return {}

    @control.Returned.responder
    def _returned(self, number: int) -> dict[str, Any]:
        self._worker.on_returned(number)
        return {}

    @control.Closed.responder
    def _closed(self, count: int) -> dict[str, Any]:
        self._worker.on_closed(count)
        return {}

    @control.Leaving.responder
    def _leaving(self) -> dict[str, Any]:
        self._worker.on_control_leaving()
        return {}

    @control.Watched.responder
    def _watched(self, number: int, lines: bytes) -> dict[str, Any]:
        self._worker.on_watched(number, lines)
        return {}

    @control.LastReport.responder
    def _last_report(self, report: bytes) -> dict[str, Any]:
        self._worker.on_report(report)
        return {}


@final
class _Process(ProcessProtocol):
    """Reads the pipes of a worker process, and reports its end."""

    def __init__(self, worker: Worker, output: WorkerLog) -> None:
        self._worker = worker
        self._output = output

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._output.pipes[childFD].feed(data)

    def childConnectionLost(self, childFD: int) -> None:
        if childFD in self._output.pipes:
            self._output.pipes[childFD].end()

    def processExited(self, reason: Failure = connectionDone) -> None:
        value: Any = reason.value
        self._worker.on_exit(value.exitCode, value.signal)

    def processEnded(self, reason: Failure = connectionDone) -> None:
        self._worker.on_pipes_closed()
