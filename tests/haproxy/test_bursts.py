"""A burst of ACKs that is longer than HAProxy's buffer."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from spoa_twisted import Handlers, Variables

from .conftest import Serve, StartHAProxy
from .harness import SHOW_LENGTH, bounded

#: HAProxy >= 3.1 has at most 20 NOTIFYs in flight on one connection.
IN_FLIGHT = 20

#: ``IN_FLIGHT`` of these values are about twice as long as HAProxy's buffer of 16 KiB.
VALUE = "x" * 1500


@bounded
async def test_many_long_answers(serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str]) -> None:
    """All of 20 long answers arrive when their handlers finish at the same time.

    A HAProxy >= 3.1 connection hangs if one read fills its buffer, so the agent must not send them all at once.
    """
    waiting: list[Deferred[Variables]] = []

    def answer(path: str) -> Deferred[Variables] | Variables:
        if path == "/alone":
            return {"txn.value": VALUE}
        result: Deferred[Variables] = Deferred()
        waiting.append(result)
        if len(waiting) == IN_FLIGHT:
            reactor.callLater(0, answer_all)
        return result

    def answer_all() -> None:
        while waiting:
            waiting.pop().callback({"txn.value": VALUE})

    haproxy = start_haproxy(
        serve(Handlers({"long": answer}), pipelining="always"),
        spoe="""\
    messages long

spoe-message long
    args path=path
    event on-frontend-http-request
""",
        web=SHOW_LENGTH,
    )

    # HAProxy >= 3.1 shares only a connection that is already established, so open one first.
    await haproxy.get("/alone")
    for _ in range(3):
        responses = await gatherResults([Deferred.fromCoroutine(haproxy.get()) for _ in range(IN_FLIGHT)])
        assert [response.error for response in responses] == [None] * IN_FLIGHT
        assert [response["length"] for response in responses] == [str(len(VALUE))] * IN_FLIGHT
    assert agent_log == []
