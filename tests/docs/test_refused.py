"""docs/howto/refused.rst: the commands print what the page shows, and the requests pass for the reasons of the page."""

from __future__ import annotations

import re

from tests.haproxy.branches import Branch
from tests.machine import Agent, Machine, on_any_port
from tests.programs import Program

from .blocks import commands, same
from .iprep import HANDLERS, HAPROXY_CFG, SPOE_CONF, START, to_agent, with_server
from .pages import Page

PAGE = Page("howto/refused")

STATUS = "--status tcp:0:interface=127.0.0.1 --watch values"


def start(machine: Machine) -> tuple[Agent, str]:
    """Start the agent of the page; return it, and the option of ``spoactl`` that names its status page."""
    machine.environment["COLUMNS"] = "80"
    machine.write(iprep_py=HANDLERS)
    agent = machine.start(on_any_port(f"{START.strip()} {STATUS}"))
    return agent, f"--status tcp:{agent.program.said('the status is at (.*)')[1]}"


@PAGE.run(
    send="1. Ask the agent: spoactl send 1",
    status="2. Ask how the agent is: spoactl status 1",
    explain="3. Read HAProxy's log: spoactl explain 1",
)
def test_the_questions(send: str, status: str, explain: str, machine: Machine) -> None:
    """``spoactl send``, ``status`` and ``explain`` print what the page shows."""
    agent, where = start(machine)
    for session in (send, status, explain):
        ((command, shown),) = commands(session)
        if command.startswith("spoactl send"):
            command = to_agent(command, agent)
        elif command.startswith("spoactl status"):
            command += f" {where}"
        printed = machine.run(command)
        assert same(shown, printed), printed
    agent.stop()


@PAGE.run(watch="4. See the questions: spoactl watch 1")
def test_watch(watch: str, machine: Machine, branch: Branch) -> None:
    """``spoactl watch`` shows the request of the page, which has no token."""
    agent, where = start(machine)
    ((command, shown),) = commands(watch)
    haproxy_cfg = with_server(f"127.0.0.1:{agent.port}")
    request = machine.haproxy(branch, haproxy_cfg=haproxy_cfg, spoe_conf=SPOE_CONF)
    watching = machine.start(f"{command} {where}", re.compile("(watching the agent)"))
    assert request()[0] == 401
    assert watching.program.ended() == 0
    (line,) = [line for line in watching.program.output.splitlines() if "->" in line]
    assert line.partition(": ")[2] == shown.strip().partition(": ")[2]
    agent.stop()


@PAGE.run(check="5. Check the configuration: spoactl check 1")
def test_check(check: str, machine: Machine) -> None:
    """``spoactl check`` finds the rule without the prefix."""
    machine.write(iprep_py=HANDLERS, spoe_conf=SPOE_CONF)
    assert "var(txn.iprep.allowed)" in HAPROXY_CFG
    machine.write(wrong_cfg=HAPROXY_CFG.replace("var(txn.iprep.allowed)", "var(txn.allowed)"))
    ((command, shown),) = commands(check)
    words = [str(machine.folder / ".programs" / "spoactl"), *command.split()[1:]]
    with Program(words, cwd=machine.folder, environment={"COLUMNS": "80"}) as program:
        assert program.ended() == 1
    assert same(shown, program.output), program.output


@PAGE.run(text="passes.py")
def test_what_passes(text: str, machine: Machine, branch: Branch) -> None:
    """A blocked client passes: another handler overwrites the variable, or the address is compared with a text."""
    # For the module as it is, spoactl writes no configuration: it names the first mistake.
    path = '@handlers.message("check-path"'
    before, _, after = text.partition(path)
    machine.write(passes_py=text, other_py=before + path + after.replace("txn.allowed", "txn.path_allowed"))
    refused = machine.run("spoactl config --handlers passes || true")
    assert "the handlers of 'check-ip' and 'check-path' both set 'txn.allowed'" in refused
    agent = machine.start(on_any_port("twistd -n spoa --handlers passes"))
    for variable, changed, status in (
        ("txn.allowed", "", 200),
        ("txn.allowed", "check-path", 403),
        ("txn.good", "", 200),
    ):
        machine.run(
            f"spoactl config --handlers other --engine passes --require {variable} --whole --output . --force"
            f" --server 127.0.0.1:{agent.port}"
        )
        spoe_conf = (machine.folder / "spoe.conf").read_text()
        if changed:
            spoe_conf = spoe_conf.replace(f"messages check-ip {changed}", "messages check-ip")
        haproxy_cfg = (machine.folder / "haproxy.cfg").read_text().partition("\n# It stands for your application")[0]
        haproxy_cfg = haproxy_cfg.replace("timeout check 500ms", "timeout check 5s")
        haproxy_cfg = haproxy_cfg.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}")
        request = machine.haproxy(branch, haproxy_cfg=haproxy_cfg, spoe_conf=spoe_conf)
        assert request(client="127.0.0.66")[0] == status, (variable, changed)
    agent.stop()
