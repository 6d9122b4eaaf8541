"""A HAProxy >= 3.1 connection hangs if one read fills HAProxy's buffer; these tests check that the agent avoids this.

HAProxy then never reads from this connection again, but still sends NOTIFYs over it, and each of them times out. The
agent must wait until HAProxy has read, before the unread bytes can fill the buffer. HAProxy <= 3.0 does not have this
fault, and runs the same tests.
"""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from spoa_twisted import Handlers
from spoa_twisted.agent import pacing
from spoa_twisted.spop.unread import Receipt
from tests.certificates import self_signed

from .branches import Branch
from .conftest import Serve, StartAgent, StartHAProxy
from .harness import SHOW_LENGTH, AgentProcess, HAProxy, bounded, shown, sized

#: HAProxy has at most 20 NOTIFYs in flight on one connection.
IN_FLIGHT = 20

#: With 40 clients, at least one of two connections has 20 NOTIFYs in flight, however HAProxy spreads the requests.
CLIENTS = 2 * IN_FLIGHT

#: The number of requests in a test, with the branches that have the fault and with those that do not.
REQUESTS, FEW_REQUESTS = 2000, 200

#: The number of requests with the longest answers, which wait for each other and so take longer.
LONG_REQUESTS = 1000

#: The longest value of ``txn.value`` that fits into an ACK, with HAProxy's default max-frame-size of 16380 bytes.
LONGEST = 16380 - 1 - 25

WEB = SHOW_LENGTH + " hdr together %[var(txn.spoa.together)]"


def tls(folder: Path) -> str:
    certificate, key = self_signed(folder)
    return f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"


#: For each transport: a function that returns the agent's endpoint for a folder, and the options that the ``server``
#: line needs.
TRANSPORTS = {
    "tcp": (lambda folder: "tcp:0:interface=127.0.0.1", ""),
    "unix": (lambda folder: f"unix:{folder}/spoa.sock", ""),
    "tls": (tls, " ssl verify none"),
}


def soak(*values: Any) -> Any:
    """Return parameters with the mark ``soak``: the default run leaves out these further sizes and transports."""
    return pytest.param(*values, marks=pytest.mark.soak)


class Requests:
    """Clients that request answers of ``size`` bytes. Each sends its next request as soon as it gets a response.

    The test fails if a request fails.
    """

    def __init__(self, haproxy: HAProxy, agent: AgentProcess, size: int) -> None:
        self._haproxy = haproxy
        self._agent = agent
        self._size = size
        #: By the number of ACKs that the agent wrote to a connection together: how many requests got their answer so.
        self.together: Counter[int] = Counter()
        #: The largest number of connections that the agent had open.
        self.max_connections = 0

    async def send(self, count: int, clients: int) -> None:
        """Send about ``count`` requests in total, by ``clients`` clients."""
        # HAProxy >= 3.1 shares only a connection that is already established, so open one first.
        await self._haproxy.get(f"/?size={self._size}")
        sending = [Deferred.fromCoroutine(self._one_client(count // clients)) for _ in range(clients)]
        await gatherResults(sending, consumeErrors=True)

    async def _one_client(self, count: int) -> None:
        async with self._haproxy.client() as client:
            for number in range(count):
                response = await client.get(f"/?size={self._size}")
                assert (number, response.error, response["length"]) == (number, None, str(self._size))
                self.together[int(response["together"] or 1)] += 1
                self.max_connections = max(self.max_connections, self._agent.connections)


@pytest.mark.parametrize(
    ("size", "transport"),
    [
        (900, "tcp"),
        (4000, "unix"),
        (900, "tls"),
        *[soak(size, "tcp") for size in (200, 1500, 4000, 8000)],
        soak(900, "unix"),
        soak(4000, "tls"),
    ],
)
@bounded
async def test_many_in_flight_on_one_connection(
    branch: Branch,
    start_agent: StartAgent,
    start_haproxy: StartHAProxy,
    tmp_path: Path,
    size: int,
    transport: str,
    figures: list[str],
) -> None:
    """The handlers of 20 NOTIFYs finish at the same time, again and again, and HAProxy gets every ACK."""
    endpoint, options = TRANSPORTS[transport]
    agent = start_agent(f"--listen={endpoint(tmp_path)}", "--pipelining=always")
    server, spoe = await agent.address() + options, sized("together")
    haproxy = start_haproxy(server, spoe=spoe, web=WEB)
    requests = Requests(haproxy, agent, size)
    await requests.send(REQUESTS if branch.rewritten else FEW_REQUESTS, CLIENTS)
    figures.append(f"together {dict(requests.together)}, at most {requests.max_connections} connections")
    # HAProxy <= 3.0 opens as many connections as there are clients for its first requests.
    least = requests.together.total() / 2 if branch.rewritten else IN_FLIGHT
    assert requests.together[IN_FLIGHT] >= least


@pytest.mark.parametrize("size", [LONGEST, *[soak(size) for size in (8000, 12000, 16000)]])
@bounded
async def test_one_in_flight(branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, size: int) -> None:
    """Without pipelining, HAProxy gets the longest ACKs one after the other, and no ACK is delayed."""
    agent = start_agent("--listen=tcp:0:interface=127.0.0.1", "--pipelining=always")
    haproxy = start_haproxy(await agent.address(), spoe="    no option pipelining\n" + sized("long"), web=WEB)
    # Without pipelining, HAProxy 2.6 sometimes loses one of several parallel requests in its own queue. So use one
    # client with the branches that do not have the fault.
    requests, clients = (REQUESTS, 5) if branch.rewritten else (FEW_REQUESTS, 1)
    await Requests(haproxy, agent, size).send(requests, clients)


@pytest.mark.soak
@bounded
async def test_longest_with_pipelining(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]
) -> None:
    """With pipelining, the agent sends the longest ACKs one by one, and HAProxy gets each of them."""
    agent = start_agent("--listen=tcp:0:interface=127.0.0.1", "--pipelining=always")
    haproxy = start_haproxy(await agent.address(), spoe=sized("long"), web=WEB)
    requests = Requests(haproxy, agent, LONGEST)
    await requests.send(LONG_REQUESTS if branch.rewritten else FEW_REQUESTS, IN_FLIGHT)
    figures.append(f"at most {requests.max_connections} connections")
    if branch.rewritten:
        assert requests.max_connections <= 2


@pytest.mark.parametrize("transport", ["tcp", soak("unix")])
@bounded
async def test_mixed_sizes(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, tmp_path: Path, transport: str
) -> None:
    """HAProxy gets every ACK when the ACKs have many sizes, and some handlers answer at once and others later."""
    endpoint, options = TRANSPORTS[transport]
    agent = start_agent(f"--listen={endpoint(tmp_path)}", "--pipelining=always")
    haproxy = start_haproxy(await agent.address() + options, spoe=sized("mixed"), web=WEB)
    await haproxy.get("/?size=1")

    async def one_client(number: int) -> None:
        async with haproxy.client() as client:
            for size in range(500 + 37 * number, 6000, 61 if branch.rewritten else 610):
                response = await client.get(f"/?size={size}")
                assert (size, response.error, response["length"]) == (size, None, str(size))

    await gatherResults([Deferred.fromCoroutine(one_client(number)) for number in range(IN_FLIGHT)], consumeErrors=True)


@pytest.mark.parametrize(
    ("transport", "size", "timeout"),
    [
        ("tcp", 200, 200),
        # Long ACKs over TLS wait for each other for longer: 17 of 1000 bytes leave in 50 ms.
        ("tls", 1000, 600),
        soak("unix", 200, 200),
        soak("tls", 200, 200),
        soak("tcp", 1000, 600),
    ],
)
@bounded
async def test_agent_blocks(
    branch: Branch,
    start_agent: StartAgent,
    start_haproxy: StartHAProxy,
    tmp_path: Path,
    transport: str,
    size: int,
    timeout: int,
) -> None:
    """After the agent has been blocked for 1.5 s, its late ACKs come all at once, and later requests do not fail.

    Meanwhile HAProxy gives each NOTIFY up after ``timeout`` milliseconds, and sends others.
    """
    endpoint, options = TRANSPORTS[transport]
    agent = start_agent(f"--listen={endpoint(tmp_path)}", "--pipelining=always")
    haproxy = start_haproxy(
        await agent.address() + options,
        spoe=f"""\
    timeout processing {timeout}ms
    messages block long

spoe-message block
    args size=url_param(size)
    event on-frontend-http-request if {{ path /block }}

spoe-message long
    args size=url_param(size)
    event on-frontend-http-request
""",
        web=WEB,
    )
    requests = Requests(haproxy, agent, size)
    await requests.send(100, IN_FLIGHT)
    blocking = Deferred.fromCoroutine(haproxy.get(f"/block?size={size}"))
    await agent.said("block: begins")

    async def client_until_answered() -> int:
        """Send requests until a response has the variable again. Return the number of responses without it."""
        failures = 0
        async with haproxy.client() as client:
            while (await client.get(f"/?size={size}"))["length"] != str(size):
                failures += 1
        return failures

    failures = await gatherResults([Deferred.fromCoroutine(client_until_answered()) for _ in range(IN_FLIGHT)])
    assert (await blocking).error == "1"
    # The late ACKs are together longer than HAProxy's buffer.
    assert sum(failures) * size > 16384
    await requests.send(400, IN_FLIGHT)


#: For requests with a parameter ``size``: ``long`` answers with so many characters, ``pid-now`` with the process id.
LONG_AND_PID = """\
    messages long pid-now

spoe-message long
    args size=url_param(size)
    event on-frontend-http-request

spoe-message pid-now
    event on-frontend-http-request
"""

LONG_LOAD = "    timeout processing 5s\n" + LONG_AND_PID


async def freeze_repeatedly(haproxy: HAProxy, figures: list[str]) -> None:
    """Freeze HAProxy four times while clients send requests, and check that no request fails."""
    await haproxy.get("/?size=4000")
    async with haproxy.load(IN_FLIGHT, "/?size=4000") as load:
        for _ in range(4):
            await load.wait_for_more(2 * IN_FLIGHT)
            haproxy.signal(signal.SIGSTOP)
            # HAProxy is frozen for 0.15 s.
            await deferLater(reactor, 0.15)
            haproxy.signal(signal.SIGCONT)
        await load.wait_for_more(10 * IN_FLIGHT)
    figures.append(f"{load.requests} requests, {dict(load.failures)} failed")
    assert load.failures == {}


@pytest.mark.parametrize("transport", ["tcp", soak("unix"), soak("tls")])
@bounded
async def test_haproxy_is_frozen(
    start_agent: StartAgent, start_haproxy: StartHAProxy, tmp_path: Path, transport: str, figures: list[str]
) -> None:
    """While HAProxy is frozen, the agent sends no more than HAProxy's buffer holds, so no request fails."""
    endpoint, options = TRANSPORTS[transport]
    agent = start_agent(f"--listen={endpoint(tmp_path)}", "--pipelining=always")
    haproxy = start_haproxy(await agent.address() + options, spoe=LONG_LOAD, web=shown("txn.spoa.pid"))
    await freeze_repeatedly(haproxy, figures)


@bounded
async def test_haproxy_on_another_machine_is_frozen(
    serve: Serve, start_haproxy: StartHAProxy, monkeypatch: pytest.MonkeyPatch, figures: list[str]
) -> None:
    """If the agent cannot know what HAProxy has read, as on another machine, it paces its ACKs by time."""
    monkeypatch.setattr(pacing, "receipt", lambda transport: Receipt.UNKNOWN)
    handlers = Handlers({"long": lambda size: {"txn.value": "x" * int(size)}, "pid-now": lambda: {"txn.pid": 1}})
    haproxy = start_haproxy(serve(handlers, pipelining="always"), spoe=LONG_LOAD, web=shown("txn.spoa.pid"))
    await freeze_repeatedly(haproxy, figures)
