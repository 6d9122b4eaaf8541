"""Batches of NOTIFYs of mixed kinds: their bytes, and the ACK of each. The bytes are made once and sent many times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count
from random import Random
from typing import NamedTuple

from tests.conformance.rawspop import (
    ABORT,
    FIN,
    HELLO,
    SCOPES,
    SET_VAR,
    FrameType,
    Items,
    Value,
    binary,
    boolean,
    fragments,
    frame,
    int64,
    message,
    string,
    text,
    typed,
    uint32,
    unset,
)

#: Bytes. The load agrees to this size with the agent, so that a short payload already needs fragments.
MAX_FRAME_SIZE = 1024

#: Bytes: the agent's max_payload_size.
MAX_PAYLOAD_SIZE = 4096

#: The HAPROXY-HELLO of a HAProxy <= 3.0, and of a HAProxy >= 3.1, which has no async and never sends fragments.
OLD = {**HELLO, "max-frame-size": uint32(MAX_FRAME_SIZE)}
NEW = {
    **HELLO,
    "capabilities": text("pipelining"),
    "engine-id": text("4b8f4a0e-3c1d-4a6e-9f53-6d2c8c1f7a90"),
}

#: Stands for the number of the NOTIFY, the argument "x", which differs between the NOTIFYs of a batch.
X = None


class Kind(NamedTuple):
    """NOTIFYs with the same messages, and the variables that their ACKs set."""

    #: How many of 1,000 NOTIFYs are of this kind, about. Kinds that cost much CPU time are seldom.
    share: int
    #: The names of the messages. Each has the argument "x".
    messages: Sequence[str]
    variables: Mapping[str, Value | None]
    #: The bytes of the argument "content". Without it, the messages do not have this argument.
    length: int = 0
    #: Whether HAProxy gives up the NOTIFY before the last fragment. Then it has no ACK.
    aborted: bool = False
    ack_flags: int = FIN


#: The kinds of NOTIFYs, by the names in the report.
KINDS = {
    "plain": Kind(400, ["echo"], {"txn.x": X}),
    "fired Deferred": Kind(80, ["fired"], {"txn.fired": X}),
    "Deferred": Kind(120, ["later"], {"txn.later": X}),
    "coroutine": Kind(150, ["coroutine"], {"txn.coroutine": X}),
    "several messages": Kind(
        40,
        ["echo", "coroutine", "raising", "later"],
        {"txn.x": X, "txn.coroutine": X, "txn.raised": boolean(True), "txn.later": X},
    ),
    "raising": Kind(20, ["raising"], {"txn.raised": boolean(True)}),
    "raising coroutine": Kind(10, ["raising-later"], {"txn.raised_later": boolean(True)}),
    "late Deferred": Kind(5, ["late"], {"txn.late": boolean(True)}),
    "late coroutine": Kind(5, ["late-coroutine"], {"txn.late_coroutine": boolean(True)}),
    "blocking": Kind(30, ["blocking"], {"txn.blocking": X}),
}

#: HAProxy >= 3.1 never sends these.
FRAGMENTED = {
    "fragments": Kind(30, ["body"], {"txn.body": X, "txn.length": int64(2500)}, length=2500),
    "aborted fragments": Kind(20, ["body"], {}, length=2500, aborted=True),
    "too big": Kind(10, ["body"], {"txn.too_big": boolean(True)}, length=5000, ack_flags=FIN | ABORT),
}


class Batch(NamedTuple):
    """NOTIFYs that are sent in one write."""

    data: bytes
    #: The frames of the ACKs that must arrive, in any order. All differ, because each NOTIFY has its own ids.
    acks: frozenset[bytes]
    #: How many NOTIFYs there are of each kind.
    kinds: Counter[str]


def make_batch(random: Random, size: int, hello: Items) -> Batch:
    """Return a batch of ``size`` NOTIFYs in random order, for a connection that began with ``hello``."""
    kinds = KINDS | FRAGMENTED if hello is OLD else KINDS
    names = random.choices(list(kinds), [kind.share for kind in kinds.values()], k=size)
    # HAProxy >= 3.1 counts 1, 3, 5... on each connection. HAProxy <= 3.0 sends the numbers of its streams.
    stream_ids = count(random.randrange(2**20)) if hello is OLD else count(1, 2)
    data, acks = [], set()
    for name, stream_id in zip(names, stream_ids, strict=False):
        kind, x = kinds[name], random.randrange(-(2**63), 2**63)
        data += _frames(kind, x, stream_id)
        if not kind.aborted:
            acks.add(_ack(kind, x, stream_id))
    return Batch(b"".join(data), frozenset(acks), Counter(names))


def _frames(kind: Kind, x: int, stream_id: int) -> list[bytes]:
    arguments = [("x", int64(x))]
    if kind.length:
        arguments.append(("content", binary(bytes(kind.length))))
    payload = b"".join(message(name, *arguments) for name in kind.messages)
    # The header of a frame has less than 24 bytes: type, flags, and two varints.
    room = MAX_FRAME_SIZE - 24
    frames = fragments([payload[start : start + room] for start in range(0, len(payload), room)], stream_id=stream_id)
    if kind.aborted:
        frames[-1] = unset(stream_id=stream_id, flags=FIN | ABORT)
    return frames


def _ack(kind: Kind, x: int, stream_id: int) -> bytes:
    actions = b""
    for variable, value in kind.variables.items():
        scope, _, name = variable.partition(".")
        actions += bytes([SET_VAR, 3, SCOPES.index(scope)]) + string(name) + typed(int64(x) if value is X else value)
    return frame(FrameType.ACK, actions, flags=kind.ack_flags, stream_id=stream_id, frame_id=1)
