"""The limits of an agent. Each limit is defined once: its name, default, unit, range and help text.

Each field of :class:`Limits` is a keyword of ``SPOAFactory`` and an option of ``twistd spoa``: ``max_frame_size`` is
``--max-frame-size``. The help text of the option, and its row in docs/reference/options.rst, are made from the field
too. So a new limit is one field here, and the code that applies it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Final, final

from spoa_twisted.spop.connection import DEFAULT_MAX_FRAME_SIZE, DEFAULT_MAX_PAYLOAD_SIZE
from spoa_twisted.spop.frames import MIN_MAX_FRAME_SIZE
from spoa_twisted.spop.reassembly import DEFAULT_MAX_REASSEMBLY_SIZE

# Bytes. SPOP sends max-frame-size as a UINT32.
_LARGEST_FRAME_SIZE: Final = 2**32 - 1

# Bytes or a count: the largest value of the other limits. A larger value is surely a mistake: 2**40 bytes are 1 TiB.
_LARGEST_WHOLE_NUMBER: Final = 2**40

# Seconds, about four months. Twisted's timers fail with numbers that are much larger.
_MOST_SECONDS: Final = 10_000_000


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The definition of one limit. The values are in :class:`Limits`, because each agent has its own."""

    #: The name of the field of :class:`Limits`, and so the keyword of ``SPOAFactory``.
    name: str
    #: The value, unless the application or the command line sets another one.
    default: float
    #: The type of the value. ``float`` allows ``int`` values too.
    number: type[int | float]
    #: The unit of the value, in the plural: ``bytes``.
    unit: str
    #: The smallest value that is allowed.
    smallest: float
    #: The largest value that is allowed.
    largest: float
    #: One or two short sentences about the purpose, for ``--help`` and for docs/reference/options.rst.
    help: str

    @property
    def option(self) -> str:
        """The name of the option of ``twistd spoa``, without the two dashes in front."""
        return self.name.replace("_", "-")

    def check(self, value: object) -> None:
        """Check a value that an application has set in Python.

        :raises TypeError: for a value that is not a number, or for a float if the limit is a whole number.
        :raises ValueError: for a number outside the range.
        """
        # bool is a subclass of int, but an application that sets a number to True has made a mistake.
        if isinstance(value, bool) or not isinstance(value, (int, self.number)):
            raise TypeError(f"{self.name} is {value!r}, which is not {self._kind}")
        if not self._is_in_range(value):
            raise ValueError(f"{self.name} is {value}, which is not {self._range}")

    def parse(self, text: str) -> float:
        """Return the number that ``text`` from the command line stands for.

        :raises ValueError: for a text that is not a number, or a number outside the range. The error names the option.
        """
        try:
            value = self.number(text)
        except ValueError:
            raise ValueError(f"--{self.option}: {text!r} is not {self._kind}") from None
        if not self._is_in_range(value):
            raise ValueError(f"--{self.option}: {text!r} is not {self._range}")
        return value

    def _is_in_range(self, number: float) -> bool:
        # NaN is outside every range, because each comparison with NaN is false.
        return self.smallest <= number <= self.largest

    @property
    def _kind(self) -> str:
        return f"{'a whole number' if self.number is int else 'a number'} of {self.unit}"

    @property
    def _range(self) -> str:
        return f"between {self.smallest:,} and {self.largest:,} {self.unit}"


# The next functions define a field of Limits. Its metadata are the arguments of its Limit, all but the name, which
# LIMITS adds. The functions return Any, as dataclasses.field does: otherwise mypy would not allow the result as the
# default of an int.


def _whole(default: int, unit: str, text: str, *, smallest: int = 1, largest: int = _LARGEST_WHOLE_NUMBER) -> Any:
    return _field(default=default, number=int, unit=unit, smallest=smallest, largest=largest, help=text)


def _seconds(default: float, text: str) -> Any:
    return _field(default=default, number=float, unit="seconds", smallest=0, largest=_MOST_SECONDS, help=text)


def _field(**arguments: Any) -> Any:
    return field(default=arguments["default"], metadata=arguments)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The values of all limits of one agent: ``Limits(max_in_flight=64)``. :data:`LIMITS` describes each keyword.

    :raises TypeError: for a keyword that is not a limit, or for a value that :meth:`Limit.check` does not accept.
    :raises ValueError: for a number outside the range of its limit.
    """

    # HAProxy offers 16,380 bytes by default, and more if its tune.bufsize is larger.
    max_frame_size: int = _whole(
        DEFAULT_MAX_FRAME_SIZE,
        "bytes",
        "The longest frame, in bytes. The agent agrees to the size that HAProxy offers, but not to more than this.",
        smallest=MIN_MAX_FRAME_SIZE,
        largest=_LARGEST_FRAME_SIZE,
    )
    max_payload_size: int = _whole(
        DEFAULT_MAX_PAYLOAD_SIZE,
        "bytes",
        "The longest NOTIFY, in bytes, that HAProxy <= 3.0 may send in fragments. The agent refuses a longer one.",
    )
    # max_payload_size alone does not limit the memory: max_connections connections may have incomplete NOTIFYs. An
    # incomplete frame does not count. It cannot be refused alone: the agent would have to close the connection, and all
    # streams of HAProxy on it would fail. Frames take max_connections * max_frame_size bytes at most, and no frame of
    # HAProxy is longer than its tune.bufsize.
    max_reassembly_size: int = _whole(
        DEFAULT_MAX_REASSEMBLY_SIZE,
        "bytes",
        "How many bytes the fragments of incomplete NOTIFYs may take on all connections together. "
        "The agent refuses a NOTIFY that exceeds this.",
    )
    # HAProxy has up to 20 NOTIFYs in flight on a connection, unless its configuration sets max-waiting-frames.
    max_in_flight: int = _whole(
        256,
        "NOTIFYs",
        "How many NOTIFYs of one connection may be pending. The agent handles no other until one is answered.",
    )
    # max_in_flight alone does not limit the memory: NOTIFYs may be as long as max_frame_size or max_payload_size.
    max_in_flight_size: int = _whole(
        2 * 2**20,
        "bytes",
        "How many bytes the pending NOTIFYs of one connection may take. Then the agent handles no other.",
    )
    # The agent keeps unsent bytes in memory. A peer that never reads could otherwise fill it.
    max_unsent: int = _whole(
        2**20,
        "bytes",
        "How many bytes HAProxy may leave unread on one connection. "
        "After 5 seconds with more, the agent drops the connection.",
    )
    # One HAProxy opens 20 to a few hundred connections.
    max_connections: int = _whole(16384, "connections", "How many connections may be open. The agent refuses others.")
    # Without this limit, connections that never send a frame would use up max_connections.
    hello_timeout: float = _seconds(10.0, "Seconds for HAProxy to send HAPROXY-HELLO after it connects; 0: no limit.")
    # HAProxy's "timeout processing" is usually one or two seconds. After that, HAProxy drops the ACK with on_error.
    handler_timeout: float = _seconds(
        1.0,
        "Seconds for a handler that has no timeout of its own; 0: no limit. "
        "It must be shorter than HAProxy's timeout processing.",
    )
    drain_timeout: float = _seconds(10.0, "Seconds to answer pending NOTIFYs when the agent stops.")

    log_slow: float = _seconds(
        0.0,
        "Log each NOTIFY that takes longer than this many seconds, and where the time went; 0: off.",
    )

    @classmethod
    def from_keywords(cls, limits: Mapping[str, float]) -> Limits:
        """Return the limits that the caller of :class:`~spoa_twisted.SPOAFactory` gave as keywords.

        :raises TypeError, ValueError: as the class does. For an unknown keyword, the error lists similar
            limits.
        """
        for name in limits:
            if name not in LIMITS:
                similar = get_close_matches(name, LIMITS) or LIMITS
                raise TypeError(f"{name!r} is not a limit; use one of {', '.join(similar)}")
        values: Mapping[str, Any] = limits
        return cls(**values)

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            limit.check(getattr(self, name))


#: The definition of each field of :class:`Limits`, by its name and in the same order.
LIMITS: Final[Mapping[str, Limit]] = {limit.name: Limit(name=limit.name, **limit.metadata) for limit in fields(Limits)}
