"""Handlers that never answer, and one that blocks the reactor."""

from __future__ import annotations

import os
from pathlib import Path
from time import sleep

from tests.conformance.rawspop import HELLO, SetVar, binary, boolean, hello, message, notify, text, uint32

from .agent import ECHO, ECHOED, MIB, SLACK
from .conftest import Launch

#: README.rst, "Options".
MAX_IN_FLIGHT = 256
MAX_IN_FLIGHT_SIZE = 2 * MIB

#: So many NOTIFYs of 60,000 bytes: the one that goes over the limit is let in.
FIT_IN_FLIGHT = MAX_IN_FLIGHT_SIZE // 61_000 + 1

HOLD = message("hold", ("x", binary(bytes(100))))
RELEASED = [SetVar("txn.released", boolean(True))]
LATE = [SetVar("txn.late", boolean(True))]


def test_handlers_that_never_answer(launch: Launch) -> None:
    """Each NOTIFY of a handler that never answers is acknowledged in the end, and one of another handler, on the same
    connection, without delay.
    """
    agent = launch("--handler-timeout=1")
    agent.rest()
    peers = [agent.greeted() for _ in range(5)]
    for peer in peers:
        peer.send(*[notify(HOLD, stream_id=i) for i in range(MAX_IN_FLIGHT - 1)])
        assert peer.request(ECHO, stream_id=1000) == ECHOED
    for peer in peers:
        for i in range(MAX_IN_FLIGHT - 1):
            assert peer.actions(stream_id=i) == []
    assert agent.counts() == (0, 5 * (MAX_IN_FLIGHT - 1))
    assert agent.most_grown < 5 * MAX_IN_FLIGHT_SIZE + SLACK


def test_handlers_that_may_take_any_time(launch: Launch) -> None:
    """Without a time limit, a connection has so many NOTIFYs in flight as may be and is not read beyond; others are
    served, and when the connections go all is cancelled and forgotten.
    """
    agent = launch("--handler-timeout=0")
    agent.rest()
    # Of both kinds so much more that its connection is read to its end: 64 KiB are read ahead.
    small = notify(HOLD) * (MAX_IN_FLIGHT + 300)
    big = notify(message("hold", ("x", binary(bytes(60_000))))) * (FIT_IN_FLIGHT + 1)
    held = 3 * MAX_IN_FLIGHT + 3 * FIT_IN_FLIGHT
    grown = []
    for times in range(1, 4):
        peers = []
        for said in [small] * 3 + [big] * 3:
            peer = agent.connect()
            peer.handshake({**HELLO, "max-frame-size": uint32(65532)})
            peer.send(said)
            peers.append(peer)
        agent.until(lambda before=(times - 1) * held: agent.counts() == (held, before))  # type: ignore[misc]
        agent.answers(100)
        for peer in peers:
            peer.reset()
        agent.until(lambda after=times * held: agent.counts() == (0, after))  # type: ignore[misc]
        grown.append(agent.most_grown)
    # A message is there once as it came, and once as its handler has it. What is free is used again.
    assert grown[0] < 6 * 2 * MAX_IN_FLIGHT_SIZE + SLACK
    assert grown[-1] < grown[0] + SLACK
    assert agent.logged() == []


def test_orphans(launch: Launch) -> None:
    """With async, of the NOTIFYs whose connections are gone a bounded number waits on, and is acknowledged on another
    connection of the engine; the others are cancelled.
    """
    agent = launch("--handler-timeout=0", "--async")
    agent.rest()
    staying = agent.greeted()
    for _ in range(20):
        peer = agent.greeted()
        peer.send(*[notify(HOLD, stream_id=i) for i in range(MAX_IN_FLIGHT - 1)])
        assert peer.request(ECHO, stream_id=1000) == ECHOED
        peer.reset()
    everything = 20 * (MAX_IN_FLIGHT - 1)
    agent.until(lambda: agent.counts() == (1024, everything - 1024))
    assert agent.most_grown < 2 * MAX_IN_FLIGHT_SIZE + SLACK
    assert agent.greeted().request(message("release")) == []
    for _ in range(1024):
        _, _, actions = staying.acknowledgement()
        assert actions == RELEASED
    assert staying.request(ECHO) == ECHOED
    assert agent.logged() == []


def test_handler_that_blocks_the_reactor(launch: Launch, tmp_path: Path) -> None:
    """What came while a handler blocked the reactor for more than a second is answered afterwards; what was in time,
    though its time ran out meanwhile, is in time.
    """
    gate, fifo = tmp_path / "gate", tmp_path / "fifo"
    os.mkfifo(gate)
    os.mkfifo(fifo)
    agent = launch("--hello-timeout=1")
    agent.rest()
    peer, releasing, busy = (agent.greeted() for _ in range(3))
    greeting = agent.connect()
    # It is accepted by now: the agent accepts in the order in which they come.
    agent.answers()
    peer.send(
        notify(message("block-a-thread", ("path", text(str(fifo)))), stream_id=1),
        notify(message("hold-half-a-second"), stream_id=2),
        notify(message("block", ("path", text(str(gate)))), stream_id=3),
    )
    agent.said("blocking the reactor")
    agent.said("blocking a thread")
    os.close(os.open(fifo, os.O_WRONLY))
    releasing.send(notify(message("release")))
    greeting.send(hello())
    checks = [agent.connect() for _ in range(50)]
    for check in checks:
        check.send(hello({**HELLO, "healthcheck": boolean(True)}))
    busy.send(*[notify(ECHO, stream_id=i) for i in range(200)])
    # What the handler blocks for, not what anybody waits for.
    sleep(1.1)
    os.close(os.open(gate, os.O_WRONLY))
    assert releasing.actions() == []
    answers = {stream_id: actions for stream_id, _, actions in (peer.acknowledgement() for _ in range(3))}
    assert answers == {1: RELEASED, 2: RELEASED, 3: []}
    greeting.agent_hello()
    assert greeting.request(ECHO) == ECHOED
    for check in checks:
        check.agent_hello()
        check.expect_eof()
    for i in range(200):
        assert busy.actions(stream_id=i) == ECHOED
    assert agent.most_grown < SLACK
    assert [line for line in agent.logged() if "#info" not in line] == []


def test_handler_that_is_late_after_a_block(launch: Launch, tmp_path: Path) -> None:
    """Who did not answer in time is late, even if the reactor was blocked when its time ran out."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    agent = launch()
    agent.rest()
    peer = agent.greeted()
    block = notify(message("block", ("path", text(str(gate)))), stream_id=3)
    peer.send(notify(message("hold-half-a-second"), stream_id=2), block)
    agent.said("blocking the reactor")
    sleep(0.6)
    os.close(os.open(gate, os.O_WRONLY))
    answers = {stream_id: actions for stream_id, _, actions in (peer.acknowledgement() for _ in range(2))}
    assert answers == {2: LATE, 3: []}
    assert agent.counts() == (0, 1)
    assert agent.most_grown < SLACK
    agent.said("'hold-half-a-second' took longer than 0.5 s")
