"""The report of one process: what its agent has counted, and what it does now."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, final

from spoa_twisted.agent.peers import host_of
from spoa_twisted.agent.protocol import SPOAFactory, SPOAProtocol
from spoa_twisted.escaping import cut, in_one_line
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.service import SPOAService
from spoa_twisted.spop.connection import ASYNC, FRAGMENTATION, PIPELINING, State
from spoa_twisted.status.lag import Lag
from spoa_twisted.status.merged import Merged
from spoa_twisted.status.report import DEFAULT, NONE, Engine, MessageTotals, Process, Report, Status, Totals
from spoa_twisted.status.totals import empty_histogram

# HAProxy has one engine for each agent section, and HAProxy <= 3.0 one for each thread. A peer could invent more.
_MAX_ENGINES: Final = 256

#: What reports are about.
Agent = SPOAFactory | SPOAService


@final
class LocalSource:
    """The status of an agent in this process.

    :param listen: the endpoints, for the status. Without them, those of a ``SPOAService``. A ``SPOAFactory`` does not
        know where the application listens.
    :param options: the options that differ from their defaults, by their names on the command line, without ``--``.
    """

    def __init__(self, agent: object, listen: Sequence[str] = (), options: Mapping[str, str] | None = None) -> None:
        if not isinstance(agent, (SPOAFactory, SPOAService)):
            raise TypeError(f"the agent is a SPOAFactory or a SPOAService, not {type(agent).__name__}")
        self._agent = agent
        reactor = factory_of(agent).reactor
        self._lag = Lag(reactor)
        if not listen and isinstance(agent, SPOAService):
            listen = agent.endpoints
        self._merged = Merged(listen, options or {}, factory_of(agent).recorder.started)

    def status(self) -> Status:
        """Return the present status."""
        return self._merged.status([report(self._agent, lag=self._lag.seconds)], time.time())

    def start(self) -> None:
        """Begin to measure the lag of the reactor."""
        self._lag.start()

    def stop(self) -> None:
        """End."""
        self._lag.stop()


def report(agent: Agent, *, worker: int = 0, lag: float = 0.0) -> Report:
    """Return the report of this process. Call it in the reactor's thread.

    :param worker: the number of the worker that this process is; 0 if it is none.
    :param lag: seconds that the reactor's last timer came late; see :class:`~spoa_twisted.status.lag.Lag`.
    """
    factory = factory_of(agent)
    now = factory.reactor.seconds()
    tallies = factory.outcomes.counters.tallies
    longest = {label: tally.durations.longest(now) for label, tally in tallies.items()}
    return {
        "process": _process(agent, worker, lag),
        "totals": _totals(factory),
        "problems": factory.recorder.problems.snapshot(),
        "engines": _engines(factory),
        "messages": _messages(factory),
        "longest": {label: seconds for label, seconds in longest.items() if seconds},
        "longest_notify": factory.outcomes.counters.notify.longest(now),
    }


def factory_of(agent: Agent) -> SPOAFactory:
    """Return the factory of ``agent``."""
    return agent.factory if isinstance(agent, SPOAService) else agent


def state_of(agent: Agent) -> str:
    """Return ``starting``, ``ready`` or ``draining``. A factory without a service is ready while a port is open."""
    if isinstance(agent, SPOAService):
        return agent.state
    if agent.numPorts:
        return "ready"
    return "draining" if agent.connections else "starting"


def resident_memory(read: Callable[[], str] | None = None) -> int:
    """Return the resident memory of this process, in bytes; 0 if the system does not tell.

    :param read: returns the content of Linux's ``/proc/self/statm``.
    """
    try:
        text = _read_statm() if read is None else read()
        return int(text.split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _read_statm() -> str:
    with open("/proc/self/statm", encoding="ascii") as file:
        return file.read()


def _process(agent: Agent, worker: int, lag: float) -> Process:
    factory = factory_of(agent)
    connections = factory.connections
    handlers = factory.handlers
    return {
        "worker": worker,
        "pid": os.getpid(),
        "state": state_of(agent),
        "detail": "",
        "started": factory.recorder.started,
        "age": 0.0,
        "connections": len(connections),
        "in_flight": sum([connection._in_flight.count for connection in connections]),
        "blocking_waiting": handlers.blocking_waiting if isinstance(handlers, Handlers) else 0,
        "held_back": sum([connection._connection.bytes_to_send for connection in connections]),
        "lag": lag,
        "cpu_seconds": time.process_time(),
        "resident_memory": resident_memory(),
    }


def _totals(factory: SPOAFactory) -> Totals:
    counters = factory.outcomes.counters
    messages: dict[str, MessageTotals] = {
        label: {"results": {}, "duration": empty_histogram()} for label in _messages(factory)
    }
    messages |= {label: tally.totals() for label, tally in counters.tallies.items()}
    if counters.unhandled:
        messages[NONE] = {"results": {"unhandled": counters.unhandled}, "duration": empty_histogram()}
    return {
        "messages": messages,
        "notify": counters.notify.snapshot(),
        "connections": counters.connections,
        "refused": counters.refused,
        "health_checks": counters.health_checks,
        "disconnects": dict(counters.disconnects),
        "dropped": dict(counters.dropped),
        "stalls": counters.stalls,
        "stall_seconds": counters.stall_seconds,
    }


def _messages(factory: SPOAFactory) -> list[str]:
    """Return the names of the messages that have a handler. Another ``IHandlers`` than ``Handlers`` has no names."""
    handlers = factory.handlers
    if not isinstance(handlers, Handlers):
        return []
    return [*sorted(handlers), *([DEFAULT] if handlers.has_default else [])]


def _engines(factory: SPOAFactory) -> list[Engine]:
    by_id: dict[str, list[SPOAProtocol]] = {}
    for connection in factory.connections:
        if connection._connection.state is State.RUNNING:
            by_id.setdefault(connection._connection.engine_id, []).append(connection)
    return [_engine(by_id[engine_id]) for engine_id in sorted(by_id)[:_MAX_ENGINES]]


def _engine(connections: list[SPOAProtocol]) -> Engine:
    # Connections of one engine may differ: the agent decides about pipelining for each.
    codecs = [connection._connection for connection in connections]
    capabilities = {
        PIPELINING: any(codec.pipelined for codec in codecs),
        ASYNC: any(codec.async_ for codec in codecs),
        FRAGMENTATION: any(FRAGMENTATION in codec.peer_capabilities for codec in codecs),
    }
    return {
        "engine": in_one_line(cut(codecs[-1].engine_id)),
        "peer": in_one_line(host_of(connections[-1]._peer)),
        "capabilities": [name for name, has in capabilities.items() if has],
        "max_frame_size": min(codec.max_frame_size for codec in codecs),
        "connections": len(connections),
        "in_flight": sum([connection._in_flight.count for connection in connections]),
    }
