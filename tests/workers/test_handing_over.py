"""Which worker gets the next connection."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from twisted.internet.task import Clock

from spoa_twisted.workers.handing_over import MAX_OFFERED, SLOW, HandingOver


class Recipient:
    """A worker that remembers what it was sent."""

    def __init__(self, number: int) -> None:
        self.number = number
        #: The number and the endpoint of each connection.
        self.sent: list[tuple[int, int]] = []

    def send_connection(self, descriptor: int, number: int, endpoint: int) -> None:
        assert descriptor >= 0
        self.sent.append((number, endpoint))


class Master:
    """A HandingOver, and what it has called."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.refused = 0
        self.pauses: list[bool] = []
        self.sockets: list[socket.socket] = []
        self.handing_over = HandingOver(self.clock, 100, self._refuse, self.pauses.append)

    def _refuse(self) -> None:
        self.refused += 1

    def accept(self, count: int = 1, owner: int = 0) -> None:
        for _ in range(count):
            self.sockets.append(socket.socket())
            self.handing_over.accept(self.sockets[-1], 7, owner)

    def add(self, number: int) -> Recipient:
        worker = Recipient(number)
        self.handing_over.add(worker)
        return worker

    def take_all(self, worker: Recipient) -> None:
        for number, _ in worker.sent:
            self.handing_over.on_taken(worker, number)


@pytest.fixture
def master() -> Iterator[Master]:
    master = Master()
    yield master
    for connection in master.sockets:
        connection.close()


def test_the_fewest_open(master: Master) -> None:
    """The worker with the fewest connections gets the next one. The master closes its copy when a worker has it."""
    one, two = master.add(1), master.add(2)
    master.accept(4)
    assert (len(one.sent), len(two.sent)) == (2, 2)
    assert [endpoint for _, endpoint in one.sent] == [7, 7]
    assert all(connection.fileno() >= 0 for connection in master.sockets)
    master.take_all(one)
    assert [connection.fileno() < 0 for connection in master.sockets].count(True) == 2
    master.handing_over.on_closed(one, 2)
    master.accept(2)
    assert (len(one.sent), len(two.sent)) == (4, 2)
    assert master.handing_over.connections(one) == 2
    assert master.handing_over.open == 4


def test_connections_wait_for_a_worker(master: Master) -> None:
    """The ports are paused meanwhile."""
    master.accept(2)
    assert (master.handing_over.waiting, master.pauses) == (2, [True])
    worker = master.add(1)
    assert (master.handing_over.waiting, master.pauses, len(worker.sent)) == (0, [True, False], 2)


def test_few_are_on_their_way(master: Master) -> None:
    """Others wait until the worker has taken some."""
    worker = master.add(1)
    master.accept(MAX_OFFERED + 3)
    assert (len(worker.sent), master.handing_over.waiting, master.pauses) == (MAX_OFFERED, 3, [True])
    master.take_all(worker)
    assert (len(worker.sent), master.handing_over.waiting, master.pauses) == (MAX_OFFERED + 3, 0, [True, False])


def test_the_end_of_a_worker(master: Master) -> None:
    """What it has not taken goes to another one, in the same order. What it had is forgotten."""
    one = master.add(1)
    master.accept(3)
    master.handing_over.on_taken(one, one.sent[0][0])
    master.handing_over.remove(one)
    assert (master.handing_over.waiting, master.handing_over.open) == (2, 0)
    two = master.add(2)
    master.take_all(two)
    assert len(two.sent) == 2
    assert all(connection.fileno() < 0 for connection in master.sockets)


def test_a_worker_that_leaves(master: Master) -> None:
    """It gets no more connections, but takes those on their way."""
    one = master.add(1)
    master.accept()
    master.handing_over.leave(one)
    master.accept()
    assert (len(one.sent), master.handing_over.waiting, master.handing_over.open) == (1, 1, 1)
    master.take_all(one)
    assert master.sockets[0].fileno() < 0
    master.handing_over.on_closed(one, 1)
    assert master.handing_over.open == 0
    master.handing_over.remove(one)
    assert master.handing_over.waiting == 1


def test_a_slow_worker(master: Master) -> None:
    """A worker that has not taken a connection for a while gets others only if there is no other worker."""
    one = master.add(1)
    master.accept()
    master.clock.advance(2 * SLOW)
    two = master.add(2)
    for _ in range(3):
        master.accept()
        master.take_all(two)
    assert (len(one.sent), len(two.sent)) == (1, 3)
    master.handing_over.leave(two)
    master.accept()
    assert len(one.sent) == 2


def test_the_owner_of_an_endpoint(master: Master) -> None:
    """It gets the connections of its endpoint while it can take them, although others have fewer."""
    one, two = master.add(1), master.add(2)
    master.accept(3, owner=2)
    assert (len(one.sent), len(two.sent)) == (0, 3)
    master.handing_over.leave(two)
    master.accept(owner=2)
    assert len(one.sent) == 1


def test_the_limit(master: Master) -> None:
    """It counts all workers' connections, and those that wait."""
    worker = master.add(1)
    master.accept(100)
    master.accept(2)
    assert (master.refused, master.sockets[-1].fileno()) == (2, -1)
    master.take_all(worker)
    master.take_all(worker)
    master.handing_over.on_closed(worker, 1)
    master.accept(2)
    assert master.refused == 3


def test_reports_about_an_unknown_worker(master: Master) -> None:
    """They are ignored: its process has ended."""
    worker = Recipient(1)
    master.handing_over.on_taken(worker, 1)
    master.handing_over.on_closed(worker, 1)
    master.handing_over.leave(worker)
    master.handing_over.remove(worker)
    assert master.handing_over.connections(worker) == 0


def test_close_waiting(master: Master) -> None:
    """At the end of the agent."""
    master.accept(2)
    master.handing_over.close_waiting()
    assert [connection.fileno() for connection in master.sockets] == [-1, -1]


def test_a_worker_that_returns_connections(master: Master) -> None:
    """Another worker gets them at once, and before those that have come later."""
    one = master.add(1)
    master.accept(2)
    (first, _), (second, _) = one.sent
    master.handing_over.leave(one)
    master.accept()
    master.handing_over.on_returned(one, second)
    master.handing_over.on_returned(one, first)
    # It was taken, or returned, before.
    master.handing_over.on_returned(one, first)
    assert (master.handing_over.connections(one), master.handing_over.waiting) == (0, 3)
    sent: list[int] = []
    two = Recipient(2)
    two.send_connection = lambda descriptor, number, endpoint: sent.append(descriptor)  # type: ignore[method-assign]
    master.handing_over.add(two)
    assert sent == [connection.fileno() for connection in master.sockets]
    master.handing_over.remove(one)
    master.handing_over.on_returned(one, first)
    assert master.handing_over.open == 3
