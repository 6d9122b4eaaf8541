"""A worker process: it answers on the connections that the master hands over."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, cast, final

from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IListeningPort, IReactorCore
from twisted.internet.protocol import Factory
from twisted.logger import globalLogBeginner

from spoa_twisted.agent.protocol import SPOAFactory
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.runner.errors import CannotStart, place_of
from spoa_twisted.runner.process import ProcessService, handle_signal
from spoa_twisted.runner.stalls import FrameReader, find_place
from spoa_twisted.runner.watch import allows_values
from spoa_twisted.status.lag import Lag
from spoa_twisted.status.local import report
from spoa_twisted.status.watch import Watch
from spoa_twisted.tap import Options, make_factory
from spoa_twisted.workers import control, spawning
from spoa_twisted.workers.binding import CatchingReactor, without_inherited
from spoa_twisted.workers.control import ControlProtocol
from spoa_twisted.workers.logs import PipeObserver
from spoa_twisted.workers.modified import imported_files
from spoa_twisted.workers.spawning import Settings
from spoa_twisted.workers.watched import WatchedWorker

# Seconds for the last report to reach the master.
_LAST_WORDS = 1.0


def main() -> None:
    """Run a worker. Its settings come from stdin."""
    settings: Settings = json.loads(sys.stdin.readline())
    _prepare_process(settings)
    log = PipeObserver(settings["log"])
    # The module of a reactor has a function that makes it Twisted's global reactor.
    importlib.import_module(settings["reactor"]).install()
    from twisted.internet import reactor

    if settings["number"]:
        globalLogBeginner.beginLoggingTo([log], redirectStandardIO=True)
    options = Options()
    options.update(settings["options"])
    try:
        # The master may have changed its folder since its start: twistd does so with --rundir. Without workers,
        # handlers are imported, and the files of endpoints are read, before that.
        with _folder(settings["folder"]):
            factory = make_factory(options)
            if not settings["number"]:
                # Threads that a module has started must not delay the end.
                os._exit(0)
            service = WorkerService(factory, settings, log, reactor)
        reactor.callWhenRunning(service.start)
        reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    except CannotStart as error:
        say_cannot_start(log, error, settings)
        sys.exit(1)
    reactor.run()
    sys.exit(service.exit_status)


def _prepare_process(settings: Settings) -> None:
    # Processes that handlers start must not have these: the master would not notice the end of this process.
    for descriptor in (spawning.CONTROL, settings["log"]):
        if settings["number"] or descriptor == settings["log"]:
            os.set_inheritable(descriptor, False)
    # For a segmentation fault, and for SIGABRT, which the master sends if this process stands still.
    faulthandler.enable(2)
    # Not SIG_IGN: processes that handlers start would inherit that.
    for number in spawning.BLOCKED:
        signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, spawning.BLOCKED)


def _ignore(number: int, frame: object) -> None:
    """Ignore a signal."""


@contextmanager
def _folder(folder: str) -> Iterator[None]:
    """Change to ``folder`` for a while.

    :raises CannotStart: if this process may not use the folder.
    """
    before = os.getcwd()
    try:
        os.chdir(folder)
    except OSError as error:
        raise CannotStart(
            f"cannot use the folder in which the agent was started, {folder}: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        os.chdir(before)


def say_cannot_start(log: PipeObserver, error: CannotStart, settings: Settings) -> None:
    """Tell the master why this process ends."""
    files = watched_files(settings)
    cause = error.__cause__
    if isinstance(cause, SyntaxError) and cause.filename:
        # Python could not import this file, so it is not among the modules.
        files.append(cause.filename)
    log.write({"cannot_start": str(error).removeprefix("spoa: "), "files": files})


def watched_files(settings: Settings) -> list[str]:
    """Return the files for ``--reload-on-change``."""
    options = settings["options"]
    if not options["reload-on-change"]:
        return []
    if options["settings"] is None:
        return imported_files()
    return [*imported_files(), os.path.join(settings["folder"], options["settings"])]


@final
class WorkerService(ProcessService):
    """The service of a worker. It starts when the reactor runs, and the master ends it."""

    def __init__(
        self,
        factory: SPOAFactory,
        settings: Settings,
        log: PipeObserver,
        reactor: Any,
    ) -> None:
        stand_in = cast("IReactorCore", CatchingReactor(reactor))
        super().__init__(factory, map(without_inherited, settings["endpoints"]), reactor=stand_in)
        #: The exit status of this process.
        self.exit_status = 0
        self._number = settings["number"]
        self._settings = settings
        self._pipe = log
        self._lag = Lag(factory.reactor)
        self._control = WorkerControl(self)
        watch = Watch(factory, allow_values=allows_values(settings["options"]))
        #: Sends NOTIFYs to the master while a client watches there.
        self.watched = WatchedWorker(watch, self._number, self._control.ask)
        self._closed = 0
        self._full = False
        self._draining = False

    def start(self) -> None:
        """Connect to the master, and start the service."""
        reactor: Any = self._reactor
        handle_signal(reactor, signal.SIGTERM, self._leave, instead_of=reactor.sigTerm)
        factory = Factory.forProtocol(lambda: self._control)
        factory.noisy = False
        reactor.adoptStreamConnection(spawning.CONTROL, socket.AF_UNIX, factory)
        os.close(spawning.CONTROL)
        try:
            self.privilegedStartService()
            self.startService()
        except CannotStart as error:
            self._end_start(error)
            return
        self.when_ready().addCallbacks(lambda _: self._say_ready(), lambda failure: None)

    def start_failed(self, error: BaseException) -> None:
        """Tell the master why this process does not start, and end it."""
        place = place_of(error.__cause__) if error.__cause__ is not None else ""
        self._end_start(CannotStart(f"{error}{place}"))

    def adopt(self, descriptor: int, number: int, endpoint: int) -> None:
        """Take a connection from the master."""
        # A worker that has stopped has no ports.
        if not self._ports or not self._has_room(descriptor):
            # The master has a copy. It knows already that it must not send that to this worker again.
            if descriptor != control.LOST:
                os.close(descriptor)
            self._control.send(control.Returned, number=number)
            return
        self._control.send(control.Taken, number=number)
        # Before the first read: if this process ends after it, the master must not hand the connection to another one.
        self._control.flush()
        port: Any = self._ports[endpoint]
        port.adopt(socket.socket(fileno=descriptor), self._on_closed)

    def end(self, timeout: float) -> None:
        """Drain for at most ``timeout`` seconds, and end the process. A second call may shorten the time."""
        if self._draining:
            self.factory.drain(timeout).addCallback(lambda _: self._lifespans.stop(timeout))
            return
        self._draining = True
        self._own_drain_timeout = timeout
        self.stopService().addBoth(lambda _: self._say_last_words())

    def stopService(self) -> Deferred[None]:
        """Drain. If the master has not asked for it, tell the master to send no more connections."""
        if not self._draining:
            # A handler has called reactor.stop().
            self._control.send(control.Leaving)
        return super().stopService()

    def on_control_lost(self) -> None:
        """Drain: the master has ended, or this process is about to end."""
        self.watched.end_all()
        if not self._draining:
            # Nobody reads the pipes any more, and writing to them fails.
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (1, 2):
                os.dup2(null, descriptor)
            os.close(null)
            self.end(self.drain_timeout)
        else:
            self._stop_reactor()

    def _has_room(self, descriptor: int) -> bool:
        """Return whether this process can open another file. If not, ask to be replaced.

        Otherwise it would close each connection at once, have the fewest of all workers, and so get all new ones.
        """
        try:
            if descriptor == control.LOST or self._full:
                raise OSError
            # The transport will have a copy.
            os.close(os.dup(descriptor))
        except OSError:
            if not self._full:
                self._full = True
                self._log.error(
                    "the process has as many files open as ulimit -n allows, {limit}: it takes no more connections, and"
                    " is replaced; find out what opens them and does not close them, in /proc/{pid}/fd",
                    limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
                    pid=os.getpid(),
                )
                self._leave()
            return False
        return True

    def _before_start(self) -> None:
        # Without the signals of ProcessService, which end the process.
        self._limit_connections()
        self._lag.start()

    def _frame_reader(self) -> FrameReader:
        # The reader has a thread of its own, so it can tell the master while this process stands still.
        return FrameReader(lambda frames: self._pipe.write({"stands_in": find_place(frames) or ""}))

    def _opened(self, port: IListeningPort) -> None:
        # The master logs where it listens.
        self._ports.append(port)

    def _cannot_listen(self, description: str, error: BaseException) -> NoReturn:
        raise CannotStart(f"a worker cannot use {description}: {error}") from error

    def _close_ports(self) -> Deferred[Any]:
        self._lag.stop()
        return super()._close_ports()

    def report(self) -> bytes:
        """Return the ``Report`` of this process, as JSON."""
        return json.dumps(report(self, worker=self._number, lag=self._lag.seconds)).encode()

    def _say_ready(self) -> None:
        handlers = self.factory.handlers
        messages = f" for {handlers.describe()}" if isinstance(handlers, Handlers) else ""
        facts = {"messages": messages, "files": watched_files(self._settings)}
        self._control.send(control.Ready, facts=json.dumps(facts).encode())

    def _end_start(self, error: CannotStart) -> None:
        say_cannot_start(self._pipe, error, self._settings)
        self.exit_status = 1
        self._stop_reactor()

    def _leave(self) -> None:
        if self._readiness.ready:
            # The master answers with Drain, after it has stopped to send connections.
            self._control.send(control.Leaving)
        else:
            self._stop_reactor()

    def _say_last_words(self) -> None:
        if self._control.transport is None:
            self._stop_reactor()
            return
        self.watched.flush()
        self._control.send(control.LastReport, report=self.report())
        # on_control_lost stops the reactor when the report is sent. The timer is for a master that reads nothing.
        self._control.transport.loseConnection()
        self.factory.reactor.callLater(_LAST_WORDS, self._stop_reactor)

    def _stop_reactor(self) -> None:
        with suppress(ReactorNotRunning):
            self._process_reactor.stop()

    def _on_closed(self) -> None:
        # One command for all connections that are closed in one turn of the reactor.
        if not self._closed:
            self.factory.reactor.callLater(0, self._say_closed)
        self._closed += 1

    def _say_closed(self) -> None:
        count, self._closed = self._closed, 0
        self._control.send(control.Closed, count=count)


@final
class WorkerControl(ControlProtocol):
    """The worker's end of the control socket."""

    def __init__(self, service: WorkerService) -> None:
        super().__init__(service.on_control_lost)
        self._service = service

    def flush(self) -> None:
        """Write what is buffered to the socket now, and not in the reactor's next turn. The socket must be open."""
        transport: Any = self.transport
        transport.doWrite()

    @control.Connection.responder
    def _connection(self, descriptor: int, number: int, endpoint: int) -> dict[str, Any]:
        self._service.adopt(descriptor, number, endpoint)
        return {}

    @control.Drain.responder
    def _drain(self, timeout: float) -> dict[str, Any]:
        self._service.end(timeout)
        return {}

    @control.BeginWatch.responder
    def _begin_watch(self, number: int, count: int, values: bool) -> dict[str, Any]:
        self._service.watched.begin(number, count, values=values)
        return {}

    @control.EndWatch.responder
    def _end_watch(self, number: int) -> dict[str, Any]:
        self._service.watched.end(number)
        return {}

    @control.Ping.responder
    def _ping(self) -> dict[str, Any]:
        return {}

    @control.GetReport.responder
    def _get_report(self) -> dict[str, Any]:
        return {"report": self._service.report()}
