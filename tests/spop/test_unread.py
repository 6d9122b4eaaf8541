"""The limit of the bytes that a HAProxy >= 3.1 may not have read (see spoa_twisted.spop.unread)."""

from __future__ import annotations

import pytest

from spoa_twisted.spop.connection import AgentConnection, EngineConnection, Notify
from spoa_twisted.spop.frames import Flags, FrameType, HAProxyHello, encode_frame
from spoa_twisted.spop.messages import Message, encode_messages
from spoa_twisted.spop.unread import Receipt, Unread, max_short_ack

# The largest number of unread bytes: one byte less than the buffer of a HAProxy whose max-frame-size is 16380.
LIMIT = 16383

# The size of the largest ACK that is not counted: 20 of them and an AGENT-DISCONNECT are shorter than LIMIT.
SMALL = 804

NEW = HAProxyHello(capabilities=frozenset({"pipelining"}))

# Three NOTIFYs of this size exceed 32 KiB: after such a read, more may wait in the transport.
LONG_NOTIFY = encode_frame(
    FrameType.NOTIFY, Flags.FIN, b"\x01\x01", encode_messages([Message("m", [("a", b"x" * 16000)])])
)

NOTIFY = encode_frame(FrameType.NOTIFY, Flags.FIN, b"\x01\x01", encode_messages([Message("m")]))


def frames(*sizes: int) -> list[bytes]:
    return [b"x" * size for size in sizes]


@pytest.fixture
def unread() -> Unread:
    """An Unread after the AGENT-HELLO was sent."""
    unread = Unread(16380)
    assert unread.admit(frames(80), 0) == 1
    return unread


def pass_time_until_read(unread: Unread) -> None:
    """Let as many intervals end as it takes until bytes count as read without the kernel's help."""
    for _ in range(Receipt.UNKNOWN.value):
        unread.interval_ended(Receipt.UNKNOWN)


def haproxy_reads(unread: Unread | AgentConnection) -> None:
    """HAProxy reads all bytes, and its call of recv() has had the time to return."""
    for _ in range(Receipt.HANDED_OUT.value):
        unread.interval_ends()
        unread.interval_ended(Receipt.HANDED_OUT)


def test_small_frames_are_not_counted(unread: Unread) -> None:
    """20 small ACKs fit below the limit, and HAProxy waits for no more than 20. So they leave at once."""
    for _ in range(100):
        assert unread.admit(frames(*[SMALL] * 20), 20) == 20
    assert len(unread) == 0


def test_a_frame_of_the_limit_leaves_alone(unread: Unread) -> None:
    """A frame of LIMIT bytes leaves. The next frame waits until HAProxy has read it."""
    assert unread.admit(frames(LIMIT, 10), 2) == 1
    assert unread.admit(frames(10), 1) == 0
    pass_time_until_read(unread)
    assert unread.admit(frames(10), 1) == 1


def test_long_frames_leave_up_to_the_limit(unread: Unread) -> None:
    """Frames leave in their order as long as they fit. A short frame does not overtake a long one."""
    assert unread.admit(frames(8000, 8000, 1000, 10), 4) == 2
    assert unread.admit(frames(1000, 10), 2) == 0


def test_frames_sent_before_counting_began_are_counted(unread: Unread) -> None:
    """When counting begins, an earlier ACK counts with the largest size that a small ACK can have."""
    assert unread.admit(frames(10), 1) == 1
    assert unread.admit(frames(LIMIT), 1) == 0
    assert unread.admit(frames(LIMIT - SMALL), 1) == 1


def test_with_20_in_flight_nothing_is_unread(unread: Unread) -> None:
    """HAProxy keeps at most 20 NOTIFYs in flight. If 20 are, it has read all ACKs that were sent."""
    assert unread.admit(frames(16000), 20) == 1
    assert unread.admit(frames(16000), 19) == 0
    assert unread.admit(frames(16000), 20) == 1


def test_with_18_in_flight_two_acks_may_be_unread(unread: Unread) -> None:
    """With 18 NOTIFYs in flight, only the last two of the sent ACKs may be unread."""
    assert unread.admit(frames(5000, 5000, 5000), 18) == 3
    assert unread.admit(frames(6000), 18) == 1
    assert len(unread) == 3
    assert unread.admit(frames(6000), 18) == 0


def test_frames_count_as_read_after_enough_time(unread: Unread) -> None:
    """Without the kernel's help, each frame counts as read 40 intervals after it was sent."""
    assert unread.admit(frames(8000), 1) == 1
    for _ in range(Receipt.UNKNOWN.value - 1):
        unread.interval_ended(Receipt.UNKNOWN)
    assert unread.admit(frames(8000), 1) == 1
    unread.interval_ended(Receipt.UNKNOWN)
    assert len(unread) == 1
    pass_time_until_read(unread)
    assert len(unread) == 0


def test_the_kernel_tells_what_was_read(unread: Unread) -> None:
    """As long as the kernel reports unread bytes, no time is enough. When it reports none, two intervals are."""
    assert unread.admit(frames(LIMIT, 10), 2) == 1
    for _ in range(10 * Receipt.UNKNOWN.value):
        unread.interval_ended(Receipt.MISSING)
    assert unread.admit(frames(10), 1) == 0
    haproxy_reads(unread)
    assert unread.admit(frames(10), 1) == 1


def test_fetched_bytes_count_until_the_call_has_returned(unread: Unread) -> None:
    """A call of recv() that has not returned also fetches newer bytes: both together must not fill the buffer."""
    assert unread.admit(frames(12000), 1) == 1
    for _ in range(Receipt.HANDED_OUT.value - 1):
        unread.interval_ended(Receipt.HANDED_OUT)
        assert unread.admit(frames(LIMIT - 12000 + 1), 1) == 0
    assert unread.admit(frames(4000), 1) == 1
    unread.interval_ended(Receipt.HANDED_OUT)
    assert unread.admit(frames(12000), 1) == 1
    assert len(unread) == 2


def test_frames_sent_while_an_interval_ends_belong_to_the_next(unread: Unread) -> None:
    """This frame may not have reached the kernel, so the kernel's answer does not cover it."""
    assert unread.admit(frames(8000), 1) == 1
    unread.interval_ends()
    assert unread.admit(frames(8000), 1) == 1
    for _ in range(Receipt.HANDED_OUT.value):
        unread.interval_ended(Receipt.HANDED_OUT)
    assert len(unread) == 1
    unread.interval_ended(Receipt.HANDED_OUT)
    assert len(unread) == 0


def test_counting_ends_when_everything_is_read(unread: Unread) -> None:
    """When HAProxy has read a long frame, small frames leave at once again."""
    assert unread.admit(frames(LIMIT), 1) == 1
    haproxy_reads(unread)
    for _ in range(100):
        assert unread.admit(frames(*[SMALL] * 20), 20) == 20
    assert len(unread) == 0


def test_more_notifys_than_haproxy_keeps_in_flight(unread: Unread) -> None:
    """With 1000 NOTIFYs in flight, HAProxy has given up some of them. Even small ACKs are limited then."""
    assert unread.admit(frames(*[40] * 1000), 1000) == LIMIT // 40
    assert unread.admit(frames(*[40] * 591), 591) == 0
    haproxy_reads(unread)
    assert unread.admit(frames(*[40] * 591), 591) == LIMIT // 40


def test_notifys_that_arrived_together_were_in_flight_together(unread: Unread) -> None:
    """NOTIFYs of one read count together, also if the agent answers them one after the other."""
    admitted = 0
    while unread.admit(frames(40), 1, admitted) == 1:
        admitted += 1
    assert 20 <= admitted <= LIMIT / 40
    assert unread.admit(frames(40), 1, 0) == 0


def test_the_count_is_not_used_after_haproxy_gave_up(unread: Unread) -> None:
    """After HAProxy gave up NOTIFYs, the number in flight is not used before everything has been read."""
    assert unread.admit(frames(*[800] * 25), 25) == 20
    assert unread.admit(frames(*[800] * 20), 20) == 0
    haproxy_reads(unread)
    assert unread.admit(frames(*[800] * 20), 20) == 20
    assert len(unread) == 0


def test_the_count_is_not_used_after_fell_behind(unread: Unread) -> None:
    """After fell_behind(), HAProxy may have sent more NOTIFYs than arrived: the number in flight is not used."""
    unread.fell_behind()
    for _ in range(3):
        assert unread.admit(frames(*[2000] * 4), 4) in (4, 0)
    assert len(unread) == 8
    haproxy_reads(unread)
    assert unread.admit(frames(2000), 1) == 1


def test_one_notify_at_a_time() -> None:
    """Without pipelining, HAProxy sends a NOTIFY only after it has read the ACK of the previous one."""
    unread = Unread(16380, pipelining=False)
    assert unread.admit(frames(80), 0) == 1
    for _ in range(10):
        assert unread.admit(frames(LIMIT), 1) == 1
    # HAProxy gave up the first NOTIFY, and sent another.
    assert unread.admit(frames(LIMIT, LIMIT), 2) == 0
    haproxy_reads(unread)
    assert unread.admit(frames(LIMIT, LIMIT), 2) == 1


@pytest.mark.parametrize(("max_frame_size", "size"), [(256, 0), (300, 0), (317, 1), (16380, 804)])
def test_the_size_of_a_short_ack(max_frame_size: int, size: int) -> None:
    """The log names it, so it is never negative."""
    assert max_short_ack(max_frame_size) == size


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
        """20 small ACKs leave in one write, and no interval is needed."""
        for number in range(20):
            agent.send_ack(bytes((2 * number + 1, 1)), b"x" * (SMALL - 11))
        assert len(agent.data_to_send()) == 20 * SMALL
        assert not agent.unread
        assert agent.bytes_to_send == 0

    def test_long_acks_are_held_back(self, agent: AgentConnection) -> None:
        """Each write has whole frames and no more bytes than the limit, until all ACKs have left."""
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

    def test_an_agent_that_fell_behind_keeps_the_limit(self, agent: AgentConnection) -> None:
        """HAProxy has given up most of 1000 NOTIFYs of one read. Their ACKs still keep the limit."""
        agent.receive_data(NOTIFY * 1000)
        while (event := agent.next_event()) is not None:
            assert isinstance(event, Notify)
            agent.send_ack(event.ids, b"x" * 40)
        assert 1000 < len(agent.data_to_send()) <= LIMIT
        assert agent.data_to_send() == b""
        haproxy_reads(agent)
        assert 1000 < len(agent.data_to_send()) <= LIMIT

    def test_after_a_long_read_the_count_is_not_used(self) -> None:
        """After a long read, more NOTIFYs may wait in the transport. So their small number does not free any ACK."""
        agent = self.with_notifies(0)
        sent = 0
        for _ in range(20):
            agent.receive_data(LONG_NOTIFY * 3)
            while (event := agent.next_event()) is not None:
                assert isinstance(event, Notify)
                agent.send_ack(event.ids, b"x" * 900)
            sent += len(agent.data_to_send())
        assert 15 * 900 < sent <= LIMIT

    def test_after_short_reads_the_count_is_used(self, agent: AgentConnection) -> None:
        """Each NOTIFY that makes 20 in flight again shows that HAProxy has read the previous ACK."""
        for _ in range(10):
            agent.send_ack(b"\x01\x01", b"x" * 12000)
            assert len(agent.data_to_send()) > 12000
            agent.receive_data(LONG_NOTIFY)
            assert isinstance(agent.next_event(), Notify)

    def test_notifys_that_waited_for_the_in_flight_limit(self, agent: AgentConnection) -> None:
        """HAProxy has not read 20 ACKs, has given their NOTIFYs up, and sent 60 others in one read.

        The agent takes one after the other, so it knows late that there were so many.
        """
        for _ in range(20):
            agent.send_ack(b"\x01\x01", b"x" * 290)
        sent = len(agent.data_to_send())
        agent.receive_data(NOTIFY * 60)
        while agent.next_event() is not None:
            agent.send_ack(b"\x01\x01", b"x" * 290)
            sent += len(agent.data_to_send())
        assert 15000 < sent <= LIMIT

    def test_without_pipelining_nothing_waits(self) -> None:
        """Each NOTIFY shows that HAProxy has read the previous ACK, so the longest ACKs leave at once."""
        engine, agent = EngineConnection(HAProxyHello(capabilities=frozenset())), AgentConnection()
        agent.receive_data(engine.data_to_send())
        agent.next_event()
        engine.receive_data(agent.data_to_send())
        engine.next_event()
        for _ in range(10):
            ids = engine.send_notify([Message("m")])
            agent.receive_data(engine.data_to_send())
            agent.next_event()
            agent.send_ack(ids, b"x" * (agent.ack_room - len(ids)))
            assert len(agent.data_to_send()) == LIMIT

    def test_the_disconnect_waits_for_long_acks(self, agent: AgentConnection) -> None:
        """The AGENT-DISCONNECT leaves behind the last ACK, and the limit still holds."""
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

    def test_the_disconnect_is_not_counted_as_an_ack(self, agent: AgentConnection) -> None:
        """With 18 NOTIFYs in flight, two ACKs may be unread, also if an AGENT-DISCONNECT is queued behind the third."""
        for _ in range(2):
            agent.send_ack(b"\x01\x01", b"x" * 8000)
        assert len(agent.data_to_send()) > 16000
        # The beginning of another NOTIFY arrives.
        agent.receive_data(LONG_NOTIFY[:100])
        agent.send_ack(b"\x01\x01", b"x" * 6000)
        agent.disconnect()
        assert agent.data_to_send() == b""
        haproxy_reads(agent)
        assert len(agent.data_to_send()) > 6000

    def test_small_acks_and_the_disconnect_leave_together(self, agent: AgentConnection) -> None:
        """20 small ACKs and the AGENT-DISCONNECT leave in one write."""
        for number in range(20):
            agent.send_ack(bytes((2 * number + 1, 1)), b"x" * (SMALL - 11))
        agent.disconnect()
        data = agent.data_to_send()
        assert 20 * SMALL < len(data) <= LIMIT
        assert data.endswith(b"\x06normal")

    def test_an_older_haproxy_has_no_limit(self) -> None:
        """HAProxy <= 3.0, which lists async, gets all ACKs at once."""
        agent = self.with_notifies(20, HAProxyHello(capabilities=frozenset({"pipelining", "async"})))
        for number in range(20):
            agent.send_ack(bytes((2 * number + 1, 1)), b"x" * 1500)
        assert len(agent.data_to_send()) == 20 * 1511
        assert not agent.unread


def test_room_to_end_after_haproxy_gave_up() -> None:
    """Without pipelining, two queued ACKs show that HAProxy gave a NOTIFY up: it may not have read the ACKs before."""
    unread = Unread(16380, pipelining=False)
    assert unread.admit(frames(80), 0) == 1
    assert unread.admit(frames(16000), 1) == 1
    assert unread.has_room(frames(200))
    assert not unread.has_room(frames(200, 200))
    assert unread.admit(frames(200, 200), 2) == 1


def test_room_to_end_counts_the_acks_since_the_last_read(unread: Unread) -> None:
    """The NOTIFYs of 15 sent ACKs and of 6 queued ones were in flight together, so HAProxy gave one up."""
    assert unread.admit(frames(*[SMALL] * 15), 15) == 15
    assert unread.has_room(frames(*[200] * 5), answered=15)
    assert not unread.has_room(frames(*[750] * 6), answered=15)


def test_acks_that_are_held_back_are_not_copied_for_each_new_ack() -> None:
    """A peer that sends NOTIFYs and reads nothing would otherwise cost a time that is quadratic in their number."""
    agent, engine = AgentConnection(), EngineConnection(NEW)
    agent.receive_data(engine.data_to_send())
    agent.next_event()
    engine.receive_data(agent.data_to_send())
    engine.next_event()
    for _ in range(23):
        agent.receive_data(engine.data_to_send() + encode_frame(FrameType.NOTIFY, Flags.FIN, b"\x01\x01", b""))
        notify = agent.next_event()
        assert isinstance(notify, Notify)
        agent.send_ack(notify.ids, b"\x01" * 16000)
        if not agent.held_back:
            agent.data_to_send()
    held = agent._out
    assert agent.longest_queued_ack == 0
    assert agent.data_to_send() == b""
    assert agent._out is held
