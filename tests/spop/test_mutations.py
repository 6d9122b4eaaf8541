"""Thousands of mutated conversations: a connection returns events or raises SPOPError, and nothing else."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest

from spoa_twisted.spop.actions import encode_actions
from spoa_twisted.spop.connection import AgentConnection, EngineConnection, State
from spoa_twisted.spop.errors import SPOPError
from spoa_twisted.spop.frames import HAProxyHello
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.typeddata import Int32, UInt32, UInt64

MUTATIONS = 10_000

MESSAGES = [
    Message("check-ip", [("ip", IPv4Address("192.0.2.1")), ("v6", IPv6Address("2001:db8::1")), ("", None)]),
    Message("numbers", [("a", -5), ("b", Int32(-1)), ("c", UInt32(2**32 - 1)), ("d", UInt64(2**64 - 1)), ("e", True)]),
    Message("text", [("path", "/index.html"), ("body", b"\x00\xff" * 150), ("path", "é\udcff")]),
]


def conversation() -> tuple[list[bytes], list[bytes]]:
    """Return the bytes that an engine and an agent send each other. Each item holds the bytes of one write."""
    engine = EngineConnection(HAProxyHello(max_frame_size=512, capabilities=frozenset({"async"}), engine_id="e"))
    agent = AgentConnection()
    from_engine, from_agent = [engine.data_to_send()], []
    agent.receive_data(from_engine[0])
    agent.next_event()
    from_agent.append(agent.data_to_send())
    engine.receive_data(from_agent[0])
    engine.next_event()
    for messages in (MESSAGES[:1], MESSAGES, []):
        ids = engine.send_notify(messages)
        from_engine.append(engine.data_to_send())
        agent.receive_data(from_engine[-1])
        agent.next_event()
        agent.send_ack(ids, encode_actions({"sess.a": Int32(-5), "txn.b": None, "req.c": "x" * 100, "res.d": b""}))
        from_agent.append(agent.data_to_send())
    engine.disconnect(4, "why")
    agent.disconnect(3, "so")
    return [*from_engine, engine.data_to_send()], [*from_agent, agent.data_to_send()]


def mutated(frames: list[bytes], randomness: random.Random) -> bytes:
    """Return ``frames`` with mutations: bytes changed, deleted or inserted, frames dropped, repeated or moved."""
    frames = list(frames)
    for _ in range(randomness.randrange(3)):
        which = randomness.randrange(len(frames))
        match randomness.randrange(3):
            case 0:
                frames.insert(randomness.randrange(len(frames)), frames[which])
            case 1:
                frames.append(frames.pop(which))
            case 2 if len(frames) > 1:
                del frames[which]
    data = bytearray(b"".join(frames))
    for _ in range(randomness.randrange(6)):
        at = randomness.randrange(len(data))
        match randomness.randrange(5):
            case 0:
                data[at] = randomness.randrange(256)
            case 1:
                data[at] ^= 1 << randomness.randrange(8)
            case 2:
                del data[at : at + randomness.randrange(1, 9)]
            case 3:
                data[at:at] = randomness.randbytes(randomness.randrange(1, 9))
            case 4:
                data[at] = randomness.choice([0, 1, 0xEF, 0xF0, 0xFF])
        data = data or bytearray(1)
    return bytes(data)


def play(connection: Any, data: bytes, randomness: random.Random) -> bool:
    """Feed ``data`` in random pieces until the connection closes; return whether it raised a SPOPError."""
    offset = 0
    while offset < len(data) and connection.state is not State.CLOSED:
        size = randomness.choice([1, 3, 17, 100, len(data)])
        connection.receive_data(data[offset : offset + size])
        offset += size
        try:
            while (event := connection.next_event()) is not None:
                repr(event)
        except SPOPError as error:
            assert connection.state is State.CLOSED
            assert 0 < len(str(error).encode()) <= 255
            return True
    return False


@pytest.mark.parametrize("side", ["agent", "engine"])
def test_mutated_conversations_raise_only_spoperror(side: str) -> None:
    """Neither side raises any exception but SPOPError for a mutated conversation, and its text fits a DISCONNECT."""
    randomness = random.Random(20261122)
    from_engine, from_agent = conversation()
    broken = 0
    for _ in range(MUTATIONS):
        if side == "agent":
            broken += play(AgentConnection(max_payload_size=2000), mutated(from_engine, randomness), randomness)
        else:
            engine = EngineConnection(HAProxyHello(max_frame_size=512, engine_id="e"))
            engine._waiting.update([b"\x01\x01", b"\x03\x01", b"\x05\x01"])
            broken += play(engine, mutated(from_agent, randomness), randomness)
    # If nearly all or nearly no conversations failed, the mutations would reach only a part of the code.
    assert MUTATIONS // 10 < broken < MUTATIONS * 9 // 10


def test_random_bytes_raise_only_spoperror() -> None:
    """Random bytes, at the start and in a frame after the HELLO, are skipped or raise SPOPError."""
    randomness = random.Random(7)
    hello = EngineConnection().data_to_send()
    for number in range(2000):
        noise = randomness.randbytes(randomness.randrange(1, 200))
        if number % 2:
            noise = hello + len(noise).to_bytes(4, "big") + noise
        play(AgentConnection(), noise, randomness)
