"""Every SPOE event, and groups of messages, in modes http and tcp."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from spoa_twisted import Handlers, IHandlers, Message, PendingAnswer, Value, Variables
from spoa_twisted.handlers.outcome import Outcomes

from .conftest import Serve, StartHAProxy
from .harness import HAProxy, bounded, listening_socket


@implementer(IHandlers)
class Recorder:
    """Handlers that count NOTIFYs in ``sess.count``, and record which messages came in the same NOTIFY.

    :param denied: the name of the message whose handler sets ``sess.denied`` to true.
    """

    def __init__(self, denied: str = "") -> None:
        self._denied = denied
        self.notifies: list[list[str]] = []
        #: The value of ``sess.count`` that HAProxy sent in each NOTIFY.
        self.counts: list[Value] = []
        self._handlers = Handlers()
        self._handlers.default(self._count_up)

    def respond(
        self, messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float, outcomes: Outcomes
    ) -> bytes | PendingAnswer:
        self.notifies.append([message.name for message in messages])
        self.counts.append(messages[0]["count"])
        return self._handlers.respond(messages, max_size, reactor, timeout, outcomes)

    def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
        return self._handlers.refuse(names, max_size)

    def _count_up(self, message: Message, count: int | None) -> Variables:
        return {"sess.count": (count or 0) + 1, "sess.denied": message.name == self._denied}


def messages(**events: str) -> str:
    """Return a section spoe-message for each message name, with its event."""
    return "".join(
        f"\nspoe-message {name.replace('_', '-')}\n    args count=var(sess.spoa.count)\n    event {event}\n"
        for name, event in events.items()
    )


#: A group of messages that no event sends: only ``send-spoe-group`` does.
GROUPS = """
spoe-message grouped
    args count=var(sess.spoa.count)

spoe-message grouped-too
    args count=var(sess.spoa.count)

spoe-group group
    messages grouped grouped-too
"""

HTTP = f"""\
    messages session frontend-tcp request request-too elsewhere backend-tcp origin server tcp-response response
    groups group answer
{
    messages(
        session="on-client-session",
        frontend_tcp="on-frontend-tcp-request",
        request="on-frontend-http-request",
        request_too="on-frontend-http-request",
        elsewhere="on-frontend-http-request if { path /elsewhere }",
        backend_tcp="on-backend-tcp-request",
        origin="on-backend-http-request",
        server="on-server-session",
        tcp_response="on-tcp-response",
        response="on-http-response",
    )
}{GROUPS}
spoe-message answered
    args count=var(sess.spoa.count)

spoe-group answer
    messages answered
"""

TCP = f"""\
    messages session frontend-tcp backend-tcp server tcp-response
    groups group
{
    messages(
        session="on-client-session",
        frontend_tcp="on-frontend-tcp-request",
        backend_tcp="on-backend-tcp-request",
        server="on-server-session",
        tcp_response="on-tcp-response",
    )
}{GROUPS}"""


@bounded
async def test_http(serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str]) -> None:
    """Each event and each group is one NOTIFY with all its messages. The next NOTIFY sees their variables."""
    recorder = Recorder()
    haproxy = start_haproxy(
        serve(recorder),
        spoe=HTTP,
        web="""\
    http-request send-spoe-group test group
    http-response send-spoe-group test answer
    http-response set-header count %[var(sess.spoa.count)]
    default_backend origin
""",
    )

    response = await haproxy.get()

    assert response.error is None
    assert recorder.notifies == [
        ["session"],
        ["frontend-tcp"],
        ["request", "request-too"],
        ["grouped", "grouped-too"],
        ["backend-tcp"],
        ["origin"],
        ["server"],
        ["tcp-response"],
        ["response"],
        ["answered"],
    ]
    # Two messages of one NOTIFY both set the count, from the same old value: it grows by one for each NOTIFY.
    assert recorder.counts == [None, *range(1, 10)]
    assert response["count"] == "10"
    assert agent_log == []


#: This has a backend of its own, because rules for the response go into the backend.
TCP_WEB = """\
    tcp-request inspect-delay 5s
    tcp-request content reject if {{ var(sess.spoa.denied) -m bool }}
    tcp-request content send-spoe-group test group
    default_backend tcp-origin

backend tcp-origin
    mode tcp
    tcp-request inspect-delay 5s
    tcp-request content reject if {{ var(sess.spoa.denied) -m bool }}
    tcp-response inspect-delay 5s
    tcp-response content reject if {{ var(sess.spoa.denied) -m bool }}
    server origin 127.0.0.1:{port}
"""

TCP_NOTIFIES = [
    ["session"],
    ["frontend-tcp"],
    ["grouped", "grouped-too"],
    ["backend-tcp"],
    ["server"],
    ["tcp-response"],
]


@pytest.fixture
def start_tcp(start_haproxy: StartHAProxy) -> Callable[[str], HAProxy]:
    """Starts a HAProxy whose frontend for the web clients, and the backend behind it, are in mode tcp."""

    def start(server: str) -> HAProxy:
        with listening_socket() as web, listening_socket() as origin:
            rules = TCP_WEB.format(port=origin.getsockname()[1])
            return start_haproxy(server, web_mode="tcp", spoe=TCP, web=rules, listeners=(web, origin))

    return start


@bounded
async def test_tcp(serve: Serve, start_tcp: Callable[[str], HAProxy], agent_log: list[str]) -> None:
    """In mode tcp, too, HAProxy sends one NOTIFY for each event and group, with all its messages."""
    recorder = Recorder()

    response = await start_tcp(serve(recorder)).get()

    assert response.status == 200
    assert recorder.notifies == TCP_NOTIFIES
    assert recorder.counts == [None, *range(1, len(TCP_NOTIFIES))]
    assert agent_log == []


@pytest.mark.parametrize("denied", ["frontend-tcp", "backend-tcp", "tcp-response"])
@bounded
async def test_tcp_denied(serve: Serve, start_tcp: Callable[[str], HAProxy], agent_log: list[str], denied: str) -> None:
    """By a handler's variable, HAProxy rejects a TCP connection in the frontend, in the backend, or at the response."""
    recorder = Recorder(denied)

    with pytest.raises((ConnectionDone, ConnectionLost)):
        await start_tcp(serve(recorder)).get()

    assert recorder.notifies == TCP_NOTIFIES[: TCP_NOTIFIES.index([denied]) + 1]
    assert agent_log == []
