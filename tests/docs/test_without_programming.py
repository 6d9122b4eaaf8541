"""docs/howto/without_programming.rst and docs/howto/blocklist.rst: ready-made agents do what the pages say."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.runner.loading import load_all
from spoa_twisted.testing import FakeHAProxy
from tests.agents_settings import PAGE, with_tables
from tests.haproxy.branches import Branch
from tests.machine import Machine, on_any_port

from .pages import Page

GUIDE = Page("howto/without_programming")
BLOCKLIST = Page("howto/blocklist")


def test_the_tables_are_up_to_date() -> None:
    """``python -m tests.agents_settings`` writes them."""
    text = PAGE.read_text("utf-8")
    assert text == with_tables(text)


def check_site(machine: Machine, branch: Branch, start: str, config: str) -> None:
    """Run the commands of a page in a folder with its files. The list must refuse 127.0.0.66 only."""
    machine.run(config)
    haproxy_cfg = (machine.folder / "haproxy.cfg").read_text()
    machine.run(f"{shlex.quote(str(branch.executable))} -c -f haproxy.cfg")
    agent = machine.start(on_any_port(start))
    haproxy_cfg = haproxy_cfg.replace("127.0.0.1:8081", "unix@app").replace("12345", agent.port)
    request = machine.haproxy(branch, haproxy_cfg=haproxy_cfg.replace("timeout check 500ms", "timeout check 5s"))
    assert [request(client)[0] for client in ("127.0.0.1", "127.0.0.66")] == [200, 403]
    agent.stop()
    assert request("127.0.0.1")[0] == 503


@GUIDE.run(settings="Run one 1", start="Run one 2", config="Run one 3")
def test_run_one(settings: str, start: str, config: str, machine: Machine, branch: Branch) -> None:
    machine.write(agents_toml=settings, list_txt="127.0.0.66\n")
    check_site(machine, branch, start, config)


@BLOCKLIST.run(
    networks="list.txt",
    settings="With a settings file 2",
    start="With a settings file 3",
    config="With a settings file 4",
)
def test_a_blocklist(networks: str, settings: str, start: str, config: str, machine: Machine, branch: Branch) -> None:
    """The list of the page is read, too."""
    machine.write(agents_toml=settings, list_txt=networks, own_txt="127.0.0.0/25\n", partners_txt="127.0.0.1\n")
    check_site(machine, branch, start, config)


@BLOCKLIST.run(settings="With a settings file 5")
def test_behind_another_proxy(settings: str, machine: Machine) -> None:
    """HAProxy sends the address in the header."""
    machine.write(agents_toml=settings, list_txt="192.0.2.1\n")
    printed = machine.run("spoactl config --handlers spoa_twisted.agents.blocklist --settings agents.toml")
    assert "    args ip=req.hdr_ip(x-forwarded-for,-1)\n" in printed


@GUIDE.run(errors="Errors 1")
@pytest.mark.parametrize(
    ("settings", "number"), [('fils = "a"', 0), ('file = "a"\ninterval = 0', 1), ("interval = 1", 2)]
)
def test_the_errors(settings: str, number: int, errors: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page shows them as they are."""
    monkeypatch.chdir(tmp_path)
    Path("agents.toml").write_text(f"[blocklist]\n{settings}\n")
    with pytest.raises(CannotStart) as caught:
        load_all(["spoa_twisted.agents.blocklist"], "agents.toml")
    shown = errors.splitlines()[number]
    assert str(caught.value).startswith(shown.removesuffix("..."))


@GUIDE.run(text="scores.py")
def test_the_module_with_settings_of_its_own(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes its table, and answers."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "scores", raising=False)
    (tmp_path / "scores.py").write_text(text)
    (tmp_path / "agents.toml").write_text("[scores]\nlimit = 0\n")
    loaded = load_all([f"{tmp_path}/scores.py"], f"{tmp_path}/agents.toml")
    assert isinstance(loaded, Handlers)
    assert FakeHAProxy(loaded).notify("get-score", ip="192.0.2.1") == {"txn.allowed": False}
    monkeypatch.delitem(sys.modules, "scores", raising=False)
