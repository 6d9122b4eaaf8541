"""ctl.load.local: a load opens the connections, runs them, and closes them."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.error import ConnectionRefusedError

from spoa_twisted.ctl import cpu
from spoa_twisted.spop.frames import Disconnect
from tests.ctl.agents import Agent, ack, agent_disconnect
from tests.ctl.interrupting import ack_some, interrupt
from tests.ctl.spoactl import spoactl
from tests.haproxy.harness import bounded

from .memory import MemoryLoad


def test_connections_end_before_the_load_begins() -> None:
    """Nothing is sent on them, and other connections replace them."""
    memory = MemoryLoad(connections=3)
    leaving, lost, staying = [memory.accept() for _ in range(3)]
    leaving.receive(agent_disconnect(4, "no"))
    leaving.receive(agent_disconnect(4, "no"))
    lost.lose()
    memory.run()
    assert leaving.wire.disconnecting
    assert leaving.sent() == []
    assert len(staying.sent()) == 2
    assert len(memory.accept().sent()) == 2
    assert memory.connecting == 0
    assert memory.errors == {"DISCONNECT 4": 1, "connection lost": 1}


def test_a_new_connection_is_lost_before_its_hello() -> None:
    """That is one failed attempt. After a delay there is one more attempt, not two."""
    memory = MemoryLoad()
    first = memory.accept()
    memory.run()
    first.lose()
    memory.reactor.advance(1)
    memory.accept(greet=False).lose()
    assert memory.connecting == 0
    memory.reactor.advance(1)
    assert memory.connecting == 1
    assert memory.errors["no connection"] == 1


def test_a_new_connection_is_refused_after_the_end() -> None:
    """While the load waits for the last ACKs, that is not an error, and there is no other attempt."""
    memory = MemoryLoad(connections=2)
    lost, staying = memory.accept(), memory.accept()
    window = memory.run()
    lost.lose()
    memory.reactor.advance(1)
    window.end()
    memory.refuse()
    memory.reactor.advance(1)
    assert memory.connecting == 0
    staying.acknowledge()
    staying.lose()
    (outcome,) = memory.outcomes
    assert outcome.errors == {"connection lost": 1, "unanswered NOTIFY": 2}


def test_a_connection_is_accepted_after_another_was_refused() -> None:
    """It is closed at once: without all connections there is no load."""
    memory = MemoryLoad(connections=2)
    memory.refuse()
    (failure,) = memory.greetings
    assert failure.type is ConnectionRefusedError
    late = memory.accept(greet=False)
    assert late.wire.disconnected
    late.lose()
    assert memory.reactor.getDelayedCalls() == []


def test_a_system_that_does_not_tell_who_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that the load waited for a core is unknown, not 0."""
    monkeypatch.setattr(cpu, "waited", lambda pid: None)
    memory = MemoryLoad()
    connection = memory.accept()
    memory.run().end()
    connection.acknowledge()
    connection.lose()
    assert [outcome.waited for outcome in memory.outcomes] == [None]


@pytest_twisted.ensureDeferred
async def test_every_ack_in_time_is_counted(run_bench: Any, listen: Any) -> None:
    """Only the last ACKs come after the window. The load waits for them, and sends HAPROXY-DISCONNECT."""
    agent = Agent(ack_some)
    listen(agent)
    result = await run_bench("--duration=30")
    assert (result.errors, result.status) == ({}, 0)
    assert result.report["variables"] == {"sess.score": "int64:20"}
    assert 0 <= agent.notifys - result.report["notifys"] <= 2 * 4
    assert result.report["notifys_per_second"] == pytest.approx(result.report["notifys"] / result.report["seconds"])
    assert 0 < result.report["latency_us"]["p50"] <= result.report["latency_us"]["max"]
    for side in agent.connections:
        await side.ended
        assert side.disconnect == Disconnect()


@pytest_twisted.ensureDeferred
async def test_an_agent_that_hangs(run_bench: Any, listen: Any) -> None:
    """The NOTIFYs that it does not answer are counted after the timeout, and the command ends."""

    def answer(ids: bytes, n: int) -> bytes:
        if n == 48:
            interrupt()
        return ack(ids) if n <= 40 else b""

    agent = Agent(answer)
    listen(agent)
    result = await run_bench("--timeout=0.2", "--duration=30")
    assert result.errors == {"unanswered NOTIFY": 8}
    assert (result.status, result.report["notifys"], agent.notifys) == (1, 40, 48)


@pytest_twisted.ensureDeferred
async def test_an_agent_that_ends(run_bench: Any, listen: Any) -> None:
    """The failed attempts to reconnect are counted. There are delays between them."""
    agent = Agent()
    port = listen(agent)

    def answer(ids: bytes, n: int) -> None:
        if n == 1:
            port.stopListening()

    agent.answer_with = answer
    result = await run_bench("--connections=1", "--duration=0.5")
    assert result.errors.pop("no connection") in range(1, 6)
    assert result.errors == {"connection lost": 1, "unanswered NOTIFY": 4}
    assert (result.status, result.report["notifys"], result.report["latency_us"]) == (1, 0, None)


@pytest_twisted.ensureDeferred
async def test_what_the_load_announces(run_bench: Any, listen: Any) -> None:
    """The HAPROXY-HELLO is that of HAProxy <= 3.0 without an engine-id. With --no-async it is without async."""
    agent = Agent(lambda ids, n: ack(ids))
    listen(agent)
    await run_bench("--connections=1")
    await run_bench("--connections=1", "--no-async")
    assert [sorted(side.connection.peer_capabilities) for side in agent.connections] == [
        ["async", "pipelining"],
        ["pipelining"],
    ]
    assert {side.connection.engine_id for side in agent.connections} == {""}


@bounded
async def test_more_connections_than_the_listening_socket_queues(endpoint: str) -> None:
    """The load opens a few at a time. A Unix socket would refuse the others, and TCP would connect them late."""
    agent = Agent(lambda ids, n: ack(ids))
    port = reactor.listenUNIX(endpoint.removeprefix("unix:"), agent, backlog=40)  # type: ignore[attr-defined]
    out, err, status = await spoactl("bench", "--agent", endpoint, "--connections=200", "--duration=0.1")
    await port.stopListening()
    assert (err, status) == ("", 0)
    assert "\nerrors     none\n" in out
    assert len(agent.connections) == 200


# Each test below has a time limit of its own: PyPy needs seconds to start spoactl.


@bounded
async def test_no_agent(endpoint: str) -> None:
    """No agent listens: the error is one line on stderr."""
    out, err, status = await spoactl("bench", "--agent", endpoint, "--timeout=0.5")
    assert (out, err.count("\n"), status) == ("", 1, 1)
    assert err.startswith("spoactl: ")


@pytest.mark.parametrize("processes", [1, 2])
@bounded
async def test_an_agent_that_disconnects(processes: int, endpoint: str, listen: Any) -> None:
    """The first frame is AGENT-DISCONNECT: the error is one line on stderr, also with several processes."""
    agent = Agent(lambda ids, n: ack(ids))
    agent.hello = agent_disconnect(99, "not \x1b today")
    listen(agent)
    error = "spoactl: the agent disconnected: not \\x1b today (status code 99, an unknown error occurred)\n"
    expected = ("", error, 1)
    assert await spoactl("bench", "--agent", endpoint, "--timeout=0.5", f"--processes={processes}") == expected
    assert agent.notifys == 0


@bounded
async def test_an_agent_that_sends_nothing(endpoint: str, listen: Any) -> None:
    """No frame comes within the timeout: the error is one line on stderr."""
    agent = Agent(lambda ids, n: ack(ids))
    agent.hello = b""
    listen(agent)
    assert await spoactl("bench", "--agent", endpoint, "--timeout=0.5") == ("", "spoactl: no answer within 0.5 s\n", 1)
    assert agent.notifys == 0


@bounded
async def test_a_server_that_does_not_speak_spop(endpoint: str, listen: Any) -> None:
    """The first bytes are not a frame: the error is one line on stderr."""
    agent = Agent(lambda ids, n: ack(ids))
    agent.hello = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    listen(agent)
    out, err, status = await spoactl("bench", "--agent", endpoint, "--timeout=0.5")
    assert (out, err.count("\n"), status) == ("", 1, 1)
    assert agent.notifys == 0
