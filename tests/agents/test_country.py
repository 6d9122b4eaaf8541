"""The agent ``country``: its answers, new databases, and a real HAProxy that refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest

from spoa_twisted.agents.country import handlers
from spoa_twisted.agents.settings import SettingsError, SettingsFile
from spoa_twisted.handlers.lifecycle import StartupFailed
from spoa_twisted.spop.typeddata import Value
from spoa_twisted.testing import FakeHAProxy
from tests.agents.databases import ASN, COUNTRY, country, network, write
from tests.conftest import Logged
from tests.examples.example import require
from tests.haproxy.branches import Branch
from tests.machine import Machine, machine, on_any_port  # noqa: F401 - a fixture

START = "twistd -n spoa --handlers spoa_twisted.agents.country --settings agents.toml"

FILES = 'countries = "country.mmdb"\nnetworks = "asn.mmdb"\n'

#: The countries of addresses in country.mmdb. It knows no country of 127.0.0.99.
COUNTRIES = {"127.0.0.1": country("DE"), "127.0.0.66": country("US"), "2001:db8::1": country("FR")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two databases."""
    write(tmp_path / "country.mmdb", COUNTRY, COUNTRIES)
    write(tmp_path / "asn.mmdb", ASN, {"127.0.0.0/24": network(64496, "Example Network")})
    return tmp_path


def make(folder: Path, settings: str, files: str = FILES) -> FakeHAProxy:
    """Start the agent.

    :param settings: lines of the table.
    """
    (folder / "agents.toml").write_text(f"[country]\n{files}{settings}\n")
    return FakeHAProxy(handlers(SettingsFile(f"{folder}/agents.toml").take("country", "the agent")))


def ask(haproxy: FakeHAProxy, address: str) -> dict[str, Value]:
    return haproxy.notify("check-country", ip=ip_address(address))


def allowed(haproxy: FakeHAProxy, *addresses: str) -> list[Value]:
    return [ask(haproxy, address)["txn.country_allowed"] for address in addresses]


ADDRESSES = ("127.0.0.1", "127.0.0.66", "127.0.0.99", "2001:db8::1", "::ffff:127.0.0.1", "::ffff:127.0.0.66")


@pytest.mark.parametrize(
    ("settings", "verdicts"),
    [
        ('allow = ["DE", "FR"]', [True, False, False, True, True, False]),
        ('allow = "DE"', [True, False, False, False, True, False]),
        ('allow = "DE"\nunknown = "allow"', [True, False, True, False, True, False]),
        ('refuse = "DE"', [False, True, True, True, False, True]),
        ('refuse = "DE"\nunknown = "refuse"', [False, True, False, True, False, True]),
    ],
)
def test_verdicts(folder: Path, settings: str, verdicts: list[bool]) -> None:
    """IPv4, IPv6, IPv4 in IPv6; an unknown address is refused with ``allow``, and allowed with ``refuse``."""
    with make(folder, settings) as haproxy:
        assert allowed(haproxy, *ADDRESSES) == verdicts
        assert haproxy.failures == []


def test_variables(folder: Path) -> None:
    """The country, and the number and the name of the network. What is unknown is unset."""
    with make(folder, 'allow = "DE"') as haproxy:
        assert ask(haproxy, "127.0.0.1") == {
            "txn.country_allowed": True,
            "txn.country": "DE",
            "txn.asn": 64496,
            "txn.network": "Example Network",
        }
        unknown = dict.fromkeys(["txn.country", "txn.asn", "txn.network"])
        assert ask(haproxy, "2001:db9::1") == {"txn.country_allowed": False, **unknown}


def test_without_networks(folder: Path) -> None:
    """The database of networks is optional. The declaration tells what is set."""
    with make(folder, 'allow = "DE"\naddress = "req.hdr_ip(x-ip)"', 'countries = "country.mmdb"\n') as haproxy:
        assert ask(haproxy, "127.0.0.1") == {"txn.country_allowed": True, "txn.country": "DE"}
    made = handlers(SettingsFile(f"{folder}/agents.toml").take("country", "the agent"))
    declaration = made.declarations["check-country"]
    assert declaration.args == {"ip": "req.hdr_ip(x-ip)"}
    assert declaration.sets == {"txn.country_allowed": bool, "txn.country": str | None}


@pytest.mark.parametrize("arguments", [{}, {"ip": None}, {"ip": "127.0.0.1"}], ids=["none", "null", "text"])
def test_without_an_address_the_handler_fails(folder: Path, logged: Logged, arguments: dict[str, str]) -> None:
    """A header may be missing, for example. HAProxy's rule then refuses the request."""
    with make(folder, 'refuse = "DE"') as haproxy:
        assert haproxy.notify("check-country", **arguments) == {"txn.error": "country"}
        assert len(haproxy.failures) == 1
    assert len(logged.take()) == 1


@pytest.mark.parametrize("record", ["DE", {"country": "DE"}], ids=["text", "country"])
def test_a_wrong_record_fails(folder: Path, logged: Logged, record: object) -> None:
    """It is not an unknown address, which may be allowed."""
    write(folder / "country.mmdb", COUNTRY, {"127.0.0.1": record})
    with make(folder, 'refuse = "DE"') as haproxy:
        assert ask(haproxy, "127.0.0.1") == {"txn.error": "country"}
    assert len(logged.take()) == 1


def test_new_databases(folder: Path) -> None:
    """Both are looked at, and used when the second look finds them the same."""
    with make(folder, 'allow = "DE"\ninterval = 5') as haproxy:
        write(folder / "country.mmdb", COUNTRY, {"127.0.0.1": country("US")})
        write(folder / "asn.mmdb", ASN, {"127.0.0.0/24": network(64497, "Another Network")})
        haproxy.clock.advance(5)
        assert ask(haproxy, "127.0.0.1")["txn.country"] == "DE"
        haproxy.clock.advance(5)
        answer = ask(haproxy, "127.0.0.1")
        assert [answer["txn.country_allowed"], answer["txn.country"], answer["txn.asn"]] == [False, "US", 64497]


def test_a_new_database_without_networks(folder: Path) -> None:
    """The database of networks is optional here, too."""
    with make(folder, 'allow = "DE"\ninterval = 5', 'countries = "country.mmdb"\n') as haproxy:
        write(folder / "country.mmdb", COUNTRY, {"127.0.0.1": country("US")})
        haproxy.clock.advance(5)
        haproxy.clock.advance(5)
        assert allowed(haproxy, "127.0.0.1") == [False]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ("", r"country.refuse is missing, and so is country.allow; write one of them: allow = \[\"DE\", \"FR\"\]"),
        (
            'allow = "DE"\nrefuse = "FR"',
            r", line 5: country.refuse cannot stand together with country.allow; write one of them: allow",
        ),
        ('allow = ["DE", "Germany"]', r', line 4: country.allow is "Germany": a country is two capital letters'),
        ('allow = "DE"\nunknown = "maybe"', r'line 5: country.unknown is "maybe"; allowed is: "allow" or "refuse"'),
        ('alow = "DE"', r", line 4: country.alow is unknown; did you mean country.allow\?"),
        ('allow = "DE"\ninterval = 0', r"country.interval is 0; allowed is: number, 0.1 to 86400"),
    ],
)
def test_wrong_settings(folder: Path, settings: str, error: str) -> None:
    """One line names the file, the key and what is allowed."""
    with pytest.raises(SettingsError, match=rf"^{folder}/agents\.toml.*{error}"):
        make(folder, settings)


def test_without_countries(folder: Path) -> None:
    """The database of countries is required."""
    with pytest.raises(SettingsError, match=r"country.countries is missing; it is required: file$"):
        make(folder, 'allow = "DE"', "")


def test_without_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "maxminddb", None)
    monkeypatch.delitem(sys.modules, "spoa_twisted.agents.mmdb", raising=False)
    with pytest.raises(SettingsError, match=r'needs the package maxminddb: pip install "spoa_twisted\[agents\]"$'):
        make(folder, 'allow = "DE"')


@pytest.mark.parametrize("key", ["countries", "networks"])
def test_a_broken_database_at_the_start(folder: Path, key: str) -> None:
    """The agent does not start. The error names the key, the file and the reason."""
    files = FILES.replace("country.mmdb" if key == "countries" else "asn.mmdb", "agents.toml")
    with pytest.raises(StartupFailed) as caught:
        make(folder, 'allow = "DE"', files)
    assert f": country.{key} names a file that is wrong: cannot use {folder}/agents.toml: " in str(caught.value)


def site(machine: Machine, branch: Branch, port: str) -> Callable[..., tuple[int, str]]:  # noqa: F811
    """Start HAProxy with the configuration that ``spoactl config`` writes, and the rule that it proposes."""
    machine.run(f"spoactl config {START.partition('spoa ')[2]} --whole --output .")
    text = (machine.folder / "haproxy.cfg").read_text()
    rule = "http-request deny unless { var(txn.country.country_allowed) -m bool }"
    assert f"    #{rule}\n" in text
    text = text.replace(f"#{rule}", rule).replace("127.0.0.1:12345", f"127.0.0.1:{port}")
    text = text.partition("\n# It stands for your application")[0].replace("timeout check 500ms", "timeout check 5s")
    return machine.haproxy(branch, haproxy_cfg=text.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}"))


@pytest.mark.each_spoe
def test_with_haproxy(machine: Machine, folder: Path, branch: Branch) -> None:  # noqa: F811
    """The generated configuration refuses, follows the databases, and refuses all when the agent is gone."""
    machine.write(agents_toml=f'[country]\n{FILES}allow = ["DE", "FR"]\ninterval = 0.1\n')
    agent = machine.start(on_any_port(START))
    request = site(machine, branch, agent.port)

    assert [request(client)[0] for client in ("127.0.0.1", "127.0.0.66", "127.0.0.99")] == [200, 403, 403]

    # In place: a lookup in a file that is mapped into memory would end the process.
    (folder / "country.mmdb").write_bytes((folder / "country.mmdb").read_bytes()[:100])
    agent.program.said(r"cannot use .*/country\.mmdb: .*; the old database stays in use")
    assert [request(client)[0] for client in ("127.0.0.1", "127.0.0.66")] == [200, 403]

    write(folder / "country.mmdb", COUNTRY, {"127.0.0.66": country("FR")})
    agent.program.said(r"country\.mmdb: the new database is in use")
    assert [request(client)[0] for client in ("127.0.0.1", "127.0.0.66")] == [403, 200]

    agent.stop()
    assert request("127.0.0.66")[0] == 503


def test_it_does_not_start_without_a_database(machine: Machine) -> None:  # noqa: F811
    """One line names the settings file, the key and the database."""
    require("maxminddb")
    machine.write(agents_toml='[country]\ncountries = "none.mmdb"\nallow = "DE"\n')
    output = machine.run(f"{on_any_port(START)}; test $? = 1")
    problem = (
        f"agents.toml, line 2: country.countries names a file that is wrong: cannot use {machine.folder}/none.mmdb"
    )
    assert f"{problem}: No such file or directory" in output
    assert "Traceback" not in output
