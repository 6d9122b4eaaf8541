"""How much may stand unread in front of HAProxy >= 3.1."""

from __future__ import annotations

import pytest

from spoa_twisted.spop.connection import AgentConnection, EngineConnection, Notify
from spoa_twisted.spop.frames import Flags, FrameType, HAProxyHello, encode_frame
from spoa_twisted.spop.messages import Message, encode_messages
from spoa_twisted.spop.unread import Receipt, Unread

# One byte less than the buffer of a HAProxy whose max-frame-size is 16380.
LIMIT = 16383

# Twenty of these, and the goodbye, are shorter.
SMALL = 804

NEW = HAProxyHello(capabilities=frozenset({"pipelining"}))

# A NOTIFY of which three make a long read.
LONG_NOTIFY = encode_frame(
    FrameType.NOTIFY, Flags.FIN, b"\x01\x01", encode_messages([Message("m", [("a", b"x" * 16000)])])
)


def frames(*sizes: int) -> list[bytes]:
    return [b"x" * size for size in sizes]


@pytest.fixture
def unread() -> Unread:
    """After the AGENT-HELLO."""
    unread = Unread(16380)
    assert unread.admit(frames(80), 0) == 1
    return unread


def time_passes(unread: Unread) -> None:
    """As long as HAProxy needs, when nothing else tells what it has read."""
    for _ in range(Receipt.UNKNOWN.value):
        unread.interval_ended(Receipt.UNKNOWN)


def haproxy_reads(unread: Unread | AgentConnection) -> None:
    """All, and its call has had the time to return."""
    for _ in range(Receipt.HANDED_OUT.value):
        unread.interval_ends()
        unread.interval_ended(Receipt.HANDED_OUT)


def test_small_frames_are_not_counted(unread: Unread) -> None:
    """Twenty of them fit, and there are no more: whatever is in flight, they leave at once."""
    for _ in range(100):
        assert unread.admit(frames(*[SMALL] * 20), 20) == 20
    assert len(unread) == 0


def test_a_frame_as_long_as_the_limit_leaves_alone(unread: Unread) -> None:
    """The next waits until it is read."""
    assert unread.admit(frames(LIMIT, 10), 2) == 1
    assert unread.admit(frames(10), 1) == 0
    time_passes(unread)
    assert unread.admit(frames(10), 1) == 1


def test_long_frames_leave_up_to_the_limit(unread: Unread) -> None:
    """In their order: a short one does not overtake."""
    assert unread.admit(frames(8000, 8000, 1000, 10), 4) == 2
    assert unread.admit(frames(1000, 10), 2) == 0


def test_what_was_sent_before_counting_began_counts(unread: Unread) -> None:
    """For the most that it may be."""
    assert unread.admit(frames(10), 1) == 1
    assert unread.admit(frames(LIMIT), 1) == 0
    assert unread.admit(frames(LIMIT - SMALL), 1) == 1


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


def test_time_shows_what_was_read_when_nothing_else_does(unread: Unread) -> None:
    """What was sent later needs as much time of its own."""
    assert unread.admit(frames(8000), 1) == 1
    for _ in range(Receipt.UNKNOWN.value - 1):
        unread.interval_ended(Receipt.UNKNOWN)
    assert unread.admit(frames(8000), 1) == 1
    unread.interval_ended(Receipt.UNKNOWN)
    assert len(unread) == 1
    time_passes(unread)
    assert len(unread) == 0


def test_the_kernel_knows(unread: Unread) -> None:
    """When it says that all was read, no time has to pass; when it says that not all was, no time is enough."""
    assert unread.admit(frames(LIMIT, 10), 2) == 1
    for _ in range(10 * Receipt.UNKNOWN.value):
        unread.interval_ended(Receipt.MISSING)
    assert unread.admit(frames(10), 1) == 0
    haproxy_reads(unread)
    assert unread.admit(frames(10), 1) == 1


def test_what_the_kernel_has_handed_out_may_not_have_been_returned(unread: Unread) -> None:
    """A call that has not returned takes what comes next as well: both together must not fill the buffer."""
    assert unread.admit(frames(12000), 1) == 1
    for _ in range(Receipt.HANDED_OUT.value - 1):
        unread.interval_ended(Receipt.HANDED_OUT)
        assert unread.admit(frames(LIMIT - 12000 + 1), 1) == 0
    assert unread.admit(frames(4000), 1) == 1
    unread.interval_ended(Receipt.HANDED_OUT)
    assert unread.admit(frames(12000), 1) == 1
    assert len(unread) == 2


def test_what_is_sent_while_an_interval_ends_belongs_to_the_next(unread: Unread) -> None:
    """It may not have reached the kernel, which then knows nothing of it."""
    assert unread.admit(frames(8000), 1) == 1
    unread.interval_ends()
    assert unread.admit(frames(8000), 1) == 1
    for _ in range(Receipt.HANDED_OUT.value):
        unread.interval_ended(Receipt.HANDED_OUT)
    assert len(unread) == 1
    unread.interval_ended(Receipt.HANDED_OUT)
    assert len(unread) == 0


def test_counting_ends_when_all_is_read(unread: Unread) -> None:
    """After a long frame, small ones are not slowed for ever."""
    assert unread.admit(frames(LIMIT), 1) == 1
    haproxy_reads(unread)
    for _ in range(100):
        assert unread.admit(frames(*[SMALL] * 20), 20) == 20
    assert len(unread) == 0


def test_more_in_flight_than_haproxy_waits_for(unread: Unread) -> None:
    """It has given up some, and reads no faster for it: however small the ACKs, only so many leave at once."""
    assert unread.admit(frames(*[40] * 1000), 1000) == LIMIT // 40
    assert unread.admit(frames(*[40] * 591), 591) == 0
    haproxy_reads(unread)
    assert unread.admit(frames(*[40] * 591), 591) == LIMIT // 40


def test_what_arrived_together_was_in_flight_together(unread: Unread) -> None:
    """Though it is answered one after the other."""
    admitted = 0
    while unread.admit(frames(40), 1, admitted) == 1:
        admitted += 1
    assert 20 <= admitted < 30
    assert unread.admit(frames(40), 1, 0) == 0


def test_counts_prove_nothing_after_haproxy_gave_up(unread: Unread) -> None:
    """Though no more than 20 are in flight any more, ACKs of those given up may be unread, until all is read."""
    assert unread.admit(frames(*[800] * 25), 25) == 20
    assert unread.admit(frames(*[800] * 20), 20) == 0
    haproxy_reads(unread)
    assert unread.admit(frames(*[800] * 20), 20) == 20
    assert len(unread) == 0


def test_a_count_that_misses_what_has_not_arrived(unread: Unread) -> None:
    """Who has fallen behind sees only a part of what HAProxy has sent."""
    unread.fell_behind()
    for _ in range(3):
        assert unread.admit(frames(*[2000] * 4), 4) in (4, 0)
    assert len(unread) == 8
    haproxy_reads(unread)
    assert unread.admit(frames(2000), 1) == 1


def test_one_notify_at_a_time() -> None:
    """Without pipelining, each NOTIFY shows that the ACK of the one before it was read."""
    unread = Unread(16380, pipelining=False)
    assert unread.admit(frames(80), 0) == 1
    for _ in range(10):
        assert unread.admit(frames(LIMIT), 1) == 1
    # HAProxy gave up the first, and sent another.
    assert unread.admit(frames(LIMIT, LIMIT), 2) == 0
    haproxy_reads(unread)
    assert unread.admit(frames(LIMIT, LIMIT), 2) == 1


class TestConnection:
    @pytest.fixture
    def agent(self) -> AgentConnection:
        """An agent with 20 NOTIFYs from a HAProxy >= 3.1."""
        return self.with_notifies(20)

    @staticmethod
    def with_notifies(count: int, hello: HAProxyHello = NEW) -> AgentConnection:
        engine, agent = EngineConnection(hello), AgentConnection()
        agent.receive_data(engine.data_to_send())
        agent.next_event()
        engine.receive_data(agent.data_to_send())
        engine.next_event()
        for _ in range(count):
            engine.send_notify([Message("m")])
        agent.receive_data(engine.data_to_send())
        for _ in range(count):
            agent.next_event()
        return agent

    def test_small_acks_leave_at_once(self, agent: AgentConnection) -> None:
        """All in one write, and nobody waits for anything."""
        for number in range(20):
            agent.send_ack(bytes((2 * number + 1, 1)), b"x" * (SMALL - 11))
        assert len(agent.data_to_send()) == 20 * SMALL
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
            haproxy_reads(agent)
        assert sum(writes) == 20 * 1511
        assert all(size <= LIMIT and size % 1511 == 0 for size in writes)

    def test_who_has_fallen_behind_sends_no_more_than_haproxy_can_read(self, agent: AgentConnection) -> None:
        """HAProxy has given up most of what came in one long read; it still is sent as slowly as it can read."""
        notify = encode_frame(FrameType.NOTIFY, Flags.FIN, b"\x01\x01", encode_messages([Message("m")]))
        agent.receive_data(notify * 1000)
        while (event := agent.next_event()) is not None:
            assert isinstance(event, Notify)
            agent.send_ack(event.ids, b"x" * 40)
        assert 1000 < len(agent.data_to_send()) <= LIMIT
        assert agent.data_to_send() == b""
        haproxy_reads(agent)
        assert 1000 < len(agent.data_to_send()) <= LIMIT

    @pytest.mark.parametrize("with_tls", [False, True])
    def test_a_long_read_may_be_a_part(self, with_tls: bool) -> None:
        """HAProxy may have sent more: that few NOTIFYs have come does not show that it has read ACKs of others."""
        agent = self.with_notifies(0)
        reads = [LONG_NOTIFY] * 3 if with_tls else [LONG_NOTIFY * 3]
        sent = 0
        for _ in range(20):
            for number, read in enumerate(reads):
                (agent.receive_more if number else agent.receive_data)(read)
                while (event := agent.next_event()) is not None:
                    assert isinstance(event, Notify)
                    agent.send_ack(event.ids, b"x" * 900)
                sent += len(agent.data_to_send())
        assert 15 * 900 < sent <= LIMIT

    def test_short_reads_show_what_was_read(self, agent: AgentConnection) -> None:
        """However many they are: HAProxy sends a NOTIFY that makes 20 again when it has read the ACK before it."""
        for _ in range(10):
            agent.send_ack(b"\x01\x01", b"x" * 12000)
            assert len(agent.data_to_send()) > 12000
            agent.receive_data(LONG_NOTIFY)
            assert isinstance(agent.next_event(), Notify)

    def test_what_comes_piece_by_piece(self, agent: AgentConnection) -> None:
        """As the records of TLS do, all of which had arrived before any was answered."""
        notify = encode_frame(FrameType.NOTIFY, Flags.FIN, b"\x01\x01", encode_messages([Message("m")]))
        for _ in range(20):
            agent.send_ack(b"\x01\x01")
        agent.data_to_send()
        sent = 0
        for number in range(1000):
            (agent.receive_more if number else agent.receive_data)(notify)
            event = agent.next_event()
            assert isinstance(event, Notify)
            agent.send_ack(event.ids, b"x" * 40)
            sent += len(agent.data_to_send())
        assert sent <= LIMIT
        assert agent.unread

    def test_without_pipelining_nothing_waits(self) -> None:
        """Each NOTIFY shows that all before it has been read."""
        engine, agent = EngineConnection(HAProxyHello(capabilities=frozenset())), AgentConnection()
        agent.receive_data(engine.data_to_send())
        agent.next_event()
        engine.receive_data(agent.data_to_send())
        engine.next_event()
        for _ in range(10):
            ids = engine.send_notify([Message("m")])
            agent.receive_data(engine.data_to_send())
            agent.next_event()
            agent.send_ack(ids, b"x" * agent.room_for_actions(ids))
            assert len(agent.data_to_send()) == LIMIT

    def test_the_goodbye_waits_for_long_acks(self, agent: AgentConnection) -> None:
        """What HAProxy cannot read any more it cannot know."""
        for number in range(20):
            agent.send_ack(bytes((2 * number + 1, 1)), b"x" * 1500)
        agent.disconnect()
        writes = []
        while agent.unread:
            writes.append(agent.data_to_send())
            haproxy_reads(agent)
        assert len(writes) == 2
        assert all(len(data) <= LIMIT for data in writes)
        assert writes[-1].endswith(b"\x06normal")

    def test_the_goodbye_is_no_ack(self, agent: AgentConnection) -> None:
        """With 18 NOTIFYs in flight two ACKs may be unread, whether or not a goodbye follows the third."""
        for _ in range(2):
            agent.send_ack(b"\x01\x01", b"x" * 8000)
        assert len(agent.data_to_send()) > 16000
        # Another NOTIFY begins to come.
        agent.receive_data(LONG_NOTIFY[:100])
        agent.send_ack(b"\x01\x01", b"x" * 6000)
        agent.disconnect()
        assert agent.data_to_send() == b""
        haproxy_reads(agent)
        assert len(agent.data_to_send()) > 6000

    def test_small_acks_and_the_goodbye_leave_together(self, agent: AgentConnection) -> None:
        """However many they are."""
        for number in range(20):
            agent.send_ack(bytes((2 * number + 1, 1)), b"x" * (SMALL - 11))
        agent.disconnect()
        data = agent.data_to_send()
        assert 20 * SMALL < len(data) <= LIMIT
        assert data.endswith(b"\x06normal")

    def test_an_older_haproxy_takes_all_at_once(self) -> None:
        """One that lists async is none that stops reading."""
        agent = self.with_notifies(20, HAProxyHello(capabilities=frozenset({"pipelining", "async"})))
        for number in range(20):
            agent.send_ack(bytes((2 * number + 1, 1)), b"x" * 1500)
        assert len(agent.data_to_send()) == 20 * 1511
        assert not agent.unread
