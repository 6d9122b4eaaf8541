"""docs/howto/traffic.rst: proxy, decode and watch print what the page shows."""

from __future__ import annotations

import re
import shlex
import shutil

from tests.haproxy.branches import Branch
from tests.machine import Machine, on_any_port
from tests.programs import Program

from .iprep import HANDLERS, SPOE_CONF, START, to_agent, with_server
from .pages import Page

PAGE = Page("howto/traffic")


@PAGE.run(
    proxy="Between HAProxy and the agent: spoactl proxy 1",
    frames="Between HAProxy and the agent: spoactl proxy 2",
)
def test_spoactl_proxy(
    proxy: str,
    frames: str,
    machine: Machine,
    branch: Branch,
) -> None:
    """It prints the frames that the README shows, but for the figures and the engine-id."""
    machine.write(iprep_py=HANDLERS)
    agent = machine.start(on_any_port(START))
    command = proxy.replace("tcp:127.0.0.1:12345", f"tcp:127.0.0.1:{agent.port}")
    command = command.replace("tcp:12346:interface=127.0.0.1", "unix:proxy")
    between = machine.start(command, re.compile("(listening on .*)"))
    server = f"unix@{machine.folder}/proxy"
    haproxy_cfg = with_server(server)
    request = machine.haproxy(
        branch, haproxy_cfg=haproxy_cfg.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}"), spoe_conf=SPOE_CONF
    )
    assert request(**{"X-Token": "swordfish"}) == (200, "user: alice")
    between.program.said(re.compile("< (ACK)"))

    def shape(text: str) -> list[str]:
        """Return the types, and the messages and variables."""
        found = re.findall(r"[<>] (NOTIFY|ACK) .*(: \w[^:\n]*)$", text, re.MULTILINE)
        return [" ".join(parts) for parts in found]

    assert len(shape(frames)) == 2
    assert shape(between.program.output) == shape(frames)
    if not branch.rewritten:
        names = re.compile(r"[<>] ([A-Z-]+) 0:[01] ")
        assert names.findall(frames) == ["HAPROXY-HELLO", "AGENT-HELLO", "NOTIFY", "ACK"]
    between.stop()


@PAGE.run(console="Frames that you paste: spoactl decode 1")
def test_spoactl_decode(console: str, machine: Machine) -> None:
    """It prints what the README shows. The exit status of a wrong frame is 1."""
    session = ""
    for line in console.splitlines():
        if line.startswith("$ "):
            session += f"{line}\n{machine.run(f'{line[2:]} || true')}"
    assert session == console


@PAGE.run(command="In an agent that runs: spoactl watch 1", session="In an agent that runs: spoactl watch 2")
def test_spoactl_watch(command: str, session: str, machine: Machine) -> None:
    """It prints what the README shows, but for the times."""
    machine.write(iprep_py=HANDLERS)
    agent = machine.start(on_any_port(command.replace("tcp:8404:interface=127.0.0.1", "unix:status")))
    typed, _, shown = session.partition("\n")
    words = shlex.split(f"{typed.removeprefix('$ ')} --status unix:status")
    words[0] = shutil.which(words[0], path=machine.environment["PATH"]) or words[0]
    with Program(words, cwd=machine.folder, environment=machine.environment) as watching:
        watching.said(re.compile("(watching the agent)"))
        for message in ("get-ip-reputation ip=192.0.2.1", "check-token token=swordfish", "check-dnsbl ip=127.0.0.99"):
            machine.run(to_agent(f"spoactl send {message}", agent))
        watching.said(re.compile("(3) NOTIFYs"))
        printed = watching.output
    seen = re.compile(r"^ +[0-9.]+ after [0-9.e+]+ ms: (.*)$", re.MULTILINE)
    assert len(seen.findall(shown)) == 3
    assert seen.findall(printed) == seen.findall(shown)
    agent.stop()
