"""The master of ``twistd spoa --workers N``: a service that binds the ports, and keeps N workers alive."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast, final

from twisted.application.service import Service
from twisted.internet.base import ReactorBase
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from spoa_twisted.agent.peers import describe
from spoa_twisted.log import LogObserver, agent_log
from spoa_twisted.observer import ConnectionRefused
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.runner.exit_status import stop_with_failure
from spoa_twisted.runner.process import StopSignals, handle_signal
from spoa_twisted.runner.systemd import Supervisor
from spoa_twisted.runner.watch import allows_values
from spoa_twisted.status.report import MAX_ENDINGS, Ending
from spoa_twisted.workers import spawning
from spoa_twisted.workers.checking import check_handlers
from spoa_twisted.workers.child import Owner, Rules, Worker
from spoa_twisted.workers.collecting import Collector
from spoa_twisted.workers.handing_over import HandingOver
from spoa_twisted.workers.modified import Modified
from spoa_twisted.workers.options import expand
from spoa_twisted.workers.ports import Ports
from spoa_twisted.workers.reload import Reload
from spoa_twisted.workers.slots import REASONS, Slot
from spoa_twisted.workers.spawning import Settings
from spoa_twisted.workers.status import MasterSource
from spoa_twisted.workers.watching import WorkersWatch

#: Seconds for the workers to take the connections that were accepted last, when the agent stops.
LAST_CONNECTIONS: Final = 1.0


def make_master(options: Mapping[str, Any], reactor: Any = None) -> MasterService:
    """Return the service that ``options`` of ``twistd spoa`` describe, and check the handlers in a child process.

    :raises CannotStart: if the handlers cannot be imported, or if an endpoint is not valid.
    """
    if reactor is None:
        from twisted.internet import reactor
    if not options["handlers"]:
        raise CannotStart("no handlers: name the module that has them, as in --handlers mymod")
    try:
        master = MasterService(options, reactor)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    check_handlers(master.settings, options["start-timeout"])
    return master


@final
class MasterService(Service):
    """Binds the ports, hands connections to worker processes, and starts, reloads and stops these processes.

    :meth:`source` is the source of the status. It asks :attr:`collector` for the reports of the workers.
    """

    name = "spoa"

    #: The supervisor of this process. By default there is none.
    supervisor = Supervisor()

    _log = Logger()

    def __init__(self, options: Mapping[str, Any], reactor: Any) -> None:
        count = options["workers"]
        endpoints = expand(options["listen"], count)
        #: The settings of all workers. Each gets its own number.
        self.settings: Settings = {
            "number": 0,
            "options": spawning.plain(options),
            "endpoints": [text for text, _ in endpoints],
            "folder": os.getcwd(),
            "reactor": type(reactor).__module__,
            "log": spawning.LOG,
        }
        #: How often a worker was replaced, by the reason.
        self.restarts: dict[str, int] = dict.fromkeys(REASONS, 0)
        #: The last workers that ended without a reload.
        self.endings: deque[Ending] = deque(maxlen=MAX_ENDINGS)
        #: How many connections were refused because of ``--max-connections``.
        self.refused = 0
        #: The worker processes that run now.
        self.workers: set[Worker] = set()
        self._options = options
        self._reactor = reactor
        # Writes what an agent without workers writes.
        self._agent_log = LogObserver(agent_log(), reactor)
        self._ports = Ports(reactor, endpoints, self._on_accepted, self._on_listening_failed)
        self._handing_over = HandingOver(reactor, options["max-connections"], self._on_refused, self._ports.pause)
        self.slots = [
            Slot(number, reactor, self, self._handing_over, self._drain_timeout) for number in range(1, count + 1)
        ]
        self.reload = Reload(self.slots, reactor, time.time, self._on_reload)
        self.collector = Collector(reactor, self.workers, self.slots, time.time)
        #: Lets ``spoactl watch`` see the NOTIFYs of all workers.
        self.watch = WorkersWatch(self.workers, allow_values=allows_values(options))
        self._modified = Modified(reactor, self._on_modified) if options["reload-on-change"] else None
        # True when a worker was ready once: from then on, a worker that cannot start does not end the agent.
        self._was_ready = False
        self._stopping = False
        self._when_stopped: list[Deferred[Any]] = []
        # What the supervisor and the log say when a worker is ready for the first time.
        self._listening = ""

    def privilegedStartService(self) -> None:
        """Bind the ports. twistd calls this first, while it has root privileges.

        :raises CannotStart: if an endpoint cannot listen.
        """
        super().privilegedStartService()  # type: ignore[no-untyped-call]
        self._ports.listen()

    def startService(self) -> None:
        """Bind the ports, unless ``privilegedStartService`` did, and start the workers when the reactor runs.

        :raises CannotStart: if an endpoint cannot listen.
        """
        super().startService()  # type: ignore[no-untyped-call]
        self.supervisor.start(self._reactor)
        self.supervisor.status("starting the workers")
        self._ports.listen()
        MasterSignals(cast("ReactorBase", self._reactor), self._end_now, self._log, self.reload).install()
        self._reactor.callWhenRunning(self._start_workers)

    def stopService(self) -> Deferred[Any]:
        """Close the ports, and let all workers drain. The Deferred fires when their processes have ended."""
        super().stopService()  # type: ignore[no-untyped-call]
        self._stopping = True
        self.supervisor.stopping(f"answering the pending NOTIFYs, for at most {self._drain_timeout():g} s")
        if self._modified is not None:
            self._modified.stop()
        closed = self._ports.close()
        closed.addCallback(lambda _: self._wait_for_waiting(self._reactor.seconds() + LAST_CONNECTIONS))
        closed.addCallback(lambda _: self._stop_workers())
        return closed.addCallback(lambda _: self._on_stopped())

    @property
    def stopping(self) -> bool:
        """True from the beginning of ``stopService``."""
        return self._stopping

    def when_stopped(self) -> Deferred[Any]:
        """Return a Deferred that fires when all workers have ended; at once if the service is not stopping."""
        stopped: Deferred[Any] = Deferred()
        if self._stopping:
            self._when_stopped.append(stopped)
        else:
            stopped.callback(None)
        return stopped

    def source(self, listen: Sequence[str], options: Mapping[str, str]) -> MasterSource:
        """Return the source of the status; see :class:`MasterSource`."""
        return MasterSource(self, listen, options, time.time)

    # What the slots call.

    def start_worker(self, number: int, owner: Owner) -> Worker:
        """Start a worker process."""
        rules = Rules(
            start_timeout=self._options["start-timeout"],
            stall_timeout=self._options["stall-timeout"],
            reports=self.collector.retired is not None,
        )
        worker = Worker(number, self._reactor, {**self.settings, "number": number}, rules, owner)
        self.workers.add(worker)
        worker.start()
        self.watch.add(worker)
        return worker

    def on_ready(self, worker: Worker) -> None:
        """Log that ``worker`` is ready."""
        if not self._was_ready:
            self._was_ready = True
            addresses = ", ".join([describe(port.getHost()) for port in self._ports.ports])
            workers = "1 worker" if len(self.slots) == 1 else f"{len(self.slots)} workers"
            self._listening = f"{workers}, listening on {addresses}{worker.facts['messages']}"
            self.supervisor.ready(self._listening)
            for port in self._ports.ports:
                self._log.info(
                    "SPOA listening on {address}{messages}",
                    address=describe(port.getHost()),
                    messages=worker.facts["messages"],
                )
        self._log.info(
            "worker {worker} is ready: process {pid}, after {seconds:.2f} s",
            worker=worker.number,
            pid=worker.pid,
            seconds=worker.ready_since - worker.started,
        )
        if self._modified is not None:
            self._modified.watch(worker.facts["files"])

    def may_retry(self, worker: Worker) -> bool:
        """End the agent if no worker was ever ready. Otherwise, return true."""
        if self._modified is not None:
            self._modified.watch(worker.facts["files"])
        if not self._was_ready and not self._stopping:
            self._log.critical("worker {worker} cannot start: {reason}", worker=worker.number, reason=worker.reason)
            self.supervisor.status(f"worker {worker.number} cannot start: {worker.reason}")
            stop_with_failure(self._reactor)
        return self._was_ready

    def on_ended(self, worker: Worker) -> None:
        """Forget ``worker``."""
        self.workers.discard(worker)
        self.collector.on_ended(worker)

    def on_lost(self, worker: Worker, reason: str, *, crashed: bool) -> None:
        """Keep for the status how ``worker`` ended."""
        ending: Ending = {"worker": worker.number, "time": time.time(), "reason": reason, "crashed": crashed}
        self.endings.append(ending)

    def _start_workers(self) -> None:
        if self.running:
            for slot in self.slots:
                slot.start()

    def _stop_workers(self) -> Deferred[Any]:
        self._handing_over.close_waiting()
        workers = list(self.workers)
        for slot in self.slots:
            slot.stop()
        for worker in workers:
            # Those that a reload has replaced get no longer than the others.
            worker.drain(self._drain_timeout())
        return DeferredList([worker.when_ended() for worker in workers])

    def _on_stopped(self) -> None:
        self.supervisor.close()
        self._stopping = False
        waiting, self._when_stopped = self._when_stopped, []
        for stopped in waiting:
            stopped.callback(None)

    def _wait_for_waiting(self, deadline: float) -> Deferred[None]:
        able = any(slot.current is not None for slot in self.slots)
        if not able or not self._handing_over.waiting or self._reactor.seconds() >= deadline:
            return succeed(None)
        return deferLater(self._reactor, 0.01).addCallback(lambda _: self._wait_for_waiting(deadline))

    def _end_now(self) -> None:
        for worker in list(self.workers):
            worker.drain(0)

    def _drain_timeout(self) -> float:
        timeout: float = self._options["drain-timeout"]
        return timeout

    def _on_accepted(self, connection: socket.socket, endpoint: int, owner: int) -> None:
        self._handing_over.accept(connection, endpoint, owner)

    def _on_refused(self) -> None:
        self.refused += 1
        self._agent_log.on_event(ConnectionRefused(self._options["max-connections"]))

    def _on_listening_failed(self, text: str) -> None:
        self._log.critical("{text}", text=text)
        stop_with_failure(self._reactor)

    def _on_reload(self, reloading: bool) -> None:
        if reloading:
            self.supervisor.reloading()
        elif not self._stopping:
            reason = self.reload.results["reason"]
            self.supervisor.ready(f"the last reload failed: {reason}; {self._listening}" if reason else self._listening)

    def _on_modified(self, file: str) -> None:
        self._log.info("{file} has changed", file=file)
        self.reload.request()


@final
class MasterSignals(StopSignals):
    """The signals of the master: as those of an agent without workers, but SIGHUP reloads."""

    def __init__(self, reactor: ReactorBase, end_drain: Any, log: Logger, reload: Reload) -> None:
        super().__init__(reactor, end_drain, log)
        self._reload = reload

    def install(self) -> None:
        """Handle the signals from now on."""
        super().install()
        # Under nohup, SIGHUP is ignored so that it does not end a process. Here it ends none.
        handle_signal(self._reactor, signal.SIGHUP, self._on_hangup, instead_of=signal.SIG_IGN)

    def _on_hangup(self) -> None:
        self._log.info("Received SIGHUP")
        self._reload.request()
