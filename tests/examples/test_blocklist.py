"""``examples/blocklist`` with a real HAProxy: what is refused, a new file, a wrong file, and no agent."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from spoa_twisted.runner.loading import load
from spoa_twisted.testing import FakeHAProxy
from tests.examples.conftest import OpenExample
from tests.examples.example import Example
from tests.haproxy.branches import Branch

pytestmark = pytest.mark.each_spoe

START = "BLOCKLIST=list.txt twistd -n spoa --handlers handlers.py"


@pytest.fixture
def example(open_example: OpenExample) -> Example:
    """The example. It looks at the file often."""
    example = open_example("blocklist")
    example.edit("handlers.py", "INTERVAL = 10", "INTERVAL = 0.1")
    return example


def replace(example: Example, text: str) -> None:
    """Put a new list in the place of the old one."""
    (example.folder / "new").write_text(text)
    (example.folder / "new").replace(example.folder / "list.txt")


def test_the_configuration_is_the_generated_one(open_example: OpenExample) -> None:
    """``spoactl config`` writes it, and ``spoactl check`` finds nothing."""
    example = open_example("blocklist")
    example.check_generated("--engine", "blocklist")
    example.check_problems()


def test_the_readme(example: Example) -> None:
    """It has the commands of these tests, and the answer of ``spoactl send``."""
    assert {START, "haproxy -f haproxy.cfg"} <= set(example.commands())
    agent = example.agent(START)
    answer = example.run(f"spoactl send --agent tcp:127.0.0.1:{agent.port} check-blocklist ip=127.0.0.66")
    assert f"   $ spoactl send check-blocklist ip=127.0.0.66\n   {answer}" in example.text("README.rst")


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("127.0.0.1", True), ("127.0.0.66", False), ("::ffff:127.0.0.66", False), ("2001:db8::1", False), ("::1", True)],
)
def test_answers(example: Example, monkeypatch: pytest.MonkeyPatch, address: str, allowed: bool) -> None:
    """For IPv4, IPv6, and an address of IPv4 in one of IPv6."""
    monkeypatch.chdir(example.folder)
    with FakeHAProxy(load("./handlers.py")) as haproxy:
        assert haproxy.notify("check-blocklist", ip=ip_address(address)) == {"txn.allowed": allowed}


def test_requests(example: Example, branch: Branch) -> None:
    """A new list is used. A wrong, an empty and a missing one change nothing. Without the agent, all is refused."""
    agent = example.agent(START)
    request = example.site(branch, agent)

    def answers() -> list[int]:
        return [request(client)[0] for client in ("127.0.0.1", "127.0.0.66")]

    assert answers() == [200, 403]

    replace(example, "127.0.0.1\n127.0.0.1/24\n")
    agent.program.said("127.0.0.1/24 has host bits set")
    assert answers() == [200, 403]
    replace(example, "# nothing\n")
    agent.program.said("list.txt has no network")
    assert answers() == [200, 403]
    (example.folder / "list.txt").unlink()
    agent.program.said("No such file or directory")
    assert answers() == [200, 403]

    replace(example, "127.0.0.1\n")
    # The agent does not log that it has read a list, so this waits until the list is in use.
    ask = f"spoactl send --agent tcp:127.0.0.1:{agent.port} check-blocklist ip=127.0.0.1"
    example.run(f"until {ask} | grep false; do :; done")
    assert answers() == [403, 200]

    agent.stop()
    assert request("127.0.0.66")[0] == 503


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (None, "No such file or directory"),
        ("", "list.txt has no network"),
        ("127.0.0.x\n", "'127.0.0.x' does not appear to be an IPv4 or IPv6 network"),
    ],
)
def test_it_does_not_start(example: Example, text: str | None, error: str) -> None:
    """One line says what is wrong with the file."""
    (example.folder / "list.txt").unlink()
    if text is not None:
        replace(example, text)
    output = example.run(f"{START} --listen tcp:0:interface=127.0.0.1; test $? = 1")
    (line,) = [line for line in output.splitlines() if "startup function handlers.read_file failed" in line]
    assert error in line
