"""HAProxy >= 3.1 never reads again from a connection once one read has filled its buffer.

It goes on giving such a connection requests, and each of them times out. What the agent sends has to be read before as
much as the buffer holds stands unread. Earlier branches, which read on, run the same tests.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, gatherResults

from tests.certificates import self_signed

from .branches import Branch
from .conftest import StartAgent, StartHAProxy
from .harness import HAProxy, bounded

#: As many requests as HAProxy keeps in flight on one connection.
IN_FLIGHT = 20

#: How many requests of a kind are tried, where the fault is and where it is not.
REQUESTS, FEW = 2000, 200

#: The longest value that fits into an ACK of HAProxy's usual max-frame-size beside the variable's name.
LONGEST = 16380 - 1 - 25

SPOE = """\
    {options}
    messages {message}

spoe-message {message}
    args size=url_param(size)
    event on-frontend-http-request
"""

WEB = "    http-request return status 200 hdr length %[var(txn.spoa.value),length]\n"


async def request(haproxy: HAProxy, size: int, count: int, clients: int) -> None:
    """Let ``clients`` send ``count`` requests, each as soon as its last one was answered; none may fail.

    HAProxy >= 3.1 shares a connection that is there before the requests.
    """
    await haproxy.get(f"/?size={size}")

    async def one_client() -> None:
        async with haproxy.client() as client:
            for number in range(count // clients):
                response = await client.get(f"/?size={size}")
                assert (number, response.error, response["length"]) == (number, None, str(size))

    await gatherResults([Deferred.fromCoroutine(one_client()) for _ in range(clients)], consumeErrors=True)


@pytest.mark.parametrize("size", [200, 900, 1500, 4000, 8000])
@bounded
async def test_many_in_flight_on_one_connection(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, size: int
) -> None:
    """Twenty ACKs are ready at once, time after time, and each of them arrives."""
    agent = start_agent("--listen=tcp:0:interface=127.0.0.1")
    haproxy = start_haproxy(await agent.address(), spoe=SPOE.format(message="together", options=""), web=WEB)
    await request(haproxy, size, REQUESTS if branch.rewritten else FEW, IN_FLIGHT)


@pytest.mark.parametrize("size", [8000, 12000, 16000, LONGEST])
@bounded
async def test_one_in_flight(branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, size: int) -> None:
    """Without pipelining the longest ACKs go one after the other, and none waits for anything."""
    agent = start_agent("--listen=tcp:0:interface=127.0.0.1")
    haproxy = start_haproxy(
        await agent.address(), spoe=SPOE.format(message="long", options="no option pipelining"), web=WEB
    )
    await request(haproxy, size, REQUESTS if branch.rewritten else FEW, 5)


@bounded
async def test_longest_with_pipelining(branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy) -> None:
    """The longest ACKs wait for each other when HAProxy might have more in flight."""
    agent = start_agent("--listen=tcp:0:interface=127.0.0.1")
    haproxy = start_haproxy(await agent.address(), spoe=SPOE.format(message="long", options=""), web=WEB)
    await request(haproxy, LONGEST, 400, IN_FLIGHT)


@pytest.mark.parametrize("transport", ["tcp", "unix"])
@bounded
async def test_mixed_sizes(
    branch: Branch, start_agent: StartAgent, start_haproxy: StartHAProxy, tmp_path: Path, transport: str
) -> None:
    """Answers of all sizes, some at once and some later, write at any time while others are waited for."""
    endpoint, options = TRANSPORTS[transport]
    agent = start_agent(f"--listen={endpoint(tmp_path)}")
    haproxy = start_haproxy(
        await agent.address() + options,
        process="nbthread 1",
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


def tls(folder: Path) -> str:
    certificate, key = self_signed(folder)
    return f"ssl:0:interface=127.0.0.1:privateKey={key}:certKey={certificate}"


#: Where the agent listens, and what HAProxy's ``server`` needs to connect to it.
TRANSPORTS = {
    "tcp": (lambda folder: "tcp:0:interface=127.0.0.1", ""),
    "unix": (lambda folder: f"unix:{folder}/spoa.sock", ""),
    "tls": (tls, " ssl verify none"),
}


@pytest.mark.parametrize("transport", TRANSPORTS)
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
    await request(haproxy, 200, 100, IN_FLIGHT)
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
    await request(haproxy, 200, 1000, IN_FLIGHT)
