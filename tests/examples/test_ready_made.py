"""``examples/ready_made`` with a real HAProxy: agents that need no Python of the user."""

from __future__ import annotations

import pytest

from tests.examples.conftest import OpenExample
from tests.examples.example import Example
from tests.haproxy.branches import Branch

pytestmark = pytest.mark.each_spoe

OPTIONS = "--handlers spoa_twisted.agents.blocklist --settings agents.toml"
START = f"twistd -n spoa {OPTIONS}"


@pytest.fixture
def example(open_example: OpenExample) -> Example:
    """The example."""
    return open_example("ready_made")


def test_the_configuration_is_the_generated_one(example: Example) -> None:
    """``spoactl config`` writes it, and ``spoactl check`` finds nothing."""
    example.check_generated("--settings", "agents.toml", handlers="spoa_twisted.agents.blocklist")
    example.run(f"spoactl check spoe.conf haproxy.cfg --no-haproxy {OPTIONS}")


def test_the_readme(example: Example) -> None:
    """It has the commands of these tests."""
    check = f"twistd -n spoa --check {OPTIONS}"
    assert {START, check, "haproxy -f haproxy.cfg"} <= set(example.commands())
    assert "check-blocklist  " in example.run(check)


def test_requests(example: Example, branch: Branch) -> None:
    """The list refuses, the partner passes, and a new list is used. Without the agent, all is refused."""
    example.edit("agents.toml", "[blocklist]\n", "[blocklist]\ninterval = 0.1\n")
    agent = example.agent(START)
    request = example.site(branch, agent)

    def answers() -> list[int]:
        return [request(client)[0] for client in ("127.0.0.1", "127.0.0.66", "127.0.0.99")]

    assert answers() == [200, 403, 200]

    (example.folder / "new").write_text(example.text("list.txt") + "127.0.0.1\n")
    (example.folder / "new").replace(example.folder / "list.txt")
    agent.program.said("refused networks: 4, allowed networks: 1; ")
    assert answers() == [403, 403, 200]

    agent.stop()
    assert request("127.0.0.99")[0] == 503
