"""What HAProxy sends to an agent with ``send-proxy``: docs/howto/endpoints.rst says why it is of no use there."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from .branches import Branch
from .conftest import StartHAProxy
from .harness import bounded, shown

SPOE = """\
    messages m

spoe-message m
    event on-frontend-http-request
"""

reactor: Any = default_reactor

#: What each HAPROXY-HELLO begins with, behind its length.
HELLO = b"\1\0\0\0\1\0\0\x12supported-versions"

#: A header of version 2 with the command LOCAL, and without addresses.
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


class FirstBytes(Protocol):
    """Reads what is in front of the first frame, and closes the connection."""

    def __init__(self, headers: list[bytes], found: Deferred[None]) -> None:
        self._headers = headers
        self._found = found
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        if HELLO not in self._received:
            return
        self._headers.append(self._received[: self._received.index(HELLO) - 4])
        assert self.transport is not None
        self.transport.loseConnection()
        if not self._found.called:
            self._found.callback(None)


@pytest.mark.parametrize(
    ("option", "header"), [("send-proxy", b"PROXY UNKNOWN\r\n"), ("send-proxy-v2", LOCAL)], ids=["v1", "v2"]
)
@bounded
async def test_no_header_has_an_address(
    branch: Branch, start_haproxy: StartHAProxy, option: str, header: bytes
) -> None:
    """HAProxy >= 3.4 warns that it ignores the option, and sends none."""
    headers: list[bytes] = []
    found: Deferred[None] = Deferred()
    factory = Factory.forProtocol(lambda: FirstBytes(headers, found))
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    haproxy = start_haproxy(f"127.0.0.1:{port.getHost().port} {option}", spoe=SPOE, web=shown("txn.spoa.m"))
    response = Deferred.fromCoroutine(haproxy.get())
    await found
    # The request would fail after "timeout processing".
    response.addErrback(lambda failure: None)
    await haproxy.kill()
    await response
    await port.stopListening()
    ignores = branch.version >= (3, 4)
    assert headers[0] == (b"" if ignores else header)
    assert ignores == ("'send-proxy*' server option is unsupported there" in haproxy.output)
