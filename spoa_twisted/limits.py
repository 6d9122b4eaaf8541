"""Every limit of an agent, each defined once: its name, default, unit, check and help text.

``SPOAFactory`` takes them as keywords, ``twistd spoa`` as options (``max_frame_size`` is ``--max-frame-size``), and the
README's table of options shows them. All three read this file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, final

from spoa_twisted.spop.connection import DEFAULT_MAX_FRAME_SIZE, DEFAULT_MAX_PAYLOAD_SIZE
from spoa_twisted.spop.frames import MIN_MAX_FRAME_SIZE

# Seconds, about four months: Twisted's timers fail with numbers that are much larger.
_LONGEST_TIME: Final = 10_000_000


@final
@dataclass(frozen=True)
class Limit:
    """The definition of one limit."""

    default: float
    #: ``bytes``, ``seconds``, or what is counted.
    unit: str
    #: What the limit is for: the text of ``--help`` and of the README.
    help: str
    at_least: float
    at_most: float
    #: The keyword of ``SPOAFactory``: ``max_frame_size``.
    name: str = ""

    @property
    def option(self) -> str:
        """The option of ``twistd spoa``, without its dashes: ``max-frame-size``."""
        return self.name.replace("_", "-")

    def check(self, value: object) -> None:
        """Check a value for this limit.

        :raises TypeError: for a value that is not a number, or not a whole number where the unit is not seconds.
        :raises ValueError: for a number outside the range.
        """
        number = (int, float) if self.unit == "seconds" else int
        if not isinstance(value, number) or isinstance(value, bool):
            kind = "a number of seconds" if self.unit == "seconds" else f"a whole number of {self.unit}"
            raise TypeError(f"{self.name} must be {kind}, not {value!r}")
        # NaN is outside every range: each comparison with it is false.
        if not self.at_least <= value <= self.at_most:
            raise ValueError(f"{self.name} is {value}; it must be from {self.at_least} to {self.at_most} {self.unit}")


def _size(default: int, unit: str, text: str, *, at_least: int = 1, at_most: int = 2**40) -> Any:
    return field(default=default, metadata={"limit": Limit(default, unit, text, at_least, at_most)})


def _time(default: float, text: str) -> Any:
    return field(default=default, metadata={"limit": Limit(default, "seconds", text, 0, _LONGEST_TIME)})


@final
@dataclass(frozen=True)
class Limits:
    """The limits of one agent: ``Limits(max_in_flight=64)``. Each keyword is described by a :class:`Limit`.

    :raises TypeError: for a keyword that is not a limit, or a value that is not a number.
    :raises ValueError: for a number outside the range of its limit.
    """

    # HAProxy offers 16,380 bytes, or more with a larger tune.bufsize.
    max_frame_size: int = _size(
        DEFAULT_MAX_FRAME_SIZE,
        "bytes",
        "longest frame, in bytes; the agent does not agree to more, whatever HAProxy offers",
        at_least=MIN_MAX_FRAME_SIZE,
        at_most=2**32 - 1,
    )
    max_payload_size: int = _size(
        DEFAULT_MAX_PAYLOAD_SIZE, "bytes", "longest NOTIFY, in bytes, that HAProxy <= 3.0 may send in fragments"
    )
    # HAProxy keeps 20 in flight on a connection, unless its max-waiting-frames says otherwise.
    max_in_flight: int = _size(
        256, "NOTIFYs", "pending NOTIFYs of a connection; with so many, the agent stops reading from it"
    )
    max_in_flight_size: int = _size(
        2 * 2**20, "bytes", "bytes of pending NOTIFYs of a connection; with so many, the agent stops reading from it"
    )
    max_unsent: int = _size(
        2**20, "bytes", "bytes that HAProxy may leave unread; with more for 5 seconds, the connection is dropped"
    )
    # One HAProxy opens 20 to a few hundred.
    max_connections: int = _size(16384, "connections", "open connections; the agent refuses further ones")
    hello_timeout: float = _time(10.0, "seconds for a new connection to send its HAPROXY-HELLO; 0 for no limit")
    # HAProxy's "timeout processing" is seldom longer than one second.
    handler_timeout: float = _time(10.0, "seconds for a handler without a timeout of its own; 0 for no limit")
    drain_timeout: float = _time(10.0, "seconds to answer what is pending when the agent stops")

    def __post_init__(self) -> None:
        for limit in LIMITS:
            limit.check(getattr(self, limit.name))


#: The definition of each field of :class:`Limits`, in the same order.
LIMITS: Final[tuple[Limit, ...]] = tuple([replace(knob.metadata["limit"], name=knob.name) for knob in fields(Limits)])
