"""The yardstick: a Twisted protocol that answers each NOTIFY with canned bytes, its ids echoed, and reads no message.

``python -m benchmarks.canned [--reactor NAME] [--at-once]`` listens on a port of 127.0.0.1, which it prints.

No agent on Twisted can take less CPU than this one, unless it writes as ``--at-once`` does: by ``writeSomeData``, the
step within Twisted that asks the kernel to send right away, and not a turn of the reactor later.
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
_LENGTH: Final = 4
_HEADER: Final = 5

#: For ids of each length, up to the longest, what an ACK has in front of them.
_HEADS: Final = [encode_frame(FrameType.ACK, Flags.FIN, b"\0" * n, _ACTIONS)[: _LENGTH + _HEADER] for n in range(21)]


class Canned(Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._connection = AgentConnection()
        self._rest = b""

    def dataReceived(self, data: bytes) -> None:
        """Answer each NOTIFY; the ACKs of one read leave in one write."""
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
                out.append(self._other(data[offset:end]))
            offset = end
        self._rest = data[offset:]
        if out:
            self.send(b"".join(out))
        if self._connection.state is State.CLOSED:
            self.transport.loseConnection()

    def send(self, data: bytes) -> None:
        """Send."""
        assert self.transport is not None
        self.transport.write(data)

    def _other(self, frame: bytes) -> bytes:
        self._connection.receive_data(frame)
        self._connection.next_event()
        return self._connection.data_to_send()


class CannedAtOnce(Canned):
    """One that sends as soon as it has something to send."""

    def send(self, data: bytes) -> None:
        """Send."""
        transport: Any = self.transport
        written = transport.writeSomeData(data)
        assert written == len(data), "more ACKs than the kernel takes: too many NOTIFYs are in flight"


def _end_of_varint(data: bytes, offset: int) -> int:
    if data[offset] < 0xF0:
        return offset + 1
    offset += 1
    while data[offset] & 0x80:
        offset += 1
    return offset + 1


def main() -> None:
    """Serve until it is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--reactor", default="epoll")
    parser.add_argument("--at-once", action="store_true")
    options = parser.parse_args()
    installReactor(options.reactor)
    from twisted.internet import reactor as installed

    reactor: Any = installed
    factory = Factory.forProtocol(CannedAtOnce if options.at_once else Canned)
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    print(f"SPOA listening on 127.0.0.1:{port.getHost().port}", flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
