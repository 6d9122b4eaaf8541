"""The load: threads with one connection each, which send batches and check every ACK, and end connections in all ways.

The agent must be the one that is busy. So the load compares each ACK, as a whole frame, with the expected ones.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import cycle
from random import Random
from threading import Lock
from time import monotonic

from tests.conformance.rawspop import FrameType, Status, disconnect, read_actions, read_frame, read_status
from tests.faults.agent import Agent, Peer

from .batches import NEW, OLD, Batch, make_batch

#: Connections that are open at the same time. Every fourth is that of a HAProxy >= 3.1.
CONNECTIONS = 8

#: NOTIFYs of a batch on a connection that stays: more than the agent's max_in_flight, which is 256.
LONG = 300

#: NOTIFYs of a batch on a connection that ends after it.
SHORT = 30

#: How many NOTIFYs are made for each HAPROXY-HELLO. They are sent again and again.
NOTIFYS = 3600

#: Seconds to wait for more ACKs. Only a run that fails takes so long.
ANSWER_LIMIT = 60.0


class Wrong(AssertionError):
    """The agent has not answered as it must."""


class Load:
    """Sends NOTIFYs to an agent.

    :param seed: from it follow the batches, and how each connection ends.
    :param reconnect: end each connection after one batch.
    :param limit: seconds after which the load fails.
    :param step: the number of NOTIFYs after which ``on_progress`` is called, again and again.
    """

    def __init__(
        self,
        agent: Agent,
        seed: int,
        *,
        reconnect: bool,
        limit: float,
        step: int,
        on_progress: Callable[[], None],
    ) -> None:
        #: The number of NOTIFYs that were answered or aborted, by kind.
        self.kinds: Counter[str] = Counter()
        #: The number of NOTIFYs that were pending when their connection was ended. Nothing waits for their ACKs.
        self.abandoned = 0
        #: The number of connections that were ended in each way.
        self.ends: Counter[str] = Counter()
        #: The number of connections that were ended.
        self.connections = 0
        self._agent = agent
        self._seed = seed
        self._reconnect = reconnect
        random = Random(seed)
        size = SHORT if reconnect else LONG
        self._batches = [
            (hello, [make_batch(random, size, hello) for _ in range(NOTIFYS // size)]) for hello in (OLD, NEW)
        ]
        self._deadline = monotonic() + limit
        self._step = self._next_progress = step
        self._on_progress = on_progress
        self._lock = Lock()
        # The calls of run() so far: each makes other random choices.
        self._runs = 0
        # The NOTIFYs that the threads may still take.
        self._left = 0
        self._failed = False

    @property
    def done(self) -> int:
        """The number of NOTIFYs so far."""
        return self.kinds.total() + self.abandoned

    def run(self, count: int) -> None:
        """Send ``count`` NOTIFYs, and check all ACKs. At the end, all connections are closed."""
        self._runs += 1
        self._left = count
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            running = [threads.submit(self._work, number) for number in range(CONNECTIONS)]
        for thread in running:
            thread.result()

    def _work(self, number: int) -> None:
        random = Random(f"{self._seed} {self._runs} {number}")
        hello, batches = self._batches[number % 4 == 3]
        peer = None
        try:
            for batch in cycle(random.sample(batches, len(batches))):
                if not self._take(batch):
                    break
                if peer is None:
                    peer = self._agent.connect()
                    peer.handshake(hello)
                exchange(peer, batch)
                self._count(batch)
                if self._reconnect:
                    self._end(peer, random, batch)
                    peer = None
            if peer is not None:
                self._end(peer, None, batch)
        except BaseException:
            self._failed = True
            raise

    def _take(self, batch: Batch) -> bool:
        """Return whether to send another batch."""
        with self._lock:
            if monotonic() > self._deadline:
                raise Wrong("the run has reached its time limit")
            if self._failed or self._left <= 0:
                return False
            self._left -= batch.kinds.total()
            return True

    def _count(self, batch: Batch) -> None:
        with self._lock:
            self.kinds += batch.kinds
            self._report()

    def _report(self) -> None:
        if self.done >= self._next_progress:
            self._next_progress += self._step
            self._on_progress()

    def _end(self, peer: Peer, random: Random | None, batch: Batch) -> None:
        """End a connection: with HAPROXY-DISCONNECT if ``random`` is ``None``, otherwise in a random way.

        :param batch: the NOTIFYs that may be sent before, without waiting for their ACKs.
        """
        name = "HAPROXY-DISCONNECT"
        end = ENDS[name]
        data, abandoned = b"", 0
        if random is not None:
            name, end = random.choice(list(ENDS.items()))
            rest = random.choice(["", " with NOTIFYs pending", " in a frame"])
            if rest == " with NOTIFYs pending":
                data, abandoned = batch.data, batch.kinds.total()
            elif rest and end is not ENDS["HAPROXY-DISCONNECT"]:
                # Other NOTIFYs are pending then, or fragments are missing. These are not counted.
                data = batch.data[: random.randrange(1, len(batch.data))]
            if data:
                name += rest
        end(peer, data)
        peer.close()
        self._agent.peers.remove(peer)
        with self._lock:
            self.connections += 1
            self.ends[name] += 1
            self.abandoned += abandoned
            self._left -= abandoned


def exchange(peer: Peer, batch: Batch) -> None:
    """Send the NOTIFYs of a batch, and receive their ACKs.

    :raises Wrong: if a frame is not one of the ACKs that must still arrive, or the connection ends before the last.
    """
    peer.send(batch.data)
    peer.socket.settimeout(ANSWER_LIMIT)
    missing = set(batch.acks)
    data = b""
    while missing or data:
        chunk = peer.socket.recv(2**16)
        if not chunk:
            raise Wrong(f"the connection ended before {len(missing)} ACKs")
        data += chunk
        start = 0
        while len(data) >= (end := start + 4 + int.from_bytes(data[start : start + 4], "big")):
            frame = data[start:end]
            if frame not in missing:
                raise Wrong(f"{describe(frame)} is wrong or was sent twice; expected: {described_like(frame, batch)}")
            missing.remove(frame)
            start = end
        data = data[start:]


def described_like(frame: bytes, batch: Batch) -> str:
    """Return a description of the ACK of ``batch`` that has the ids of ``frame``."""
    ids = read_frame(frame[4:])[2:4]
    return ", ".join(describe(ack) for ack in batch.acks if read_frame(ack[4:])[2:4] == ids) or "no ACK of these ids"


def describe(frame: bytes) -> str:
    """Return a description of a frame for the text of an error."""
    received = read_frame(frame[4:])
    if received.type != FrameType.ACK:
        return str(received)
    ids = received.stream_id, received.frame_id
    return f"the ACK of {ids} with flags {received.flags} and actions {read_actions(received.payload)}"


def end_with_disconnect(peer: Peer, data: bytes) -> None:
    """Send ``data`` and HAPROXY-DISCONNECT, and check that the agent answers with AGENT-DISCONNECT."""
    peer.send(data, disconnect())
    *acks, last = peer.frames_to_end()
    if acks and not data:
        raise Wrong(f"{acks} came after the last ACK")
    if read_status(last) != Status.NORMAL:
        raise Wrong(f"AGENT-DISCONNECT with status {read_status(last)}")


def end_with_eof(peer: Peer, data: bytes) -> None:
    """Send ``data`` and EOF, with TLS a close_notify before. Then wait until the agent closes the connection."""
    peer.send(data)
    if isinstance(peer.socket, ssl.SSLSocket):
        # ACKs may arrive after the close_notify.
        with suppress(ssl.SSLError, ConnectionResetError):
            peer.socket.unwrap()
    peer.half_close()
    with suppress(ConnectionResetError):
        while peer.socket.recv(2**16):
            pass


def end_with_close(peer: Peer, data: bytes) -> None:
    """Send ``data``, and close the socket. If ACKs are unread, the kernel sends RST, otherwise EOF."""
    peer.send(data)
    peer.close()


def end_with_reset(peer: Peer, data: bytes) -> None:
    """Send ``data`` and RST."""
    peer.send(data)
    peer.reset()


#: Ways to end a connection.
ENDS: dict[str, Callable[[Peer, bytes], None]] = {
    "HAPROXY-DISCONNECT": end_with_disconnect,
    "EOF": end_with_eof,
    "close": end_with_close,
    "RST": end_with_reset,
}
