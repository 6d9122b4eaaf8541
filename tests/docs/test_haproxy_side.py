"""docs/howto/haproxy_side.rst: spoactl writes the configuration, and HAProxy decides by it."""

from __future__ import annotations

import re
import shlex
import textwrap

from tests.haproxy.branches import Branch
from tests.machine import Machine, on_any_port, without_rules

from .iprep import HANDLERS, SPOE_CONF, START
from .pages import Page

PAGE = Page("howto/haproxy_side")


@PAGE.run(
    haproxy_cfg="haproxy.cfg",
    spoe_conf="spoe.conf",
)
def test_haproxy_asks(haproxy_cfg: str, spoe_conf: str, machine: Machine, branch: Branch) -> None:
    """HAProxy finds no fault with the files as they stand, and decides by what the three handlers set."""
    machine.write(iprep_py=HANDLERS, haproxy_cfg=haproxy_cfg, spoe_conf=spoe_conf)
    machine.run(f"{shlex.quote(str(branch.executable))} -c -f haproxy.cfg")

    agent = machine.start(on_any_port(START))
    haproxy_cfg = haproxy_cfg.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}").replace("12345", agent.port)
    request = machine.haproxy(branch, haproxy_cfg=haproxy_cfg)

    assert request(**{"X-Token": "swordfish", "X-User": "root"}) == (200, "user: alice")
    assert request()[0] == 401
    assert request(**{"X-Token": "sesame"})[0] == 401
    assert request(client="127.0.0.66", **{"X-Token": "swordfish"})[0] == 403
    assert request(client="127.0.0.99", **{"X-Token": "swordfish"})[0] == 403
    said = agent.stop()
    assert "Server Shut Down." in said
    assert "Traceback" not in said


@PAGE.run(command="Let spoactl write the files 1", haproxy_cfg="haproxy.cfg", spoe_conf="spoe.conf")
def test_the_configuration_is_written(command: str, haproxy_cfg: str, spoe_conf: str, machine: Machine) -> None:
    """``spoactl config`` writes it from the handlers. Only the rules that read what the agent sets are the reader's."""
    machine.write(iprep_py=HANDLERS)
    machine.run(command)
    written = (machine.folder / "haproxy.cfg").read_text()
    assert (machine.folder / "spoe.conf").read_text() == spoe_conf.removeprefix("# spoe.conf\n")
    assert without_rules(written) == without_rules(haproxy_cfg)
    # The comments of the written one become three of the rules.
    for name in ("allowed", "unlisted", "known"):
        assert f"#http-request deny unless {{ var(txn.iprep.{name}) -m bool }}\n" in written
        assert re.search(
            rf"http-request deny deny_status 40\d unless {{ var\(txn.iprep.{name}\) -m bool }}\n", haproxy_cfg
        )


@PAGE.run(console="Check the files 1", haproxy_cfg="haproxy.cfg", spoe_conf="spoe.conf")
def test_spoactl_check(console: str, haproxy_cfg: str, spoe_conf: str, machine: Machine) -> None:
    """It prints nothing for the files of the page."""
    machine.write(iprep_py=HANDLERS, haproxy_cfg=haproxy_cfg, spoe_conf=spoe_conf)
    assert machine.run(f"{console.removeprefix('$ ').strip()} --no-haproxy") == ""


def without_comments(text: str) -> list[str]:
    """Return the lines of a configuration that are no comments, and not empty."""
    return [line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


@PAGE.run(yours="yours.cfg", merged="haproxy-with-parts.cfg", check="You have a haproxy.cfg already 3")
def test_a_haproxy_cfg_that_exists(yours: str, merged: str, check: str, machine: Machine, branch: Branch) -> None:
    """The command of the page writes the parts. With them, the file of the page is that of the reader."""
    (command,) = re.findall("``(spoactl config --handlers iprep .*--output .)``", PAGE.text)
    machine.write(iprep_py=HANDLERS)
    machine.run(command)
    # HAProxy needs the parts to be active, and the page leaves the comments of the parts out.
    parts = without_comments((machine.folder / "haproxy.cfg.parts").read_text())
    lines = without_comments(merged)
    assert [line for line in lines if line in parts] == parts
    # Other lines of the merged file: those of the reader's own, which a backend of the parts may also have.
    assert sorted(lines) == sorted(without_comments(yours) + parts)

    (machine.folder / "haproxy-with-parts.cfg").write_text(merged)
    haproxy, spoactl = check.splitlines()
    machine.run(haproxy.replace("haproxy ", f"{shlex.quote(str(branch.executable))} ", 1))
    assert machine.run(f"{spoactl} --no-haproxy") == ""

    agent = machine.start(on_any_port(START))
    merged = merged.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}").replace("12345", agent.port)
    request = machine.haproxy(branch, haproxy_cfg=merged.replace("check 500ms", "check 5s"))
    assert request() == (200, "user: None")
    assert request(client="127.0.0.66")[0] == 403
    agent.stop()


@PAGE.run(
    command="Fail closed, or open 1",
    rules="The agent has failed: such requests pass unchecked. This rule would refuse them.",
)
def test_fail_open(command: str, rules: str, machine: Machine) -> None:
    """``spoactl config`` writes the rules of the page."""
    machine.write(iprep_py=HANDLERS)
    assert textwrap.indent(textwrap.dedent(rules), "    ") in machine.run(command)


@PAGE.run(rules="Other answers than an empty 403 1", haproxy_cfg="haproxy.cfg")
def test_other_answers(rules: str, haproxy_cfg: str, machine: Machine, branch: Branch) -> None:
    """The rules answer with a text, with 429, and with a redirect."""
    machine.write(iprep_py=HANDLERS)
    agent = machine.start(on_any_port(START))
    before, found, after = haproxy_cfg.partition("    http-request deny deny_status 403 unless")
    assert found
    after = after[after.index("    http-request set-header X-User") :]
    text = before + textwrap.indent(textwrap.dedent(rules), "    ") + after
    text = text.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}").replace("12345", agent.port)
    request = machine.haproxy(branch, haproxy_cfg=text.replace("check 500ms", "check 5s"), spoe_conf=SPOE_CONF)
    assert request(client="127.0.0.66") == (403, "Not from your address.")
    assert request(client="127.0.0.99") == (429, "Later.")
    assert request()[0] == 302
    assert request(path="/login")[0] == 200
    assert request(**{"X-Token": "swordfish"}) == (200, "user: alice")
    agent.stop()


@PAGE.run(handlers="api.py", rule="Ask only for some paths 2")
def test_some_paths(handlers: str, rule: str, machine: Machine, branch: Branch) -> None:
    """HAProxy asks for all paths but one, which passes also when the agent is down."""
    machine.write(api_py=handlers)
    agent = machine.start(on_any_port("twistd -n spoa --handlers api"))
    (command,) = re.findall("``(spoactl config --handlers api .*--output .)``", PAGE.text)
    machine.run(f"{command} --server 127.0.0.1:{agent.port}")
    text = (machine.folder / "haproxy.cfg").read_text().partition("\n# It stands for your application")[0]
    text, count = re.subn(r"(?m)^ *http-request deny deny_status 401 .*\n", f"    {rule.strip()}\n", text)
    assert count == 1
    text = text.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}").replace("check 500ms", "check 5s")
    request = machine.haproxy(branch, haproxy_cfg=text)
    assert request()[0] == 401
    assert request(path="/health")[0] == 200
    assert request(path="//health")[0] == 401
    assert request(**{"X-Token": "swordfish"})[0] == 200
    agent.stop()
    assert request(path="/health")[0] == 200
    assert request(**{"X-Token": "swordfish"})[0] == 503
