"""Tests of ``examples/sql``: API keys in SQLite and in PostgreSQL, and what happens when the database fails."""

from __future__ import annotations

import contextlib
import importlib.util
import sqlite3
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, ensureDeferred

from tests.haproxy.branches import Branch
from tests.services.frozen import freeze, thaw
from tests.services.postgresql import PostgreSQL

from .conftest import OpenExample
from .example import Example, require, required

pytestmark = pytest.mark.each_spoe

#: The sample key of keys.sql.
KEY = {"X-API-Key": "swordfish"}

Request = Callable[..., tuple[int, str]]


@pytest.fixture
def example(open_example: OpenExample, monkeypatch: pytest.MonkeyPatch) -> Example:
    for name in ("DATABASE", "THREADS", "CACHE"):
        monkeypatch.delenv(name, raising=False)
    return open_example("sql")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    """One server for all tests of this module, because a new one takes seconds. It may be stopped."""
    require("psycopg")
    with contextlib.ExitStack() as stack:
        with required():
            server = PostgreSQL(stack)
        yield server


@pytest.fixture
def postgresql(server: PostgreSQL, example: Example) -> Iterator[PostgreSQL]:
    """The server with the table of keys.sql. It runs."""
    server.start()
    with connect(server) as connection:
        connection.execute("DROP TABLE IF EXISTS api_key")
        connection.execute(example.text("keys.sql"))
    yield server
    if server.program.status is None:
        server.stop()


def connect(server: PostgreSQL) -> Any:
    import psycopg

    return psycopg.connect(server.url, autocommit=True)


def create(example: Example) -> None:
    """Run the command of the README that makes the file."""
    (command,) = [command for command in example.commands() if "executescript" in command]
    example.run(command.replace("python ", "python3 ", 1))


def until(request: Request, status: int) -> None:
    """Repeat a request until its status is the given one."""
    for _ in range(500):
        if request(**KEY)[0] == status:
            return
    pytest.fail(f"no request got {status}")


def test_the_configuration(example: Example) -> None:
    example.check_generated("--engine sql")
    example.check_problems()


def test_the_readme(example: Example) -> None:
    commands = example.commands()
    assert "twistd -n spoa --handlers handlers.py" in commands
    assert "pip install -r requirements.txt" in commands
    assert "DATABASE=postgresql://agent@db.example.org/site twistd -n spoa --handlers handlers.py" in commands
    assert "spoactl config --handlers handlers.py --engine sql --whole --output ." in commands


def test_sqlite(example: Example, branch: Branch) -> None:
    """A known key passes, and the application gets the owner. No other value passes, and none changes the query."""
    create(example)
    request = example.site(branch, example.agent(CACHE="0"))

    assert request(**KEY) == (200, "user: alice")
    assert request(**KEY, **{"X-User": "root"}) == (200, "user: alice")
    assert request()[0] == 401
    digest = sha256(b"swordfish").hexdigest()
    for key in ("sesame", "", "' OR '1'='1", "x' OR hash LIKE '%", digest, "\xff", "a" * 5000):
        assert request(**{"X-API-Key": key})[0] == 401

    with contextlib.closing(sqlite3.connect(example.folder / "keys.db")) as writer:
        # Another program keeps the file locked for longer than the query may take.
        writer.execute("BEGIN EXCLUSIVE")
        assert request(**KEY)[0] == 503
        writer.rollback()
        assert request(**KEY)[0] == 200
        writer.execute("DELETE FROM api_key")
        writer.commit()
        assert request(**KEY)[0] == 401
        writer.execute("DROP TABLE api_key")
        assert request(**KEY)[0] == 503


def test_the_cache(example: Example, branch: Branch) -> None:
    """Known and unknown keys are remembered for a while."""
    create(example)
    request = example.site(branch, example.agent(CACHE="1000"))
    assert request(**KEY)[0] == 200
    assert request(**{"X-API-Key": "sesame"})[0] == 401

    with contextlib.closing(sqlite3.connect(example.folder / "keys.db")) as writer:
        writer.execute("UPDATE api_key SET hash = ?", (sha256(b"sesame").hexdigest(),))
        writer.commit()
    assert request(**KEY)[0] == 200
    assert request(**{"X-API-Key": "sesame"})[0] == 401


def test_without_an_agent(example: Example, branch: Branch) -> None:
    assert example.site(branch, "127.0.0.1:1")(**KEY)[0] == 503


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ("DATABASE=none.db", "unable to open database file"),
        ("DATABASE=empty.db", "no such table: api_key"),
        ("DATABASE=keys.sql", "file is not a database"),
        ("DATABASE=mysql://host/site", "DATABASE must be the path of an SQLite file, or postgresql://USER@HOST/NAME"),
        ("THREADS=0", "THREADS must be a whole number from 1 to 1000: '0'"),
    ],
)
def test_a_setting_that_is_wrong(example: Example, setting: str, error: str) -> None:
    """One line says what is wrong, and the agent does not start."""
    (example.folder / "empty.db").touch()
    output = example.run(f"{setting} twistd -n spoa --handlers handlers.py; test $? -eq 1")
    assert error in output
    assert "Traceback" not in output


def test_postgresql(example: Example, branch: Branch, postgresql: PostgreSQL) -> None:
    """Keys pass and are refused. After a restart of the server, the first request passes again."""
    agent = example.agent(DATABASE=postgresql.url, CACHE="0", THREADS="2")
    request = example.site(branch, agent)
    for _ in range(4):
        assert request(**KEY) == (200, "user: alice")
    assert request(**{"X-API-Key": "' OR '1'='1"})[0] == 401
    assert request()[0] == 401

    postgresql.stop()
    postgresql.start()
    for _ in range(4):
        assert request(**KEY)[0] == 200
    assert "Traceback" not in agent.stop()


def test_postgresql_is_down(example: Example, branch: Branch, postgresql: PostgreSQL) -> None:
    """Down at the start and later, requests get 503. They pass when the server is back."""
    postgresql.stop()
    agent = example.agent(DATABASE=postgresql.url, CACHE="0")
    assert "until there is one, requests get 503" in agent.program.output
    request = example.site(branch, agent)
    assert request(**KEY)[0] == 503
    postgresql.start()
    until(request, 200)

    postgresql.stop()
    assert request(**KEY)[0] == 503
    assert request(**KEY)[0] == 503
    postgresql.start()
    until(request, 200)


def test_postgresql_without_the_table(example: Example, postgresql: PostgreSQL) -> None:
    with connect(postgresql) as connection:
        connection.execute("DROP TABLE api_key")
    output = example.run(f"DATABASE='{postgresql.url}' twistd -n spoa --handlers handlers.py; test $? -eq 1")
    assert 'relation "api_key" does not exist' in output
    assert "Traceback" not in output


def test_a_slow_query(example: Example, branch: Branch, postgresql: PostgreSQL) -> None:
    """The server ends it, so the only thread is free again, and the connection is used again."""
    agent = example.agent(DATABASE=postgresql.url, CACHE="0", THREADS="1")
    request = example.site(branch, agent)
    assert request(**KEY)[0] == 200

    with connect(postgresql) as connection, connection.transaction():
        connection.execute("LOCK TABLE api_key")
        assert request(**KEY)[0] == 503
        agent.program.said("canceling statement due to statement timeout")
        assert request(**KEY)[0] == 503
    assert request(**KEY)[0] == 200
    assert request(**{"X-API-Key": "sesame"})[0] == 401


def test_a_server_that_answers_nothing(example: Example, branch: Branch, postgresql: PostgreSQL) -> None:
    """The handler's timeout ends the request. Its late answer is for no other request."""
    agent = example.agent(DATABASE=postgresql.url, CACHE="0", THREADS="1")
    request = example.site(branch, agent)
    assert request(**KEY)[0] == 200
    with connect(postgresql) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        ).fetchall()
    backends = [pid for (pid,) in rows]
    assert len(backends) == 1

    freeze(*backends)
    try:
        assert request(**KEY)[0] == 503
        assert request(**{"X-API-Key": "sesame"})[0] == 503
    finally:
        thaw(*backends)
    assert request(**{"X-API-Key": "sesame"})[0] == 401
    assert request(**KEY)[0] == 200


@pytest_twisted.ensureDeferred
async def test_a_thread_that_is_busy(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query counts until its thread is done, also when its request was answered long ago."""
    create(example)
    monkeypatch.setenv("THREADS", "1")
    spec = importlib.util.spec_from_file_location("sql_handlers", example.folder / "handlers.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.MAX_WAITING = 1
    await module.open_database()
    try:
        with contextlib.closing(sqlite3.connect(example.folder / "keys.db")) as writer:
            writer.execute("BEGIN EXCLUSIVE")
            first = ensureDeferred(module.owner_of("a"))
            first.cancel()
            with pytest.raises(CancelledError):
                await first
            with pytest.raises(RuntimeError, match="1 requests wait for the database already"):
                await module.owner_of("b")
            writer.rollback()
        # The only thread runs this after the first query.
        await module.pool.runWithConnection(lambda connection: None)
        assert await module.owner_of("swordfish") == "alice"
        # A query that is too old does not begin.
        with pytest.raises(TimeoutError):
            await module.pool.runWithConnection(module.look_up, "", 0.0)
    finally:
        module.close_database()
