"""ctl.traffic: frames are cut, decoded, checked against SPOE.txt, matched with their NOTIFY, and shown."""

from __future__ import annotations

import json
import random
from ipaddress import IPv4Address

import pytest

from spoa_twisted.ctl.traffic.conversation import Conversation
from spoa_twisted.ctl.traffic.cutter import KEPT_SIZE, MAX_DECODED_SIZE, Cut, Cutter
from spoa_twisted.ctl.traffic.frame import DecodedFrame
from spoa_twisted.ctl.traffic.show import frame_to_json, show_faults, show_frame
from spoa_twisted.spop.actions import NO_ACTIONS, encode_actions
from spoa_twisted.spop.frames import (
    NO_IDS,
    AgentHello,
    Disconnect,
    Flags,
    FrameType,
    HAProxyHello,
    encode_frame,
    encode_ids,
)
from spoa_twisted.spop.messages import Message, encode_messages
from spoa_twisted.spop.reassembly import ReassemblyBudget
from spoa_twisted.spop.typeddata import UInt32, Value, encode_kv_list

SECRET = "swordfish"
CHECK = Message("check", [("ip", IPv4Address("192.0.2.1")), ("token", SECRET), ("", b"\x00\x01"), ("n", None)])


def hello(*capabilities: str, size: int = 16380, engine_id: str = "e", healthcheck: bool = False) -> bytes:
    haproxy = HAProxyHello(
        capabilities=frozenset(capabilities), max_frame_size=size, engine_id=engine_id, healthcheck=healthcheck
    )
    return encode_frame(FrameType.HAPROXY_HELLO, 1, NO_IDS, haproxy.encode())


def agent_hello(*capabilities: str, size: int = 16380) -> bytes:
    agent = AgentHello(capabilities=frozenset(capabilities), max_frame_size=size)
    return encode_frame(FrameType.AGENT_HELLO, 1, NO_IDS, agent.encode())


def notify(stream_id: int = 1, frame_id: int = 1, flags: int = 1, payload: bytes | None = None) -> bytes:
    payload = encode_messages([CHECK]) if payload is None else payload
    return encode_frame(FrameType.NOTIFY, flags, encode_ids(stream_id, frame_id), payload)


def fragment(payload: bytes, flags: int = 0) -> bytes:
    return encode_frame(FrameType.UNSET, flags, encode_ids(1, 1), payload)


def ack(stream_id: int = 1, frame_id: int = 1, actions: bytes = b"", flags: int = 1) -> bytes:
    return encode_frame(FrameType.ACK, flags, encode_ids(stream_id, frame_id), actions)


def bye(frame_type: int = FrameType.AGENT_DISCONNECT) -> bytes:
    return encode_frame(frame_type, 1, NO_IDS, Disconnect().encode())


class Wire:
    """A conversation whose clock the test sets."""

    def __init__(self, number: int = 1, budget: ReassemblyBudget | None = None, others: list[Wire] | None = None):
        connections = [] if others is None else others
        connections.append(self)
        self.now = 0.0
        self.conversation = Conversation(
            number, budget or ReassemblyBudget(), lambda: [wire.conversation for wire in connections]
        )

    def haproxy(self, data: bytes) -> list[DecodedFrame]:
        return self.conversation.receive(data, self.now, from_agent=False)

    def agent(self, data: bytes) -> list[DecodedFrame]:
        return self.conversation.receive(data, self.now, from_agent=True)

    def greet(self, *capabilities: str) -> Wire:
        self.haproxy(hello("pipelining", *capabilities))
        self.agent(agent_hello("pipelining", "fragmentation", *capabilities))
        return self


def faults(frames: list[DecodedFrame]) -> list[tuple[str, int | None, str]]:
    return [(fault.text, fault.offset, fault.section) for frame in frames for fault in frame.faults]


def cut_all(pieces: list[bytes]) -> list[Cut]:
    cutter = Cutter()
    return [cut for piece in pieces for cut in cutter.feed(piece)]


def test_a_stream_is_cut_however_it_arrives() -> None:
    """Whole, byte by byte, and in pieces: the frames are the same. No bytes are left."""
    stream = hello() + notify() + bye()
    whole = cut_all([stream])
    assert [cut.raw for cut in whole] == [hello(), notify(), bye()]
    assert [cut.position for cut in whole] == [0, len(hello()), len(hello() + notify())]
    assert cut_all([stream[at : at + 1] for at in range(len(stream))]) == whole
    for size in (2, 3, 5, 50):
        assert cut_all([stream[at : at + size] for at in range(0, len(stream), size)]) == whole


def test_a_frame_that_is_too_long_is_skipped() -> None:
    """Its first bytes are shown at once, the other bytes are dropped, and the next frame is decoded."""
    size = MAX_DECODED_SIZE + 1
    cutter = Cutter()
    assert list(cutter.feed(size.to_bytes(4, "big") + bytes(KEPT_SIZE - 5))) == []
    (long,) = cutter.feed(b"\x00")
    assert (long.size, len(long.raw), long.missing) == (size, KEPT_SIZE, size + 4 - KEPT_SIZE)
    for _ in range(4, size, 2**16):
        assert not list(cutter.feed(bytes(min(2**16, cutter._skip))))
        assert len(cutter._buffer) == 0
    (following,) = cutter.feed(notify())
    assert (following.raw, following.position) == (notify(), size + 4)
    assert cutter.end() is None


def test_a_handshake_is_shown() -> None:
    """HELLOs and DISCONNECTs show their values, which are no data of users."""
    wire = Wire()
    (frame,) = wire.haproxy(hello("pipelining"))
    assert show_frame(frame, values=False) == (
        'HAPROXY-HELLO 0:0 FIN, 88 bytes: supported-versions="2.0" max-frame-size=16380 capabilities="pipelining"'
        ' engine-id="e"'
    )
    (frame,) = wire.agent(agent_hello())
    assert show_frame(frame, values=False) == (
        'AGENT-HELLO 0:0 FIN, 54 bytes: version="2.0" max-frame-size=16380 capabilities=""'
    )
    (frame,) = wire.agent(bye())
    assert show_frame(frame, values=False) == 'AGENT-DISCONNECT 0:0 FIN, 37 bytes: status-code=0 message="normal"'
    assert faults([frame]) == []


def test_values_are_shown_only_when_asked_for() -> None:
    """Otherwise there are types, and the number of bytes of a str or bin."""
    wire = Wire().greet()
    (frame,) = wire.haproxy(notify())
    assert show_frame(frame, values=False).endswith(": check(ip=ipv4 token=str(9) =bin(2) n=null)")
    assert show_frame(frame, values=True).endswith(": check(ip=ipv4:192.0.2.1 token=str:swordfish =bin:0001 n=null)")
    (frame,) = wire.agent(ack(actions=encode_actions({"txn.user": SECRET, "sess.old": None, "txn.score": 4})))
    assert show_frame(frame, values=False).endswith(": txn.user=str(9) unset sess.old txn.score=int64")
    assert show_frame(frame, values=True).endswith(": txn.user=str:swordfish unset sess.old txn.score=int64:4")
    assert SECRET not in json.dumps(frame_to_json(frame, values=False))
    assert SECRET in json.dumps(frame_to_json(frame, values=True))


def test_texts_are_cut_and_escaped() -> None:
    """A line neither moves the cursor nor fills the screen."""
    long = Message("\x1b[31m" + "m" * 1000, [("a\n", "v" * 10_000), ("b", b"\x00" * 10_000), ("c", "\x07")])
    wire = Wire().greet()
    (frame,) = wire.haproxy(notify(payload=encode_messages([long])))
    text = show_frame(frame, values=True)
    assert text.isprintable()
    assert "str:" + "v" * 100 + "...(10000 bytes)" in text
    assert len(text) < 700
    (frame,) = wire.haproxy(notify(3, payload=encode_messages([Message("m", [("x" * 30, True)] * 255)] * 10)))
    assert len(show_frame(frame, values=True)) < 2200
    shown = frame_to_json(frame, values=True)
    assert json.loads(json.dumps(shown)) == shown


@pytest.mark.parametrize(
    ("actions", "text"),
    [(b"", "no actions"), (NO_ACTIONS, "no actions (unset txn._)")],
)
def test_an_ack_without_actions(actions: bytes, text: str) -> None:
    """Agents write it in two ways."""
    wire = Wire().greet()
    wire.haproxy(notify())
    wire.now = 0.0015
    (frame,) = wire.agent(ack(actions=actions))
    assert show_frame(frame, values=False) == f"ACK 1:1 FIN, {7 + len(actions)} bytes, after 1.5 ms: {text}"


def test_each_ack_has_its_time() -> None:
    """ACKs may come in another order than the NOTIFYs."""
    wire = Wire().greet()
    wire.haproxy(notify(1) + notify(3))
    wire.now = 1.0
    wire.haproxy(notify(5))
    wire.now = 3.0
    assert [frame.seconds for frame in wire.agent(ack(5) + ack(1) + ack(3))] == [2.0, 3.0, 3.0]
    assert (wire.conversation.answered, wire.conversation.pending) == (3, 0)


def test_the_time_of_fragments_begins_with_the_last() -> None:
    """Only then can the agent answer. The messages are shown with the last fragment."""
    wire = Wire().greet()
    payload = encode_messages([CHECK])
    (first,) = wire.haproxy(notify(flags=0, payload=payload[:10]))
    wire.now = 1.0
    (second,) = wire.haproxy(fragment(payload[10:20]))
    wire.now = 2.0
    (last,) = wire.haproxy(fragment(payload[20:], 1))
    assert show_frame(first, values=False) == "NOTIFY 1:1 no flags, 17 bytes, fragment 1"
    assert show_frame(second, values=False) == "UNSET 1:1 no flags, 17 bytes, fragment 2"
    assert show_frame(last, values=False) == (
        f"UNSET 1:1 FIN, {len(payload) - 13} bytes, last of 3 fragments, {len(payload)} bytes:"
        " check(ip=ipv4 token=str(9) =bin(2) n=null)"
    )
    wire.now = 2.25
    assert [(frame.seconds, frame.faults) for frame in wire.agent(ack())] == [(0.25, [])]


def test_fragments_that_haproxy_gives_up() -> None:
    """The NOTIFY is no longer pending, and a fragment of no NOTIFY is shown."""
    wire = Wire().greet()
    wire.haproxy(notify(flags=0, payload=b"x"))
    (given_up,) = wire.haproxy(fragment(b"", 3))
    assert show_frame(given_up, values=False) == "UNSET 1:1 FIN+ABORT, 7 bytes, HAProxy gives the NOTIFY up"
    assert wire.conversation.pending == 0
    (lost,) = wire.haproxy(fragment(b"y", 1))
    assert show_frame(lost, values=False) == "UNSET 1:1 FIN, 8 bytes, a fragment of no NOTIFY"


def test_fragments_are_bounded() -> None:
    """Beyond the limit of all connections together, they are not kept, and their messages are not shown."""
    budget = ReassemblyBudget(100)
    wire = Wire(budget=budget).greet()
    wire.haproxy(notify(flags=0, payload=bytes(60)))
    assert budget.size == 60
    (last,) = wire.haproxy(fragment(bytes(60), 1))
    assert budget.size == 0
    assert show_frame(last, values=False).endswith("last of 2 fragments, 120 bytes, too long for spoactl to decode")
    wire.haproxy(notify(flags=0, payload=bytes(60)))
    wire.conversation.close()
    assert budget.size == 0


def test_an_error_in_joined_fragments() -> None:
    """It has no place in the last frame, so the place in the joined fragments is named."""
    wire = Wire().greet()
    wire.haproxy(notify(flags=0, payload=b"\x01"))
    ((text, offset, section),) = faults(wire.haproxy(fragment(b"m", 1)))
    assert text.startswith("the message 'm': a message ends before NB-ARGS")
    assert text.endswith(" (byte 2 of the joined fragments)")
    assert (offset, section) == (None, "3.2.2")


def test_async_acks() -> None:
    """With async, the ACK may come on another connection of the engine; it has its time there."""
    wires: list[Wire] = []
    first, second = Wire(1, others=wires), Wire(2, others=wires)
    for wire in wires:
        wire.greet("async")
    first.haproxy(notify())
    second.now = 0.5
    (frame,) = second.agent(ack())
    assert show_frame(frame, values=False) == "ACK 1:1 FIN, 7 bytes, after 500 ms, of the NOTIFY on #1: no actions"
    assert frame.faults == []
    assert first.conversation.pending == 0


def test_an_ack_on_another_connection_without_async() -> None:
    """It breaks a rule."""
    wires: list[Wire] = []
    first, second = Wire(1, others=wires), Wire(2, others=wires)
    for wire in wires:
        wire.greet()
    first.haproxy(notify())
    assert faults(second.agent(ack())) == [
        ("the NOTIFY came on connection 1: only with async may an ACK take another one", 9, "3.2.1")
    ]


def test_what_is_kept_is_bounded() -> None:
    """An agent that never answers, and one that always does, do not fill the memory."""
    wire = Wire().greet()
    for number in range(10_500):
        wire.conversation._add_pending(encode_ids(number, 1), 0.0)
    assert wire.conversation.pending == 10_000
    for number in range(1500):
        wire.conversation._remember(encode_ids(number, 1))
    assert len(wire.conversation._answered) == 1000


def kv_hello(**items: Value) -> bytes:
    """Return an AGENT-HELLO with these items. "_" stands for "-"."""
    named = {"version": "2.0", "max_frame_size": UInt32(16380), "capabilities": "pipelining", **items}
    pairs = [(name.replace("_", "-"), value) for name, value in named.items() if value is not None]
    return encode_frame(FrameType.AGENT_HELLO, 1, NO_IDS, encode_kv_list(pairs))


CAPABILITIES = "which is ignored: SPOE.txt has fragmentation, pipelining, async"
BAD_HELLOS = [
    (kv_hello(version=None), ("1 mandatory item is missing: version", 11, "3.2.5")),
    (
        kv_hello(capabilities=None, max_frame_size=None),
        ("2 mandatory items are missing: max-frame-size, capabilities", 11, "3.2.5"),
    ),
    (kv_hello(version="3.0"), ("the version '3.0' of the AGENT-HELLO is not 2.x", 11, "3.2.5")),
    (kv_hello(version=b"2.0"), ("the version of the HELLO is not a STRING", 11, "3.2.5")),
    (kv_hello(max_frame_size="big"), ("the max-frame-size of the HELLO is not a UINT32", 11, "3.2.5")),
    (kv_hello(capabilities="pipelineing,async"), (f"unknown capability 'pipelineing', {CAPABILITIES}", 11, "3.2.1")),
    (
        kv_hello(max_frame_size=UInt32(20000)),
        ("the max-frame-size 20000 exceeds the 16380 bytes of the HAPROXY-HELLO", 11, "3.2.5"),
    ),
    (
        kv_hello(max_frame_size=UInt32(255)),
        ("the max-frame-size 255 is too small: SPOP allows 256 and more", 11, "3.2.5"),
    ),
    (
        encode_frame(FrameType.AGENT_HELLO, 0, NO_IDS, AgentHello().encode()),
        ("AGENT-HELLO has no FIN flag: it cannot be fragmented", 5, "3.2.5"),
    ),
    (
        encode_frame(FrameType.AGENT_HELLO, 1, b"\x01\x00", AgentHello().encode()),
        ("the stream-id and the frame-id of AGENT-HELLO must be 0", 9, "3.2.5"),
    ),
    (
        encode_frame(FrameType.AGENT_HELLO, 1, NO_IDS, AgentHello().encode()[:20]),
        ("item 2: a STRING of 14 bytes is cut off: 6 bytes follow its length", 25, "3.2.5"),
    ),
    (ack(), ("an ACK before the AGENT-HELLO", 4, "3.2.3")),
    (hello(), ("only HAProxy sends HAPROXY-HELLO", 4, "3.2.2")),
    (notify(), ("only HAProxy sends NOTIFY", 4, "3.2.2")),
    (
        encode_frame(42, 1, NO_IDS, b""),
        ("SPOE.txt has no frame type 42: HAProxy and agents skip it", 4, "3.2.2"),
    ),
    (
        (53).to_bytes(4, "little") + bytes(100),
        ("the length looks little-endian: SPOP's is big-endian", 0, "3.2"),
    ),
    (
        b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        (
            "the bytes look like text: is the peer an HTTP server or another program without SPOP?",
            0,
            "3.2",
        ),
    ),
    (
        b"\x15\x03\x03\x00\x02\x02\x16" + bytes(60),
        ("the bytes look like TLS: use ssl: or tls: in the endpoint, or spoactl cannot read them", 0, "3.2"),
    ),
    (b"\x00\x00\x00\x06abcdef", ("a frame of 6 bytes is too short: its header takes at least 7", 0, "3.2")),
    (b"\x00\x00\x00\x00", ("a frame of 0 bytes is too short: its header takes at least 7", 0, "3.2")),
    (
        b"\x00\x00\x00\x07\x65\x00\x00\x00\x01\xff\xff",
        ("the data ends inside a variable-length integer", 9, "3.2"),
    ),
]


@pytest.mark.parametrize(("data", "fault"), BAD_HELLOS, ids=[fault[0][:30] for _, fault in BAD_HELLOS])
def test_a_bad_first_frame_of_an_agent(data: bytes, fault: tuple[str, int, str]) -> None:
    """The fault says which rule is broken, and at which byte."""
    wire = Wire()
    wire.haproxy(hello("pipelining"))
    assert fault in faults(wire.agent(data))


DROPS = "HAProxy drops it and all behind it: "
KNOWN = "set-var (1) has 3 arguments, unset-var (2) has 2"
BAD_ACKS = [
    (ack(3), ("unknown NOTIFY: none with this stream-id and frame-id is pending", 9, "3.2.7")),
    (ack() + ack(), ("the NOTIFY has been answered: this is a second ACK", 9, "3.2.7")),
    (ack(flags=0), ("an ACK without the flag FIN: no HAProxy accepts fragments from an agent", 5, "3.2.7")),
    (
        ack(actions=bytes(16400)),
        ("a length of 16407 bytes exceeds the max-frame-size: the HELLOs agree on 16380 bytes", 0, "3.2"),
    ),
    (
        ack(actions=b"\x01\x03\x02\x01a\x11\x03\x03\x02\x01b"),
        (
            f"action 2: {DROPS}an action of type 3 with 3 arguments is unknown: {KNOWN}",
            17,
            "3.4",
        ),
    ),
    (
        ack(actions=b"\x01\x03\x05\x01a\x11"),
        (
            f"action 1: {DROPS}the scope 5 of an action is unknown: SPOP defines the scopes 0 to 4",
            13,
            "3.4",
        ),
    ),
    (
        ack(actions=b"\x01\x03\x02\x02a-\x11"),
        ("HAProxy drops the variable 'txn.a-': a name has only A-Z a-z 0-9 _ and .", None, ""),
    ),
    (
        ack(actions=b"\x02\x02\x02\x40" + b"a" * 64),
        (f"HAProxy drops the variable 'txn.{'a' * 64}': its name has more than 63 characters", None, ""),
    ),
    (agent_hello(), ("a second AGENT-HELLO", 4, "3.2.5")),
    (bye() + ack(), ("ACK after AGENT-DISCONNECT: the agent must close", 4, "3.2.9")),
    (
        encode_frame(FrameType.AGENT_DISCONNECT, 1, NO_IDS, b""),
        ("2 mandatory items are missing: status-code, message", 11, "3.2.9"),
    ),
]


@pytest.mark.parametrize(("data", "fault"), BAD_ACKS, ids=[fault[0][:30] for _, fault in BAD_ACKS])
def test_a_bad_frame_of_an_agent(data: bytes, fault: tuple[str, int, str]) -> None:
    """So is a frame behind the HELLOs. The actions before a bad one are shown."""
    wire = Wire().greet()
    wire.haproxy(notify())
    frames = wire.agent(data)
    assert fault in faults(frames)


def test_an_ack_that_stops_a_new_haproxy() -> None:
    """HAProxy >= 3.1, which never lists async, hangs if one read fills its buffer."""
    wire = Wire().greet()
    wire.haproxy(notify())
    actions = encode_actions({"txn.a": "x" * (16380 - 7 - 9)})
    (frame,) = wire.agent(ack(actions=actions))
    assert frame.size == 16380
    text = "HAProxy >= 3.1 stops reading for ever at an ACK of 16380 bytes: one byte less is the most"
    assert faults([frame]) == [(text, 0, "")]


def test_a_good_conversation_has_no_faults() -> None:
    """All versions of HAProxy send an unknown item, or an empty NOTIFY, or stop with a health check."""
    for capabilities in ((), ("pipelining",), ("pipelining", "async")):
        wire = Wire()
        assert faults(wire.haproxy(hello(*capabilities)) + wire.agent(agent_hello(*capabilities))) == []
        assert faults(wire.haproxy(notify(0, 1, payload=b"")) + wire.agent(ack(0, 1))) == []
        assert faults(wire.haproxy(bye(FrameType.HAPROXY_DISCONNECT)) + wire.agent(bye())) == []
    wire = Wire()
    assert faults(wire.haproxy(hello(healthcheck=True)) + wire.agent(agent_hello())) == []


def test_a_frame_behind_a_health_check() -> None:
    """HAProxy >= 3.1 then marks the server as DOWN."""
    wire = Wire()
    wire.haproxy(hello(healthcheck=True))
    assert [text for text, _, _ in faults(wire.agent(agent_hello() + bye()))] == [
        "a frame behind the AGENT-HELLO of a health check: HAProxy >= 3.1 takes it as failed"
    ]


def test_the_bytes_at_a_fault() -> None:
    """They are shown, but those of a user's values only when asked for."""
    wire = Wire().greet()
    wire.haproxy(notify())
    bad = ack(actions=encode_actions({"txn.user": SECRET}) + b"\x09")
    (frame,) = wire.agent(bad)
    header, full = show_faults(frame, values=False)[-1], show_faults(frame, values=True)[-1]
    assert header == f"bytes 0 to 10: {bad[:11].hex(' ')}"
    assert SECRET.encode().hex(" ") in full
    (frame,) = wire.agent(bytes((0, 0, 0, 40, 103, 0, 0, 0, 1, 255, 255)) + b"\xff" * 33)
    assert show_faults(frame, values=False)[-1] == "bytes 0 to 15: 00 00 00 28 67 00 00 00 01 ff ff ff ff ff ff ff"


def test_a_fault_without_a_place() -> None:
    """It has no bytes."""
    wire = Wire().greet()
    wire.haproxy(notify())
    (frame,) = wire.agent(ack(actions=b"\x02\x02\x02\x01-"))
    shown = frame_to_json(frame, values=True)
    assert shown["faults"][0]["offset"] is None
    assert "hex" not in shown


def test_the_faults_of_one_frame_are_limited() -> None:
    """An ACK may have thousands of bad names."""
    wire = Wire().greet()
    wire.haproxy(notify())
    (frame,) = wire.agent(ack(actions=b"\x02\x02\x02\x01-" * 1000))
    lines = show_faults(frame, values=False)
    assert lines[-1] == "and 990 faults more"
    assert len(lines) == 11


def test_no_bytes_raise() -> None:
    """Whatever a peer sends is shown, as text and as JSON; the conversation goes on."""
    source = random.Random(11)
    good = [hello("async"), agent_hello("async"), notify(), fragment(b"x"), ack(actions=encode_actions({"txn.a": 1}))]
    wires: list[Wire] = []
    for number in range(300):
        wire = Wire(number, others=wires)
        del wires[:-3]
        for _ in range(8):
            data = bytearray(source.choice(good))
            for _ in range(source.choice((0, 0, 1, 3))):
                data[source.randrange(len(data))] = source.choice((0, 1, 2, 3, 8, 9, 103, 240, 255))
            side = wire.agent if source.random() < 0.5 else wire.haproxy
            for frame in side(bytes(data)):
                for values in (False, True):
                    json.dumps(frame_to_json(frame, values=values))
                    assert all(line.isprintable() for line in show_faults(frame, values=values))
                    assert show_frame(frame, values=values).isprintable()
        for from_agent in (False, True):
            rest = wire.conversation.end(from_agent=from_agent)
            assert rest is None or show_faults(rest, values=False)


def test_reserved_flags_are_shown() -> None:
    """HAProxy ignores them."""
    wire = Wire().greet()
    (frame,) = wire.haproxy(notify(flags=int(Flags.FIN) | 0xF0))
    assert show_frame(frame, values=False).startswith("NOTIFY 1:1 FIN+0xf0, ")


def test_the_elements_of_a_frame_are_limited() -> None:
    """A frame of 16 KiB may have thousands."""
    wire = Wire().greet()
    wire.haproxy(notify())
    (frame,) = wire.agent(ack(actions=b"\x02\x02\x02\x01a" * 5000))
    assert len(frame.actions) == 4097
    assert "spoactl shows no more of its content" in frame.notes
