"""The agent under test as a process, and what any healthy one of them answers."""

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
    """`twist spoa` on a free port of 127.0.0.1, with all that it printed."""

    def __init__(self, *options: str) -> None:
        super().__init__(spoa(*options, handlers=HERE / "handlers.py"))
        self.port = int(self.address().rpartition(":")[2])

    def connect(self, *, receive_buffer: int | None = None) -> Peer:
        return Peer(self.port, receive_buffer=receive_buffer)

    def catch_up(self) -> None:
        """Return when the agent has read all that was sent to it before.

        The two round trips of a later connection are two turns of the agent's event
        loop, and a turn reads every socket that has something.
        """
        peer = self.connect()
        try:
            peer.handshake()
            peer.request(ECHO)
        finally:
            peer.close()


Connect = Callable[..., Peer]
Launch = Callable[..., Agent]
