"""One connection of the load: it sends NOTIFYs, checks each ACK, and sends another NOTIFY for each ACK.

A connection goes through three phases. Until the AGENT-HELLO has come, the engine of ``spop`` decodes what arrives.
After that ``_receive_acks`` looks up each frame among the good ACKs, and only an unknown frame is decoded, by
``_check_frame``. When the connection has ended, bytes that arrive are ignored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
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
    """What all connections of a load have in common."""

    hello: HAProxyHello
    #: How many NOTIFYs are to be in flight on a connection.
    in_flight: int
    rings: Rings
    verdicts: Verdicts
    tally: Tally


@final
class LoadProtocol(Protocol):
    """One connection of the load.

    :param shared: what it has in common with the others.
    :param on_idle: called when the last ACK has come after :meth:`stop`.
    :param on_lost: called when the connection is closed, with the connection, and with True if it had received the
        AGENT-HELLO.
    """

    def __init__(
        self, shared: Shared, on_idle: Callable[[], object], on_lost: Callable[[LoadProtocol, bool], object]
    ) -> None:
        self._shared = shared
        self._tally = shared.tally
        self._on_idle = on_idle
        self._on_lost = on_lost
        # It encodes and decodes the HELLOs and the DISCONNECT. ACKs do not go through it: that would take too long.
        self._engine = EngineConnection(shared.hello)
        self._hello: Deferred[AgentHello] = Deferred()
        self._closed: Deferred[None] = Deferred()
        # Bytes received that are not a whole frame yet.
        self._buffer = b""
        # Whether the AGENT-HELLO has come.
        self._greeted = False
        # Whether the agent or an error has ended the connection. Bytes that arrive after that are ignored.
        self._ended = False
        # Whether this side has ended the connection by disconnect().
        self._disconnecting = False
        # Whether a NOTIFY is sent for each ACK: from start() to stop().
        self._sending = False
        # The NOTIFYs without an ACK; None before the AGENT-HELLO.
        self._in_flight: InFlight | None = None
        # How many NOTIFYs got an ACK, good or not, in the current read. _replace_answered sets it back to 0.
        self._answered = 0
        #: How many NOTIFYs may be in flight: 1 when the agent does not announce pipelining.
        self.max_in_flight = shared.in_flight

    @property
    def waiting(self) -> int:
        """How many NOTIFYs are without their ACK."""
        return 0 if self._in_flight is None else self._in_flight.count

    @property
    def notify_size(self) -> int:
        """The size of a NOTIFY in bytes. Only to be read after the AGENT-HELLO."""
        assert self._in_flight is not None
        return len(self._in_flight.ring.frames[0])

    def hello(self) -> Deferred[AgentHello]:
        """Fire with the AGENT-HELLO. To be called once.

        The Deferred fails with AgentDisconnected; with SPOPError, when the agent broke the protocol; with ValueError,
        when the messages do not fit the agent's frames; or with Twisted's reason for the end of the connection.
        """
        return self._hello

    def start(self) -> None:
        """Send as many NOTIFYs as may be in flight, and from then on one for each ACK. To be called after the HELLO."""
        self._sending = True
        if not self._ended:
            self._send(self.max_in_flight)

    def stop(self) -> None:
        """Send no more NOTIFYs. ACKs are still received and counted."""
        self._sending = False

    def count_unanswered(self) -> None:
        """Count the NOTIFYs in flight as unanswered, and do not wait for their ACKs any longer."""
        if self._in_flight is not None:
            self._tally.errors[UNANSWERED] += self._in_flight.count
            self._in_flight.count = 0

    def disconnect(self) -> Deferred[None]:
        """Send HAPROXY-DISCONNECT and close; fire when the connection is closed."""
        self._disconnecting = True
        # If the agent or an error has ended the connection, no other HAPROXY-DISCONNECT is sent.
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
        # A Unix socket has no such option.
        if ITCPTransport.providedBy(self.transport):
            # Setting it fails when the peer has already closed the connection; connectionLost follows then.
            with suppress(OSError):
                self.transport.setTcpNoDelay(True)
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        """Take in the AGENT-HELLO, and then ACKs."""
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
            # Not counted here. Load knows whether this is the first attempt, which ends the command, or a later one.
            self._hello.errback(reason)
        elif not self._ended and not self._disconnecting:
            self._tally.errors[CONNECTION_LOST] += 1
        self._ended = True
        self.count_unanswered()
        self._closed.callback(None)
        self._on_lost(self, self._greeted)

    def _receive_hello(self, data: bytes) -> None:
        """Decode the first frame when it is complete. The frames after it are not for the engine."""
        end = _LENGTH_SIZE + int.from_bytes(data[:_LENGTH_SIZE], "big")
        # A frame that is too long is passed on at once: the engine raises FrameTooBig for it.
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
            # Also ValueError from the ring: the agent's frames are too small for the messages.
            self._ended = True
            self._flush()
            self.disconnect()
            self._hello.errback(Failure(error))
            return
        if self._greeted:
            self._receive_acks(data[end:])
        else:
            # The engine has skipped a frame of an unknown type. The AGENT-HELLO is still to come.
            self._receive_hello(data[end:])

    def _on_agent_hello(self, hello: AgentHello) -> None:
        """Prepare the frames that this agent can receive.

        :raises ValueError: when the messages do not fit them.
        """
        if PIPELINING not in hello.capabilities:
            self.max_in_flight = 1
        self._in_flight = InFlight(self._shared.rings.ring_for(self._engine))
        self._greeted = True
        self._hello.callback(hello)

    def _receive_acks(self, data: bytes) -> None:
        """Take in the frames of one read, then send new NOTIFYs for all of them in one write. This is the hot path."""
        now = time.perf_counter_ns()
        assert self._in_flight is not None
        good_acks, sent = self._in_flight.ring.good_acks.entries, self._in_flight.sent
        latencies = self._tally.latencies
        # `same` counts the ACKs whose NOTIFYs were sent at the time `latest`.
        offset = good = same = latest = 0
        while True:
            start = offset + _LENGTH_SIZE
            # With fewer than four bytes left this is not the length, but then `end` is behind the data as well.
            end = start + int.from_bytes(data[offset:start], "big")
            if end > len(data):
                break
            frame = data[offset:end]
            offset = end
            slot = good_acks.get(frame, NO_SLOT)
            # The frame is a good ACK, but its NOTIFY is answered already, or was never sent on this connection.
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
            # Without this check the connection would buffer a frame of up to 4 GiB before it decodes it.
            if len(self._buffer) >= _LENGTH_SIZE and end - start > self._engine.max_frame_size:
                self._on_broken_frame(FrameTooBig(f"a frame of {end - start} bytes"))
        self._replace_answered()

    def _replace_answered(self) -> None:
        """Send a NOTIFY for each NOTIFY that was answered in this read."""
        assert self._in_flight is not None
        answered, self._answered = self._answered, 0
        self._in_flight.count -= answered
        if answered and not self._ended:
            # In one write: a write for each ACK would cost the load and the agent a system call each.
            if self._sending:
                self._send(answered)
            elif not self._in_flight.count:
                self._on_idle()

    def _send(self, number: int) -> None:
        assert self._in_flight is not None
        self._sender.send(self._in_flight.send(number))

    def _check_frame(self, data: bytes) -> int:
        """Decode a frame that is not among the good ACKs; return the slot that it answers if it is a good ACK."""
        # Not the engine: it accepts ACKs only for NOTIFYs that it has sent itself, and decodes their actions at once.
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
        """Check an ACK; return the slot that it answers if it is good, else count the error.

        :raises FragmentationNotSupported: for a fragment. The capability is for NOTIFYs only.
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
            # The ACK is not good, but the NOTIFY is answered.
            self._in_flight.sent[slot] = ANSWERED
            self._answered += 1
            return NO_SLOT
        self._in_flight.ring.good_acks.store(frame, slot)
        return slot

    def _on_agent_disconnect(self, disconnect: Disconnect) -> None:
        """Count the AGENT-DISCONNECT by its status code, and close."""
        self._ended = True
        self._tally.errors[f"DISCONNECT {disconnect.status_code}"] += 1
        self.disconnect()

    def _on_broken_frame(self, error: SPOPError) -> None:
        """Send the status code of the error in HAPROXY-DISCONNECT, and close."""
        self._ended = True
        self._tally.errors[BROKEN_FRAME] += 1
        self._engine.disconnect(error.status_code, str(error))
        self._flush()
        self.disconnect()

    def _flush(self) -> None:
        """Send what the engine has encoded."""
        data = self._engine.data_to_send()
        if data and self.transport is not None:
            self._sender.send(data)
