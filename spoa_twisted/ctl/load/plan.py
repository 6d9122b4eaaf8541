"""The parameters of a load, and its results. All fields are JSON values, because they are sent between processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

#: The largest :attr:`Plan.in_flight`. It limits the memory for the frames of the NOTIFYs.
MAX_IN_FLIGHT: Final = 4096


@dataclass(frozen=True)
class Plan:
    """The parameters of a load."""

    #: The agent's Twisted client endpoint.
    endpoint: str
    #: The encoded LIST-OF-MESSAGES of each NOTIFY, in hexadecimal.
    messages: str
    #: The number of connections.
    connections: int
    #: The number of NOTIFYs in flight on each connection; with a rate, the largest one.
    in_flight: int
    #: Seconds to wait for a connection, for the AGENT-HELLO, and for the last ACKs.
    timeout: float
    #: True if the HAPROXY-HELLO announces the capability ``async``.
    async_: bool
    #: The variables that each ACK must set, from :func:`canonical`. If ``None``, each ACK must set the variables that
    #: the first ACK sets.
    expected: dict[str, str] | None = None
    #: True if each ACK may set other variables. Then ``expected`` is not used.
    varying: bool = False
    #: NOTIFYs a second, on all connections together; ``None`` to send a NOTIFY for each ACK.
    rate: float | None = None


@dataclass
class Greeting:
    """The facts about the agent that a load knows when all connections are open."""

    #: The next three fields are those of the AGENT-HELLO on the first connection.
    version: str
    max_frame_size: int
    capabilities: list[str]
    #: The NOTIFYs in flight on each connection: 1 if the agent does not announce pipelining, else ``Plan.in_flight``.
    in_flight: int
    #: The size of a NOTIFY in bytes: of its frame, or of all its fragments.
    notify_size: int


@dataclass
class Outcome:
    """The results of a load."""

    #: The number of good ACKs within the window.
    notifys: int = 0
    #: The seconds from the begin to the end of the window.
    seconds: float = 0.0
    #: The latencies of the good ACKs, from :meth:`Latencies.to_json`.
    latencies: list[list[int]] = field(default_factory=list)
    #: With a rate, how late the load itself sent the NOTIFYs, from :meth:`Latencies.to_json`.
    late: list[list[int]] = field(default_factory=list)
    #: How many errors there were of each kind; see :mod:`errors`. Kinds without errors are left out.
    errors: dict[str, int] = field(default_factory=dict)
    #: The variables of the first ACK, from :func:`canonical`; ``None`` if there was no ACK.
    variables: dict[str, str] | None = None
    #: The variables of the first ACK that did not set the expected variables; ``None`` if all did.
    other_variables: dict[str, str] | None = None
    #: The CPU seconds that the load's process used within the window.
    cpu: float | None = None
    #: For how many seconds of the window the process was ready to run and had no core; ``None`` if unknown.
    waited: float | None = None
