"""The commands that the master and a worker send to each other, by AMP over a pair of Unix sockets.

The master sends connections as file descriptors. A worker sends :class:`Taken` before it reads from a connection. So if
the worker ends before that, no byte of the connection is lost, and the master can hand it to another worker.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, ClassVar, Final

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITransport
from twisted.internet.protocol import connectionDone
from twisted.protocols import amp
from twisted.python.failure import Failure

# The most bytes of one value in AMP.
_MAX_VALUE: Final = 0xFFFF


class Compressed(amp.Argument):
    """Bytes of any length. They are compressed, and sent as several values, because AMP limits a value to 64 KiB."""

    def toBox(self, name: bytes, strings: dict[bytes, bytes], objects: dict[str, Any], proto: Any) -> None:
        """Put the value ``name`` of ``objects`` into ``strings``. AMP calls this."""
        data = zlib.compress(objects[name.decode()], 1)
        for number, start in enumerate(range(0, len(data), _MAX_VALUE)):
            strings[b"%s-%d" % (name, number)] = data[start : start + _MAX_VALUE]

    def fromBox(self, name: bytes, strings: dict[bytes, bytes], objects: dict[str, Any], proto: Any) -> None:
        """Take the value ``name`` out of ``strings``, and put it into ``objects``. AMP calls this."""
        parts: list[bytes] = []
        while (part := strings.pop(b"%s-%d" % (name, len(parts)), None)) is not None:
            parts.append(part)
        objects[name.decode()] = zlib.decompress(b"".join(parts))


#: What stands for a descriptor that the kernel could not give to this process, which has too many open.
LOST: Final = -1


class Descriptor(amp.Descriptor):
    """A descriptor, or :data:`LOST`."""

    def fromStringProto(self, inString: bytes, proto: Any) -> int:  # noqa: N803 - the name is that of AMP
        """Return the descriptor with the number ``inString``. AMP calls this."""
        try:
            descriptor: int = super().fromStringProto(inString, proto)  # type: ignore[no-untyped-call]
        except KeyError:
            return LOST
        return descriptor


DESCRIPTOR: Final = Descriptor()  # type: ignore[no-untyped-call]
COMPRESSED: Final = Compressed()  # type: ignore[no-untyped-call]


class Ready(amp.Command):
    """A worker can take connections. ``facts`` is the JSON of a ``ReadyFacts``."""

    arguments = [(b"facts", COMPRESSED)]
    requiresAnswer = False


class Connection(amp.Command):
    """The master hands a connection over. ``endpoint`` is the number of the endpoint that accepted it."""

    arguments = [(b"descriptor", DESCRIPTOR), (b"number", amp.Integer()), (b"endpoint", amp.Integer())]
    requiresAnswer = False


class Taken(amp.Command):
    """A worker has the connection ``number`` now."""

    arguments = [(b"number", amp.Integer())]
    requiresAnswer = False


class Returned(amp.Command):
    """A worker does not take the connection ``number``, because it drains. It has told the master that before."""

    arguments = [(b"number", amp.Integer())]
    requiresAnswer = False


class Closed(amp.Command):
    """``count`` connections of a worker were closed."""

    arguments = [(b"count", amp.Integer())]
    requiresAnswer = False


class Drain(amp.Command):
    """A worker must drain its connections within ``timeout`` seconds, and end. A second one may shorten the time."""

    arguments = [(b"timeout", amp.Float())]
    requiresAnswer = False


class Leaving(amp.Command):
    """A worker has received SIGTERM, and wants no more connections."""

    arguments: ClassVar[list[Any]] = []
    requiresAnswer = False


class Ping(amp.Command):
    """The master asks whether the reactor of a worker runs."""

    arguments: ClassVar[list[Any]] = []
    response: ClassVar[list[Any]] = []


class GetReport(amp.Command):
    """The master asks for a ``Report`` of :mod:`spoa_twisted.status.report`, as JSON."""

    arguments: ClassVar[list[Any]] = []
    response = [(b"report", COMPRESSED)]


class BeginWatch(amp.Command):
    """The master asks for the next ``count`` NOTIFYs, for the watcher ``number``."""

    arguments = [(b"number", amp.Integer()), (b"count", amp.Integer()), (b"values", amp.Boolean())]
    requiresAnswer = False


class EndWatch(amp.Command):
    """The master asks for no more NOTIFYs for the watcher ``number``."""

    arguments = [(b"number", amp.Integer())]
    requiresAnswer = False


class Watched(amp.Command):
    """A worker sends NOTIFYs for the watcher ``number``: a line of JSON for each. Then it waits for the answer."""

    arguments = [(b"number", amp.Integer()), (b"lines", COMPRESSED)]
    response: ClassVar[list[Any]] = []


class LastReport(amp.Command):
    """A worker has drained, and ends: this is its last ``Report``."""

    arguments = [(b"report", COMPRESSED)]
    requiresAnswer = False


class ControlProtocol(amp.BinaryBoxProtocol, amp.BoxDispatcher, amp.CommandLocator):
    """One end of the control socket. It is ``AMP`` without two log lines for each connection.

    :param on_lost: called when the socket is closed, which is when the other process has ended.
    """

    transport: ITransport | None

    def __init__(self, on_lost: Callable[[], None]) -> None:
        amp.BoxDispatcher.__init__(self, self)
        amp.BinaryBoxProtocol.__init__(self, self)
        self._on_lost = on_lost

    def send(self, command: type[amp.Command], **arguments: Any) -> None:
        """Send a command that has no answer, unless the socket is closed."""
        if self.transport is not None:
            self.callRemote(command, **arguments)  # type: ignore[no-untyped-call]

    def ask(self, command: type[amp.Command], **arguments: Any) -> Deferred[dict[str, Any]]:
        """Send a command. Return a Deferred of the answer, which fails if the socket is closed."""
        if self.transport is None:
            return fail(ConnectionDone())
        answer: Deferred[dict[str, Any]] = self.callRemote(command, **arguments)  # type: ignore[no-untyped-call]
        return answer

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fail the pending commands, and call ``on_lost``. Twisted calls this."""
        amp.BinaryBoxProtocol.connectionLost(self, reason)
        self.transport = None
        self._on_lost()
