"""NOTIFYs and ACKs near HAProxy's size limits."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from spoa_twisted import Handlers, IHandlers, Message, Variables
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.spop.actions import encode_actions

from .branches import Branch
from .conftest import Serve, StartHAProxy
from .harness import SHOW_LENGTH, bounded, shown

BODY = bytes(range(256)) * 150

ONE_MESSAGE = """\
    messages one

spoe-message one
    event on-frontend-http-request
"""


@bounded
async def test_body_bigger_than_a_frame(
    branch: Branch, serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str]
) -> None:
    """HAProxy <= 3.0 sends a body that is longer than a frame in fragments, and the handler gets the whole body.

    HAProxy >= 3.1 has no fragmentation: it sets error 3 and sends nothing. The next request succeeds in all branches.
    """
    received: list[bytes] = []

    def scan(body: bytes) -> Variables:
        received.append(body)
        return {"txn.size": len(body)}

    haproxy = start_haproxy(
        serve(Handlers({"scan": scan})),
        process="tune.bufsize 65536",
        spoe="""\
    max-frame-size 1024
    messages scan

spoe-message scan
    args body=req.body
    event on-frontend-http-request
""",
        web="    option http-buffer-request\n" + shown("txn.spoa.size"),
    )

    big = await haproxy.post("/", BODY)
    small = await haproxy.post("/", BODY[:800])

    if branch.rewritten:
        assert (big.status, big.error, big["txn.spoa.size"]) == (200, "3", None)
        assert received == [BODY[:800]]
    else:
        assert (big.status, big.error, big["txn.spoa.size"]) == (200, None, str(len(BODY)))
        assert received == [BODY, BODY[:800]]
    assert (small.status, small.error, small["txn.spoa.size"]) == (200, None, "800")
    assert agent_log == []


@implementer(IHandlers)
class LongestAnswer:
    """Sets a variable to the longest string that fits into an ACK."""

    def __init__(self) -> None:
        #: The length of the string in each ACK.
        self.lengths: list[int] = []
        #: The length of all actions in each ACK, in bytes.
        self.sizes: list[int] = []

    def respond(
        self, messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float, outcomes: Outcomes
    ) -> bytes:
        length = max_size
        while len(actions := encode_actions({"txn.value": "x" * length})) > max_size:
            length -= 1
        assert len(actions) == max_size
        self.lengths.append(length)
        self.sizes.append(max_size)
        return actions

    def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
        return b""


@bounded
async def test_longest_answer(serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str]) -> None:
    """HAProxy accepts the longest ACK that the agent allows, and the ACKs after it."""
    handlers = LongestAnswer()
    haproxy = start_haproxy(serve(handlers, pipelining="always"), spoe=ONE_MESSAGE, web=SHOW_LENGTH)

    responses = [await haproxy.get() for _ in range(3)]

    # The ACK may be nearly as long as HAProxy's buffer of 16384 bytes.
    assert min(handlers.lengths) > 16000
    assert [response.error for response in responses] == [None] * 3
    assert [response["length"] for response in responses] == [str(length) for length in handlers.lengths]
    assert agent_log == []
