"""More answers at a time than HAProxy reads at once."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from spoa_twisted import Handlers, Variables

from .conftest import Serve, StartHAProxy
from .harness import bounded

#: As many requests as HAProxy >= 3.1 sends over one connection at a time.
MANY = 20

#: As many of these are twice as long as HAProxy's buffer.
VALUE = "x" * 1500


@bounded
async def test_many_long_answers(serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str]) -> None:
    """Answers that are ready at once, and together longer than HAProxy's buffer, all arrive: HAProxy >= 3.1 never
    reads again from a connection on which as much as its buffer holds stands unread.
    """
    waiting: list[Deferred[Variables]] = []

    def answer(path: str) -> Deferred[Variables] | Variables:
        if path == "/alone":
            return {"txn.value": VALUE}
        result: Deferred[Variables] = Deferred()
        waiting.append(result)
        if len(waiting) == MANY:
            reactor.callLater(0, answer_all)
        return result

    def answer_all() -> None:
        while waiting:
            waiting.pop().callback({"txn.value": VALUE})

    haproxy = start_haproxy(
        serve(Handlers({"long": answer})),
        spoe="""\
    messages long

spoe-message long
    args path=path
    event on-frontend-http-request
""",
        web="    http-request return status 200 hdr length %[var(txn.spoa.value),length]\n",
    )

    # HAProxy >= 3.1 shares a connection when it is there before the requests.
    await haproxy.get("/alone")
    for _ in range(3):
        responses = await gatherResults([Deferred.fromCoroutine(haproxy.get()) for _ in range(MANY)])
        assert [response.error for response in responses] == [None] * MANY
        assert [response["length"] for response in responses] == [str(len(VALUE))] * MANY
    assert agent_log == []
