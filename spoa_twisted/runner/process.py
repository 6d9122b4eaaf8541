"""The process of ``twistd spoa``: its signals, garbage collector, file descriptors and log level."""

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
from typing import Final, NoReturn, cast

from twisted.internet.base import ReactorBase
from twisted.internet.error import ReactorNotRunning
from twisted.logger import FilteringLogObserver, Logger, LogLevel, LogLevelFilterPredicate, globalLogPublisher

from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.service import SPOAService

#: File descriptors that are kept free for ports, logs, and files that handlers open.
_DESCRIPTORS_FOR_OTHERS: Final = 64

#: CPython looks for garbage when it has made this many objects more than it has freed. Its own default, 700 in CPython
#: 3.11, is soon reached by NOTIFYs that wait for their handlers, and none of these objects is garbage.
_GARBAGE_THRESHOLD: Final = 5000


class ProcessService(SPOAService):
    """An ``SPOAService`` that has the process to itself, as under ``twistd spoa``.

    It handles the signals of the process, allows no more connections than the process has file descriptors, and tells
    the user in one line why it cannot listen.
    """

    def startService(self) -> None:
        """Listen, unless that is done, and tune the garbage collector, now that the handlers are loaded.

        :raises CannotStart: if an endpoint cannot listen.
        """
        super().startService()
        collect_garbage_less_often()

    def listening_failed(self, description: str, error: BaseException) -> None:
        """Log that an endpoint cannot listen, and end the process."""
        super().listening_failed(description, error)
        self._process_reactor.stop()

    @property
    def _process_reactor(self) -> ReactorBase:
        # Twisted has no interface for sigInt and sigTerm.
        return cast("ReactorBase", self._reactor)

    def _before_listening(self) -> None:
        StopSignals(self._process_reactor, self._end_drain, self._log).install()
        self._limit_connections()

    def _cannot_listen(self, description: str, error: BaseException) -> NoReturn:
        raise CannotStart(f"cannot listen on {description}: {error}") from error

    def _end_drain(self) -> None:
        self.factory.drain(0)

    def _limit_connections(self) -> None:
        # Twisted logs three lines for each connection that it cannot accept because no descriptor is left.
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = max(descriptors - _DESCRIPTORS_FOR_OTHERS, descriptors // 2)
        if descriptors != resource.RLIM_INFINITY and self.factory.limits.max_connections > most:
            self.factory.limits = dataclasses.replace(self.factory.limits, max_connections=most)
            self._log.info(
                "max_connections is {most}: the process may open {descriptors} files, see ulimit -n",
                most=most,
                descriptors=descriptors,
            )


class StopSignals:
    """The signals that Twisted leaves to others: SIGHUP, SIGUSR1, and a second SIGINT or SIGTERM.

    :param end_drain: called for a SIGINT during the drain: close all connections now.
    """

    def __init__(self, reactor: ReactorBase, end_drain: Callable[[], object], log: Logger) -> None:
        self._reactor = reactor
        self._end_drain = end_drain
        self._log = log

    def install(self) -> None:
        """Handle the signals from now on."""
        handle_signal(self._reactor, signal.SIGHUP, self._on_hangup)
        # With a log file, twistd handles SIGUSR1: it begins a new file. Without one, SIGUSR1 would end the process.
        handle_signal(self._reactor, signal.SIGUSR1, lambda: None)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._on_shutdown)

    def _on_hangup(self) -> None:
        # When a terminal is closed, the kernel and the shell both send SIGHUP. For the second, stop() raises.
        with suppress(ReactorNotRunning):
            self._reactor.stop()
            self._log.info("Received SIGHUP, shutting down.")

    def _on_shutdown(self) -> None:
        # The reactor's own handlers would stop the reactor a second time, which raises ReactorNotRunning.
        handle_signal(self._reactor, signal.SIGINT, self._end_drain, instead_of=self._reactor.sigInt)
        # Supervisors often forward SIGTERM twice: ignore the second.
        handle_signal(self._reactor, signal.SIGTERM, lambda: None, instead_of=self._reactor.sigTerm)


def handle_signal(
    reactor: ReactorBase, number: int, function: Callable[[], object], *, instead_of: object = signal.SIG_DFL
) -> None:
    """Call ``function`` in the reactor's thread for each signal ``number``.

    Nothing changes if the present handler is not ``instead_of``: nohup ignores SIGHUP, a shell ignores SIGINT for
    background processes, and the handlers' module may have set a handler of its own. Nothing changes either if this is
    not the main thread: Python lets only the main thread set signal handlers.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(number) == instead_of:
        signal.signal(number, lambda number, frame: reactor.callFromThread(function))


# The cache makes it run once in a process, however often a service starts. gc.get_freeze_count() cannot tell whether it
# has run: with CPython 3.12 the count is not 0 at the start.
@cache
def collect_garbage_less_often() -> None:
    """Let CPython ignore all present objects when it looks for garbage, and look less often. Do nothing on PyPy."""
    if sys.implementation.name != "cpython":
        return
    # The present objects, such as modules and handlers, live until the process ends.
    gc.collect()
    gc.freeze()
    first, second, third = gc.get_threshold()
    # A handlers' module may have set a larger threshold, or 0, which turns the collector off.
    if 0 < first < _GARBAGE_THRESHOLD:
        gc.set_threshold(_GARBAGE_THRESHOLD, second, third)


def connection_log(*, debug: bool) -> Logger:
    """Return the logger for ``SPOAFactory``, which drops events below ``info`` unless ``debug`` is true.

    twistd itself logs all levels, and HAProxy's health checks would add lines every two seconds.
    """
    level = LogLevel.debug if debug else LogLevel.info
    observer = FilteringLogObserver(globalLogPublisher, [LogLevelFilterPredicate(level)])
    return Logger("spoa_twisted.agent.protocol", observer=observer)
