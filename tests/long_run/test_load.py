"""The load: it must notice each ACK that is wrong, missing or sent twice."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from random import Random

import pytest

from tests.conformance.rawspop import boolean, typed
from tests.faults.agent import Peer

from .batches import KINDS, NEW, OLD, Batch, make_batch
from .load import Wrong, exchange


@pytest.fixture
def batch() -> Batch:
    return make_batch(Random(1), 50, OLD)


@pytest.fixture
def ends() -> Iterator[tuple[Peer, socket.socket]]:
    """HAProxy's end of a connection, and the agent's."""
    haproxys, agents = socket.socketpair()
    with haproxys, agents:
        yield Peer(haproxys), agents


def test_all_acks(ends: tuple[Peer, socket.socket], batch: Batch) -> None:
    """The ACKs may arrive in any order."""
    peer, agent = ends
    agent.sendall(b"".join(sorted(batch.acks)))
    exchange(peer, batch)
    assert agent.recv(2**20, socket.MSG_WAITALL | socket.MSG_PEEK | socket.MSG_DONTWAIT) == batch.data


def test_ack_twice(ends: tuple[Peer, socket.socket], batch: Batch) -> None:
    peer, agent = ends
    first, *others = batch.acks
    agent.sendall(b"".join([first, first, *others]))
    with pytest.raises(Wrong, match="sent twice"):
        exchange(peer, batch)


def test_missing_ack(ends: tuple[Peer, socket.socket], batch: Batch) -> None:
    peer, agent = ends
    _, *others = batch.acks
    agent.sendall(b"".join(others))
    agent.shutdown(socket.SHUT_WR)
    with pytest.raises(Wrong, match="ended before 1 ACKs"):
        exchange(peer, batch)


def test_other_ack(ends: tuple[Peer, socket.socket], batch: Batch) -> None:
    """The error shows both ACKs."""
    peer, agent = ends
    # Only the flag of a BOOL differs: false instead of true.
    ack = next(ack for ack in batch.acks if ack.endswith(b"raised" + typed(boolean(True))))
    agent.sendall(ack[:-1] + typed(boolean(False)))
    with pytest.raises(Wrong, match=r"the ACK of \((.*)\) .* is wrong .*: the ACK of \(\1\) "):
        exchange(peer, batch)


def test_part_of_an_ack_after_the_last(ends: tuple[Peer, socket.socket], batch: Batch) -> None:
    peer, agent = ends
    agent.sendall(b"".join(batch.acks) + b"\0")
    agent.shutdown(socket.SHUT_WR)
    with pytest.raises(Wrong, match="ended before 0 ACKs"):
        exchange(peer, batch)


def test_kinds() -> None:
    """A batch has all kinds, but fragments only for HAProxy <= 3.0. Only aborted NOTIFYs have no ACK."""
    old, new = (make_batch(Random(1), 3000, hello) for hello in (OLD, NEW))
    assert new.kinds.keys() == KINDS.keys()
    assert old.kinds.keys() == KINDS.keys() | {"fragments", "aborted fragments", "too big"}
    assert len(old.acks) == 3000 - old.kinds["aborted fragments"]
    assert len(new.acks) == 3000
