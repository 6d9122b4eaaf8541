"""Tests of ``examples/rate_limit``: a limit for each key, in memory and in Redis, and what happens when Redis fails."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import re
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, ensureDeferred

from spoa_twisted.testing import FakeHAProxy
from tests.haproxy.branches import Branch
from tests.machine import Agent, Machine, machine
from tests.programs import ROOT
from tests.services.redis import Redis

from .conftest import OpenExample
from .example import Example, require, required

pytestmark = pytest.mark.each_spoe

__all__ = ["machine"]

FOLDER = ROOT / "examples" / "rate_limit"
GUIDE = ROOT / "docs" / "howto" / "rate_limits.rst"
SETTINGS = ("LIMIT", "PERIOD", "BY", "REDIS", "REDIS_PASSWORD", "WHEN_REDIS_FAILS")

Load = Callable[..., Any]


@pytest.fixture
def example(open_example: OpenExample, monkeypatch: pytest.MonkeyPatch) -> Example:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    return open_example("rate_limit")


@pytest.fixture
def start_redis() -> Iterator[Callable[..., Redis]]:
    """Starts a Redis server. Its folder has a short path, for the Unix socket."""
    require("txredisapi")
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> Redis:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="redis-")))
            with required():
                redis = Redis(folder, stack, *options)
            redis.start()
            return redis

        yield start


@pytest.fixture
def redis(start_redis: Callable[..., Redis]) -> Redis:
    return start_redis()


@pytest.fixture
def load_example(monkeypatch: pytest.MonkeyPatch) -> Load:
    """Imports the handlers of the example with some settings, as each start of an agent does."""

    def load(**settings: str) -> ModuleType:
        for name in SETTINGS:
            monkeypatch.delenv(name, raising=False)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        spec = importlib.util.spec_from_file_location("rate_limit_handlers", FOLDER / "handlers.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def ask(example: Example, **headers: str) -> http.client.HTTPResponse:
    """Send a request to HAProxy; return the response, for its headers."""
    connection = http.client.HTTPConnection(*example.website, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/", headers=headers)
        response = connection.getresponse()
        response.read()
        return response


def until(request: Callable[..., tuple[int, str]], status: int) -> None:
    """Repeat a request until its status is the given one. Each takes a while if Redis is down; the limit is high."""
    for _ in range(2000):
        if request()[0] == status:
            return
    pytest.fail(f"no request got {status}")


def test_the_configuration(example: Example) -> None:
    example.check_generated("--engine rate")
    example.check_problems()


def test_the_readme(example: Example) -> None:
    commands = example.commands()
    assert "twistd -n spoa --handlers handlers.py" in commands
    assert "pip install -r requirements.txt" in commands
    assert "REDIS=127.0.0.1:6379 twistd -n spoa --handlers handlers.py" in commands
    assert "spoactl config --handlers handlers.py --engine rate --whole --output ." in commands


def test_the_stick_table(machine: Machine, branch: Branch) -> None:
    """The configuration of the guide works. The README has the same lines."""
    guide = GUIDE.read_text("utf-8")
    (block,) = re.findall(r"^\.\. code-block:: text\n\n((?:   .*\n|\n)+)", guide, re.M)
    readme = (FOLDER / "README.rst").read_text("utf-8")
    (lines,) = re.findall(r"^\.\. code-block:: text\n\n((?:   .*\n)+)", readme, re.M)
    assert textwrap.dedent(lines) in textwrap.dedent(block).replace("\n    ", "\n")
    request = machine.haproxy(
        branch, haproxy_cfg=textwrap.dedent(block).replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}")
    )

    assert [request()[0] for _ in range(11)] == [200] * 10 + [429]
    assert request("127.0.0.2")[0] == 200


@pytest.mark.parametrize("number", [0, 1])
def test_the_commands_of_the_guide(example: Example, branch: Branch, number: int, redis: Redis) -> None:
    """They start agents that allow 10 requests. Only the address of Redis differs."""
    blocks = re.findall(r"^\.\. code-block:: sh\n\n   (.*)\n", GUIDE.read_text("utf-8"), re.M)
    assert len(blocks) == 2
    command = blocks[number].replace("127.0.0.1:6379", redis.address)
    request = example.site(branch, example.agent(command))
    assert [request()[0] for _ in range(11)] == [200] * 10 + [429]
    assert bool(redis.run("KEYS", "*")) is (number == 1)


def test_in_memory(example: Example, branch: Branch) -> None:
    """The eleventh request of an address gets 429, and the header says when to come again."""
    request = example.site(branch, example.agent())

    assert [request()[0] for _ in range(10)] == [200] * 10
    refused = ask(example)
    assert refused.status == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 6
    assert request("127.0.0.2")[0] == 200


def test_without_an_agent(example: Example, branch: Branch) -> None:
    request = example.site(branch, "127.0.0.1:1")
    assert request()[0] == 503


def test_keys_in_a_header(example: Example, branch: Branch) -> None:
    """Each X-API-Key has its own limit. Requests without one count for their address."""
    request = example.site(branch, example.agent(BY="key", LIMIT="1"))

    assert ask(example, **{"X-API-Key": "a"}).status == 200
    assert ask(example, **{"X-API-Key": "a"}).status == 429
    assert ask(example, **{"X-API-Key": "b" * 5000}).status == 200
    assert ask(example, **{"X-API-Key": "\xff"}).status == 200
    assert request()[0] == 200
    assert request()[0] == 429


def test_two_agents_share_redis(example: Example, branch: Branch, redis: Redis) -> None:
    """One is connected by TCP, one by the Unix socket. HAProxy asks both in turn."""
    # Without a pidfile, because both have the same folder.
    command = "twistd --pidfile= -n spoa --handlers handlers.py"
    agents: list[Agent] = [example.agent(command, REDIS=address) for address in (redis.address, str(redis.path))]
    second = f"    server agent2 127.0.0.1:{agents[1].port}\n"
    (example.folder / "haproxy.cfg").write_text(example.text("haproxy.cfg") + second)
    request = example.site(branch, agents[0])

    assert [request()[0] for _ in range(12)] == [200] * 10 + [429] * 2
    (key,) = redis.run("KEYS", "*").split()
    assert 0 < int(redis.run("PTTL", key)) <= 60_000
    for agent in agents:
        ended = agent.stop()
        assert "Unhandled" not in ended
        assert "Traceback" not in ended


def test_redis_is_down(example: Example, branch: Branch, redis: Redis) -> None:
    """Down at the start, down later, frozen: requests get 503, and are counted again when Redis is back."""
    redis.stop()
    agent = example.agent(REDIS=redis.address, LIMIT="100000")
    assert re.search(
        f"no connection to Redis at {redis.address} .*: until there is one, requests get 503", agent.program.output
    )
    request = example.site(branch, agent)
    assert request()[0] == 503
    redis.start()
    until(request, 200)

    redis.stop()
    assert request()[0] == 503
    redis.start()
    until(request, 200)

    # Two requests or more wait on the connections at that time. No later request gets an answer to an earlier one.
    redis.freeze()
    assert request()[0] == 503
    assert request()[0] == 503
    redis.thaw()
    until(request, 200)


def test_requests_pass_if_the_setting_says_so(example: Example, branch: Branch, redis: Redis) -> None:
    agent = example.agent(REDIS=str(redis.path), LIMIT="1", WHEN_REDIS_FAILS="pass")
    request = example.site(branch, agent)
    assert [request()[0] for _ in range(2)] == [200, 429]

    redis.freeze()
    assert request()[0] == 200
    assert request()[0] == 200
    redis.thaw()
    until(request, 429)
    assert agent.stop().count("fails: requests pass without a limit") == 1


def test_redis_refuses(example: Example, branch: Branch, redis: Redis) -> None:
    """A server that cannot count is a failure: 503. A script that the server has forgotten is sent again."""
    request = example.site(branch, example.agent(REDIS=redis.address, LIMIT="100", PERIOD="3600"))
    assert request()[0] == 200
    redis.run("SCRIPT", "FLUSH")
    assert request()[0] == 200
    (key,) = redis.run("KEYS", "*").split()

    # No room for another key.
    redis.run("CONFIG", "SET", "maxmemory", "1")
    assert request()[0] == 503
    redis.run("CONFIG", "SET", "maxmemory", "0")
    assert request()[0] == 200

    # Another program has used the key.
    redis.run("RENAME", key, "kept")
    redis.run("LPUSH", key, "1")
    assert request()[0] == 503
    redis.run("RENAME", "kept", key)
    assert request()[0] == 200

    # A replica takes no writes.
    redis.run("REPLICAOF", "127.0.0.1", "1")
    assert request()[0] == 503
    redis.run("REPLICAOF", "NO", "ONE")
    assert request()[0] == 200

    # The agent has no password.
    redis.run("CONFIG", "SET", "requirepass", "secret")
    redis.run("-a", "secret", "CLIENT", "KILL", "TYPE", "normal")
    until(request, 503)
    assert request()[0] == 503


def test_a_password(example: Example, branch: Branch, start_redis: Callable[..., Redis]) -> None:
    """A login that fails is tried again. txredisapi itself gives up then."""
    redis = start_redis("--requirepass", "other")
    agent = example.agent(REDIS=str(redis.path), REDIS_PASSWORD="secret")
    request = example.site(branch, agent)
    assert request()[0] == 503
    redis.run("-a", "other", "CONFIG", "SET", "requirepass", "secret")
    until(request, 200)


def test_a_setting_that_is_wrong(example: Example) -> None:
    """One line says what is wrong, and the agent does not start."""
    output = example.run("REDIS=localhost twistd -n spoa --handlers handlers.py; test $? -eq 1")
    assert "REDIS must be HOST:PORT or the path of a Unix socket: 'localhost'" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("LIMIT", "0", "LIMIT must be a whole number from 1 to 1000000: '0'"),
        ("PERIOD", "1.5", "PERIOD must be a whole number from 1 to 1000000: '1.5'"),
        ("BY", "user", "BY must be address or key: 'user'"),
        ("REDIS", ":6379", "REDIS must be HOST:PORT or the path of a Unix socket: ':6379'"),
        ("REDIS", "localhost:0", "REDIS must be HOST:PORT or the path of a Unix socket: 'localhost:0'"),
        ("WHEN_REDIS_FAILS", "open", "WHEN_REDIS_FAILS must be refuse or pass: 'open'"),
    ],
)
def test_other_settings_that_are_wrong(load_example: Load, name: str, value: str, error: str) -> None:
    with pytest.raises(ValueError, match=re.escape(error)):
        load_example(**{name: value})


def test_the_arithmetic(load_example: Load) -> None:
    """LIMIT requests at once, and then one whenever the time of one request is over."""
    module = load_example(LIMIT="3", PERIOD="30")
    now = 0
    limits = module.InMemory(lambda: now)

    def take() -> tuple[bool, int, int]:
        results: list[tuple[bool, int, int]] = []
        ensureDeferred(limits.take("key")).addCallback(results.append)
        return results[0]

    now = 1_000_000_000
    assert [take() for _ in range(4)] == [(True, 2, 0), (True, 1, 0), (True, 0, 0), (False, 0, 10_000_000)]
    now += 9_999_999
    assert take() == (False, 0, 1)
    now += 1
    assert [take() for _ in range(2)] == [(True, 0, 0), (False, 0, 10_000_000)]
    now += 30_000_000
    assert take() == (True, 2, 0)
    now -= 1_000_000_000
    assert take()[0] is False
    now += 30_000_000
    assert take() == (True, 2, 0)


def test_when_to_come_again(load_example: Load) -> None:
    """Retry-After is rounded up: a client that waits for so long is within the limit."""
    module = load_example(LIMIT="1", PERIOD="10")
    now = 1_000_000_000
    module.limits = module.InMemory(lambda: now)
    haproxy = FakeHAProxy(module.handlers)

    def ask() -> object:
        return haproxy.notify("check-rate", ip=ip_address("192.0.2.1"), key=None)

    assert ask() == {"txn.within": True, "txn.remaining": 0, "txn.retry_after": 0}
    now += 3_000_001
    assert ask() == {"txn.within": False, "txn.remaining": 0, "txn.retry_after": 7}
    now += 7_000_000
    assert ask() == {"txn.within": True, "txn.remaining": 0, "txn.retry_after": 0}


def test_a_flood_of_keys(load_example: Load) -> None:
    """The key that was used least recently is forgotten. A key that is refused is in use too."""
    module = load_example(LIMIT="1")
    module.MAX_KEYS = 3
    haproxy = FakeHAProxy(module.handlers)

    def within(address: str) -> object:
        return haproxy.notify("check-rate", ip=ip_address(address), key=None)["txn.within"]

    assert [within(f"192.0.2.{number}") for number in (1, 2, 3, 1, 4)] == [True, True, True, False, True]
    assert len(module.limits) == 3
    assert within("192.0.2.1") is False
    assert within("192.0.2.2") is True


def test_what_is_one_client(load_example: Load) -> None:
    module = load_example(BY="key")
    bucket = module.bucket
    assert bucket(ip_address("2001:db8::1"), None) == bucket(ip_address("2001:db8::ffff:1"), None)
    assert bucket(ip_address("2001:db8::1"), None) != bucket(ip_address("2001:db8:0:1::1"), None)
    assert bucket(ip_address("::ffff:192.0.2.1"), None) == bucket(ip_address("192.0.2.1"), None)
    assert bucket(ip_address("192.0.2.1"), "a") == bucket(ip_address("192.0.2.2"), "a")
    assert bucket(ip_address("192.0.2.1"), "address 192.0.2.1") != bucket(ip_address("192.0.2.1"), None)


@pytest_twisted.ensureDeferred
async def test_redis_counts_as_memory_does(load_example: Load, redis: Redis) -> None:
    """The script gives what the function gives, at the times of Redis' clock."""
    module = load_example(REDIS=str(redis.path), LIMIT="3", PERIOD="1000")
    await module.limits.open()
    try:
        results = [await module.limits.take("key") for _ in range(4)]
        full = int(redis.run("GET", "rate:key"))
        # Before the last of the three requests that passed, the bucket was full one step earlier.
        expected = module.gcra(full - module.STEP, full - module.WINDOW)
        assert expected == (full, (True, 0, 0))
        assert results[:3] == [(True, 2, 0), (True, 1, 0), (True, 0, 0)]
        assert not results[3].within
        assert 0 < results[3].wait <= module.STEP
        # A clock that was set back: no key waits longer than the window.
        redis.run("SET", "rate:key", str(full * 2))
        assert (await module.limits.take("key")) == (False, 0, module.STEP)
    finally:
        await module.limits.close()


@pytest_twisted.ensureDeferred
async def test_a_query_that_is_cancelled(load_example: Load, redis: Redis) -> None:
    """The next query on the same connection gets its own answer."""
    module = load_example(REDIS=str(redis.path))
    limits = module.InRedis(module.endpoint(), connections=1)
    await limits.open()
    try:
        redis.run("CLIENT", "PAUSE", "200", "ALL")
        first = ensureDeferred(limits.query("return 1", [], []))
        second = ensureDeferred(limits.query("return 2", [], []))
        first.cancel()
        with pytest.raises(CancelledError):
            await first
        assert await second == 2
        assert await limits.query("return 3", [], []) == 3
    finally:
        await limits.close()
