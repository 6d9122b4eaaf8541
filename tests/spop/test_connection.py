"""The two sides of a connection, each tested with the other (SPOE.txt, section 3.2)."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from ipaddress import IPv4Address
from itertools import pairwise
from typing import Any

import pytest

from spoa_twisted.spop.actions import NO_ACTIONS, encode_actions
from spoa_twisted.spop.connection import (
    ABORTED_ACK,
    Ack,
    AgentConnection,
    EngineConnection,
    Notify,
    PayloadTooBig,
    State,
)
from spoa_twisted.spop.errors import (
    BadMaxFrameSize,
    FragmentationNotSupported,
    FrameTooBig,
    InterlacedFrames,
    InvalidFrame,
    SPOPError,
    StatusCode,
    VersionNotFound,
)
from spoa_twisted.spop.frames import AgentHello, Disconnect, Flags, FrameType, HAProxyHello, encode_frame
from spoa_twisted.spop.messages import Message, decode_messages, encode_messages
from spoa_twisted.spop.reassembly import ReassemblyBudget

OLD = HAProxyHello(capabilities=frozenset({"pipelining", "async"}), engine_id="engine")
NEW = HAProxyHello(capabilities=frozenset({"pipelining"}), engine_id="engine")
MESSAGES = [Message("check-ip", [("ip", "192.0.2.1")]), Message("other", [("", 1), ("", None)])]


def events(connection: Any) -> list[Any]:
    """Return all events of the bytes that ``connection`` has received."""
    return list(iter(connection.next_event, None))


def greeted(hello: HAProxyHello = NEW, **limits: Any) -> tuple[EngineConnection, AgentConnection]:
    """Return both sides after the handshake."""
    engine, agent = EngineConnection(hello), AgentConnection(**limits)
    agent.receive_data(engine.data_to_send())
    assert events(agent) == [hello]
    engine.receive_data(agent.data_to_send())
    (answer,) = events(engine)
    assert isinstance(answer, AgentHello)
    assert engine.state is agent.state is State.RUNNING
    return engine, agent


def notify(
    payload: bytes, flags: int = Flags.FIN, ids: bytes = b"\x01\x01", frame_type: int = FrameType.NOTIFY
) -> bytes:
    """Return a frame with these fields. Nothing is checked, so it may break the protocol."""
    size = 5 + len(ids) + len(payload)
    return size.to_bytes(4, "big") + bytes((frame_type,)) + flags.to_bytes(4, "big") + ids + payload


def sent_disconnect(connection: Any) -> Disconnect:
    """Return the DISCONNECT that ``connection`` sent as its last frame."""
    assert connection.state is State.CLOSED
    data = connection.data_to_send()
    at = data.rindex(b"\x00\x00\x00\x01\x00\x00\x0bstatus-code")
    assert data[at - 1] in (FrameType.AGENT_DISCONNECT, FrameType.HAPROXY_DISCONNECT)
    return Disconnect.decode(data[at + 6 :])


class TestHandshake:
    @pytest.mark.parametrize("hello", [OLD, NEW])
    def test_both_sides_agree(self, hello: HAProxyHello) -> None:
        """The agent echoes the size and announces pipelining and fragmentation, whatever the engine lists."""
        engine, agent = greeted(hello)
        assert engine.max_frame_size == agent.max_frame_size == 16380
        assert engine.peer_capabilities == {"pipelining", "fragmentation"}
        assert agent.peer_capabilities == hello.capabilities
        assert agent.engine_id == "engine"
        assert not agent.async_

    def test_the_agents_hello_is_one_piece(self) -> None:
        """data_to_send returns the whole AGENT-HELLO: some HAProxy >= 3.2 close if it arrives in two pieces."""
        agent = AgentConnection()
        agent.receive_data(EngineConnection(NEW).data_to_send())
        events(agent)
        data = agent.data_to_send()
        assert int.from_bytes(data[:4], "big") == len(data) - 4
        assert agent.data_to_send() == b""

    @pytest.mark.parametrize(("offered", "agreed"), [(256, 256), (16380, 16380), (2**21, 2**21), (2**21 + 1, 2**21)])
    def test_the_smaller_max_frame_size_is_agreed(self, offered: int, agreed: int) -> None:
        """The agreed size is the engine's max-frame-size, but at most the agent's own limit."""
        engine, agent = greeted(HAProxyHello(max_frame_size=offered, capabilities=NEW.capabilities))
        assert engine.max_frame_size == agent.max_frame_size == agreed

    @pytest.mark.parametrize(
        ("wanted", "hello", "agreed"),
        [
            (True, OLD, True),
            (True, NEW, False),
            (False, OLD, False),
            (True, HAProxyHello(capabilities=OLD.capabilities), False),
        ],
    )
    def test_async_takes_both_sides_and_an_engine_id(self, wanted: bool, hello: HAProxyHello, agreed: bool) -> None:
        """async is agreed only if both sides list it and the HELLO has an engine-id."""
        engine, agent = greeted(hello, async_=wanted)
        assert agent.async_ is agreed
        assert ("async" in engine.peer_capabilities) is wanted

    def test_a_health_check_ends_with_the_hello(self) -> None:
        """Nothing follows the AGENT-HELLO: HAProxy >= 3.1 would mark the server down."""
        engine, agent = EngineConnection(HAProxyHello(healthcheck=True)), AgentConnection()
        agent.receive_data(engine.data_to_send())
        (hello,) = events(agent)
        assert hello.healthcheck
        assert agent.state is State.CLOSED
        agent.disconnect()
        data = agent.data_to_send()
        assert int.from_bytes(data[:4], "big") == len(data) - 4
        engine.receive_data(data)
        assert isinstance(engine.next_event(), AgentHello)
        assert engine.state is State.CLOSED

    def test_the_hello_may_come_with_a_notify(self) -> None:
        """A NOTIFY in the same bytes as the HELLO is decoded, too."""
        agent = AgentConnection()
        agent.receive_data(EngineConnection(NEW).data_to_send() + notify(encode_messages(MESSAGES)))
        assert events(agent) == [NEW, Notify(b"\x01\x01", MESSAGES)]

    @pytest.mark.parametrize(
        ("frame", "error"),
        [
            (notify(b""), InvalidFrame),
            (notify(b"", frame_type=FrameType.UNSET), InvalidFrame),
            (notify(NEW.encode(), 0, b"\x00\x00", FrameType.HAPROXY_HELLO), FragmentationNotSupported),
            (notify(NEW.encode(), 1, b"\x01\x00", FrameType.HAPROXY_HELLO), InvalidFrame),
            (notify(NEW.encode(), 1, b"\x00\x01", FrameType.HAPROXY_HELLO), InvalidFrame),
            (notify(b"", 1, b"\x00\x00", FrameType.HAPROXY_HELLO), VersionNotFound),
            (notify(NEW.encode()[:-1], 1, b"\x00\x00", FrameType.HAPROXY_HELLO), InvalidFrame),
            (notify(b"", 1, b"\x00\x00", FrameType.AGENT_HELLO), InvalidFrame),
            (b"GET / HTTP/1.1\r\n\r\n", FrameTooBig),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01", FrameTooBig),
        ],
    )
    def test_a_wrong_first_frame_is_answered_with_its_status_code(self, frame: bytes, error: type[SPOPError]) -> None:
        """The AGENT-DISCONNECT has the status code of the error that next_event raises."""
        agent = AgentConnection()
        agent.receive_data(frame)
        with pytest.raises(error):
            agent.next_event()
        assert sent_disconnect(agent).status_code == error.status_code

    def test_a_hello_must_fit_its_own_max_frame_size(self) -> None:
        """A HELLO that exceeds the max-frame-size that it announces raises FrameTooBig (SPOE.txt, section 3.2.4)."""
        hello = HAProxyHello(max_frame_size=256, engine_id="x" * 256)
        agent = AgentConnection()
        agent.receive_data(EngineConnection(hello).data_to_send())
        with pytest.raises(FrameTooBig):
            agent.next_event()

    def test_a_long_hello_is_refused(self) -> None:
        """A HELLO of more than 16 KiB raises FrameTooBig, before the agent buffers it."""
        agent = AgentConnection()
        agent.receive_data((2**14 + 1).to_bytes(4, "big"))
        with pytest.raises(FrameTooBig):
            agent.next_event()

    def test_the_agent_may_not_raise_the_size(self) -> None:
        """An AGENT-HELLO that raises the max-frame-size is answered with the status code for that."""
        engine = EngineConnection(NEW)
        engine.data_to_send()
        hello = AgentHello(max_frame_size=16381, capabilities=frozenset())
        engine.receive_data(encode_frame(FrameType.AGENT_HELLO, Flags.FIN, b"\x00\x00", hello.encode()))
        with pytest.raises(BadMaxFrameSize):
            engine.next_event()
        assert sent_disconnect(engine).status_code == StatusCode.BAD_MAX_FRAME_SIZE

    def test_a_limit_below_256_is_refused(self) -> None:
        """A max_frame_size below 256 or above a UINT32 raises ValueError."""
        for size in (255, 2**32):
            with pytest.raises(ValueError, match=str(size)):
                AgentConnection(max_frame_size=size)


class TestNotifyAndAck:
    def test_a_notify_and_its_ack_arrive(self) -> None:
        """The agent gets the messages that the engine sent, and the engine gets the variables of the ACK."""
        engine, agent = greeted()
        ids = engine.send_notify(MESSAGES)
        agent.receive_data(engine.data_to_send())
        assert events(agent) == [Notify(ids, MESSAGES)]
        agent.send_ack(ids, encode_actions({"sess.a": 1, "txn.b": None}))
        engine.receive_data(agent.data_to_send())
        assert events(engine) == [Ack(ids, {"sess.a": 1, "txn.b": None}, aborted=False)]

    def test_acks_come_in_any_order(self) -> None:
        """The engine finds the NOTIFY of each ACK by its ids."""
        engine, agent = greeted()
        sent = [engine.send_notify([Message("m", [("", number)])]) for number in range(30)]
        agent.receive_data(engine.data_to_send())
        received = events(agent)
        assert [event.ids for event in received] == sent
        for event in reversed(received):
            agent.send_ack(event.ids, encode_actions({"sess.n": event.messages[0][0]}))
        engine.receive_data(agent.data_to_send())
        assert {event.ids: event.variables["sess.n"] for event in events(engine)} == {
            ids: number for number, ids in enumerate(sent)
        }

    @pytest.mark.parametrize(("stream_id", "frame_id"), [(0, 0), (0, 1), (2**64 - 1, 2**64 - 1), (240, 2288)])
    def test_every_id_is_valid(self, stream_id: int, frame_id: int) -> None:
        """Each id may be any number of 64 bits, 0 included."""
        engine, agent = greeted()
        engine.send_notify([], stream_id, frame_id)
        agent.receive_data(engine.data_to_send())
        (event,) = events(agent)
        assert (event.stream_id, event.frame_id) == (stream_id, frame_id)
        agent.send_ack(event.ids)
        engine.receive_data(agent.data_to_send())
        assert events(engine) == [Ack(event.ids, {}, aborted=False)]

    def test_ids_in_flight_cannot_be_used_again(self) -> None:
        """send_notify refuses the ids of a NOTIFY in flight: the two ACKs could not be told apart."""
        engine, _ = greeted()
        ids = engine.send_notify([], 5, 1)
        with pytest.raises(ValueError, match="stream-id 5"):
            engine.send_notify([], 5, 1)
        engine.forget(ids)
        engine.send_notify([], 5, 1)

    @pytest.mark.parametrize(("hello", "payload"), [(OLD, b""), (NEW, NO_ACTIONS)])
    def test_an_ack_without_actions(self, hello: HAProxyHello, payload: bytes) -> None:
        """HAProxy >= 3.1 gets an ACK with one harmless action: 3.1.0 loses the stream of an ACK without payload."""
        _, agent = greeted(hello)
        agent.send_ack(b"\x01\x01")
        assert agent.data_to_send() == encode_frame(FrameType.ACK, Flags.FIN, b"\x01\x01", payload)

    @pytest.mark.parametrize(("hello", "spare"), [(OLD, 0), (NEW, 1)])
    def test_an_ack_fits_in_a_frame(self, hello: HAProxyHello, spare: int) -> None:
        """The longest ACK has max-frame-size bytes, for HAProxy >= 3.1 one byte less. A longer one is refused."""
        _, agent = greeted(hello)
        ids = b"\x01\x01"
        room = agent.ack_room - len(ids)
        agent.send_ack(ids, b"x" * room)
        assert len(agent.data_to_send()) - 4 == 16380 - spare
        with pytest.raises(ValueError, match="do not fit"):
            agent.send_ack(ids, b"x" * (room + 1))
        assert agent.data_to_send() == b""

    def test_late_acks_are_skipped(self) -> None:
        """The engine skips an ACK of a NOTIFY that it has forgotten, and a second ACK of the same NOTIFY."""
        engine, agent = greeted()
        first, second = engine.send_notify([]), engine.send_notify([])
        engine.forget(first)
        for ids in (first, second, second):
            agent.send_ack(ids)
        engine.receive_data(agent.data_to_send())
        assert [event.ids for event in events(engine)] == [second]

    def test_an_ack_in_fragments_is_an_error(self) -> None:
        """An ACK without FIN raises FragmentationNotSupported, as HAProxy refuses it."""
        engine, _ = greeted()
        ids = engine.send_notify([])
        engine.receive_data(notify(b"", 0, ids, FrameType.ACK))
        with pytest.raises(FragmentationNotSupported):
            engine.next_event()

    @pytest.mark.parametrize("frame_type", [4, 42, 100, 104, 255])
    def test_unknown_frames_are_skipped(self, frame_type: int) -> None:
        """A frame type that SPOE.txt does not define is skipped (section 3.2.2)."""
        _, agent = greeted()
        agent.receive_data(notify(b"\xff\xff", 0, frame_type=frame_type) + notify(b""))
        assert events(agent) == [Notify(b"\x01\x01", [])]

    @pytest.mark.parametrize("frame_type", [1, 101, 102, 103])
    def test_known_frames_that_are_not_legal_are_an_error(self, frame_type: int) -> None:
        """A second HELLO, or a frame that only agents send, raises InvalidFrame."""
        _, agent = greeted()
        agent.receive_data(notify(NEW.encode(), 1, b"\x00\x00", frame_type))
        with pytest.raises(InvalidFrame):
            agent.next_event()
        assert sent_disconnect(agent).status_code == StatusCode.INVALID_FRAME

    def test_frames_before_an_error_are_served(self) -> None:
        """A NOTIFY before a broken frame is an event, and its ACK is sent before the AGENT-DISCONNECT."""
        engine, agent = greeted()
        ids = engine.send_notify(MESSAGES)
        agent.receive_data(engine.data_to_send() + notify(b"\xff"))
        assert agent.next_event() == Notify(ids, MESSAGES)
        agent.send_ack(ids)
        with pytest.raises(InvalidFrame):
            agent.next_event()
        engine.receive_data(agent.data_to_send())
        assert [type(event) for event in events(engine)] == [Ack, Disconnect]

    def test_nothing_is_sent_before_the_hello_or_after_the_disconnect(self) -> None:
        """send_ack and send_notify raise ValueError if the connection is not in the state RUNNING."""
        with pytest.raises(ValueError, match="state hello"):
            AgentConnection().send_ack(b"\x01\x01")
        with pytest.raises(ValueError, match="state hello"):
            EngineConnection().send_notify([])
        engine, agent = greeted()
        engine.disconnect()
        agent.disconnect()
        with pytest.raises(ValueError, match="state closed"):
            agent.send_ack(b"\x01\x01")
        with pytest.raises(ValueError, match="state closed"):
            engine.send_notify([])

    def test_frames_above_the_agreed_size_are_refused(self) -> None:
        """After the handshake, the agreed size is the limit of received frames, and not the agent's own limit."""
        _, agent = greeted()
        agent.receive_data((16381).to_bytes(4, "big"))
        with pytest.raises(FrameTooBig):
            agent.next_event()
        assert sent_disconnect(agent).status_code == StatusCode.FRAME_TOO_BIG


BODY = Message("m", [("head", "x"), ("body", bytes(range(256)) * 5)])
PAYLOAD = encode_messages([BODY])


def fragments(*cuts: int, ids: bytes = b"\x01\x01", last: int = Flags.FIN) -> list[bytes]:
    """Return ``PAYLOAD`` as frames, cut at ``cuts``."""
    bounds = [0, *cuts, len(PAYLOAD)]
    pieces = [PAYLOAD[start:end] for start, end in pairwise(bounds)]
    types = [FrameType.NOTIFY, *[FrameType.UNSET] * (len(pieces) - 1)]
    flags = [*[0] * (len(pieces) - 1), last]
    return [notify(piece, flag, ids, kind) for piece, flag, kind in zip(pieces, flags, types, strict=True)]


class Read(bytes):
    """The bytes of one read. ``existing`` counts the reads that are kept alive."""

    existing = 0

    def __new__(cls, data: bytes) -> Read:
        cls.existing += 1
        return super().__new__(cls, data)

    def __del__(self) -> None:
        Read.existing -= 1


class TestReads:
    def test_a_body_is_cut_at_each_byte(self) -> None:
        """A body that arrives in two reads is decoded to itself, and so are the NOTIFYs before and behind it."""
        small, body = [Message("small", [("ip", "192.0.2.1")])], [Message("body", [("body", bytes(range(256)) * 2)])]
        payloads = [encode_messages(small), encode_messages(body), encode_messages(small), encode_messages(body)]
        frames = [notify(payload) for payload in payloads]
        expected = [Notify(b"\x01\x01", sent) for sent in (small, body, small, body)]
        _, agent = greeted()
        for cut in range(len(frames[1]) + 1):
            agent.receive_data(frames[0] + frames[1][:cut])
            received = events(agent)
            agent.receive_data(frames[1][cut:] + frames[2] + frames[3])
            received += events(agent)
            assert received == expected
            assert [event.size for event in received] == [len(payload) for payload in payloads]
            assert not agent.receiving
            assert agent.bytes_received == 0

    @pytest.mark.parametrize("end", range(1, 17))
    def test_a_bad_payload_has_the_same_error_whatever_follows(self, end: int) -> None:
        """The text and the offset of an error are those of the payload alone, though it is not cut out of the read."""
        sent = [Message("check", [("name", "abc")])]
        payload = encode_messages(sent)
        assert len(payload) == 17
        assert decode_messages(payload) == sent
        with pytest.raises(InvalidFrame) as expected:
            decode_messages(payload[:end])
        for behind in b"", notify(payload), b"\xff" * 300:
            _, agent = greeted()
            agent.receive_data(notify(payload) + notify(payload[:end]) + behind)
            assert agent.next_event() == Notify(b"\x01\x01", sent)
            with pytest.raises(InvalidFrame) as caught:
                agent.next_event()
            assert (str(caught.value), caught.value.offset) == (str(expected.value), expected.value.offset)
            assert sent_disconnect(agent) == Disconnect(StatusCode.INVALID_FRAME, str(expected.value))

    def test_no_read_is_kept_alive(self) -> None:
        """Neither the values of a NOTIFY nor an incomplete frame keep a read alive: it may be much longer than they."""
        frame = notify(encode_messages([Message("m", [("s", "text"), ("b", b"bytes"), ("ip", IPv4Address(1))])]))
        body = notify(encode_messages([Message("body", [("body", bytes(10000))])]))
        _, agent = greeted()
        received = []
        for data in frame * 1000 + body[:5000], body[5000:] + frame * 1000 + frame[:3], frame[3:] + frame * 1000:
            agent.receive_data(Read(data))
            received += events(agent)
            gc.collect()
            assert Read.existing == 0
        assert len(received) == 3002

    @pytest.mark.parametrize("size", [0, 1, 239, 240, 252, 253, 254, 255, 1000])
    @pytest.mark.parametrize("flags", [Flags.FIN, ABORTED_ACK, 0x8000_0001])
    def test_an_ack_of_any_size(self, size: int, flags: int) -> None:
        """An ACK is encoded in the same way, whatever its size and its flags."""
        _, agent = greeted(OLD)
        agent.send_ack(b"\x01\x01", b"x" * size, flags)
        assert agent.data_to_send() == notify(b"x" * size, flags, frame_type=FrameType.ACK)


class TestFragmentation:
    def test_the_agent_reassembles_the_engines_fragments(self) -> None:
        """A payload longer than a frame is sent in fragments, and the agent reassembles it."""
        engine, agent = greeted(HAProxyHello(max_frame_size=256, capabilities=OLD.capabilities))
        ids = engine.send_notify([BODY])
        data = engine.data_to_send()
        assert len(data) > len(PAYLOAD) + 4 * 12
        agent.receive_data(data)
        assert events(agent) == [Notify(ids, [BODY])]

    def test_a_cut_may_fall_anywhere(self) -> None:
        """The payload may be cut at any byte, also before the first and behind the last one."""
        _, agent = greeted()
        for end in range(len(PAYLOAD) + 1):
            agent.receive_data(b"".join(fragments(end)))
            assert events(agent) == [Notify(b"\x01\x01", [BODY])]

    def test_fragments_may_be_empty(self) -> None:
        """49 empty fragments in the middle of a payload change nothing."""
        _, agent = greeted()
        agent.receive_data(b"".join(fragments(*[7] * 50)))
        assert events(agent) == [Notify(b"\x01\x01", [BODY])]

    @pytest.mark.parametrize("abort", [Flags.FIN | Flags.ABORT, Flags.ABORT])
    def test_an_aborted_payload_is_discarded(self, abort: int) -> None:
        """An aborted NOTIFY is not answered, its late fragments are skipped, and the next NOTIFY is served."""
        _, agent = greeted()
        first, second, third = fragments(10, 20)
        aborting = notify(b"", abort, frame_type=FrameType.UNSET)
        agent.receive_data(first + second + aborting + third + first + second + third)
        assert events(agent) == [Notify(b"\x01\x01", [BODY])]
        assert agent.data_to_send() == b""

    def test_abort_is_ignored_on_an_unfragmented_payload(self) -> None:
        """A NOTIFY with FIN and ABORT is served (SPOE.txt of HAProxy <= 3.0, section 3.2)."""
        _, agent = greeted()
        agent.receive_data(notify(PAYLOAD, Flags.FIN | Flags.ABORT))
        assert events(agent) == [Notify(b"\x01\x01", [BODY])]

    def test_a_payload_may_be_aborted_with_its_first_fragment(self) -> None:
        """A first fragment with ABORT is discarded."""
        _, agent = greeted()
        agent.receive_data(notify(b"x", Flags.ABORT) + notify(PAYLOAD))
        assert events(agent) == [Notify(b"\x01\x01", [BODY])]

    @pytest.mark.parametrize(
        "between",
        [
            notify(PAYLOAD, ids=b"\x03\x01"),
            notify(PAYLOAD),
            notify(b"", 0, ids=b"\x03\x01"),
            notify(b"", frame_type=FrameType.UNSET, ids=b"\x03\x01"),
            notify(b"", frame_type=FrameType.UNSET, ids=b"\x01\x02"),
        ],
        ids=["NOTIFY", "the same NOTIFY", "another first fragment", "another stream's", "another frame's"],
    )
    def test_interlacing_is_an_error(self, between: bytes) -> None:
        """A frame of another NOTIFY between the fragments of a payload raises InterlacedFrames."""
        _, agent = greeted()
        agent.receive_data(fragments(10)[0] + between)
        with pytest.raises(InterlacedFrames):
            agent.next_event()
        assert sent_disconnect(agent).status_code == StatusCode.INTERLACED_FRAMES

    def test_fragments_without_a_beginning_are_skipped(self) -> None:
        """HAProxy may have sent this fragment before it read the ACK that aborts the payload."""
        _, agent = greeted()
        agent.receive_data(fragments(10)[1] * 3 + notify(b""))
        assert events(agent) == [Notify(b"\x01\x01", [])]

    @pytest.mark.parametrize(
        ("max_payload_size", "max_reassembly_size", "limit"),
        [(1000, 2**20, "max_payload_size"), (2**20, 1000, "max_reassembly_size")],
    )
    def test_a_payload_above_a_limit_is_refused(
        self, max_payload_size: int, max_reassembly_size: int, limit: str
    ) -> None:
        """The event comes after the last fragment, and has the names that had arrived when the limit was exceeded.

        The agent sends one ACK, with the flag ABORT. The next NOTIFY is served.
        """
        budget = ReassemblyBudget(max_reassembly_size)
        engine, agent = greeted(
            HAProxyHello(max_frame_size=256, capabilities=OLD.capabilities),
            max_payload_size=max_payload_size,
            budget=budget,
        )
        messages = [Message("first"), BODY, Message("later")]
        big, small = engine.send_notify(messages), engine.send_notify(MESSAGES)
        agent.receive_data(engine.data_to_send())
        refused, served = events(agent)
        size = len(encode_messages(messages))
        assert refused == PayloadTooBig(big, size, ("first", BODY.name), limit, 1000)
        assert served == Notify(small, MESSAGES)
        assert agent.data_to_send() == b""
        agent.send_ack(big, encode_actions({"txn.failed": True}), ABORTED_ACK)
        engine.receive_data(agent.data_to_send())
        assert events(engine) == [Ack(big, {"txn.failed": True}, aborted=True)]
        assert budget.size == 0

    def test_fragments_of_a_refused_payload_are_discarded(self) -> None:
        """The payload counts as incomplete until its last fragment, and takes no memory."""
        budget = ReassemblyBudget()
        _, agent = greeted(max_payload_size=1000, budget=budget)
        first, *_, last = fragments(10)
        agent.receive_data(first)
        assert events(agent) == []
        assert budget.size > 0
        for _ in range(100):
            agent.receive_data(notify(bytes(500), 0, frame_type=FrameType.UNSET))
            assert events(agent) == []
            assert agent.receiving
        assert budget.size == 0
        agent.receive_data(last)
        assert [type(event) for event in events(agent)] == [PayloadTooBig]
        assert not agent.receiving

    def test_all_connections_share_one_budget(self) -> None:
        """A fragment that exceeds it is refused; those of the other connections are kept."""
        budget = ReassemblyBudget(len(PAYLOAD) + 9)
        (_, one), (_, other) = greeted(budget=budget), greeted(budget=budget)
        pieces = fragments(10)
        one.receive_data(b"".join(pieces[:-1]))
        assert events(one) == []
        other.receive_data(b"".join(pieces))
        (refused,) = events(other)
        assert isinstance(refused, PayloadTooBig)
        assert (refused.limit, refused.max_size) == ("max_reassembly_size", len(PAYLOAD) + 9)
        one.receive_data(pieces[-1])
        other.receive_data(b"".join(pieces))
        assert events(one) == events(other) == [Notify(b"\x01\x01", [BODY])]
        assert budget.size == 0

    @pytest.mark.parametrize("end", ["abort", "close", "disconnect", "error", "last"])
    def test_the_budget_is_released(self, end: str) -> None:
        """Whatever ends an incomplete payload, it no longer counts."""
        budget = ReassemblyBudget()
        engine, agent = greeted(budget=budget)
        *pieces, last = fragments(10)
        agent.receive_data(b"".join(pieces))
        assert events(agent) == []
        assert budget.size > 0
        match end:
            case "abort":
                agent.receive_data(notify(b"", Flags.FIN | Flags.ABORT, frame_type=FrameType.UNSET))
            case "close":
                agent.close()
            case "disconnect":
                engine.disconnect()
                agent.receive_data(engine.data_to_send())
            case "error":
                agent.receive_data(notify(b""))
                with pytest.raises(InterlacedFrames):
                    agent.next_event()
            case _:
                agent.receive_data(last)
        events(agent)
        assert budget.size == 0

    def test_a_payload_of_the_limit_is_served(self) -> None:
        """A payload of exactly max_payload_size bytes is served."""
        _, agent = greeted(max_payload_size=len(PAYLOAD))
        agent.receive_data(b"".join(fragments(10)))
        assert events(agent) == [Notify(b"\x01\x01", [BODY])]

    def test_a_payload_is_decoded_after_its_last_fragment(self) -> None:
        """A reassembled payload that cannot be decoded raises InvalidFrame, as in one frame."""
        _, agent = greeted()
        agent.receive_data(notify(b"\x05ab", 0) + notify(b"c", frame_type=FrameType.UNSET))
        with pytest.raises(InvalidFrame):
            agent.next_event()

    def test_an_agent_without_fragmentation_gets_no_fragments(self) -> None:
        """send_notify raises ValueError for a long payload if the agent does not list fragmentation."""
        engine = EngineConnection(NEW)
        engine.data_to_send()
        hello = AgentHello(max_frame_size=256, capabilities=frozenset({"pipelining"}))
        engine.receive_data(encode_frame(FrameType.AGENT_HELLO, Flags.FIN, b"\x00\x00", hello.encode()))
        assert engine.next_event() == hello
        with pytest.raises(ValueError, match="do not fit"):
            engine.send_notify([BODY])

    def test_receiving_is_true_for_an_incomplete_payload(self) -> None:
        """``receiving`` is true from the first byte of a frame until the last byte of its payload has arrived."""
        _, agent = greeted()
        assert not agent.receiving
        first, second = fragments(10)
        for data in (first[:2], first[2:], second[:5]):
            agent.receive_data(data)
            assert events(agent) == []
            assert agent.receiving
        agent.receive_data(second[5:])
        assert len(events(agent)) == 1
        assert not agent.receiving


class TestDisconnect:
    @pytest.mark.parametrize("code", [*StatusCode, 200, 2**32 - 1])
    def test_the_engines_disconnect_is_answered(self, code: int) -> None:
        """The answer is AGENT-DISCONNECT with status code 0. Later bytes are ignored."""
        engine, agent = greeted()
        engine.disconnect(code, "why")
        agent.receive_data(engine.data_to_send() + notify(PAYLOAD))
        assert events(agent) == [Disconnect(code, "why")]
        agent.receive_data(notify(PAYLOAD))
        assert events(agent) == []
        assert sent_disconnect(agent) == Disconnect(0, "normal")

    def test_the_agents_disconnect_closes(self) -> None:
        """The engine closes after an AGENT-DISCONNECT and does not answer it."""
        engine, agent = greeted()
        agent.disconnect(StatusCode.TIMEOUT, "too late")
        engine.receive_data(agent.data_to_send())
        assert events(engine) == [Disconnect(2, "too late")]
        assert engine.state is State.CLOSED
        assert engine.data_to_send() == b""

    def test_a_disconnect_is_sent_once(self) -> None:
        """A second call of disconnect does nothing."""
        _, agent = greeted()
        agent.disconnect()
        agent.disconnect(4, "again")
        assert sent_disconnect(agent) == Disconnect(0, "normal")
        assert agent.data_to_send() == b""

    def test_the_engine_may_disconnect_before_the_hello(self) -> None:
        """A HAPROXY-DISCONNECT is legal in the state HELLO, too."""
        agent = AgentConnection()
        agent.receive_data(encode_frame(FrameType.HAPROXY_DISCONNECT, Flags.FIN, b"\x00\x00", Disconnect().encode()))
        assert events(agent) == [Disconnect()]
        assert sent_disconnect(agent).status_code == 0

    def test_a_disconnect_may_come_between_fragments(self) -> None:
        """A HAPROXY-DISCONNECT between two fragments is legal, and discards the payload."""
        engine, agent = greeted()
        engine.disconnect()
        agent.receive_data(fragments(10)[0] + engine.data_to_send())
        assert events(agent) == [Disconnect()]
        assert not agent.receiving

    def test_a_message_never_exceeds_255_bytes(self) -> None:
        """The message of an AGENT-DISCONNECT is cut to 255 bytes: HAProxy <= 3.0 refuses a longer one."""
        agent = AgentConnection()
        hello = notify(b"\x12supported-versions\x08\xf0\x80\x00" + b"9" * 2288, 1, b"\x00\x00", FrameType.HAPROXY_HELLO)
        agent.receive_data(hello)
        with pytest.raises(SPOPError):
            agent.next_event()
        assert 0 < len(sent_disconnect(agent).message.encode()) <= 255


def in_different_pieces(data: bytes) -> Iterator[list[bytes]]:
    yield [data]
    yield [data[index : index + 1] for index in range(len(data))]
    yield [data[index : index + 13] for index in range(0, len(data), 13)]


def test_events_do_not_depend_on_the_pieces() -> None:
    """The agent returns the same events, whether the bytes arrive at once, one by one, or in pieces of 13."""
    engine, agent = greeted(HAProxyHello(max_frame_size=256, capabilities=OLD.capabilities))
    for _ in range(3):
        engine.send_notify(MESSAGES)
        engine.send_notify([BODY])
    data = engine.data_to_send()
    results = []
    for pieces in in_different_pieces(data):
        _, agent = greeted(HAProxyHello(max_frame_size=256, capabilities=OLD.capabilities))
        received = []
        for piece in pieces:
            agent.receive_data(piece)
            received += events(agent)
        results.append(received)
    assert results[0] == results[1] == results[2]
    assert [event.messages for event in results[0]] == [MESSAGES, [BODY]] * 3


def test_intervals_have_no_effect_with_an_older_haproxy() -> None:
    """For HAProxy <= 3.0, no ACK is held back, so interval_ends and interval_ended do nothing."""
    engine, agent = greeted(OLD)
    ids = [engine.send_notify(MESSAGES) for _ in range(3)]
    agent.receive_data(engine.data_to_send())
    assert len(events(agent)) == 3
    for notify_ids in ids:
        agent.send_ack(notify_ids, encode_actions({"sess.a": "x" * 9000}))
        agent.interval_ends()
        agent.interval_ended()
    engine.receive_data(agent.data_to_send())
    assert [ack.ids for ack in events(engine)] == ids
    assert not agent.unread
