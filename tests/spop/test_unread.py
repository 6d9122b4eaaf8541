"""How much may stand unread in front of HAProxy >= 3.1."""

from __future__ import annotations

import pytest

from spoa_twisted.spop.connection import AgentConnection, EngineConnection
from spoa_twisted.spop.frames import HAProxyHello
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.unread import Unread

# One byte less than the buffer of a HAProxy whose max-frame-size is 16380.
LIMIT = 16383


def frames(*sizes: int) -> list[bytes]:
    return [b"x" * size for size in sizes]


@pytest.fixture
def unread() -> Unread:
    """After the AGENT-HELLO."""
    unread = Unread(16380)
    assert unread.admit(frames(80), 0) == 1
    return unread


def test_small_frames_are_not_counted(unread: Unread) -> None:
    """Twenty of them fit, and there are no more: whatever is in flight, they leave at once."""
    for _ in range(100):
        assert unread.admit(frames(*[LIMIT // 20] * 20), 20) == 20
    assert len(unread) == 0


def test_a_frame_as_long_as_the_limit_leaves_alone(unread: Unread) -> None:
    """The next waits until it is read."""
    assert unread.admit(frames(LIMIT, 10), 2) == 1
    assert unread.admit(frames(10), 1) == 0
    unread.interval_ended()
    assert unread.admit(frames(10), 1) == 0
    unread.interval_ended()
    assert unread.admit(frames(10), 1) == 1


def test_long_frames_leave_up_to_the_limit(unread: Unread) -> None:
    """In their order: a short one does not overtake."""
    assert unread.admit(frames(8000, 8000, 1000, 10), 4) == 2
    assert unread.admit(frames(1000, 10), 2) == 0


def test_what_was_sent_before_counting_began_counts(unread: Unread) -> None:
    """For the most that it may be."""
    assert unread.admit(frames(10), 1) == 1
    assert unread.admit(frames(LIMIT), 1) == 0
    assert unread.admit(frames(LIMIT - 819), 1) == 1


def test_a_full_pipeline_has_nothing_unread(unread: Unread) -> None:
    """HAProxy, which keeps 20 NOTIFYs in flight, must have read the ACKs of all others."""
    assert unread.admit(frames(16000), 20) == 1
    assert unread.admit(frames(16000), 19) == 0
    assert unread.admit(frames(16000), 20) == 1


def test_what_is_unread_is_no_more_than_is_missing(unread: Unread) -> None:
    """With 18 NOTIFYs in flight, two ACKs may be unread: those sent last."""
    assert unread.admit(frames(5000, 5000, 5000), 18) == 3
    assert unread.admit(frames(6000), 18) == 1
    assert len(unread) == 3
    assert unread.admit(frames(6000), 18) == 0


def test_a_peer_with_more_in_flight_proves_nothing(unread: Unread) -> None:
    """Either it is no HAProxy, or it has given up streams: only time tells what it has read."""
    assert unread.admit(frames(16000), 25) == 1
    assert unread.admit(frames(16000), 25) == 0
    for _ in range(2):
        unread.interval_ended()
    assert unread.admit(frames(16000), 25) == 1


def test_an_interval_takes_what_was_sent_before_it(unread: Unread) -> None:
    """What was sent during the first interval is unread until the second has ended."""
    assert unread.admit(frames(8000), 1) == 1
    unread.interval_ended()
    assert unread.admit(frames(8000), 1) == 1
    unread.interval_ended()
    assert len(unread) == 1
    unread.interval_ended()
    assert len(unread) == 0


def test_the_count_and_the_interval_agree(unread: Unread) -> None:
    """What the count has shown to be read, the interval does not take again."""
    assert unread.admit(frames(5000, 5000, 5000), 17) == 3
    unread.interval_ended()
    assert unread.admit(frames(1000), 19) == 1
    assert len(unread) == 2
    unread.interval_ended()
    assert len(unread) == 1


class TestConnection:
    @pytest.fixture
    def agent(self) -> AgentConnection:
        """An agent with 20 NOTIFYs from a HAProxy >= 3.1."""
        return self.after_twenty(HAProxyHello(capabilities=frozenset({"pipelining"})))

    @staticmethod
    def after_twenty(hello: HAProxyHello) -> AgentConnection:
        engine, agent = EngineConnection(hello), AgentConnection()
        agent.receive_data(engine.data_to_send())
        agent.next_event()
        engine.receive_data(agent.data_to_send())
        engine.next_event()
        for _ in range(20):
            engine.send_notify([Message("m")])
        agent.receive_data(engine.data_to_send())
        for _ in range(20):
            agent.next_event()
        return agent

    def test_small_acks_leave_at_once(self, agent: AgentConnection) -> None:
        """All in one write, and nobody waits for anything."""
        for number in range(20):
            agent.send_ack(bytes((2 * number + 1, 1)), b"x" * 800)
        assert len(agent.data_to_send()) == 20 * 811
        assert not agent.unread
        assert agent.bytes_to_send == 0

    def test_long_acks_are_held_back(self, agent: AgentConnection) -> None:
        """Whole frames leave, no more than HAProxy can read at once, until all have left."""
        for number in range(20):
            agent.send_ack(bytes((2 * number + 1, 1)), b"x" * 1500)
        writes = []
        while agent.unread:
            data = agent.data_to_send()
            writes.append(len(data))
            assert agent.bytes_to_send == 20 * 1511 - sum(writes)
            agent.interval_ended()
        assert sum(writes) == 20 * 1511
        assert all(size <= LIMIT and size % 1511 == 0 for size in writes)

    def test_the_goodbye_takes_all_along(self, agent: AgentConnection) -> None:
        """There is no later."""
        for number in range(20):
            agent.send_ack(bytes((2 * number + 1, 1)), b"x" * 1500)
        agent.disconnect()
        assert len(agent.data_to_send()) > 20 * 1511
        assert not agent.unread

    def test_an_older_haproxy_takes_all_at_once(self) -> None:
        """One that lists async is none that stops reading."""
        agent = self.after_twenty(HAProxyHello(capabilities=frozenset({"pipelining", "async"})))
        for number in range(20):
            agent.send_ack(bytes((2 * number + 1, 1)), b"x" * 1500)
        assert len(agent.data_to_send()) == 20 * 1511
        assert not agent.unread
