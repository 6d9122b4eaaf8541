"""Every code block of README.rst does what the README says. The pages in ``docs`` have tests of their own."""

from __future__ import annotations

import configparser
import ipaddress
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from docutils import nodes
from docutils.core import publish_doctree
from twisted.internet import reactor as default_reactor

from spoa_twisted import NULL, Handlers, IHandlers
from spoa_twisted.testing import FakeHAProxy
from tests import readme_commands
from tests.examples.test_ip_reputation import Checkout, checkout
from tests.haproxy.branches import Branch
from tests.machine import Machine, load_text, machine, on_any_port
from tests.programs import LIMIT, ROOT

__all__ = ["checkout", "load_text", "machine"]  # fixtures

reactor: Any = default_reactor

TEXT = readme_commands.README.read_text("utf-8")

#: The README is for the first hour. What does not fit into this many lines belongs to ``docs``.
LONGEST = 250


BLOCKS = readme_commands.named()
RUN: set[str] = set()


def readme(**names: str) -> pytest.MarkDecorator:
    """Give a test code blocks as arguments, and count them as run."""
    RUN.update(names.values())
    return pytest.mark.parametrize(tuple(names), [[BLOCKS[name] for name in names.values()]], ids=["README"])


# The README as a whole.


def doctree() -> nodes.document:
    return publish_doctree(TEXT, settings_overrides={"halt_level": 2, "report_level": 2, "syntax_highlight": "none"})


def test_it_is_valid() -> None:
    """docutils reads it without a complaint, and finds the code blocks that these tests find, and no others."""
    found = [node.astext() + "\n" for node in doctree().findall(nodes.literal_block)]
    assert found == [block.text for block in readme_commands.blocks()]
    assert not list(doctree().findall(nodes.doctest_block))


def test_it_is_short() -> None:
    lines = TEXT.splitlines()
    assert len(lines) <= LONGEST
    assert [line for line in lines if len(line) > 120] == []


def test_what_it_names_is_there() -> None:
    """Each file and folder that it names or links to is there."""
    links = [str(node["refuri"]) for node in doctree().findall(nodes.reference) if "refuri" in node]
    paths = [link for link in links if not link.startswith("http")]
    paths += re.findall(r"``((?:docs|examples)/[\w./-]+)``", TEXT)
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_block_is_run() -> None:
    """No code block is left out by the tests here."""
    assert sorted(BLOCKS) == sorted(RUN)


def test_the_versions() -> None:
    """It names the oldest and the newest Python of setup.cfg, and the oldest Twisted."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    versions = re.findall(r"Python :: (3\.\d+)$", setup["metadata"]["classifiers"], re.MULTILINE)
    text = " ".join(TEXT.split())
    assert f"CPython {versions[0]} to {versions[-1]}, PyPy 7.3 and 8, Twisted 22.4 to " in text
    assert setup["options"]["python_requires"] == f">={versions[0]}"
    assert "twisted>=22.4" in setup["options"]["install_requires"].split()


# Try it.


@readme(command="Try it 1")
def test_the_command_that_runs_the_example(command: str, checkout: Checkout, branch: Branch) -> None:
    """Its last step, as written, prints what the README shows; .ci/run runs all of it on a machine that has nothing."""
    python = checkout.folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)

    ended = subprocess.run(
        ["/bin/sh", "-c", command.rpartition("&&")[2]],
        cwd=checkout.folder,
        env=checkout.with_haproxy(branch.executable),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout
    shown = re.findall(r"``(127\.0\.0\.\d+ +\w+ .*?)``", TEXT)
    assert len(shown) == 2
    assert ended.stdout.endswith("\n\n{}\n{}\n".format(*shown))


def test_the_set_up_commands() -> None:
    """They are what ``python3 -m tests.readme_commands`` prints for .ci/run, and the extras that they name exist."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    example, tests = readme_commands.commands()
    assert example == BLOCKS["Try it 1"]
    assert tests.endswith("\npytest\n")
    for number, command in enumerate((example, tests), 1):
        printed = subprocess.run(
            [sys.executable, "-m", "tests.readme_commands", str(number)], cwd=ROOT, capture_output=True, check=True
        )
        assert printed.stdout.decode() == command
        assert subprocess.run(["/bin/sh", "-n", "-c", command], check=False).returncode == 0
        extra = re.search(r'pip install -e "\.\[(\w+)\]"', command)
        assert extra is not None
        assert setup["options.extras_require"][extra[1]]
    assert "tests.readme_commands" in (ROOT / ".ci" / "stages.py").read_text()


# Your first agent.


@readme(install="Your first agent 1")
def test_the_installation(install: str) -> None:
    """The shell accepts the commands, and the folder of the checkout is the only part that a reader replaces.

    The session ``package`` of noxfile.py installs the package into a new environment.
    """
    assert subprocess.run(["/bin/sh", "-n", "-c", install], check=False).returncode == 0
    assert install.splitlines()[1] == ".venv/bin/pip install /path/to/the/checkout"


@readme(
    handlers="gate.py",
    config="Your first agent 3",
    start="Your first agent 4",
    answers="Your first agent 5",
    stopped="Your first agent 6",
)
def test_the_first_agent(
    handlers: str, config: str, start: str, answers: str, stopped: str, machine: Machine, branch: Branch
) -> None:
    """HAProxy accepts the files as they stand, allows, refuses, and refuses when the agent has stopped."""
    machine.write(gate_py=handlers)
    machine.run(config)
    haproxy_cfg = (machine.folder / "haproxy.cfg").read_text()
    section = TEXT.partition("\nYour first agent\n")[2].partition("\nHandlers\n")[0]
    (rule,) = re.findall(r"``(http-request deny .*?)``", section)
    (more,) = re.findall(r"``(http-request set-header .*?)``", section)
    (again,) = re.findall(r"``(spoactl config .*?)``", section)
    assert f"    {rule}\n" in haproxy_cfg
    assert "``haproxy -f haproxy.cfg``" in section
    machine.run(f"{shlex.quote(str(branch.executable))} -c -f haproxy.cfg")
    spoe_conf = (machine.folder / "spoe.conf").read_text()
    machine.run(again)
    assert (machine.folder / "spoe.conf").read_text() == spoe_conf
    assert (machine.folder / "haproxy.cfg").read_text() == haproxy_cfg

    agent = machine.start(on_any_port(start))
    # The application answers with the user.
    haproxy_cfg = haproxy_cfg.replace(f"    {rule}\n", f"    {rule}\n    {more}\n")
    haproxy_cfg = haproxy_cfg.replace('string "Hello.\\n"', "hdr X-Learned %[req.hdr(x-user)]")
    haproxy_cfg = haproxy_cfg.replace("127.0.0.1:8081", "unix@app").replace("12345", agent.port)
    # A busy machine may answer a health check late.
    haproxy_cfg = haproxy_cfg.replace("timeout check 500ms", "timeout check 5s")
    machine.haproxy(branch, haproxy_cfg=haproxy_cfg)

    def session(text: str) -> str:
        """Return the commands of ``text`` with what they print here."""
        host, port = machine.website
        typed = [line for line in text.splitlines() if line.startswith("$ ")]
        at = f"{host}:{port}"
        return "".join([f"{line}\n{machine.run(line[2:].replace('127.0.0.1:8080', at))}" for line in typed])

    assert session(answers).replace("\r", "") == answers
    host, port = machine.website
    assert "x-learned: alice" in machine.run(f"curl -si http://{host}:{port}/ -H 'X-Token: swordfish'").lower()
    said = agent.stop()
    assert "Traceback" not in said
    assert session(stopped).replace("\r", "") == stopped


# Handlers.


def test_the_types() -> None:
    """A value of each row's type arrives as the row says, and may be returned as the row says."""
    (table,) = [
        found
        for part in doctree().findall(nodes.section)
        if part.next_node(nodes.title).astext() == "Handlers"
        for found in part.findall(nodes.tbody)
    ]
    rows = [[entry.astext() for entry in row.findall(nodes.entry)] for row in table.findall(nodes.row)]
    examples: list[list[Any]] = [
        ["text", b"data"],
        [True, 5],
        [ipaddress.IPv4Address("192.0.2.1"), ipaddress.IPv6Address("2001:db8::1")],
        [None],
    ]
    arrived: list[Any] = []

    def echo(value: Any) -> dict[str, Any]:
        arrived.append(value)
        return {"txn.value": value}

    haproxy = FakeHAProxy(Handlers({"echo": echo}))
    for (_, parameter, returned), values in zip(rows, examples, strict=True):
        for value in values:
            sent = NULL if value is None else value
            assert haproxy.notify("echo", value=sent) == {"txn.value": value}
            name = "None" if value is None else type(arrived[-1]).__name__
            assert name in parameter
            assert name in returned or "ipaddress" in returned


# Waiting.


@readme(text="waiting.py")
@pytest_twisted.ensureDeferred
async def test_waiting(text: str, load_text: Callable[[str, str], IHandlers]) -> None:
    haproxy = FakeHAProxy(load_text("waiting", text))
    for message in ("score", "rank"):
        for ip, score in (("192.0.2.66", 80), ("192.0.2.1", 5)):
            answer = haproxy.send(message, ip=ipaddress.IPv4Address(ip))
            assert await answer.addTimeout(LIMIT, reactor) == {f"txn.{message}": score}
    assert haproxy.notify("name", ip=ipaddress.IPv4Address("127.0.0.1"))["txn.name"]
    assert haproxy.failures == []


@readme(text="waiting.py")
def test_the_configuration_for_waiting(text: str, machine: Machine, branch: Branch) -> None:
    """HAProxy waits half a second longer than the slowest handler, which is longer than the default timeout."""
    machine.write(waiting_py=text)
    machine.run("spoactl config --handlers waiting --whole --output .")
    assert "    timeout processing 2500ms\n" in (machine.folder / "spoe.conf").read_text()
    machine.run(f"{shlex.quote(str(branch.executable))} -c -f haproxy.cfg")


# See what happens.


@readme(send="See what happens 1", command="See what happens 2")
def test_see_what_happens(send: str, command: str, machine: Machine) -> None:
    """Each command of the section works with the agent."""
    machine.write(gate_py=BLOCKS["gate.py"])
    machine.run(BLOCKS["Your first agent 3"])
    agent = machine.start(on_any_port(command).replace("tcp:8404:interface=127.0.0.1", "unix:status"))
    typed, _, shown = send.partition("\n")
    to_agent = f" --agent tcp:127.0.0.1:{agent.port}"
    assert machine.run(typed.removeprefix("$ ") + to_agent) == shown

    section = " ".join(TEXT.partition("\nSee what happens\n")[2].partition("\nTest it\n")[0].split())
    status, watch, explain, check = re.findall(r"``(spoactl (?!send)[^`]+)``", section)
    assert machine.run(f"{status} --status unix:status").startswith("OK  ")
    assert "257" in machine.run(explain)
    assert machine.run(check) == ""
    assert watch == "spoactl watch --values"
    machine.start(f"{watch} --count 1 --status unix:status", re.compile("(watching the agent)"))
    agent.stop()


# Test it.


@readme(test="test_gate.py")
def test_the_test(test: str, machine: Machine) -> None:
    """pytest runs it, and it fails with another handler."""
    machine.write(gate_py=BLOCKS["gate.py"], test_gate_py="")
    (machine.folder / "test_gate.py").write_text(test)
    command = f"{shlex.quote(sys.executable)} -m pytest -q -p no:cacheprovider -p no:xdist test_gate.py"
    assert "1 passed" in machine.run(command)
    machine.write(gate_py=BLOCKS["gate.py"].replace("is not None", "is None"))
    assert "1 failed" in machine.run(f"{command} || true")
