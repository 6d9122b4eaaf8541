"""Tests of ``examples/application``: a website, the agent and an administration share one list."""

from __future__ import annotations

import http.client
import json
import re
import sqlite3
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.haproxy.branches import Branch
from tests.machine import Agent

from .conftest import OpenExample
from .example import Example, require

pytestmark = pytest.mark.each_spoe

TOKEN = "correct-horse-battery"

#: The command of the README.
COMMAND = f"ADMIN_TOKEN={TOKEN} PYTHONPATH=. twistd -n -y app.tac"

#: Free ports for all three endpoints.
PORTS = dict.fromkeys(("AGENT", "WEBSITE", "ADMIN"), "tcp:0:interface=127.0.0.1")


@pytest.fixture
def example(open_example: OpenExample) -> Example:
    require("klein")
    example = open_example("application")
    example.environment.update(PORTS)
    return example


class App:
    """The application, with its ports."""

    def __init__(self, example: Example) -> None:
        self.agent: Agent = example.start(COMMAND)
        # The website listens first, and then the administration.
        self.website = self.agent.program.said(r"Site starting on (\d+)")[1]
        self.admin = self.agent.program.said(r"Site starting on (\d+)", 2)[1]

    def call(self, method: str, path: str, body: str = "", token: str | None = TOKEN) -> tuple[int, str]:
        """Send a request to the administration; return the status and the body of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", int(self.admin), timeout=60)
        try:
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


def test_the_configuration(example: Example) -> None:
    example.check_generated("--engine app", handlers="app.py")
    example.check_problems(str(example.folder / "app.py"))


def test_the_readme(example: Example) -> None:
    commands = example.commands()
    assert COMMAND in commands
    assert "spoactl config --handlers app.py --engine app --whole --output ." in commands
    assert "pip install -r requirements.txt" in commands


def test_its_own_tests(example: Example) -> None:
    """``pytest`` in a copy of the folder runs the tests of the example."""
    require("pytest_twisted")
    assert "3 passed" in example.run(f"{sys.executable} -m pytest -q -p no:cacheprovider")


def test_an_address_is_blocked_and_unblocked(example: Example, branch: Branch) -> None:
    app = App(example)
    request = example.site(branch, app.agent, app.website)

    assert request() == (200, "Hello.\n")
    assert app.call("PUT", "/blocked/127.0.0.66", "a test") == (200, "blocked\n")
    assert request("127.0.0.66")[0] == 403
    assert request() == (200, "Hello.\n")
    assert json.loads(app.call("GET", "/blocked/")[1]) == {"127.0.0.66": "a test"}
    assert app.call("DELETE", "/blocked/127.0.0.66") == (200, "not blocked\n")
    assert request("127.0.0.66") == (200, "Hello.\n")
    # The status page is in the same process.
    status = json.loads(app.call("GET", "/agent/status.json", token=None)[1])
    assert status["totals"]["messages"]["check-address"]["results"] == {"ok": 4}
    assert "check-address" in app.call("GET", "/agent/", token=None)[1]
    output = app.agent.stop()
    assert "Traceback" not in output
    assert "Unhandled" not in output


def test_the_administration_needs_the_token(example: Example) -> None:
    app = App(example)

    for token in (None, "", "wrong", TOKEN[:-1], TOKEN + "x"):
        for method, path in (("GET", "/blocked/"), ("PUT", "/blocked/127.0.0.1"), ("DELETE", "/blocked/127.0.0.1")):
            assert app.call(method, path, token=token)[0] == 401
    assert app.call("GET", "/blocked/") == (200, "{}\n")
    # The wrong data is an error of the client.
    assert app.call("PUT", "/blocked/nobody") == (400, "'nobody' does not appear to be an IPv4 or IPv6 address\n")
    assert app.call("PUT", "/blocked/2001:db8::1")[0] == 200
    assert app.call("POST", "/blocked/127.0.0.1")[0] == 405
    # The website has no administration.
    connection = http.client.HTTPConnection("127.0.0.1", int(app.website), timeout=60)
    for path in ("/blocked/", "/agent/"):
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        response = connection.getresponse()
        response.read()
        assert response.status == 404
    connection.close()


def test_the_list_stays_after_a_restart(example: Example) -> None:
    app = App(example)
    assert app.call("PUT", "/blocked/127.0.0.66", "stays")[0] == 200
    app.agent.stop()
    assert json.loads(App(example).call("GET", "/blocked/")[1]) == {"127.0.0.66": "stays"}


def test_the_database_fails(example: Example, branch: Branch) -> None:
    """Without its table, nothing passes; when it is back, requests pass again."""
    app = App(example)
    request = example.site(branch, app.agent, app.website)
    assert request()[0] == 200

    database = sqlite3.connect(example.folder / "blocked.sqlite", isolation_level=None)
    database.execute("ALTER TABLE blocked RENAME TO elsewhere")
    assert request()[0] == 503
    app.agent.program.said("no such table: blocked")
    assert app.call("GET", "/blocked/")[0] == 500
    database.execute("ALTER TABLE elsewhere RENAME TO blocked")
    assert request()[0] == 200
    database.close()


def test_a_slow_query(example: Example, branch: Branch) -> None:
    """A query that is given up does not change the answers of later ones."""
    # For one address, the database waits until the file "go" is there.
    example.edit(
        "app.py",
        "cursor.execute(text, values).fetchall()",
        "(wait(values), cursor.execute(text, values).fetchall())[1]",
    )
    wait = 'def wait(values):\n    while values == ("127.0.0.66",) and not os.path.exists("go"):\n        pass\n\n\n'
    example.edit("app.py", "class Blocklist:", f"{wait}class Blocklist:")
    app = App(example)
    request = example.site(branch, app.agent, app.website)

    assert request("127.0.0.66")[0] == 503
    (example.folder / "go").touch()
    assert app.call("PUT", "/blocked/127.0.0.66")[0] == 200
    assert request("127.0.0.66")[0] == 403
    assert request()[0] == 200


def test_sigterm(example: Example, branch: Branch) -> None:
    """A request that is pending is answered, and the website serves it, before the process ends."""
    # The handler waits until the file "go" is there.
    example.edit(
        "app.py",
        '        return {"txn.allowed"',
        '        print("asked", flush=True)\n'
        '        while not os.path.exists("go"):\n'
        "            await deferLater(reactor, 0.01)\n"
        '        return {"txn.allowed"',
    )
    example.edit("app.py", "timeout=0.5\n", "timeout=20\n")
    example.edit("spoe.conf", "timeout processing 2s", "timeout processing 30s")
    # HAProxy <= 3.0 fails what is pending when its checks have failed twice.
    example.edit("haproxy.cfg", "fall 2", "fall 100")
    app = App(example)
    request = example.site(branch, app.agent)

    with ThreadPoolExecutor() as pool:
        pending = pool.submit(request)
        app.agent.program.said("asked")
        app.agent.program.send(15)
        app.agent.program.said("Received SIGTERM")
        # The administration is still there.
        assert app.call("GET", "/agent/health", token=None) == (503, "draining\n")
        (example.folder / "go").touch()
        assert pending.result()[0] == 200
    app.agent.stop()


def test_a_database_that_cannot_be_opened(example: Example) -> None:
    """No port opens, and the process ends by itself."""
    (example.folder / "blocked.sqlite").write_bytes(b"This is no database. " * 100)
    output = example.run(COMMAND)
    assert "file is not a database" in output
    assert re.findall("listening on|Site starting|ReactorNotRunning|Unhandled", output) == []


def test_without_a_token(example: Example) -> None:
    output = example.run("PYTHONPATH=. twistd -n -y app.tac; test $? -eq 1")
    assert output == "app.tac: ADMIN_TOKEN must have at least 16 characters\n"
