"""HAProxy >= 3.1 never reads again from a connection once one read has filled its buffer.

It goes on giving such a connection requests, and each of them times out. What the agent sends has to be read before as
much as the buffer holds stands unread. Earlier branches, which read on, run the same tests.
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

from spoa_twisted import Handlers, protocol
from spoa_twisted.spop.unread import Receipt
from tests.certificates import self_signed

from .branches import Branch
from .conftest import Serve, StartAgent, StartHAProxy
from .harness import AgentProcess, HAProxy, bounded, shown

#: As many requests as HAProxy keeps in flight on one connection.
IN_FLIGHT = 20

#: So many clients keep a connection full, however HAProxy spreads their requests over two.
CLIENTS = 2 * IN_FLIGHT

#: How many requests of a kind are tried, where the fault is and where it is not.
REQUESTS, FEW = 2000, 200

#: The same where answers wait for each other.
LONG_REQUESTS = 1000

#: The longest value that fits into an ACK of HAProxy's usual max-frame-size beside the variable's name.
LONGEST = 16380 - 1 - 25

SPOE = """\
    {options}
    messages {message}

spoe-message {message}
    args size=url_param(size)
    event on-frontend-http-request
"""

WEB = """\
    http-request return status 200 hdr length %[var(txn.spoa.value),length] hdr together %[var(txn.spoa.together)]
"""


def tls(folder: Path) -> str:
    certificate, key = self_signed(folder)
    return f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"


#: Where the agent listens, and what HAProxy's ``server`` needs to connect to it.
TRANSPORTS = {
    "tcp": (lambda folder: "tcp:0:interface=127.0.0.1", ""),
    "unix": (lambda folder: f"unix:{folder}/spoa.sock", ""),
    "tls": (tls, " ssl verify none"),
}


def soaking(*values: Any) -> Any:
    """Parameters of a test that is left out of the default run: the same fault with other sizes and transports."""
    return pytest.param(*values, marks=pytest.mark.soak)


class Requests:
    """What clients were told that send requests for answers of ``size`` bytes, each as soon as its last was answered.

    None may fail.
    """

    def __init__(self, haproxy: HAProxy, agent: AgentProcess, size: int) -> None:
        self._haproxy = haproxy
        self._agent = agent
        self._size = size
        #: How many requests were answered together with so many, themselves included, on the same connection.
        self.together: Counter[int] = Counter()
        #: The largest number of connections to the agent that was seen.
        self.connections = 0

    async def send(self, count: int, clients: int) -> None:
        # HAProxy >= 3.1 shares a connection that is there before the requests.
        await self._haproxy.get(f"/?size={self._size}")
        sending = [Deferred.fromCoroutine(self._one_client(count // clients)) for _ in range(clients)]
        await gatherResults(sending, consumeErrors=True)

    async def _one_client(self, count: int) -> None:
        async with self._haproxy.client() as client:
            for number in range(count):
                response = await client.get(f"/?size={self._size}")
                assert (number, response.error, response["length"]) == (number, None, str(self._size))
                self.together[int(response["together"] or 1)] += 1
                self.connections = max(self.connections, self._agent.connections)


@pytest.mark.parametrize(
    ("size", "transport"),
    [
        (900, "tcp"),
        (4000, "unix"),
        (900, "tls"),
        *[soaking(size, "tcp") for size in (200, 1500, 4000, 8000)],
        soaking(900, "unix"),
        soaking(4000, "tls"),
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
    """Twenty ACKs are ready at once, time after time, and each of them arrives."""
    endpoint, options = TRANSPORTS[transport]
    agent = start_agent(f"--listen={endpoint(tmp_path)}")
    server, spoe = await agent.address() + options, SPOE.format(message="together", options="")
    haproxy = start_haproxy(server, spoe=spoe, web=WEB)
    requests = Requests(haproxy, agent, size)
    await requests.send(REQUESTS if branch.rewritten else FEW, CLIENTS)
    figures.append(f"together {dict(requests.together)}, {requests.connections} connections at most")
    # HAProxy <= 3.0 spreads its first requests over as many connections as there are clients.
    least = requests.together.total() / 2 if branch.rewritten else IN_FLIGHT
    assert requests.together[IN_FLIGHT] >= least


@pytest.mark.parametrize("size", [LONGEST, *[soaking(size) for size in (8000, 12000, 16000)]])
@bounded
async def test_one_in_flight(branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, size: int) -> None:
    """Without pipelining the longest ACKs go one after the other, and none waits for anything."""
    agent = start_agent("--listen=tcp:0:interface=127.0.0.1")
    haproxy = start_haproxy(
        await agent.address(), spoe=SPOE.format(message="long", options="no option pipelining"), web=WEB
    )
    # Without pipelining, HAProxy 2.6 forgets one of several requests once in a while.
    requests, clients = (REQUESTS, 5) if branch.rewritten else (FEW, 1)
    await Requests(haproxy, agent, size).send(requests, clients)


@pytest.mark.soak
@bounded
async def test_longest_with_pipelining(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, figures: list[str]
) -> None:
    """The longest ACKs wait for each other when HAProxy might have more in flight."""
    agent = start_agent("--listen=tcp:0:interface=127.0.0.1")
    haproxy = start_haproxy(await agent.address(), spoe=SPOE.format(message="long", options=""), web=WEB)
    requests = Requests(haproxy, agent, LONGEST)
    await requests.send(LONG_REQUESTS if branch.rewritten else FEW, IN_FLIGHT)
    figures.append(f"{requests.connections} connections at most")
    if branch.rewritten:
        assert requests.connections <= 2


@pytest.mark.parametrize("transport", ["tcp", soaking("unix")])
@bounded
async def test_mixed_sizes(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, tmp_path: Path, transport: str
) -> None:
    """Answers of all sizes, some at once and some later, write at any time while others are waited for."""
    endpoint, options = TRANSPORTS[transport]
    agent = start_agent(f"--listen={endpoint(tmp_path)}")
    haproxy = start_haproxy(
        await agent.address() + options,
        spoe=SPOE.format(message="mixed", options=""),
        web=WEB,
    )
    await haproxy.get("/?size=1")

    async def one_client(number: int) -> None:
        async with haproxy.client() as client:
            for size in range(500 + 37 * number, 6000, 61 if branch.rewritten else 610):
                response = await client.get(f"/?size={size}")
                assert (size, response.error, response["length"]) == (size, None, str(size))

    await gatherResults([Deferred.fromCoroutine(one_client(number)) for number in range(IN_FLIGHT)], consumeErrors=True)


@pytest.mark.parametrize("transport", ["tcp", soaking("unix"), soaking("tls")])
@bounded
async def test_agent_stands_still(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, tmp_path: Path, transport: str
) -> None:
    """HAProxy gives up hundreds of NOTIFYs meanwhile, and the ACKs of all these come at once. What comes afterwards is
    none the worse for it.
    """
    endpoint, options = TRANSPORTS[transport]
    agent = start_agent(f"--listen={endpoint(tmp_path)}")
    haproxy = start_haproxy(
        await agent.address() + options,
        spoe="""\
    timeout processing 200ms
    messages stand-still long

spoe-message stand-still
    args size=url_param(size)
    event on-frontend-http-request if { path /stand-still }

spoe-message long
    args size=url_param(size)
    event on-frontend-http-request
""",
        web=WEB,
    )
    requests = Requests(haproxy, agent, 200)
    await requests.send(100, IN_FLIGHT)
    still = Deferred.fromCoroutine(haproxy.get("/stand-still?size=200"))
    await agent.said("stand-still: begins")

    async def impatient_client() -> int:
        """Request until an answer holds the variable again; return how many did not."""
        failures = 0
        async with haproxy.client() as client:
            while (await client.get("/?size=200"))["length"] != "200":
                failures += 1
        return failures

    failures = await gatherResults([Deferred.fromCoroutine(impatient_client()) for _ in range(IN_FLIGHT)])
    assert (await still).error == "1"
    # More than HAProxy's buffer holds ACKs.
    assert sum(failures) * 200 > 16384
    await requests.send(1000, IN_FLIGHT)


LONG_LOAD = """\
    timeout processing 5s
    messages long pid-now

spoe-message long
    args size=url_param(size)
    event on-frontend-http-request

spoe-message pid-now
    event on-frontend-http-request
"""


async def stand_still(haproxy: HAProxy, figures: list[str]) -> None:
    """Let HAProxy stand still again and again while clients ask: no request fails."""
    await haproxy.get("/?size=4000")
    async with haproxy.load(IN_FLIGHT, "/?size=4000") as load:
        for _ in range(4):
            await load.wait_for_more(2 * IN_FLIGHT)
            haproxy.signal(signal.SIGSTOP)
            # So long it stands still.
            await deferLater(reactor, 0.15)
            haproxy.signal(signal.SIGCONT)
        await load.wait_for_more(10 * IN_FLIGHT)
    figures.append(f"{load.requests} requests, {dict(load.failures)} failed")
    assert load.failures == {}


@pytest.mark.parametrize("transport", ["tcp", soaking("unix"), soaking("tls")])
@bounded
async def test_haproxy_stands_still(
    start_agent: StartAgent, start_haproxy: StartHAProxy, tmp_path: Path, transport: str, figures: list[str]
) -> None:
    """What the agent sends meanwhile waits for HAProxy, and is no more than that reads at once."""
    endpoint, options = TRANSPORTS[transport]
    agent = start_agent(f"--listen={endpoint(tmp_path)}")
    haproxy = start_haproxy(await agent.address() + options, spoe=LONG_LOAD, web=shown("txn.spoa.pid"))
    await stand_still(haproxy, figures)


@bounded
async def test_haproxy_elsewhere_stands_still(
    serve: Serve, start_haproxy: StartHAProxy, monkeypatch: pytest.MonkeyPatch, figures: list[str]
) -> None:
    """Of one on another machine nobody knows what it has read: it is given time."""
    monkeypatch.setattr(protocol, "receipt", lambda transport: Receipt.UNKNOWN)
    handlers = Handlers({"long": lambda size: {"txn.value": "x" * int(size)}, "pid-now": lambda: {"txn.pid": 1}})
    haproxy = start_haproxy(serve(handlers), spoe=LONG_LOAD, web=shown("txn.spoa.pid"))
    await stand_still(haproxy, figures)
