"""The output of ``spoactl proxy`` for each connection: lines of text, or JSON objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any, final

from twisted.internet.interfaces import IAddress

from spoa_twisted.ctl.traffic.conversation import Conversation
from spoa_twisted.ctl.traffic.frame import DecodedFrame
from spoa_twisted.ctl.traffic.show import frame_to_json, show_faults, show_frame
from spoa_twisted.shown import show_text
from spoa_twisted.spop.reassembly import ReassemblyBudget

#: Prints one line.
Write = Callable[[str], None]


@final
class Report:
    """The lines of all connections.

    :param write: prints a line.
    :param seconds: a clock that never goes back.
    :param values: whether to show the values of arguments and variables.
    :param as_json: whether a line is a JSON object.
    :param count: how many frames to print; ``None`` for no limit.
    :param on_count: called when as many were printed.
    """

    def __init__(
        self,
        write: Write,
        seconds: Callable[[], float],
        *,
        values: bool,
        as_json: bool,
        count: int | None,
        on_count: Callable[[], None],
    ) -> None:
        self.seconds = seconds
        #: The number of frames and of faults that were printed, and of connections.
        self.frames = self.faults = self.connections = 0
        self.open: set[ConnectionReport] = set()
        self._write = write
        self._began = seconds()
        self._values = values
        self._as_json = as_json
        self._count = count
        self._on_count = on_count
        self._budget = ReassemblyBudget(seconds=seconds)

    def connected(self, address: IAddress | None) -> ConnectionReport:
        """Return the report of a new connection."""
        self.connections += 1
        conversation = Conversation(self.connections, self._budget, self.conversations)
        connection = ConnectionReport(self, conversation)
        self.open.add(connection)
        self.event(self.connections, "connected", f"HAProxy connected from {_shown(address)}")
        return connection

    def conversations(self) -> Collection[Conversation]:
        """Return those of all open connections."""
        return [connection.conversation for connection in self.open]

    @property
    def pending(self) -> int:
        """The number of NOTIFYs without an ACK, of all open connections."""
        return sum(connection.conversation.pending for connection in self.open)

    def event(self, number: int, kind: str, text: str) -> None:
        """Print an event of the connection ``number``, unless as many frames as the user wants were printed."""
        if self._is_complete:
            return
        time = self.seconds() - self._began
        if self._as_json:
            self._write_json({"time": round(time, 6), "connection": number, "event": kind, "text": show_text(text)})
        else:
            self._write(f"{time:10.6f} #{number} {show_text(text)}")

    def frame(self, number: int, frame: DecodedFrame, now: float, *, from_agent: bool) -> None:
        """Print a frame, unless as many as the user wants were printed."""
        if self._is_complete:
            return
        self.frames += 1
        self.faults += len(frame.faults)
        time = now - self._began
        if self._as_json:
            sender = "agent" if from_agent else "haproxy"
            head = {"time": round(time, 6), "connection": number, "from": sender}
            self._write_json({**head, **frame_to_json(frame, values=self._values)})
        else:
            direction = "<" if from_agent else ">"
            self._write(f"{time:10.6f} #{number} {direction} {show_frame(frame, values=self._values)}")
            for line in show_faults(frame, values=self._values):
                self._write(f"{'':10} #{number} ! {line}")
        if self.frames == self._count:
            self._on_count()

    @property
    def _is_complete(self) -> bool:
        return self._count is not None and self.frames >= self._count

    def _write_json(self, line: dict[str, Any]) -> None:
        # ASCII: the name of an argument may have bytes that are not UTF-8.
        self._write(json.dumps(line))


@final
class ConnectionReport:
    """A :class:`~spoa_twisted.ctl.proxy.relay.Listener` that prints the frames of one connection."""

    def __init__(self, report: Report, conversation: Conversation) -> None:
        self.conversation = conversation
        self._report = report

    def received(self, data: bytes, *, from_agent: bool) -> None:
        """Print the frames that ``data`` completes."""
        now = self._report.seconds()
        for frame in self.conversation.receive(data, now, from_agent=from_agent):
            self._report.frame(self.conversation.number, frame, now, from_agent=from_agent)

    def half_closed(self, *, from_agent: bool) -> None:
        """Print which side has closed."""
        self._print_rest(from_agent=from_agent)
        side = "the agent" if from_agent else "HAProxy"
        self._report.event(self.conversation.number, "half-closed", f"{side} closed (FIN)")

    def ended(self, reason: str) -> None:
        """Print why the connection has ended, and how many NOTIFYs have no ACK."""
        for from_agent in (False, True):
            self._print_rest(from_agent=from_agent)
        conversation = self.conversation
        text = reason
        if conversation.answered or conversation.pending:
            text = f"{reason}; NOTIFYs with an ACK: {conversation.answered}, without: {conversation.pending}"
        self._report.event(conversation.number, "ended", text)
        self._report.open.discard(self)
        conversation.close()

    def _print_rest(self, *, from_agent: bool) -> None:
        """Print the frame that the end of one direction cuts off."""
        frame = self.conversation.end(from_agent=from_agent)
        if frame is not None:
            number = self.conversation.number
            self._report.frame(number, frame, self._report.seconds(), from_agent=from_agent)


def _shown(address: IAddress | None) -> str:
    host, port = getattr(address, "host", None), getattr(address, "port", None)
    return f"{host}:{port}" if host is not None else "a Unix socket"
