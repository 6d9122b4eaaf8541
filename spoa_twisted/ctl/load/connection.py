"""One connection of the load: it sends NOTIFYs, checks each ACK, and sends another NOTIFY for each ACK.

A connection goes through three phases:

1. Until the AGENT-HELLO has arrived, ``EngineConnection`` decodes all bytes.
2. Then ``_receive_acks`` looks up each frame among the good ACKs. ``_check_frame`` decodes only the other frames.
3. After the end of the connection, bytes that still arrive are ignored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, cast, final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from spoa_twisted.agent.outbox import Sender
from spoa_twisted.client import AgentDisconnected
from spoa_twisted.ctl.load.errors import ABORTED, BROKEN_FRAME, CONNECTION_LOST, UNANSWERED
from spoa_twisted.ctl.load.in_flight import ANSWERED, NO_SLOT, InFlight
from spoa_twisted.ctl.load.ring import Rings
from spoa_twisted.ctl.load.tally import Tally
from spoa_twisted.ctl.load.verdicts import Verdicts
from spoa_twisted.spop.connection import PIPELINING, EngineConnection
from spoa_twisted.spop.errors import FragmentationNotSupported, FrameTooBig, InvalidFrame, SPOPError
from spoa_twisted.spop.frames import AgentHello, Disconnect, Flags, FrameBuffer, FrameType, HAProxyHello

# The size in bytes of the length that precedes each frame (SPOE.txt, section 3.2).
_LENGTH_SIZE: Final = 4


@dataclass(frozen=True)
class Shared:
    """The objects that all connections of a load share."""

    #: The HAPROXY-HELLO that each connection sends.
    hello: HAProxyHello
    #: How many NOTIFYs the load keeps in flight on a connection, if the agent announces pipelining.
    in_flight: int
    rings: Rings
    verdicts: Verdicts
    tally: Tally
    #: Sends the NOTIFYs that are due, on all connections; ``None`` if each ACK makes its connection send the next one.
    send_due: Callable[[], None] | None = None


@final
class LoadProtocol(Protocol):
    """One connection of the load.

    :param shared: the objects that it shares with the other connections.
    :param on_idle: called after :meth:`stop`, when the last ACK has arrived.
    :param on_lost: called when the connection is closed. Its arguments are the connection, and True if the AGENT-HELLO
        had arrived.
    """

    def __init__(
        self, shared: Shared, on_idle: Callable[[], object], on_lost: Callable[[LoadProtocol, bool], object]
    ) -> None:
        self._shared = shared
        self._tally = shared.tally
        self._on_idle = on_idle
        self._on_lost = on_lost
        # The codec for HELLO and DISCONNECT frames. It does not decode ACKs, because that would take too long.
        self._engine = EngineConnection(shared.hello)
        self._hello: Deferred[AgentHello] = Deferred()
        self._closed: Deferred[None] = Deferred()
        # The received bytes of an incomplete frame.
        self._buffer = b""
        # True after the AGENT-HELLO has arrived.
        self._greeted = False
        # True after the agent or an error has ended the connection. Bytes that arrive after that are ignored.
        self._ended = False
        # True after this side has ended the connection with disconnect().
        self._disconnecting = False
        # True from start() to stop(): a NOTIFY is sent for each ACK.
        self._sending = False
        # The NOTIFYs without an ACK; None before the AGENT-HELLO.
        self._in_flight: InFlight | None = None
        # How many NOTIFYs the current read has answered, with a good ACK or another. _replace_answered resets it to 0.
        self._answered = 0
        #: How many NOTIFYs may be in flight: 1 if the agent does not announce pipelining.
        self.max_in_flight = shared.in_flight

    @property
    def waiting(self) -> int:
        """The number of NOTIFYs whose ACK has not arrived."""
        return 0 if self._in_flight is None else self._in_flight.count

    @property
    def notify_size(self) -> int:
        """The size of a NOTIFY in bytes. It is known only after the AGENT-HELLO."""
        assert self._in_flight is not None
        return len(self._in_flight.ring.frames[0])

    @property
    def room(self) -> int:
        """How many NOTIFYs a schedule can send on it now."""
        if self._in_flight is None or self._ended or self._disconnecting:
            return 0
        return self.max_in_flight - self._in_flight.count

    def send_due(self, times: Sequence[int]) -> None:
        """Send a NOTIFY for each of ``times``: their latencies count from then. There must be room for them."""
        assert self._in_flight is not None
        self._sender.send(self._in_flight.send(times))

    def hello(self) -> Deferred[AgentHello]:
        """Return a Deferred that fires with the AGENT-HELLO. Call this once: each call returns the same Deferred.

        The Deferred fails with AgentDisconnected; with SPOPError, when the agent broke the protocol; with ValueError,
        when the messages do not fit in the agent's frames; or with Twisted's reason for the end of the connection.
        """
        return self._hello

    def start(self) -> None:
        """Send ``max_in_flight`` NOTIFYs, and then one for each ACK. Call this after the AGENT-HELLO."""
        self._sending = True
        if not self._ended:
            self._send(self.max_in_flight)

    def stop(self) -> None:
        """Send no more NOTIFYs. ACKs are still received and counted."""
        self._sending = False

    def count_unanswered(self) -> None:
        """Count the NOTIFYs in flight as unanswered, and stop waiting for their ACKs."""
        if self._in_flight is not None:
            self._tally.errors[UNANSWERED] += self._in_flight.count
            self._in_flight.count = 0

    def disconnect(self) -> Deferred[None]:
        """Send HAPROXY-DISCONNECT and close the connection. The Deferred fires when the connection is closed."""
        self._disconnecting = True
        # If the agent or an error has already ended the connection, a HAPROXY-DISCONNECT is not sent, or not again.
        if not self._ended:
            self._engine.disconnect()
            self._flush()
        assert self.transport is not None
        self.transport.loseConnection()
        return self._closed

    def abort(self) -> None:
        """Close at once, without HAPROXY-DISCONNECT."""
        cast("ITCPTransport", self.transport).abortConnection()

    def connectionMade(self) -> None:
        """Send the HAPROXY-HELLO."""
        assert self.transport is not None
        self._sender = Sender(self.transport)
        # A Unix socket has no TCP_NODELAY.
        if ITCPTransport.providedBy(self.transport):
            # Setting it fails if the agent has already closed the connection. Twisted then calls connectionLost.
            with suppress(OSError):
                self.transport.setTcpNoDelay(True)
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """Handle the AGENT-HELLO, and later the ACKs."""
        if self._ended or self._disconnecting:
            return
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        if self._greeted:
            self._receive_acks(data)
        else:
            self._receive_hello(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Count the NOTIFYs in flight as unanswered."""
        if not self._greeted and not self._ended:
            # Not counted here: Load handles the error. If it is one of the first connections, the command ends.
            self._hello.errback(reason)
        elif not self._ended and not self._disconnecting:
            self._tally.errors[CONNECTION_LOST] += 1
        self._ended = True
        self.count_unanswered()
        self._closed.callback(None)
        self._on_lost(self, self._greeted)

    def _receive_hello(self, data: bytes) -> None:
        """Let the engine decode the first frame when it is complete. ``_receive_acks`` handles the frames after it."""
        end = _LENGTH_SIZE + int.from_bytes(data[:_LENGTH_SIZE], "big")
        # The engine gets the beginning of a frame that is too long at once, and raises FrameTooBig.
        if len(data) < _LENGTH_SIZE or len(data) < end <= _LENGTH_SIZE + self._engine.max_frame_size:
            self._buffer = data
            return
        self._engine.receive_data(data[:end])
        try:
            event = self._engine.next_event()
            if isinstance(event, AgentHello):
                self._on_agent_hello(event)
            elif isinstance(event, Disconnect):
                raise AgentDisconnected(event.status_code, event.message)
        except Exception as error:
            # For example ValueError from the ring: the agent's frames are too small for the messages.
            self._ended = True
            self._flush()
            self.disconnect()
            self._hello.errback(Failure(error))
            return
        if self._greeted:
            self._receive_acks(data[end:])
        else:
            # The engine has skipped a frame of an unknown type. The AGENT-HELLO has not arrived yet.
            self._receive_hello(data[end:])

    def _on_agent_hello(self, hello: AgentHello) -> None:
        """Prepare NOTIFY frames for this agent.

        :raises ValueError: if the messages do not fit in the agent's frames.
        """
        if PIPELINING not in hello.capabilities:
            self.max_in_flight = 1
        self._in_flight = InFlight(self._shared.rings.ring_for(self._engine))
        self._greeted = True
        self._hello.callback(hello)

    def _receive_acks(self, data: bytes) -> None:
        """Handle the frames of one read, then send one NOTIFY for each ACK, all in one write. This is the hot path."""
        now = time.perf_counter_ns()
        assert self._in_flight is not None
        good_acks, sent = self._in_flight.ring.good_acks.entries, self._in_flight.sent
        latencies = self._tally.latencies
        # `same` is the number of consecutive ACKs whose NOTIFYs were sent at the time `latest`.
        offset = good = same = latest = 0
        while True:
            start = offset + _LENGTH_SIZE
            # With fewer than four bytes left, this number is not the length. But `end` is then behind the data too.
            end = start + int.from_bytes(data[offset:start], "big")
            if end > len(data):
                break
            frame = data[offset:end]
            offset = end
            slot = good_acks.get(frame, NO_SLOT)
            # Decode the frame if it is new, or if it is an ACK of a NOTIFY that was already answered or never sent on
            # this connection.
            if slot == NO_SLOT or sent[slot] <= ANSWERED:
                slot = self._check_frame(frame)
                if self._ended:
                    break
                if slot == NO_SLOT:
                    continue
            # NOTIFYs that were sent in one write have the same latency, so they are counted with one call.
            if sent[slot] != latest:
                latencies.add(now - latest, same)
                latest = sent[slot]
                same = 0
            same += 1
            sent[slot] = ANSWERED
            good += 1
        latencies.add(now - latest, same)
        self._tally.answered += good
        self._answered += good
        if not self._ended:
            self._buffer = data[offset:]
            # Without this check, the connection would buffer a frame of up to 4 GiB before it finds the error.
            if len(self._buffer) >= _LENGTH_SIZE and end - start > self._engine.max_frame_size:
                self._on_broken_frame(FrameTooBig(f"a frame of {end - start} bytes"))
        self._replace_answered()

    def _replace_answered(self) -> None:
        """Send a NOTIFY for each NOTIFY that was answered in this read."""
        assert self._in_flight is not None
        answered, self._answered = self._answered, 0
        self._in_flight.count -= answered
        if answered and not self._ended:
            # In one write: with one write for each ACK, the load and the agent would make a system call for each.
            if self._sending:
                self._send(answered)
                return
            if self._shared.send_due is not None:
                self._shared.send_due()
            if not self._in_flight.count:
                self._on_idle()

    def _send(self, number: int) -> None:
        self.send_due([time.perf_counter_ns()] * number)

    def _check_frame(self, data: bytes) -> int:
        """Decode and check a frame. Return the slot of its NOTIFY if it is a good ACK, otherwise :data:`NO_SLOT`."""
        # The engine cannot decode it: it knows only NOTIFYs that it has sent itself, and decodes their actions at once.
        buffer = FrameBuffer(self._engine.max_frame_size)
        buffer.feed(data)
        try:
            frame = buffer.next_frame()
            assert frame is not None
            frame_type, flags, ids, payload = frame
            if frame_type == FrameType.ACK:
                return self._check_ack(flags, ids, payload, data)
            if frame_type == FrameType.AGENT_DISCONNECT:
                self._on_agent_disconnect(Disconnect.decode(payload))
            elif frame_type in FrameType.__members__.values():
                raise InvalidFrame(f"a frame of type {frame_type} instead of an ACK")
            # A frame of an unknown type is skipped.
        except SPOPError as error:
            self._on_broken_frame(error)
        return NO_SLOT

    def _check_ack(self, flags: int, ids: bytes, payload: bytes, frame: bytes) -> int:
        """Check an ACK. Return the slot of its NOTIFY if it is good. Otherwise count the error, and return NO_SLOT.

        :raises FragmentationNotSupported: for a fragment: only NOTIFYs may be fragmented.
        """
        assert self._in_flight is not None
        if not flags & Flags.FIN:
            raise FragmentationNotSupported("the agent sent an ACK in fragments")
        slot, error = self._in_flight.find(ids)
        if error is not None:
            self._tally.errors[error] += 1
            return NO_SLOT
        error = ABORTED if flags & Flags.ABORT else self._shared.verdicts.check(payload)
        if error is not None:
            self._tally.errors[error] += 1
            # The ACK is not good, but it answers the NOTIFY.
            self._in_flight.sent[slot] = ANSWERED
            self._answered += 1
            return NO_SLOT
        self._in_flight.ring.good_acks.store(frame, slot)
        return slot

    def _on_agent_disconnect(self, disconnect: Disconnect) -> None:
        """Count the AGENT-DISCONNECT by its status code, and close the connection."""
        self._ended = True
        self._tally.errors[f"DISCONNECT {disconnect.status_code}"] += 1
        self.disconnect()

    def _on_broken_frame(self, error: SPOPError) -> None:
        """Send the status code of the error in HAPROXY-DISCONNECT, and close the connection."""
        self._ended = True
        self._tally.errors[BROKEN_FRAME] += 1
        self._engine.disconnect(error.status_code, str(error))
        self._flush()
        self.disconnect()

    def _flush(self) -> None:
        """Send the bytes that the engine has encoded."""
        data = self._engine.data_to_send()
        if data and self.transport is not None:
            self._sender.send(data)
