"""What a load is asked to do, and what it returns. The fields are JSON values, to be sent between processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from spoa_twisted.spop.typeddata import NULL, Value, encode_typed_data

#: The largest :attr:`Plan.in_flight`. It bounds the memory for the frames of the NOTIFYs.
MAX_IN_FLIGHT: Final = 4096


@dataclass(frozen=True)
class Plan:
    """What the load is to do."""

    #: A Twisted client endpoint.
    endpoint: str
    #: The LIST-OF-MESSAGES of each NOTIFY, encoded, in hexadecimal.
    messages: str
    connections: int
    #: The number of NOTIFYs in flight on each connection.
    in_flight: int
    #: Seconds to wait for a connection, for the AGENT-HELLO, and for the last ACKs.
    timeout: float
    #: Whether the HAPROXY-HELLO announces the capability ``async``.
    async_: bool
    #: The variables that each ACK must set, from :func:`canonical`; ``None`` for those that the first ACK sets.
    expected: dict[str, str] | None = None
    #: Whether each ACK may set other variables. ``expected`` is not used then.
    varying: bool = False


@dataclass
class Greeting:
    """What the load knows when all connections are open."""

    #: Of the AGENT-HELLO on the first connection.
    version: str
    max_frame_size: int
    capabilities: list[str]
    #: The NOTIFYs in flight on each connection: 1 if the agent does not announce pipelining, else as planned.
    in_flight: int
    #: The size of a NOTIFY in bytes: of its frame, or of all its fragments.
    notify_size: int


@dataclass
class Outcome:
    """What the load counted and measured."""

    #: The good ACKs within the time measured.
    notifys: int = 0
    #: The time measured.
    seconds: float = 0.0
    #: From :meth:`Latencies.to_json`.
    latencies: list[list[int]] = field(default_factory=list)
    #: How many errors there were of each kind; see :mod:`errors`. Kinds without errors are left out.
    errors: dict[str, int] = field(default_factory=dict)
    #: The variables of the first ACK, from :func:`canonical`; ``None`` without an ACK.
    variables: dict[str, str] | None = None
    #: The variables of the first ACK that did not set the expected ones; ``None`` without such an ACK.
    other_variables: dict[str, str] | None = None
    #: The CPU seconds that the load's process used within the time measured.
    cpu: float | None = None
    #: The seconds within the time measured that the process was ready to run and had no core; ``None`` if unknown.
    waited: float | None = None


def canonical(variables: dict[str, Value]) -> dict[str, str]:
    """Return the variables sorted by name, each with its encoded value in hexadecimal.

    Two sets of variables have equal results if they have the same names, values and types. A variable that is unset
    (``None``) and a variable that is set to NULL are equal, because HAProxy takes both as unset.
    """
    return {
        name: encode_typed_data(None if value is NULL else value).hex() for name, value in sorted(variables.items())
    }
