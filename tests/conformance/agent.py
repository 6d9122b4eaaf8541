"""The agent under test as a process, and a message with the answer that a healthy agent gives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.programs import Program, spoa

from .rawspop import Peer, SetVar, int64, message

HERE = Path(__file__).parent

ECHO = message("echo", ("x", int64(7)))
ECHOED = [SetVar("txn.x", int64(7))]

SMALL_FRAME = 1024
SMALL_PAYLOAD = 4096


class Agent(Program):
    """A process of `twist spoa` on a free port of 127.0.0.1; its output is kept."""

    def __init__(self, *options: str) -> None:
        super().__init__(spoa(*options, handlers=HERE / "handlers.py"))
        self.port = int(self.address().rpartition(":")[2])

    def connect(self, *, receive_buffer: int | None = None) -> Peer:
        return Peer(self.port, receive_buffer=receive_buffer)

    def catch_up(self) -> None:
        """Return when the agent has read all bytes that were sent to it before.

        This opens another connection and waits for two answers. They take two turns of the agent's event loop, and each
        turn reads every socket that has data.
        """
        peer = self.connect()
        try:
            peer.handshake()
            peer.request(ECHO)
        finally:
            peer.close()


Connect = Callable[..., Peer]
Launch = Callable[..., Agent]
