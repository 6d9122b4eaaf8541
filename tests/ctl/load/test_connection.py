"""ctl.load.connection: one connection counts ACKs and errors, whatever an agent does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from spoa_twisted.ctl.load.plan import Greeting
from spoa_twisted.spop.actions import encode_actions
from spoa_twisted.spop.connection import Notify
from spoa_twisted.spop.frames import Flags, FrameType, encode_frame, encode_ids
from tests.ctl.agents import GOOD, Agent, AgentSide, ack, agent_disconnect
from tests.ctl.interrupting import interrupt

from .memory import PLAN, MemoryLoad

#: A frame of a type that SPOP does not have. It is to be skipped.
UNKNOWN_FRAME = b"\0\0\0\x07\xc8\0\0\0\1\0\0"


@pytest.mark.parametrize("size", [1, 1000])
def test_an_agent_hello_in_pieces(size: int) -> None:
    """A frame of an unknown type before it is skipped."""
    memory = MemoryLoad()
    connection = memory.accept(greet=False)
    data = UNKNOWN_FRAME + connection.hello()
    for start in range(0, len(data), size):
        assert memory.greetings == []
        connection.receive(data[start : start + size])
    (greeting,) = memory.greetings
    assert isinstance(greeting, Greeting)
    assert (greeting.version, greeting.in_flight) == ("2.0", 2)


def test_a_frame_of_an_unknown_type() -> None:
    """It answers no NOTIFY, and it is not an error."""
    memory = MemoryLoad()
    connection = memory.accept()
    window = memory.run()
    connection.receive(UNKNOWN_FRAME)
    assert len(connection.sent()) == 2
    connection.receive(UNKNOWN_FRAME)
    assert connection.sent() == []
    window.end()
    assert memory.outcomes == []
    memory.reactor.advance(PLAN.timeout)
    memory.reactor.advance(1)
    (outcome,) = memory.outcomes
    assert (outcome.notifys, outcome.errors) == (0, {"unanswered NOTIFY": 2})


# Every so many NOTIFYs the agent gives a wrong answer, until the command ends.
EVERY = 10
LAST = 500

# The wrong answer, and the kind of error that it is. The answer is made of the ids of the NOTIFY, and of the ids of the
# NOTIFY before.
WRONG_ANSWERS: dict[str, tuple[Callable[[bytes, bytes], bytes], str]] = {
    "unknown ids": (lambda ids, last: ack(encode_ids(999_999, 1)) + ack(ids), "unknown ids"),
    "ids never sent": (lambda ids, last: ack(encode_ids(2048, 1)) + ack(ids), "unknown ids"),
    "another frame-id": (lambda ids, last: ack(encode_ids(1, 2)) + ack(ids), "unknown ids"),
    "repeated at once": (lambda ids, last: ack(ids) + ack(ids), "repeated ids"),
    "repeated late": (lambda ids, last: ack(last) + ack(ids), "repeated ids"),
    "repeated with other actions": (lambda ids, last: ack(ids) + ack(ids, b""), "repeated ids"),
    "another value": (lambda ids, last: ack(ids, encode_actions({"sess.score": 21})), "other variables"),
    "another type": (lambda ids, last: ack(ids, encode_actions({"sess.score": "20"})), "other variables"),
    "another name": (lambda ids, last: ack(ids, encode_actions({"txn.score": 20})), "other variables"),
    "no variables": (lambda ids, last: ack(ids, b""), "other variables"),
    "no actions": (lambda ids, last: ack(ids, b"\x01"), "undecodable ACK"),
    "half an action": (lambda ids, last: ack(ids, GOOD[:-1]), "undecodable ACK"),
    "abort": (lambda ids, last: ack(ids, GOOD, Flags.FIN | Flags.ABORT), "aborted NOTIFY"),
}


@pytest.mark.parametrize("name", WRONG_ANSWERS)
@pytest_twisted.ensureDeferred
async def test_each_wrong_answer_is_counted(name: str, run_bench: Any, listen: Any) -> None:
    """Each is counted by its kind. The connection stays open, and the exit status is 1."""
    wrong_answer, kind = WRONG_ANSWERS[name]
    wrong = 0
    last = b""

    def answer(ids: bytes, n: int) -> bytes:
        nonlocal wrong, last
        before, last = last, ids
        if n == LAST:
            interrupt()
        if n % EVERY or n >= LAST:
            return ack(ids)
        wrong += 1
        return wrong_answer(ids, before)

    agent = Agent(answer)
    listen(agent)
    result = await run_bench("--connections=1", "--duration=30")
    assert result.errors == {kind: wrong}
    assert wrong == LAST // EVERY - 1
    assert result.status == 1
    assert len(agent.connections) == 1
    # An ACK that is not good answers its NOTIFY, but it is not among the good ACKs.
    bad = wrong if kind in ("other variables", "undecodable ACK", "aborted NOTIFY") else 0
    assert 0 <= agent.notifys - bad - result.report["notifys"] <= 4


# What an agent sends once on each connection, or None to close it; the kind of error; and the status code of the
# HAPROXY-DISCONNECT that follows.
ENDS: dict[str, tuple[Callable[[bytes], bytes | None], str, int | None]] = {
    "closes": (lambda ids: None, "connection lost", None),
    "AGENT-DISCONNECT": (lambda ids: agent_disconnect(4, "no"), "DISCONNECT 4", None),
    "HTTP": (lambda ids: b"HTTP/1.1 400 Bad Request\r\n\r\n", "broken frame", 3),
    "an empty frame": (lambda ids: b"\0\0\0\0", "broken frame", 4),
    "an ACK without ids": (lambda ids: b"\0\0\0\x07\x67\0\0\0\1\xff\xff", "broken frame", 4),
    "a NOTIFY": (lambda ids: encode_frame(FrameType.NOTIFY, Flags.FIN, ids, b""), "broken frame", 4),
    "a fragment": (lambda ids: encode_frame(FrameType.ACK, Flags(0), ids, GOOD), "broken frame", 10),
}


@pytest.mark.parametrize("name", ENDS)
@pytest_twisted.ensureDeferred
async def test_each_end_is_counted(name: str, run_bench: Any, listen: Any) -> None:
    """The NOTIFYs that are left unanswered are counted as well. Another connection replaces the one that ended."""
    end, kind, code = ENDS[name]
    answered: dict[AgentSide, int] = {}

    class Ending(Agent):
        def answer(self, side: AgentSide, notify: Notify) -> None:
            answered[side] = answered.get(side, 0) + 1
            if answered[side] <= 20:
                side.transport.write(ack(notify.ids))
            elif answered[side] == 21:
                data = end(notify.ids)
                if data is None:
                    side.transport.loseConnection()
                else:
                    side.transport.write(data)
                if len(answered) == 3:
                    interrupt()

    agent = Ending()
    listen(agent)
    result = await run_bench("--connections=1", "--duration=30")
    ended = sum(number > 20 for number in answered.values())
    assert ended >= 3
    # Four NOTIFYs were in flight on each connection.
    assert result.errors == {kind: ended, "unanswered NOTIFY": 4 * ended}
    assert result.status == 1
    if code is not None:
        for side in [side for side in agent.connections if answered[side] > 20]:
            await side.ended
            assert side.disconnect is not None
            assert side.disconnect.status_code == code


@pytest_twisted.ensureDeferred
async def test_acks_in_pieces(run_bench: Any, listen: Any) -> None:
    """ACKs that arrive in several reads are counted as others are."""

    class Pieces(Agent):
        out = b""

        def answer(self, side: AgentSide, notify: Notify) -> None:
            if not self.out:
                reactor.callLater(0, self._next, side)
            self.out += ack(notify.ids)
            if self.notifys == 100:
                interrupt()

        def _next(self, side: AgentSide) -> None:
            piece, self.out = self.out[:9], self.out[9:]
            if self.out:
                reactor.callLater(0, self._next, side)
            side.transport.write(piece)

    agent = Pieces()
    listen(agent)
    result = await run_bench("--connections=1", "--duration=30")
    assert result.errors == {}
    assert 0 <= agent.notifys - result.report["notifys"] <= 4
    assert result.report["notifys"] > 10


@pytest_twisted.ensureDeferred
async def test_an_agent_that_does_not_read(run_bench: Any, listen: Any) -> None:
    """The bytes that the kernel does not take at once are sent later, complete and in order."""

    class Full(Agent):
        def answer(self, side: AgentSide, notify: Notify) -> None:
            (message,) = notify.messages
            assert message["body"] == bytes(range(256)) * 32
            if self.notifys % 100 == 1:
                side.transport.pauseProducing()
                reactor.callLater(0.02, side.transport.resumeProducing)
            if self.notifys == 1000:
                interrupt()
            side.transport.write(ack(notify.ids))

    agent = Full()
    listen(agent)
    result = await run_bench("--connections=1", "--in-flight=200", "--shape=body", "--duration=30")
    assert result.errors == {}
    assert agent.notifys >= 1000
