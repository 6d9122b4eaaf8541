"""``examples/country``: small databases that the test writes, the agent, and a real HAProxy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from subprocess import run

import pytest

from tests.examples.conftest import OpenExample
from tests.examples.example import Example, require
from tests.haproxy.branches import Branch
from tests.programs import ENVIRONMENT, Program, spoa

pytestmark = pytest.mark.each_spoe

START = "COUNTRIES=sample-country.mmdb NETWORKS=sample-asn.mmdb ALLOW=DE,FR twistd -n spoa --handlers handlers.py"

#: Prints the variables for each address of the command line, and the exceptions of the handler.
ASK = """\
import json, sys
from ipaddress import ip_address
from spoa_twisted.runner.loading import load
from spoa_twisted.testing import FakeHAProxy

haproxy = FakeHAProxy(load("handlers.py"))
for ip in sys.argv[1:]:
    print(json.dumps(haproxy.notify("check-country", ip=ip_address(ip))))
print([type(failure.error).__name__ for failure in haproxy.failures])
"""


@pytest.fixture
def example(open_example: OpenExample) -> Example:
    """The example, with the databases that its ``sample.py`` writes."""
    require("maxminddb", "mmdb_writer")
    example = open_example("country")
    example.run(f"{sys.executable} sample.py")
    return example


def write_countries(path: Path, kind: str = "GeoLite2-Country", **countries: str) -> None:
    """Write a database. ``DE="127.0.0.1/32"`` is an address in Germany."""
    from mmdb_writer import MMDBWriter
    from netaddr import IPSet

    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type=kind)
    for code, network in countries.items():
        writer.insert_network(IPSet([network]), {"country": {"iso_code": code}})
    writer.to_db_file(str(path))


def replace(path: Path, **countries: str) -> None:
    """Put a new database in the place of the old one, as ``geoipupdate`` does."""
    new = path.with_suffix(".new")
    write_countries(new, **countries)
    new.replace(path)


def ask(example: Example, *addresses: str, **settings: str) -> tuple[list[dict[str, object]], str]:
    """Return the variables for each address, and the types of exceptions."""
    environment = {**ENVIRONMENT, "COUNTRIES": "sample-country.mmdb", "NETWORKS": "sample-asn.mmdb", **settings}
    command = [sys.executable, "-c", ASK, *addresses]
    ended = run(command, cwd=example.folder, env=environment, capture_output=True, text=True, check=True)
    *lines, failures = ended.stdout.splitlines()
    return [json.loads(line) for line in lines], failures


def test_the_configuration_is_the_generated_one(example: Example) -> None:
    """``spoactl config`` needs no settings and no databases, and ``spoactl check`` finds nothing."""
    example.check_generated("--engine", "country")
    example.check_problems()


def test_the_readme(example: Example) -> None:
    """The README has the commands of these tests, and the answer of ``spoactl send``."""
    assert {"pip install -r requirements.txt", "python sample.py", START, "haproxy -f haproxy.cfg"} <= set(
        example.commands()
    )
    agent = example.agent(START)
    answer = example.run(f"spoactl send --agent tcp:127.0.0.1:{agent.port} check-country ip=127.0.0.1")
    assert "   ".join(["", *answer.splitlines(True)]) in example.text("README.rst")


def test_a_request_is_allowed_and_others_are_refused(example: Example, branch: Branch) -> None:
    """Only a country of the list is allowed. The application gets the country, and not the header of the client."""
    example.edit("haproxy.cfg", "set-header X-Country", "set-header X-User")
    agent = example.agent(START)
    request = example.site(branch, agent)

    assert request("127.0.0.1", **{"X-User": "FR"}) == (200, "user: DE")
    assert request("127.0.0.66")[0] == 403
    assert request("127.0.0.99")[0] == 403

    agent.stop()
    assert request("127.0.0.1")[0] == 503


def test_a_list_of_refused_countries(example: Example, branch: Branch) -> None:
    """With ``REFUSE``, an address without a country is allowed."""
    example.edit("haproxy.cfg", "set-header X-Country", "set-header X-User")
    request = example.site(branch, example.agent(START.replace("ALLOW=DE,FR", "REFUSE=US")))

    assert request("127.0.0.1") == (200, "user: DE")
    assert request("127.0.0.66")[0] == 403
    assert request("127.0.0.99", **{"X-User": "FR"})[1] in ("user: ", "user: None")


def test_a_new_database(example: Example, branch: Branch) -> None:
    """A damaged or missing file changes nothing. A new one is used, without a restart."""
    example.edit("handlers.py", "INTERVAL: Final = 60", "INTERVAL: Final = 0.05")
    database = example.folder / "sample-country.mmdb"
    agent = example.agent(START)
    request = example.site(branch, agent)
    whole = database.read_bytes()

    # Overwritten in place, and shorter: a lookup in a file that is mapped into memory would end the process.
    database.write_bytes(whole[: len(whole) // 2])
    agent.program.said("sample-country.mmdb: .*; the old database stays in use")
    assert [request(client)[0] for client in ("127.0.0.1", "127.0.0.66")] == [200, 403]

    database.unlink()
    agent.program.said("No such file or directory.*; the old database stays in use")
    assert [request(client)[0] for client in ("127.0.0.1", "127.0.0.66")] == [200, 403]

    replace(database, FR="127.0.0.66/32")
    agent.program.said("sample-country.mmdb: the new database is in use")
    assert [request(client)[0] for client in ("127.0.0.1", "127.0.0.66")] == [403, 200]


def test_a_damaged_file_is_reported_once(example: Example) -> None:
    """Not at each look, as long as it stays the same."""
    code = (
        "import sys; from pathlib import Path; from twisted.logger import globalLogBeginner, textFileLogObserver;"
        "globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stdout)], redirectStandardIO=False);"
        "from spoa_twisted.runner.loading import load; from spoa_twisted.testing import FakeHAProxy;"
        "haproxy = FakeHAProxy(load('handlers.py')); Path('sample-country.mmdb').write_bytes(b'no database');"
        "[haproxy.clock.advance(60) for _ in range(3)]"
    )
    settings = {"ALLOW": "DE", "COUNTRIES": "sample-country.mmdb", "NETWORKS": "sample-asn.mmdb"}
    command = [sys.executable, "-c", code]
    ended = run(
        command, cwd=example.folder, env={**ENVIRONMENT, **settings}, capture_output=True, text=True, check=True
    )
    assert ended.stdout.count("the old database stays in use") == 1


def test_the_verdicts(example: Example) -> None:
    """IPv4 and IPv6; an IPv4 address in IPv6; and what an unknown address gets."""
    known = {"txn.allowed": True, "txn.country": "DE", "txn.asn": 64496, "txn.network": "Example Network"}
    answers, failures = ask(example, "127.0.0.1", "::ffff:127.0.0.1", "2001:db8::1", "2001:db9::1", ALLOW="DE FR")
    assert answers[:2] == [known, known]
    assert answers[2]["txn.allowed"] is True
    assert answers[2]["txn.country"] == "FR"
    assert answers[3]["txn.allowed"] is False
    assert failures == "[]"

    (unknown,), _ = ask(example, "127.0.0.99", ALLOW="DE", UNKNOWN="allow")
    assert unknown["txn.allowed"] is True
    (unknown,), _ = ask(example, "127.0.0.99", REFUSE="US", UNKNOWN="refuse")
    assert unknown["txn.allowed"] is False


def test_a_record_is_wrong(example: Example) -> None:
    """A lookup that reaches something unexpected fails: the variables are those of ``on_error``."""
    from mmdb_writer import MMDBWriter
    from netaddr import IPSet

    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="GeoLite2-Country")
    writer.insert_network(IPSet(["127.0.0.1/32"]), {"country": "DE"})
    writer.to_db_file(str(example.folder / "sample-country.mmdb"))

    assert ask(example, "127.0.0.1", ALLOW="DE") == ([{"txn.error": "handler"}], "['AttributeError']")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "set either ALLOW or REFUSE to country codes: ALLOW=DE,FR"),
        ({"ALLOW": "DE", "REFUSE": "FR"}, "set either ALLOW or REFUSE to country codes: ALLOW=DE,FR"),
        ({"ALLOW": "Germany"}, "ALLOW: 'Germany' is no country code; write two capital letters: ALLOW=DE,FR"),
        ({"ALLOW": "DE", "UNKNOWN": "yes"}, "UNKNOWN is 'yes'; it must be allow or refuse"),
        ({"ALLOW": "DE", "COUNTRIES": "none.mmdb"}, "COUNTRIES: cannot use none.mmdb: [Errno 2] No such file"),
        ({"ALLOW": "DE", "NETWORKS": "handlers.py"}, "NETWORKS: cannot use handlers.py: "),
        ({"ALLOW": "DE", "COUNTRIES": "sample-asn.mmdb"}, "it is of the type 'GeoLite2-ASN', but needed is one of"),
        ({"ALLOW": "DE", "COUNTRIES": "half.mmdb"}, "COUNTRIES: cannot use half.mmdb: "),
    ],
    ids=["no-list", "two-lists", "code", "unknown", "missing", "no-database", "other-type", "damaged"],
)
def test_the_agent_does_not_start(example: Example, settings: dict[str, str], line: str) -> None:
    """One line says which setting is wrong."""
    whole = (example.folder / "sample-country.mmdb").read_bytes()
    # The metadata at the end is complete, but the tree is not.
    (example.folder / "half.mmdb").write_bytes(whole[200:])
    files = {"COUNTRIES": "sample-country.mmdb", "NETWORKS": "sample-asn.mmdb"}
    with Program(spoa(handlers="handlers.py"), cwd=example.folder, environment={**files, **settings}) as program:
        assert program.ended() == 1
    (error,) = [shown for shown in program.output.splitlines() if "failed: " in shown]
    assert f"failed: ValueError: {line}" in error or line in error
    assert "Traceback" not in program.output


def test_a_reload(example: Example) -> None:
    """SIGHUP with ``--workers``: a new worker opens the databases, and answers."""
    agent = example.agent(f"{START} --workers 1")
    replace(example.folder / "sample-country.mmdb", US="127.0.0.1/32")
    example.run(f"kill -HUP {agent.program.pid}")
    agent.program.said(r"reloaded: 1 worker was")
    answer = example.run(f"spoactl send --agent tcp:127.0.0.1:{agent.port} check-country ip=127.0.0.1")
    assert "txn.country=str:US" in answer
