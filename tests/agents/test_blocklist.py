"""The agent ``blocklist``: its answers, new files, and a real HAProxy that refuses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path

import pytest
from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from zope.interface import implementer

from spoa_twisted.agents.blocklist import handlers
from spoa_twisted.agents.networks import BadList
from spoa_twisted.agents.settings import SettingsError, SettingsFile
from spoa_twisted.handlers.lifecycle import StartupFailed
from spoa_twisted.testing import FakeHAProxy
from tests.conftest import Logged
from tests.haproxy.branches import Branch
from tests.machine import Machine, machine, on_any_port  # noqa: F401 - a fixture

START = "twistd -n spoa --handlers spoa_twisted.agents.blocklist --settings agents.toml"


def make(folder: Path, settings: str = "", **files: str) -> FakeHAProxy:
    """Start the agent with ``list.txt`` and other files.

    :param settings: more lines of the table.
    """
    for name, text in {"list": "192.0.2.0/24\n2001:db8::/32\n", **files}.items():
        (folder / f"{name}.txt").write_text(text)
    file = "" if "file =" in settings else 'file = "list.txt"\n'
    (folder / "agents.toml").write_text(f"[blocklist]\n{file}{settings}\n")
    return FakeHAProxy(handlers(SettingsFile(f"{folder}/agents.toml").take("blocklist", "the agent")))


def allowed(haproxy: FakeHAProxy, *addresses: str) -> list[object]:
    """Return what the agent answers for each address."""
    variable = "txn.blocklist_allowed"
    return [haproxy.notify("check-blocklist", ip=ip_address(address))[variable] for address in addresses]


def replace(folder: Path, text: str, name: str = "list.txt") -> None:
    """Put a new file in the place of the old one."""
    (folder / "new").write_text(text)
    (folder / "new").replace(folder / name)


@pytest.fixture
def infos() -> Iterator[list[str]]:
    """The lines that the agent logs."""
    lines: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event["log_namespace"].endswith("Blocklist"):
            lines.append(eventAsText(event, includeTimestamp=False, includeSystem=False))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def test_answers(tmp_path: Path) -> None:
    """IPv4, IPv6, and a client with IPv4 that HAProxy shows as IPv6."""
    addresses = ("192.0.2.1", "192.0.3.1", "2001:db8::1", "2001:db9::1", "::ffff:192.0.2.1", "::ffff:192.0.3.1")
    with make(tmp_path) as haproxy:
        assert allowed(haproxy, *addresses) == [False, True, False, True, False, True]
        assert haproxy.failures == []


def test_an_allowed_network_overrides(tmp_path: Path) -> None:
    """Whatever file lists it. A file of allowed networks may be empty."""
    with make(
        tmp_path,
        'file = ["list.txt", "more.txt"]\nallow_file = ["good.txt", "none.txt"]',
        more="198.51.100.0/24",
        good="192.0.2.7 # a partner\n198.51.100.0/25\n",
        none="# nothing\n",
    ) as haproxy:
        answers = allowed(haproxy, "192.0.2.7", "::ffff:192.0.2.7", "192.0.2.8", "198.51.100.1", "198.51.100.200")
        assert answers == [True, True, False, True, False]


def test_names(tmp_path: Path) -> None:
    """The message, the variable and the sample come from the settings."""
    settings = 'message = "is-listed"\nvariable = "sess.ok"\naddress = "req.hdr_ip(x-forwarded-for,-1)"'
    with make(tmp_path, settings) as haproxy:
        assert haproxy.notify("is-listed", ip=IPv6Address("::1")) == {"sess.ok": True}
    made = handlers(SettingsFile(f"{tmp_path}/agents.toml").take("blocklist", "the agent"))
    declaration = made.declarations["is-listed"]
    assert declaration.args == {"ip": "req.hdr_ip(x-forwarded-for,-1)"}
    assert declaration.event == "on-frontend-http-request"
    assert declaration.sets == {"sess.ok": bool}


@pytest.mark.parametrize("arguments", [{}, {"ip": None}, {"ip": "192.0.3.1"}], ids=["none", "null", "text"])
def test_without_an_address_the_handler_fails(tmp_path: Path, logged: Logged, arguments: dict[str, str]) -> None:
    """A header may be missing, for example. HAProxy's rule then refuses the request."""
    with make(tmp_path) as haproxy:
        assert haproxy.notify("check-blocklist", **arguments) == {"txn.error": "blocklist"}
        assert len(haproxy.failures) == 1
    assert len(logged.take()) == 1


def test_a_new_file_is_used(tmp_path: Path, infos: list[str]) -> None:
    """At the next look. A file that has not changed is not read."""
    with make(tmp_path, "interval = 5") as haproxy:
        haproxy.clock.advance(5)
        assert len(infos) == 1
        replace(tmp_path, "192.0.3.0/24\n")
        haproxy.clock.advance(4.9)
        assert allowed(haproxy, "192.0.2.1", "192.0.3.1") == [False, True]
        haproxy.clock.advance(0.1)
        assert allowed(haproxy, "192.0.2.1", "192.0.3.1") == [True, False]
    assert infos[0].startswith("blocklist: refused networks: 2, allowed networks: 0; read in ")
    assert infos[1].startswith("blocklist: refused networks: 1, ")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "list.txt has no network; if it may be empty, set may_be_empty = true"),
        ("192.0.3.0/24\nx\n", "list.txt, line 2: 'x' is no network and no address; write one to a line, such as"),
    ],
)
def test_a_wrong_file_changes_nothing(tmp_path: Path, logged: Logged, infos: list[str], text: str, error: str) -> None:
    """It is reported once, also if it is written again. When the file is right, it is used."""
    with make(tmp_path) as haproxy:
        for _ in range(3):
            replace(tmp_path, text)
            haproxy.clock.advance(10)
            haproxy.clock.advance(10)
            assert allowed(haproxy, "192.0.2.1", "192.0.3.1") == [False, True]
        (line,) = logged.take()
        assert line.startswith(f"error: blocklist: {tmp_path}/{error}")
        assert line.endswith("; the networks of before stay in use")
        replace(tmp_path, "192.0.3.0/24\n")
        haproxy.clock.advance(10)
        assert allowed(haproxy, "192.0.2.1", "192.0.3.1") == [True, False]
        # The same fault again is a new one.
        replace(tmp_path, text)
        haproxy.clock.advance(10)
        assert len(logged.take()) == 1


def test_a_missing_file_changes_nothing(tmp_path: Path, logged: Logged) -> None:
    """It is reported once, and looked for at each look: also the same file may come back."""
    with make(tmp_path) as haproxy:
        (tmp_path / "list.txt").rename(tmp_path / "away.txt")
        for _ in range(3):
            haproxy.clock.advance(10)
        (line,) = logged.take()
        error = f"cannot read {tmp_path}/list.txt: No such file or directory"
        assert line == f"error: blocklist: {error}; the networks of before stay in use"
        assert allowed(haproxy, "192.0.2.1") == [False]
        (tmp_path / "away.txt").rename(tmp_path / "list.txt")
        haproxy.clock.advance(10)
        assert allowed(haproxy, "192.0.2.1") == [False]


def test_a_file_that_cannot_be_read_for_a_moment(
    tmp_path: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, because too many files are open. The next look reads the file although it is the same."""
    with make(tmp_path) as haproxy:
        replace(tmp_path, "192.0.3.0/24\n")
        with monkeypatch.context() as patched:
            patched.setattr(os, "fstat", lambda descriptor: (_ for _ in ()).throw(OSError(5, "Input/output error")))
            haproxy.clock.advance(10)
        assert "Input/output error" in logged.take()[0]
        haproxy.clock.advance(10)
        assert allowed(haproxy, "192.0.2.1", "192.0.3.1") == [True, False]


def test_an_empty_file_may_be_allowed(tmp_path: Path) -> None:
    """The setting says in words that nothing is refused then."""
    with make(tmp_path, "may_be_empty = true", list="") as haproxy:
        assert allowed(haproxy, "192.0.2.1") == [True]


@pytest.mark.parametrize("text", ["", "192.0.2.1/24\n"])
def test_a_wrong_file_at_the_start(tmp_path: Path, text: str) -> None:
    """The agent does not start."""
    with pytest.raises(StartupFailed) as caught:
        make(tmp_path, list=text)
    assert isinstance(caught.value.__cause__, BadList)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('message = "a b"', "blocklist.message is \"a b\": HAProxy does not allow the name 'a b' for a spoe-message"),
        ('variable = "allowed"', 'blocklist.variable is "allowed": it has no scope; write "txn.allowed"'),
        ('variable = "txn.a b"', 'blocklist.variable is "txn.a b": '),
        (
            'variable = "txn.error"',
            'blocklist.variable is "txn.error": HAProxy sets this variable when the agent fails',
        ),
    ],
)
def test_wrong_names(tmp_path: Path, line: str, error: str) -> None:
    """The error names the key."""
    (tmp_path / "agents.toml").write_text(f'[blocklist]\nfile = "list.txt"\n{line}\n')
    with pytest.raises(SettingsError) as caught:
        handlers(SettingsFile(f"{tmp_path}/agents.toml").take("blocklist", "the agent"))
    assert str(caught.value).startswith(f"{tmp_path}/agents.toml, line 3: {error}")


def test_a_missing_table_key(tmp_path: Path) -> None:
    """Without a file, there is nothing to refuse."""
    (tmp_path / "agents.toml").write_text("[blocklist]\n")
    with pytest.raises(SettingsError, match=r"blocklist.file is missing; it is required: file, or list of files$"):
        handlers(SettingsFile(f"{tmp_path}/agents.toml").take("blocklist", "the agent"))


def site(machine: Machine, branch: Branch, port: str) -> Callable[..., tuple[int, str]]:  # noqa: F811
    """Start HAProxy with the configuration that ``spoactl config`` writes, and the rule that it proposes."""
    machine.run(f"spoactl config {START.partition('spoa ')[2]} --whole --output .")
    text = (machine.folder / "haproxy.cfg").read_text()
    rule = "http-request deny unless { var(txn.blocklist.blocklist_allowed) -m bool }"
    assert f"    #{rule}\n" in text
    text = text.replace(f"#{rule}", rule).replace("127.0.0.1:12345", f"127.0.0.1:{port}")
    text = text.partition("\n# It stands for your application")[0].replace("timeout check 500ms", "timeout check 5s")
    return machine.haproxy(branch, haproxy_cfg=text.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}"))


@pytest.mark.each_spoe
def test_with_haproxy(machine: Machine, branch: Branch) -> None:  # noqa: F811
    """The generated configuration refuses what is listed, follows the file, and refuses all when the agent is gone."""
    machine.write(agents_toml='[blocklist]\nfile = "list.txt"\ninterval = 0.1\n', list_txt="127.0.0.66\n")
    agent = machine.start(on_any_port(START))
    request = site(machine, branch, agent.port)

    assert [request(client)[0] for client in ("127.0.0.1", "127.0.0.66")] == [200, 403]

    replace(machine.folder, "127.0.0.1\n127.0.0.x\n")
    agent.program.said(r"list.txt, line 2: '127.0.0.x' is no network and no address.*; the networks of before stay")
    assert [request(client)[0] for client in ("127.0.0.1", "127.0.0.66")] == [200, 403]

    replace(machine.folder, "127.0.0.1\n")
    agent.program.said("refused networks: 1, ", times=2)
    assert [request(client)[0] for client in ("127.0.0.1", "127.0.0.66")] == [403, 200]

    agent.stop()
    assert request("127.0.0.66")[0] == 503


@pytest.mark.parametrize("workers", ["", " --workers 1"])
def test_it_does_not_start_with_a_wrong_list(machine: Machine, workers: str) -> None:  # noqa: F811
    """One line names the file and the line."""
    machine.write(agents_toml='[blocklist]\nfile = "list.txt"\n', list_txt="192.0.2.1\n192.0.2.1/24\n")
    output = machine.run(f"{on_any_port(START)}{workers}; test $? = 1")
    problem = "list.txt, line 2: '192.0.2.1/24' has bits behind the prefix, or another form; write 192.0.2.0/24\n"
    assert problem in output
    assert "Traceback" not in output


def test_a_changed_settings_file_reloads(machine: Machine) -> None:  # noqa: F811
    """With ``--reload-on-change``. A wrong one changes nothing, and the log says what is wrong."""
    machine.write(agents_toml='[blocklist]\nfile = "list.txt"\n', list_txt="192.0.2.1\n", other_txt="192.0.2.2\n")
    agent = machine.start(f"{on_any_port(START)} --workers 1 --reload-on-change")
    ask = f"spoactl send --agent tcp:127.0.0.1:{agent.port} check-blocklist ip=192.0.2.2"
    assert machine.run(ask) == "txn.blocklist_allowed=bool:true\n"

    machine.write(agents_toml='[blocklist]\nfils = "other.txt"\n')
    agent.program.said("agents.toml has changed")
    agent.program.said("reload failed: agents.toml, line 2: blocklist.fils is unknown; did you mean blocklist.file?")
    assert machine.run(ask) == "txn.blocklist_allowed=bool:true\n"

    machine.write(agents_toml='[blocklist]\nfile = "other.txt"\n')
    agent.program.said("reloaded: 1 worker was")
    assert machine.run(ask) == "txn.blocklist_allowed=bool:false\n"
    agent.stop()
