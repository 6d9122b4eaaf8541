"""The process of ``twistd spoa``: its signals, garbage collector, file descriptors and standstills."""

from __future__ import annotations

import dataclasses
import gc
import resource
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Final, NoReturn, TypeVar, cast

from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from spoa_twisted.agent.peers import describe
from spoa_twisted.endpoints import cannot_listen
from spoa_twisted.handlers.lifecycle import StartupFailed
from spoa_twisted.runner.errors import CannotStart, place_of
from spoa_twisted.runner.exit_status import stop_with_failure
from spoa_twisted.runner.stalls import FrameReader, Stalls
from spoa_twisted.runner.systemd import Supervisor
from spoa_twisted.service import SPOAService, messages_of

ResultT = TypeVar("ResultT")

#: How many file descriptors are not used for connections from HAProxy. Ports, log files, and the files and sockets of
#: handlers need them.
_DESCRIPTORS_FOR_OTHERS: Final = 64

#: CPython collects garbage whenever it has created this many objects more than it has freed. Its own default is 700 in
#: CPython 3.11. NOTIFYs that wait for their handlers soon need more objects than that, and none of them is garbage.
_GARBAGE_THRESHOLD: Final = 5000


class ProcessService(SPOAService):
    """The ``SPOAService`` of ``twistd spoa``, where the agent is the only work of the process.

    So it may change what belongs to the whole process: it installs signal handlers, tunes the garbage collector, and
    ends the process if it cannot start. It also reports standstills, lowers ``max_connections`` to fit the limit of
    open files, and tells :attr:`supervisor` when it is ready and when it stops.
    """

    #: The supervisor of this process. By default there is none.
    supervisor = Supervisor()

    _stalls: Stalls | None = None
    _signals: StopSignals | None = None

    def startService(self) -> None:
        """Run the startup functions, and listen, unless ``privilegedStartService`` did.

        :raises CannotStart: if a startup function or an endpoint fails at once.
        """
        try:
            super().startService()
        except StartupFailed as error:
            failed = _cannot_start(error)
            self.supervisor.status(str(failed))
            raise failed from error

    def stopService(self) -> Deferred[None]:
        """Stop listening, drain the connections, and run the shutdown functions. Then stop watching for standstills."""
        self.supervisor.stopping(f"answering the pending NOTIFYs, for at most {self.drain_timeout:g} s")
        return super().stopService().addBoth(self._stopped)

    def start_failed(self, error: BaseException) -> None:
        """Log why the agent does not start, and end the process with exit status 1."""
        text = str(_cannot_start(error) if isinstance(error, StartupFailed) else error)
        self._log.critical("{error}", error=text)
        self.supervisor.status(text)
        stop_with_failure(self._process_reactor)

    def listening_failed(self, description: str, error: BaseException) -> None:
        """Log that an endpoint cannot listen, and end the process: a supervisor notices an agent that has ended."""
        super().listening_failed(description, error)
        self.supervisor.status(cannot_listen(description, error))
        stop_with_failure(self._process_reactor)

    @property
    def _process_reactor(self) -> ReactorBase:
        # sigInt and sigTerm, which StopSignals needs, are in no interface of Twisted.
        return cast("ReactorBase", self._reactor)

    def _before_start(self) -> None:
        self.supervisor.start(self.factory.reactor)
        self.supervisor.status("starting")
        # A connection may come as soon as the ports are open, and a signal at any time.
        self._signals = StopSignals(self._process_reactor, self._end_drain, self._log)
        self._signals.install()
        self._limit_connections()

    def _after_start(self) -> None:
        # Only now: the handlers and what their startup functions have loaded live as long as the process too.
        collect_garbage_less_often()
        factory = self.factory
        self._stalls = Stalls(factory.reactor, factory.observer, factory.outcomes.hold_ups, self._frame_reader())
        self._stalls.start()
        self.supervisor.ready(f"listening on {', '.join(map(describe, self.addresses))}{messages_of(factory.handlers)}")

    def _frame_reader(self) -> FrameReader:
        """Return the object that reads where the process stands still. A subclass may return another one."""
        return FrameReader()

    def _cannot_listen(self, description: str, error: BaseException) -> NoReturn:
        failed = CannotStart(cannot_listen(description, error))
        self.supervisor.status(str(failed))
        raise failed from error

    def _stopped(self, result: ResultT) -> ResultT:
        self.supervisor.close()
        if self._signals is not None:
            self._signals.uninstall()
            self._signals = None
        if self._stalls is not None:
            self._stalls.stop()
            self._stalls = None
        return result

    def _end_drain(self) -> None:
        # stopService has begun a drain already. This call gives it a second timeout, which is over at once. The call of
        # stop() does the same for the shutdown functions, which follow the drain.
        self.factory.drain(0).addCallback(lambda _: self._lifespans.stop(0))

    def _limit_connections(self) -> None:
        # When no descriptor is left, Twisted logs three lines for each further connection, and handlers cannot open
        # files. If the process may open only a few files, half of them are for connections.
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        fitting = max(descriptors - _DESCRIPTORS_FOR_OTHERS, descriptors // 2)
        if descriptors != resource.RLIM_INFINITY and self.factory.limits.max_connections > fitting:
            self.factory.limits = dataclasses.replace(self.factory.limits, max_connections=fitting)
            self._log.info(
                "max_connections is {fitting}: the process may open {descriptors} files, see ulimit -n",
                fitting=fitting,
                descriptors=descriptors,
            )


class StopSignals:
    """Handles signals that Twisted does not: SIGHUP and SIGUSR1, and also SIGINT and SIGTERM when they come again.

    SIGHUP stops the reactor, as SIGTERM does, and SIGUSR1 is ignored. While the reactor stops, SIGTERM is ignored, and
    SIGINT, which is Ctrl-C, ends the drain.

    :param end_drain: closes all connections now.
    """

    def __init__(self, reactor: ReactorBase, end_drain: Callable[[], object], log: Logger) -> None:
        self._reactor = reactor
        self._end_drain = end_drain
        self._log = log
        # True when SIGINT or SIGTERM has come.
        self._stopped = False

    def install(self) -> None:
        """Handle SIGHUP and SIGUSR1 from now on, and SIGINT and SIGTERM from the time when the reactor stops."""
        handle_signal(self._reactor, signal.SIGHUP, self._on_hangup)
        # If twistd writes a log file, it handles SIGUSR1 itself: it begins a new file. Otherwise, the default action of
        # SIGUSR1 would kill the process.
        handle_signal(self._reactor, signal.SIGUSR1, lambda: None)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._on_shutdown)
        self._reactor.callWhenRunning(self._on_running)

    def uninstall(self) -> None:
        """Give SIGINT and SIGTERM back to the reactor, unless it stops. Called when the service has stopped."""
        for number, handler in self._handlers().items():
            _replace_handler(number, self._on_first, handler)

    def _on_running(self) -> None:
        # The command timeout, and others that forward signals, send SIGTERM twice at once. Both then come before the
        # reactor has called stop() for the first one, and Twisted would log a traceback for the second one.
        for number, handler in self._handlers().items():
            _replace_handler(number, handler, self._on_first)

    def _handlers(self) -> dict[int, Callable[..., object]]:
        return {signal.SIGINT: self._reactor.sigInt, signal.SIGTERM: self._reactor.sigTerm}

    def _on_first(self, number: int, frame: object) -> None:
        """Stop the reactor, as its own signal handler does. Ignore the second call."""
        if not self._stopped:
            self._stopped = True
            self._handlers()[number](number, frame)

    def _on_hangup(self) -> None:
        # When a terminal is closed, the kernel and the shell both send SIGHUP. The second time, stop() raises.
        with suppress(ReactorNotRunning):
            self._reactor.stop()
            self._log.info("Received SIGHUP, shutting down.")

    def _on_shutdown(self) -> None:
        # The reactor's own handlers would call stop() a second time, which raises ReactorNotRunning.
        handle_signal(self._reactor, signal.SIGINT, self._end_drain, instead_of=self._on_first)
        # Supervisors often forward SIGTERM twice: ignore the second.
        handle_signal(self._reactor, signal.SIGTERM, lambda: None, instead_of=self._on_first)


def handle_signal(
    reactor: ReactorBase, number: int, function: Callable[[], object], *, instead_of: object = signal.SIG_DFL
) -> None:
    """Call ``function`` in the reactor's thread for each signal ``number``.

    Do nothing if the signal's present handler is not ``instead_of``. nohup lets a process ignore SIGHUP, a shell lets
    background processes ignore SIGINT, and the handlers' module may have installed a handler: these must stay. Do
    nothing in another thread than the main thread either: there, Python cannot install signal handlers.

    :param instead_of: the handler to replace. Without it, the default action of the signal.
    """
    # callFromThread wakes the reactor. A signal handler may interrupt any line of Python code, so it must not call
    # function itself.
    _replace_handler(number, instead_of, lambda number, frame: reactor.callFromThread(function))


def _replace_handler(number: int, old: object, new: Callable[..., object]) -> None:
    if threading.current_thread() is threading.main_thread() and signal.getsignal(number) == old:
        signal.signal(number, new)


def _cannot_start(error: StartupFailed) -> CannotStart:
    assert error.__cause__ is not None
    return CannotStart(f"{error}{place_of(error.__cause__)}")


# The cache lets the function run only once in a process, also if several services start. gc.get_freeze_count() does not
# say whether the function has run: with CPython 3.12 the count is not 0 at the start.
@cache
def collect_garbage_less_often() -> None:
    """Exclude all present objects from CPython's garbage collection, and collect less often. Do nothing on PyPy."""
    if sys.implementation.name != "cpython":
        return
    # Modules, classes and handlers live until the process ends. Without freeze(), each full collection visits them all.
    gc.collect()
    gc.freeze()
    first, second, third = gc.get_threshold()
    # The handlers' module may have chosen a larger threshold, or 0, which turns the collector off: that is kept.
    if 0 < first < _GARBAGE_THRESHOLD:
        gc.set_threshold(_GARBAGE_THRESHOLD, second, third)
