"""ctl.load.processes: a load in a process of its own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from twisted.internet.error import ProcessDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from spoa_twisted.ctl.load.processes import LoadFailed, WorkerProcess
from spoa_twisted.spop.actions import encode_actions
from spoa_twisted.spop.connection import Notify
from spoa_twisted.spop.frames import Disconnect
from tests.ctl.agents import Agent, AgentSide, ack
from tests.ctl.spoactl import Start, spoactl
from tests.haproxy.harness import bounded
from tests.programs import SPOACTL


def connected() -> tuple[WorkerProcess, StringTransport]:
    """Return the pipes to a process, and what is written to them."""
    process, pipe = WorkerProcess(), StringTransport()
    process.makeConnection(pipe)
    return process, pipe


def test_an_answer_in_pieces() -> None:
    """The pieces make one answer. What follows belongs to the next answer."""
    process, pipe = connected()
    answers: list[Any] = []
    process.ask([0, 1]).addCallback(answers.append)
    assert pipe.value() == b"[0, 1]\n"
    process.outReceived(b'{"a":')
    assert answers == []
    process.outReceived(b" 1}\n{")
    process.ask("end").addCallback(answers.append)
    process.outReceived(b"}\n")
    assert answers == [{"a": 1}, {}]


def test_a_process_that_has_ended() -> None:
    """A question fails, and nothing is written."""
    process, pipe = connected()
    process.processEnded(Failure(ProcessDone(0)))
    failures: list[Any] = []
    process.ask("anything").addErrback(failures.append)
    process.send("end")
    assert [failure.type for failure in failures] == [LoadFailed]
    assert pipe.value() == b""


@bounded
async def test_processes_share_the_connections(endpoint: str, listen: Any) -> None:
    """Each has its share of the connections. The errors of both are added."""
    agent = Agent(lambda ids, n: ack(ids) + ack(ids))
    listen(agent)
    arguments = ["--duration=0.2", "--warm-up=0", "--connections=5", "--processes=2", "--json", "--in-flight=2"]
    out, _, status = await spoactl("bench", "--agent", endpoint, *arguments)
    report = json.loads(out)
    assert status == 1
    assert report["errors"] == {"repeated ids": agent.notifys}
    assert len(agent.connections) == 5
    for side in agent.connections:
        await side.ended
        assert side.disconnect == Disconnect()


@bounded
async def test_processes_receive_different_variables(endpoint: str, listen: Any) -> None:
    """Each process receives the same variables in all ACKs, but not those of the other process: that is an error."""

    class Different(Agent):
        def answer(self, side: AgentSide, notify: Notify) -> None:
            number = self.connections.index(side)
            side.transport.write(ack(notify.ids, encode_actions({"sess.number": number})))

    listen(Different())
    arguments = ["--duration=0.2", "--warm-up=0", "--connections=2", "--processes=2", "--json"]
    out, _, status = await spoactl("bench", "--agent", endpoint, *arguments)
    assert (json.loads(out)["errors"], status) == ({"other variables": 1}, 1)


@bounded
async def test_a_process_of_the_load_is_killed(endpoint: str, listen: Any, start: Start) -> None:
    """The command ends with one line on stderr, without figures. The other process ends as well."""
    agent = Agent()
    listen(agent)
    command = start([*SPOACTL, "bench", "--agent", endpoint, "--processes=2", "--duration=300"])

    def answer(ids: bytes, n: int) -> bytes:
        if n == 1000:
            children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
            os.kill(int(children[0]), signal.SIGKILL)
        return ack(ids)

    agent.answer_with = answer
    assert await command.ended() == 1
    assert command.output.startswith("spoactl: a process of the load ended: ")
    assert command.output.count("\n") == 1
    for side in agent.connections:
        await side.ended


@bounded
async def test_the_process_that_measures_is_killed(endpoint: str, listen: Any, start: Start) -> None:
    """The processes of the load end by themselves. They send HAPROXY-DISCONNECT."""
    agent = Agent()
    listen(agent)
    command = start([*SPOACTL, "bench", "--agent", endpoint, "--processes=2", "--duration=300"])

    def answer(ids: bytes, n: int) -> bytes:
        if n == 1000:
            command.signal(signal.SIGKILL)
        return ack(ids)

    agent.answer_with = answer
    await command.ended()
    for side in agent.connections:
        await side.ended
        assert side.disconnect == Disconnect()
