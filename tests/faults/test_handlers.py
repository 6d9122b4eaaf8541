"""Handlers that never finish, and a handler that blocks the reactor."""

from __future__ import annotations

import os
from pathlib import Path
from time import sleep

from tests.conformance.rawspop import HELLO, SetVar, binary, boolean, hello, message, notify, text, uint32

from .agent import ECHO, ECHOED, MIB, SLACK
from .conftest import Launch

#: Default limits of a connection, in NOTIFYs and bytes: docs/reference/options.rst.
MAX_IN_FLIGHT = 256
MAX_IN_FLIGHT_SIZE = 2 * MIB

#: NOTIFYs of 60,000 bytes that are in flight at most: the NOTIFY that exceeds the limit is still accepted.
FIT_IN_FLIGHT = MAX_IN_FLIGHT_SIZE // 61_000 + 1

HOLD = message("hold", ("x", binary(bytes(100))))
RELEASED = [SetVar("txn.released", boolean(True))]
LATE = [SetVar("txn.late", boolean(True))]


def test_handlers_that_never_answer(launch: Launch) -> None:
    """A NOTIFY whose handler never finishes gets its ACK after the handler timeout. A NOTIFY of another handler on the
    same connection gets its ACK without delay.
    """
    agent = launch("--handler-timeout=1")
    agent.begin_measuring()
    peers = [agent.connect_with_hello() for _ in range(5)]
    for peer in peers:
        peer.send(*[notify(HOLD, stream_id=i) for i in range(MAX_IN_FLIGHT - 1)])
        assert peer.request(ECHO, stream_id=1000) == ECHOED
    for peer in peers:
        for i in range(MAX_IN_FLIGHT - 1):
            assert peer.actions(stream_id=i) == []
    assert agent.held_and_cancelled() == (0, 5 * (MAX_IN_FLIGHT - 1))
    assert agent.peak_growth < 5 * MAX_IN_FLIGHT_SIZE + SLACK


def test_handlers_that_may_take_any_time(launch: Launch) -> None:
    """Without a handler timeout, the agent stops reading a connection at the in-flight limit. Other connections are
    served. When the connections end, all their handlers are cancelled and their memory is freed.
    """
    agent = launch("--handler-timeout=0")
    agent.begin_measuring()
    # Both exceed the limit by less than the 64 KiB that the agent reads ahead, so it reads all of it.
    small = notify(HOLD) * (MAX_IN_FLIGHT + 300)
    big = notify(message("hold", ("x", binary(bytes(60_000))))) * (FIT_IN_FLIGHT + 1)
    held = 3 * MAX_IN_FLIGHT + 3 * FIT_IN_FLIGHT
    grown = []
    for times in range(1, 4):
        peers = []
        for data in [small] * 3 + [big] * 3:
            peer = agent.connect()
            peer.handshake({**HELLO, "max-frame-size": uint32(65532)})
            peer.send(data)
            peers.append(peer)
        agent.answer_until(lambda before=(times - 1) * held: agent.held_and_cancelled() == (held, before))  # type: ignore[misc]
        agent.check_answers(100)
        for peer in peers:
            peer.reset()
        agent.answer_until(lambda after=times * held: agent.held_and_cancelled() == (0, after))  # type: ignore[misc]
        grown.append(agent.peak_growth)
    # Memory holds each message twice: as bytes and as the handler's Message. Later rounds must reuse the freed memory.
    assert grown[0] < 6 * 2 * MAX_IN_FLIGHT_SIZE + SLACK
    assert grown[-1] < grown[0] + SLACK
    assert agent.logged() == []


def test_orphans(launch: Launch) -> None:
    """With async, the agent keeps a bounded number of NOTIFYs whose connections are lost. It sends their ACKs over
    another connection of the engine. The handlers of the other NOTIFYs are cancelled.
    """
    agent = launch("--handler-timeout=0", "--async")
    agent.begin_measuring()
    staying = agent.connect_with_hello()
    for _ in range(20):
        peer = agent.connect_with_hello()
        peer.send(*[notify(HOLD, stream_id=i) for i in range(MAX_IN_FLIGHT - 1)])
        assert peer.request(ECHO, stream_id=1000) == ECHOED
        peer.reset()
    everything = 20 * (MAX_IN_FLIGHT - 1)
    agent.answer_until(lambda: agent.held_and_cancelled() == (1024, everything - 1024))
    assert agent.peak_growth < 2 * MAX_IN_FLIGHT_SIZE + SLACK
    assert agent.connect_with_hello().request(message("release")) == []
    for _ in range(1024):
        _, _, actions = staying.acknowledgement()
        assert actions == RELEASED
    assert staying.request(ECHO) == ECHOED
    assert agent.logged() == []


def test_handler_that_blocks_the_reactor(launch: Launch, tmp_path: Path) -> None:
    """Frames that arrive while a handler blocks the reactor for more than a second are answered afterwards. A result or
    a HELLO that arrived before its deadline counts as in time, even if the deadline passed during the block.
    """
    gate, fifo = tmp_path / "gate", tmp_path / "fifo"
    os.mkfifo(gate)
    os.mkfifo(fifo)
    agent = launch("--hello-timeout=1")
    agent.begin_measuring()
    peer, releasing, busy = (agent.connect_with_hello() for _ in range(3))
    newcomer = agent.connect()
    # This waits until "newcomer" is accepted: the agent accepts connections in the order in which they arrive.
    agent.check_answers()
    peer.send(
        notify(message("block-a-thread", ("path", text(str(fifo)))), stream_id=1),
        notify(message("hold-half-a-second"), stream_id=2),
        notify(message("block", ("path", text(str(gate)))), stream_id=3),
    )
    agent.said("blocking the reactor")
    agent.said("blocking a thread")
    os.close(os.open(fifo, os.O_WRONLY))
    releasing.send(notify(message("release")))
    newcomer.send(hello())
    checks = [agent.connect() for _ in range(50)]
    for check in checks:
        check.send(hello({**HELLO, "healthcheck": boolean(True)}))
    busy.send(*[notify(ECHO, stream_id=i) for i in range(200)])
    # The time for which the handler blocks: longer than the timeouts above. No event is awaited here.
    sleep(1.1)
    os.close(os.open(gate, os.O_WRONLY))
    assert releasing.actions() == []
    answers = {stream_id: actions for stream_id, _, actions in (peer.acknowledgement() for _ in range(3))}
    assert answers == {1: RELEASED, 2: RELEASED, 3: []}
    newcomer.agent_hello()
    assert newcomer.request(ECHO) == ECHOED
    for check in checks:
        check.agent_hello()
        check.expect_eof()
    for i in range(200):
        assert busy.actions(stream_id=i) == ECHOED
    assert agent.peak_growth < SLACK
    (line,) = [line for line in agent.logged() if "#info" not in line]
    assert "the handler of the message 'block' held the agent up for" in line


def test_handler_that_is_late_after_a_block(launch: Launch, tmp_path: Path) -> None:
    """A handler that has not finished by its deadline times out, even if the reactor is blocked at the deadline."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    agent = launch()
    agent.begin_measuring()
    peer = agent.connect_with_hello()
    block = notify(message("block", ("path", text(str(gate)))), stream_id=3)
    peer.send(notify(message("hold-half-a-second"), stream_id=2), block)
    agent.said("blocking the reactor")
    sleep(0.6)
    os.close(os.open(gate, os.O_WRONLY))
    answers = {stream_id: actions for stream_id, _, actions in (peer.acknowledgement() for _ in range(2))}
    assert answers == {2: LATE, 3: []}
    assert agent.held_and_cancelled() == (0, 1)
    assert agent.peak_growth < SLACK
    agent.said("'hold-half-a-second' took longer than 0.5 s")
