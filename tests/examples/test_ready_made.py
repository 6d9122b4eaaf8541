"""``examples/ready_made`` with a real HAProxy: agents that need no Python of the user."""

from __future__ import annotations

import contextlib
import re

import pytest

from tests.agents.databases import ASN, COUNTRY, country, write
from tests.examples.conftest import OpenExample
from tests.examples.example import Example
from tests.haproxy.branches import Branch
from tests.services.dns import DNS

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


def test_three_agents_in_one_process(example: Example, branch: Branch) -> None:
    """The other tables of ``agents.toml``, without the comment signs, and the commands of the README."""
    options = "".join(f" --handlers spoa_twisted.agents.{name}" for name in ("blocklist", "country", "dnsbl"))
    options += " --settings agents.toml"
    required = "".join(f" --require txn.{name}_allowed" for name in ("blocklist", "country", "dnsbl"))
    config = f"spoactl config{options}{required} --whole --output . --force"
    assert {f"twistd -n spoa{options}", config} <= set(example.commands())
    table = example.text("agents.toml")
    (example.folder / "agents.toml").write_text(re.sub(r"^#(?=\S)", "", table, flags=re.MULTILINE))
    countries = {"127.0.0.0/24": country("DE"), "127.0.1.0/24": country("US")}
    for name, kind, records in (("Country", COUNTRY, countries), ("ASN", ASN, {})):
        example.edit("agents.toml", f"/var/lib/GeoIP/GeoLite2-{name}.mmdb", f"{name}.mmdb")
        write(example.folder / f"{name}.mmdb", kind, records)
    names = {f"2.0.0.127.{zone}.example": "127.0.0.2" for zone in ("bad", "dial-up")}
    names |= {"77.0.0.127.bad.example": "127.0.0.4", "78.0.0.127.bad.example": "servfail"}

    with contextlib.ExitStack() as stack:
        server = DNS(names, stack)
        example.edit("agents.toml", "127.0.0.1:5353", server.address)
        agent = example.agent(f"twistd -n spoa{options}")
        example.run(config)
        assert (
            len(re.findall(r"^    http-request deny deny_status 403 unless ", example.text("haproxy.cfg"), re.M)) == 3
        )
        example.run(f"spoactl check spoe.conf haproxy.cfg --no-haproxy{options}")
        request = example.site(branch, agent)

        clients = ("127.0.0.1", "127.0.0.66", "127.0.1.1", "127.0.0.77", "127.0.0.78")
        assert [request(client)[0] for client in clients] == [200, 403, 403, 403, 503]
