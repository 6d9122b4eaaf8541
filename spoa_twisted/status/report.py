"""The types of the status. All are JSON: a worker sends a report to the master, and ``/status.json`` has a status.

Times are Unix times in seconds, durations are in seconds, sizes in bytes. Names of messages are registered names, or
:data:`DEFAULT` or :data:`NONE`: a name that a peer sends is never a key.
"""

from __future__ import annotations

from typing import Final, TypedDict

#: Stands for all messages that ``Handlers.default`` answers.
DEFAULT: Final = "(default)"

#: Stands for all messages that have no handler.
NONE: Final = "(none)"

#: The upper bounds of the buckets of each histogram, in seconds. The last bucket has no upper bound.
BOUNDS: Final = (*(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),)


#: How many ends of workers are kept. Many workers that crash at once must not make the status long.
MAX_ENDINGS: Final = 100


class Histogram(TypedDict):
    """How long something took. A sampled observation counts as often as it stands for others."""

    #: How many observations each bucket has, not added up. There is one more bucket than there are :data:`BOUNDS`.
    buckets: list[int]
    #: The sum of all observations, in seconds.
    sum: float


class MessageTotals(TypedDict):
    """The results of one message."""

    #: How many messages had each result; the keys are the values of :class:`~spoa_twisted.observer.Outcome`.
    results: dict[str, int]
    #: How long the handler took.
    duration: Histogram


class Totals(TypedDict):
    """Numbers that only grow. The totals of several processes are added up."""

    messages: dict[str, MessageTotals]
    #: How long a NOTIFY took, from its last byte to its ACK.
    notify: Histogram
    #: Connections that were made, health checks included.
    connections: int
    #: Connections that were closed at once, because of ``max_connections``.
    refused: int
    health_checks: int
    #: How many connections ended with a DISCONNECT frame. A key is the sender and the status code: ``agent 0``,
    #: ``haproxy 3``.
    disconnects: dict[str, int]
    #: How many connections or NOTIFYs the agent dropped, by the reason: ``unread``, ``hello_timeout``, ``payload``.
    dropped: dict[str, int]
    #: How often the reactor stood still for a second or longer, and for how many seconds.
    stalls: int
    stall_seconds: float


class Problem(TypedDict):
    """Something that went wrong, perhaps many times."""

    #: The name of the event's class: ``HandlerFailed``.
    kind: str
    #: The message, function, engine or host that it is about; empty if there is none. One line, escaped.
    subject: str
    #: The last failure, in one line, escaped: ``ValueError: no such user (users.py, line 14, in find)``.
    text: str
    count: int
    #: The times of the first and of the last one.
    first: float
    last: float


class Engine(TypedDict):
    """One SPOE engine of a HAProxy, which has a connection now."""

    #: The engine-id, escaped; empty if the peer sent none.
    engine: str
    #: The host of its last connection, or the path of the Unix socket.
    peer: str
    #: The capabilities that both sides have.
    capabilities: list[str]
    max_frame_size: int
    connections: int
    in_flight: int


class Process(TypedDict):
    """One process that answers NOTIFYs: the agent itself, or a worker. These numbers rise and fall."""

    #: The number of the worker; 0 for an agent without workers.
    worker: int
    pid: int
    #: ``starting``, ``ready``, ``draining``, ``silent`` (a worker that does not answer its master), or ``lost`` (a
    #: worker that has ended, and is not replaced yet).
    state: str
    #: More about ``state``: the line that a silent worker is in, or how a lost one ended. Often empty.
    detail: str
    started: float
    #: Seconds since the process has shown that it works; more than a second means that it stands still.
    age: float
    connections: int
    in_flight: int
    #: Calls of handlers that wait for one of the ``blocking_threads``.
    blocking_waiting: int
    #: Bytes of ACKs that are held back until HAProxy has read others.
    held_back: int
    #: Seconds that the reactor's last timer came late.
    lag: float
    #: CPU time since the start. In a status, the processes that had this worker's number before are included.
    cpu_seconds: float
    #: In bytes; 0 if the system does not tell.
    resident_memory: int


class Report(TypedDict):
    """What one process knows about itself."""

    process: Process
    totals: Totals
    problems: list[Problem]
    engines: list[Engine]
    #: The names of the messages that have a handler, sorted.
    messages: list[str]
    #: The longest duration of each message in the last minute.
    longest: dict[str, float]
    #: The longest duration of a NOTIFY in the last minute; 0 if it is not known.
    longest_notify: float


class Ending(TypedDict):
    """The end of a worker that was ready, and that had to be replaced."""

    worker: int
    #: When the master noticed it.
    time: float
    #: How it ended, in one line.
    reason: str
    #: False if the worker was stopped: it received SIGTERM, or its own code stopped the reactor.
    crashed: bool


class Reloads(TypedDict):
    """The reloads of an agent with workers."""

    #: How many reloads ended with each result: ``ok``, ``failed``.
    results: dict[str, int]
    #: Whether the last reload succeeded; true if there was none.
    last_ok: bool
    #: When the last reload ended; 0 if there was none.
    last_time: float
    #: Why the last reload failed, in one line; empty if it did not.
    reason: str
    #: How often a reload was asked for: by SIGHUP, or by a file that has changed.
    requested: int
    #: How many of these requests are answered: a reload that began after them has ended. One that comes while a reload
    #: runs is answered by the next reload. If both numbers are equal, no reload runs.
    answered: int


class Status(TypedDict):
    """The status of an agent, with one process or with workers: the content of ``/status.json``."""

    version: str
    python: str
    twisted: str
    #: The process that was started. With workers it is the master, which reloads on SIGHUP.
    pid: int
    #: When this status was made, and when the agent (with workers: the master) was started.
    time: float
    started: float
    #: ``starting``, ``ready`` or ``draining``. With workers, ``ready`` means that at least one worker is ready.
    state: str
    #: The endpoints, and the options that differ from their defaults, by their names without ``--``.
    listen: list[str]
    options: dict[str, str]
    #: True if the agent was started with ``--workers``; then ``processes`` are the workers, and ``reloads`` counts.
    workers: bool
    processes: list[Process]
    #: Since the start of the agent. Processes that have ended are included.
    totals: Totals
    #: In the last minute, or since the start if that is shorter, and how many seconds that are.
    recent: Totals
    recent_seconds: float
    #: The longest duration of each message in the last minute.
    longest: dict[str, float]
    #: The longest duration of a NOTIFY in the last minute; 0 if it is not known.
    longest_notify: float
    problems: list[Problem]
    engines: list[Engine]
    messages: list[str]
    reloads: Reloads
    #: How often a worker was replaced, by the reason: ``exit``, ``signal``, ``stall``, ``reload``.
    restarts: dict[str, int]
    #: The last :data:`MAX_ENDINGS` workers that ended without a reload, the last one at the end.
    endings: list[Ending]
