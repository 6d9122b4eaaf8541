"""docs/tutorial.rst works from its first line to its last: each block is run, and each output is compared.

The commands are those of the page. Only the ports differ: they are free ones.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.example import require_program
from tests.haproxy.branches import Branch
from tests.machine import Agent, Machine
from tests.programs import LIMIT, ROOT, STOPPED, Program

from .blocks import Steps, commands, contains, same

#: The captions of the blocks to type, and of what is printed there.
AGENT, HAPROXY, COMMANDS, LOAD = [f"Terminal {number}" for number in (1, 2, 3, 4)]

#: The ports of the agent and of its status page.
SPOP_PORT, STATUS_PORT = "12345", "8404"

#: The addresses where HAProxy listens: the site, and what stands for the application.
SITE, APP = "127.0.0.1:8080", "127.0.0.1:8081"


class Terminals:
    """The terminals of a reader, with other ports than those of the page."""

    def __init__(self, machine: Machine, branch: Branch, stack: contextlib.ExitStack) -> None:
        self.machine = machine
        self.branch = branch
        self._stack = stack
        self._site = ""
        machine.environment["COLUMNS"] = "80"
        # Bind without listening: the kernel gives the port to no other socket that asks for any free port, but the
        # agent can listen on it, also after a restart.
        self._ports = {port: self._socket(listen=False)[1] for port in (SPOP_PORT, STATUS_PORT)}

    def _socket(self, *, listen: bool) -> tuple[socket.socket, str]:
        bound = self._stack.enter_context(socket.socket())
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        if listen:
            bound.listen()
        return bound, str(bound.getsockname()[1])

    def write(self, name: str, text: str) -> None:
        (self.machine.folder / name).write_text(text)

    def read(self, name: str) -> str:
        return (self.machine.folder / name).read_text()

    def edit(self, name: str, old: str, new: str) -> None:
        text = self.read(name)
        assert text.count(old) == 1
        self.write(name, text.replace(old, new))

    def _real(self, command: str) -> str:
        """Return a command with the ports of this test."""
        agent, status = [f"tcp:127.0.0.1:{port}" for port in self._ports.values()]
        if command.startswith("twistd "):
            command = f"{command} --listen tcp:{self._ports[SPOP_PORT]}:interface=127.0.0.1"
        if command.startswith("pytest "):
            command = f"{shlex.quote(sys.executable)} -m {command} -p no:cacheprovider"
        command = re.sub(r"^spoactl send", f"spoactl send --agent {agent}", command)
        command = re.sub(r"^spoactl (reload|status)", rf"spoactl \1 --status {status}", command)
        # Without a terminal, curl prints a progress meter.
        command = re.sub(r"^curl ", "curl -sS ", command)
        return command.replace(SITE, self._site).replace(STATUS_PORT, self._ports[STATUS_PORT])

    def _shown(self, output: str) -> str:
        """Return an output as the page shows it: with the ports of the page."""
        for port, real in self._ports.items():
            output = output.replace(f"127.0.0.1:{real}", f"127.0.0.1:{port}").replace(f"Port {real} ", f"Port {port} ")
        return output.replace("\r\n", "\n").replace("\t", "    ")

    def type(self, session: str) -> None:
        """Run commands to their end, and compare what they print."""
        for command, shown in commands(session):
            printed = self._shown(self.machine.run(self._real(command)))
            assert same(shown, printed), f"$ {command}\n{printed}\nThe page shows:\n{shown}"

    def start_agent(self, session: str) -> Agent:
        """Start the agent, and wait until it has printed what the page shows."""
        ((command, shown),) = commands(session)
        agent = self.machine.start(self._real(command))
        self.wait_for(agent.program, shown)
        return agent

    def wait_for(self, program: Program, shown: str) -> None:
        """Wait for the last line that the page shows, and compare the whole."""
        last = shown.rstrip("\n").rpartition("\n")[2]
        # The words are enough to recognise the line, whatever its figures are.
        words = re.findall("[A-Za-z]{3,}", last)
        program.said(re.compile(f"(?m)^.*{'.*'.join(words)}.*$"))
        assert contains(shown, self._shown(program.output)), f"{program.output}\nThe page shows:\n{shown}"

    def start_haproxy(self, command: str) -> Program:
        """Start HAProxy with the configuration of the folder."""
        site, self._site = self._socket(listen=True)
        self._site = f"127.0.0.1:{self._site}"
        app, app_port = self._socket(listen=True)
        text = self.read("haproxy.cfg").replace(f"server app1 {APP}", f"server app1 127.0.0.1:{app_port}")
        # HAProxy takes listeners that are there already: who connects early waits.
        text = text.replace(f"bind {SITE}", f"bind fd@{site.fileno()}").replace(
            f"bind {APP}", f"bind fd@{app.fileno()}"
        )
        text = text.replace(SPOP_PORT, self._ports[SPOP_PORT])
        # On a busy machine, an agent may answer a health check so late that HAProxy marks it down.
        self.write("started.cfg", text.replace("timeout check 500ms", "timeout check 5s"))
        words = shlex.split(command.replace("haproxy.cfg", "started.cfg"))
        words[0] = str(self.branch.executable)
        return self._stack.enter_context(Program(words, cwd=self.machine.folder, sockets=[site, app]))

    def start_load(self, command: str) -> Program:
        """Start the requests of the page, but only 200 of them."""
        assert "seq 1000" in command
        text = command.replace("seq 1000", "seq 200").replace(SITE, self._site)
        return self._stack.enter_context(Program(["/bin/sh", "-c", text], cwd=self.machine.folder))


@pytest.fixture
def terminals(machine: Machine, branch: Branch) -> Iterator[Terminals]:
    """The terminals. What was started there is ended."""
    require_program("curl", "curl")
    with contextlib.ExitStack() as stack:
        yield Terminals(machine, branch, stack)


def press_ctrl_c(program: Program) -> None:
    """End a program as Ctrl-C does."""
    program.signal(signal.SIGINT)
    # HAProxy ends with 130 or by the signal; since Twisted 24.10, twistd ends by the signal.
    assert program.ended() in (0, 130, -signal.SIGINT, *STOPPED), program.describe()


@pytest.mark.timeout(300)
def test_the_tutorial(terminals: Terminals) -> None:
    """A reader who types all of it sees what the page shows."""
    page = Steps("tutorial")
    assert "client" in page.take("What you build")

    # Install: see the tests below.
    page.take(AGENT)
    page.take("Terminals 2 and 3")

    # A first handler, and its test.
    terminals.write("shop.py", page.take("shop.py"))
    terminals.write("test_shop.py", page.take("test_shop.py"))
    terminals.type(page.take(COMMANDS))

    # Start the agent.
    start = page.take(AGENT)
    agent = terminals.start_agent(start)
    terminals.type(page.take(COMMANDS))

    # HAProxy's configuration.
    terminals.type(page.take(COMMANDS))
    assert page.take("spoe.conf").splitlines() == terminals.read("spoe.conf").splitlines()
    assert page.take("haproxy.cfg, a part") in terminals.read("haproxy.cfg")

    # A request that passes, and one that is refused.
    haproxy = terminals.start_haproxy(page.take(HAPROXY))
    terminals.type(page.take(COMMANDS))
    terminals.type(page.take(COMMANDS))

    # Stop the agent.
    press_ctrl_c(agent.program)
    terminals.wait_for(agent.program, page.take(AGENT))
    terminals.type(page.take(COMMANDS))
    terminals.wait_for(haproxy, page.take(HAPROXY))
    again = page.take(AGENT)
    assert commands(again)[0][0] == commands(start)[0][0]
    agent = terminals.start_agent(again)
    haproxy.said("agent1 is UP")
    terminals.type(page.take(COMMANDS))

    # A handler that waits.
    terminals.write("shop.py", f"{terminals.read('shop.py')}\n\n{page.take('shop.py, at its end')}")
    terminals.write("test_shop.py", f"{terminals.read('test_shop.py')}\n\n{page.take('test_shop.py, at its end')}")
    terminals.type(page.take(COMMANDS))
    terminals.type(page.take(COMMANDS))
    new = page.take("haproxy.cfg, a new line").strip()
    # The page tells the reader to copy this rule from the parts.
    assert f"    {new}\n" in terminals.read("haproxy.cfg.parts")
    rule = "    http-request deny deny_status 403 unless { var(txn.shop.allowed) -m bool }\n"
    terminals.edit("haproxy.cfg", rule, f"{rule}    {new}\n")
    terminals.type(page.take(COMMANDS))
    press_ctrl_c(agent.program)
    press_ctrl_c(haproxy)
    agent = terminals.start_agent(page.take(AGENT))
    haproxy = terminals.start_haproxy(page.take(HAPROXY))
    terminals.type(page.take(COMMANDS))

    # A handler that fails, and the status page.
    terminals.type(page.take(COMMANDS))
    terminals.wait_for(agent.program, page.take(AGENT))
    terminals.type(page.take(COMMANDS))
    terminals.type(page.take(COMMANDS))
    terminals.type(page.take(COMMANDS))
    terminals.type(page.take(COMMANDS))

    # A change without a lost request.
    load = terminals.start_load(page.take(LOAD))
    changed = page.take("shop.py, in place of find_user")
    before = re.search(r"def find_user.*\n.*\n", terminals.read("shop.py"))
    assert before is not None
    terminals.edit("shop.py", before[0], changed)
    terminals.type(page.take(COMMANDS))
    terminals.type(page.take(COMMANDS))
    load.ended(limit=2 * LIMIT)
    assert load.output.split() == page.take(LOAD).replace("1000", "200").split()

    press_ctrl_c(agent.program)
    press_ctrl_c(haproxy)
    page.finish()


def install_command() -> str:
    """Return the commands of the section "Install", with the path of this checkout."""
    page = Steps("tutorial")
    page.take("What you build")
    return page.take(AGENT).replace("/path/to/the/checkout", shlex.quote(str(ROOT)))


def test_the_install_commands(tmp_path: Path) -> None:
    """They are valid, and both of the other terminals do the same without the first steps."""
    command = install_command()
    assert subprocess.run(["/bin/sh", "-n", "-c", command], check=False).returncode == 0
    page = Steps("tutorial")
    page.take("What you build")
    first = page.take(AGENT).splitlines()
    assert [line for line in page.take("Terminals 2 and 3").splitlines() if line not in first] == []


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_installation(tmp_path: Path) -> None:
    """The commands, as written, install twistd, spoactl and pytest. pip needs its index for it."""
    copy = tmp_path / "checkout"
    # A copy: pip writes into the folder that it builds.
    wanted = ["setup.cfg", "setup.py", "pyproject.toml", "README.rst", "LICENSE", "MANIFEST.in"]
    copy.mkdir()
    for name in wanted:
        shutil.copy(ROOT / name, copy)
    for name in ("spoa_twisted", "twisted"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = install_command().replace(str(ROOT), str(copy))
    command = command.replace("python3 -m venv", f"{shlex.quote(sys.executable)} -m venv")
    command += "pytest --version && twistd spoa --version && spoactl --version\n"
    ended = subprocess.run(
        ["/bin/sh", "-e", "-c", command],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
