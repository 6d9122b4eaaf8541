"""The yardstick: a Twisted protocol that answers each NOTIFY with prepared bytes and decodes no message.

``python -m benchmarks.canned [--reactor NAME] [--at-once]`` listens on a free port of 127.0.0.1, and prints it.

It does the least work that any agent on Twisted must do: find the frames, copy the stream-id and frame-id into the ACK,
and write. With ``--at-once`` it calls ``writeSomeData``, the method within Twisted that sends at once.
``transport.write`` sends in the next turn of the reactor, which takes more CPU.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

from twisted.application.reactors import installReactor
from twisted.internet.protocol import Factory, Protocol

from spoa_twisted.spop.actions import encode_actions
from spoa_twisted.spop.connection import AgentConnection, State
from spoa_twisted.spop.frames import Flags, FrameType, encode_frame

_ACTIONS: Final = encode_actions({"sess.score": 20})
#: Bytes of a frame's length prefix.
_LENGTH: Final = 4
#: Bytes of a frame's type and flags.
_HEADER: Final = 5

#: The bytes of an ACK before its stream-id and frame-id. The list index is the length of both ids, at most 20 bytes;
#: the length prefix depends on it.
_HEADS: Final = [encode_frame(FrameType.ACK, Flags.FIN, b"\0" * n, _ACTIONS)[: _LENGTH + _HEADER] for n in range(21)]


class Canned(Protocol):
    """One connection to the yardstick agent."""

    def __init__(self) -> None:
        # Only for the frames that are no NOTIFY, above all the HELLO.
        self._connection = AgentConnection()
        # The beginning of a frame whose end has not arrived.
        self._rest = b""

    def dataReceived(self, data: bytes) -> None:
        """Answer each NOTIFY. The ACKs of one read are sent in one write, as the agent does it."""
        assert self.transport is not None
        data = self._rest + data
        offset = 0
        out = []
        while len(data) >= offset + _LENGTH:
            start = offset + _LENGTH
            end = start + int.from_bytes(data[offset:start], "big")
            if end > len(data):
                break
            if data[start] == FrameType.NOTIFY:
                ids_start = ids_end = start + _HEADER
                for _ in range(2):
                    ids_end = _end_of_varint(data, ids_end)
                out += [_HEADS[ids_end - ids_start], data[ids_start:ids_end], _ACTIONS]
            else:
                out.append(self._answer_other_frame(data[offset:end]))
            offset = end
        self._rest = data[offset:]
        if out:
            self.send(b"".join(out))
        if self._connection.state is State.CLOSED:
            self.transport.loseConnection()

    def send(self, data: bytes) -> None:
        """Send ``data`` in the next turn of the reactor."""
        assert self.transport is not None
        self.transport.write(data)

    def _answer_other_frame(self, frame: bytes) -> bytes:
        self._connection.receive_data(frame)
        self._connection.next_event()
        return self._connection.data_to_send()


class CannedAtOnce(Canned):
    """The same, but it passes ACKs to the kernel at once."""

    def send(self, data: bytes) -> None:
        """Send ``data`` now, without Twisted's buffer. So the kernel must take all of it."""
        transport: Any = self.transport
        written = transport.writeSomeData(data)
        assert written == len(data), "the kernel's send buffer is full: use fewer NOTIFYs in flight"


def _end_of_varint(data: bytes, offset: int) -> int:
    # SPOE.txt, section 3.1: a first byte below 240 is the whole varint; otherwise bit 7 says that a byte follows.
    if data[offset] < 0xF0:
        return offset + 1
    offset += 1
    while data[offset] & 0x80:
        offset += 1
    return offset + 1


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--reactor", default="epoll")
    parser.add_argument("--at-once", action="store_true")
    options = parser.parse_args()
    installReactor(options.reactor)
    # Not at the top of the module: this import installs the default reactor if there is none yet.
    from twisted.internet import reactor as installed

    reactor: Any = installed
    factory = Factory.forProtocol(CannedAtOnce if options.at_once else Canned)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    print(f"SPOA listening on 127.0.0.1:{port.getHost().port}", flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
