"""Records the corpus again: the bytes that HAProxy and an agent exchange, for each branch of HAProxy that is found.

Run ``python -m tests.fuzzing.capture`` from the top of the checkout. ``tests/haproxy/branches.py`` says where the
HAProxy binaries come from. Each file of the corpus holds the bytes of one direction of one connection.
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater, react
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory

from spoa_twisted import NULL, Handlers, Int32, Message, SPOAFactory, UInt32, UInt64, Variables
from tests.haproxy.branches import Branch, find_branches
from tests.haproxy.harness import HAProxy, as_server, shown

CORPUS = Path(__file__).parent / "corpus"
SIDES = ["from-haproxy", "from-agent"]

EVENTS = [
    "on-client-session",
    "on-frontend-tcp-request",
    "on-frontend-http-request",
    "on-backend-tcp-request",
    "on-backend-http-request",
    "on-server-session",
    "on-tcp-response",
    "on-http-response",
]

TYPES = """\
    messages types types-too

spoe-message types
    args yes=bool(true) small=int(42) negative=int(-42) largest=int(9223372036854775807) src
    args v6=req.hdr_ip(v6) text=req.hdr(text) empty=str() body=req.body missing=req.hdr(missing) method
    event on-frontend-http-request

spoe-message types-too
    args size=req.body_size
    event on-frontend-http-request
"""


def answer(message: Message) -> Variables:
    """Handle a message: set a variable of every type."""
    return {
        "proc.no": False,
        "sess.n": -5,
        "txn.int32": Int32(-5),
        "req.uint32": UInt32(7),
        "txn.uint64": UInt64(2**64 - 1),
        "txn.v4": IPv4Address("192.0.2.1"),
        "txn.v6": IPv6Address("2001:db8::1"),
        "txn.text": "caf\udce9",
        "txn.bytes": b"\x00\xff" * 8,
        "txn.null": NULL,
        "txn.none": None,
    }


class Recorder(WrappingFactory):
    """Wraps the factory of an agent, and records the bytes of each connection in both directions."""

    def __init__(self, agent: SPOAFactory) -> None:
        super().__init__(agent)
        self.protocol = Recorded
        #: For each connection, the bytes by direction: :data:`SIDES`.
        self.connections: list[dict[str, bytes]] = []


class Recorded(ProtocolWrapper):
    """A connection that records the bytes that it passes on."""

    def makeConnection(self, transport: Any) -> None:
        self._sides = dict.fromkeys(SIDES, b"")
        self.factory.connections.append(self._sides)
        super().makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        self._sides["from-haproxy"] += data
        super().dataReceived(data)

    def write(self, data: bytes) -> None:
        self._sides["from-agent"] += data
        super().write(data)


async def checks(haproxy: HAProxy) -> None:
    # Seconds: enough for a few health checks, which HAProxy sends every 100 ms.
    await deferLater(reactor, 0.5)


async def types(haproxy: HAProxy) -> None:
    await haproxy.post("/", b"\x00\xff body", v6="2001:db8::1", text="caf\udce9")


async def events(haproxy: HAProxy) -> None:
    await haproxy.get("/here")


async def fragments(haproxy: HAProxy) -> None:
    await haproxy.post("/", bytes(range(256)) * 4)
    await haproxy.post("/", b"small")


Conversation = Callable[[HAProxy], Awaitable[None]]

#: The requests to send, and the configuration of HAProxy for them: keyword arguments of ``converse()``.
CONVERSATIONS: dict[Conversation, dict[str, str]] = {
    checks: {
        "server": "check inter 100ms fall 1 rise 2",
        "backend": "option spop-check",
        "spoe": TYPES,
        "web": shown(),
    },
    types: {"spoe": TYPES, "web": "    option http-buffer-request\n" + shown("txn.spoa.text")},
    events: {
        "spoe": f"    messages {' '.join(EVENTS)}\n"
        + "".join(
            [f"\nspoe-message {event}\n    args src n=var(sess.spoa.n)\n    event {event}\n" for event in EVENTS]
        ),
        "web": "    default_backend origin\n",
    },
    fragments: {
        "spoe": "    max-frame-size 256\n    messages body\n\nspoe-message body\n    args body=req.body\n"
        "    event on-frontend-http-request\n",
        "web": "    option http-buffer-request\n" + shown(),
    },
}


async def converse(branch: Branch, conversation: Conversation, server: str = "", **configuration: Any) -> None:
    """Run one conversation through HAProxy, and write the recorded bytes to files."""
    recorder = Recorder(SPOAFactory(Handlers(default=answer)))
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(recorder)
    with TemporaryDirectory() as folder:
        haproxy = HAProxy(branch, Path(folder), f"{as_server(port.getHost())} {server}", **configuration)
        try:
            await conversation(haproxy)
            haproxy.signal(signal.SIGUSR1)
            await haproxy.ended()
        finally:
            await haproxy.kill()
            await port.stopListening()
    # Keep one of several connections with equal lengths in both directions: each health check, for example, opens a
    # connection with the same content.
    by_lengths = {tuple(map(len, sides.values())): sides for sides in recorder.connections}
    for number, sides in enumerate(by_lengths.values(), 1):
        for side, data in sides.items():
            if data:
                (CORPUS / side / f"{branch.name}-{conversation.__name__}-{number}").write_bytes(data)


async def main() -> None:
    for side in SIDES:
        (CORPUS / side).mkdir(parents=True, exist_ok=True)
        # Only the recorded files, which begin with the branch. The others are inputs that once broke a target.
        for path in (CORPUS / side).glob("[0-9]*"):
            path.unlink()
    for branch in find_branches():
        for conversation, configuration in CONVERSATIONS.items():
            await converse(branch, conversation, **configuration)


if __name__ == "__main__":
    react(lambda _: Deferred.fromCoroutine(main()))
