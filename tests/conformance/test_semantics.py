"""NOTIFY and ACK: which ACK answers which NOTIFY, and which actions it has (SPOE.txt 3.2.6 to 3.4)."""

from __future__ import annotations

import random

import pytest

from .agent import ECHO, ECHOED, Connect
from .rawspop import (
    NULL,
    FrameType,
    Peer,
    SetVar,
    Status,
    UnsetVar,
    Value,
    binary,
    boolean,
    disconnect,
    int32,
    int64,
    ipv4,
    ipv6,
    message,
    notify,
    string,
    text,
    uint32,
    uint64,
)

KINDS = ["echo", "async", "awaiting", "deferred"]
"""Messages with the same answer, from a function, from two coroutines, and from a Deferred."""


def hold(key: str) -> bytes:
    return message("hold", ("key", text(key)))


def release(key: str) -> bytes:
    return message("release", ("key", text(key)))


def released(key: str) -> list[SetVar]:
    return [SetVar("txn.released", text(key))]


def count(number: int) -> list[SetVar]:
    return [SetVar("txn.count", int64(number))]


def x(number: int) -> tuple[str, Value]:
    return "x", int64(number)


def set_x(*numbers: int) -> list[SetVar]:
    return [SetVar("txn.x", int64(number)) for number in numbers]


@pytest.mark.parametrize("kind", KINDS)
def test_kind_of_handler(peer: Peer, kind: str) -> None:
    """A NOTIFY gets one ACK, for each kind of handler (3.2.6)."""
    peer.send(notify(message(kind, x(1)), stream_id=5, frame_id=3))
    assert peer.actions(5, 3) == set_x(1)
    peer.send(disconnect())
    peer.expect_disconnect(Status.NORMAL)


def test_messages_in_order(peer: Peer) -> None:
    """An ACK has the actions in the order of the NOTIFY's messages (3.2.7)."""
    numbers = range(1, 21)
    messages = [message("echo", x(number)) for number in numbers]
    assert peer.request(*messages) == set_x(*numbers)


def test_messages_in_order_with_handlers_of_different_speed(peer: Peer) -> None:
    """The actions of a slow handler come before those of a fast one if its message came first (3.2.7)."""
    messages = [message(kind, x(index)) for index, kind in enumerate(KINDS)]
    assert peer.request(*messages) == set_x(0, 1, 2, 3)
    assert peer.request(*reversed(messages)) == set_x(3, 2, 1, 0)


def test_messages_of_one_notify_run_together(peer: Peer, key: str) -> None:
    """The handlers of one NOTIFY run concurrently: a later one can release an earlier one (3.3)."""
    actions = peer.request(hold(key), ECHO, release(key))
    assert actions == [*released(key), *ECHOED, *count(1)]


def test_variables_in_order(peer: Peer) -> None:
    """The actions of a message have the order of the handler's variables (3.4)."""
    names = ["z", "a", "m", "B", "b_1", "9"]
    arguments = [(name, int64(index)) for index, name in enumerate(names)]
    assert peer.request(message("echo", *arguments)) == [SetVar(f"txn.{name}", value) for name, value in arguments]


def test_unknown_message(peer: Peer) -> None:
    """A message without a handler has no actions, and the other messages keep theirs."""
    unknown = message("no-such-message", ("a", text("b")))
    assert peer.request(unknown) == []
    assert peer.request(ECHO, unknown, ECHO) == ECHOED * 2


@pytest.mark.parametrize("name", ["raise", "raise-later"])
def test_failing_handler(peer: Peer, name: str) -> None:
    """If a handler fails, its message has no actions. The other messages have theirs, and the ACK is sent (3.2.6)."""
    failing = message(name)
    assert peer.request(failing) == []
    assert peer.request(ECHO, failing, ECHO) == ECHOED * 2


def test_failing_handler_with_on_error(peer: Peer) -> None:
    """If a handler fails, its message has the actions of on_error (3.2.7)."""
    actions = peer.request(ECHO, message("raise-with-on-error"), ECHO)
    assert actions == [*ECHOED, SetVar("txn.failed", boolean(True)), *ECHOED]


def test_missing_argument(peer: Peer) -> None:
    """A message that lacks an argument of its handler has no actions, and the other messages keep theirs."""
    assert peer.request(message("async"), ECHO) == ECHOED


@pytest.mark.parametrize(
    "kind",
    [
        "name",
        "empty name",
        "scope",
        "key",
        "float",
        "object",
        "list",
        "too big",
        "too small",
        "number",
        "text",
        "good and bad",
    ],
)
def test_result_that_cannot_be_sent(peer: Peer, kind: str) -> None:
    """If a result cannot be encoded, its message has no actions at all, and the ACK is valid (3.4)."""
    bad = message("bad", ("kind", text(kind)))
    assert peer.request(ECHO, bad, ECHO) == ECHOED * 2
    assert peer.request(ECHO) == ECHOED


def test_handler_without_result(peer: Peer) -> None:
    """A handler may return no variables: its ACK has no actions (3.2.7)."""
    assert peer.request(message("nothing")) == []


def test_set_var_bytes(peer: Peer) -> None:
    """set-var is encoded as 1, 3 (arguments), the number of the scope, the name and the value (3.4)."""
    peer.send(notify(message("set-scopes")))
    received = peer.frame()
    assert received.payload == (
        b"\x01\x03\x00\x01x\x04\x00"
        b"\x01\x03\x01\x01x\x04\x01"
        b"\x01\x03\x02\x01x\x04\x02"
        b"\x01\x03\x03\x01x\x04\x03"
        b"\x01\x03\x04\x01x\x04\x04"
    )


def test_unset_var_bytes(peer: Peer) -> None:
    """unset-var is encoded as 2, 2 (arguments), the number of the scope and the name (3.4)."""
    peer.send(notify(message("unset-scopes")))
    received = peer.frame()
    assert received.payload == (
        b"\x02\x02\x00\x01x\x02\x02\x01\x01x\x02\x02\x02\x01x\x02\x02\x03\x01x\x02\x02\x04\x01x"
    )


@pytest.mark.parametrize(
    ("name", "variable"),
    [("x", "proc.x"), ("sess.a.b.c", "sess.a.b.c"), ("res.A_9", "res.A_9")],
)
def test_variable_name(peer: Peer, name: str, variable: str) -> None:
    """The name behind the scope may have dots. A name without a scope has the scope proc (3.4)."""
    sent = message("variable", ("name", text(name)), ("value", int32(-1)))
    assert peer.request(sent) == [SetVar(variable, int32(-1))]


def test_types_of_constants(peer: Peer) -> None:
    """The Python type of a value chooses its SPOP type. A bool is a BOOL, and no integer (3.1, 3.4)."""
    assert peer.request(message("constants")) == [
        SetVar("txn.false", boolean(False)),
        SetVar("txn.true", boolean(True)),
        SetVar("txn.minus", int64(-5)),
        SetVar("txn.text", text("é")),
        SetVar("txn.bytes", binary(b"\x00\xff")),
        SetVar("txn.v4", ipv4("192.0.2.1")),
        SetVar("txn.v6", ipv6("2001:db8::1")),
    ]


def test_pipelining(peer: Peer) -> None:
    """50 NOTIFYs that arrive together get 50 ACKs, each with the answer of its NOTIFY (3.2.1)."""
    pending = {(stream_id, frame_id): 100 * stream_id + frame_id for stream_id in range(10) for frame_id in range(1, 6)}
    peer.send(
        *(
            notify(
                message(KINDS[answer % len(KINDS)], x(answer)),
                stream_id=stream_id,
                frame_id=frame_id,
            )
            for (stream_id, frame_id), answer in pending.items()
        )
    )
    while pending:
        stream_id, frame_id, actions = peer.acknowledgement()
        assert actions == set_x(pending.pop((stream_id, frame_id)))
    peer.send(disconnect())
    peer.expect_disconnect(Status.NORMAL)


def test_acks_out_of_order(peer: Peer, other: Peer, key: str) -> None:
    """Each ACK is sent as soon as its handler has answered, in any order (3.2.1)."""
    order = list(range(50))
    random.Random(key).shuffle(order)
    peer.send(*(notify(hold(f"{key}{number}"), stream_id=number) for number in order))
    assert peer.request(ECHO, stream_id=99) == ECHOED
    for number in sorted(order):
        assert other.request(release(f"{key}{number}")) == count(1)
        assert peer.actions(stream_id=number) == released(f"{key}{number}")


def test_frames_of_one_stream(peer: Peer, other: Peer, key: str) -> None:
    """Two NOTIFYs of the same stream-id are distinguished by their frame-id (3.2.7)."""
    peer.send(
        notify(hold(f"{key}1"), stream_id=7, frame_id=1),
        notify(hold(f"{key}2"), stream_id=7, frame_id=2),
    )
    assert peer.request(ECHO) == ECHOED
    for frame_id in (2, 1):
        assert other.request(release(f"{key}{frame_id}")) == count(1)
        assert peer.actions(7, frame_id) == released(f"{key}{frame_id}")


def test_streams_of_two_connections(connect: Connect, other: Peer, key: str) -> None:
    """NOTIFYs with the same ids on two connections are two NOTIFYs, each with its own ACK (3.2.1)."""
    first, second = connect(), connect()
    for index, peer in enumerate((first, second)):
        peer.handshake()
        peer.send(notify(hold(f"{key}{index}"), stream_id=1))
        assert peer.request(ECHO, stream_id=2) == ECHOED
    for index, peer in ((1, second), (0, first)):
        assert other.request(release(f"{key}{index}")) == count(1)
        assert peer.actions() == released(f"{key}{index}")
    for peer in (first, second):
        peer.send(disconnect())
        peer.expect_disconnect(Status.NORMAL)


def test_ack_is_not_fragmented(peer: Peer) -> None:
    """A long ACK is sent in one frame with FIN: HAProxy accepts no fragments (3.2.1)."""
    content = bytes(16_000)
    peer.send(notify(message("echo", ("x", binary(content)))))
    received = peer.frame()
    assert received[:2] == (FrameType.ACK, 1)
    assert received.payload == b"\x01\x03\x02\x01x\x09" + string(content)


def test_values_of_one_message(peer: Peer) -> None:
    """A message with values of all types gets one ACK with the same values (3.1, 3.4)."""
    values = [
        boolean(True),
        int32(-7),
        uint32(7),
        int64(-(2**40)),
        uint64(2**40),
        ipv4("192.0.2.1"),
        ipv6("2001:db8::1"),
        text("text"),
        binary(b"\x00"),
    ]
    arguments = [(f"x{index}", value) for index, value in enumerate(values)]
    assert peer.request(message("echo", *arguments, ("last", NULL))) == [
        *(SetVar(f"txn.{name}", value) for name, value in arguments),
        UnsetVar("txn.last"),
    ]
