"""Every kind of handler, and handlers that fail, behind a real HAProxy."""

from __future__ import annotations

import signal
from collections.abc import Callable
from threading import current_thread
from typing import Any, NoReturn

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from spoa_twisted import Handlers, IHandlers, Message, PendingAnswer, Variables
from spoa_twisted.handlers.outcome import Outcomes
from tests.conftest import Logged
from tests.programs import STOPPED

from .conftest import Serve, StartAgent, StartHAProxy
from .harness import bounded, shown

ONE_MESSAGE = """\
    messages one

spoe-message one
    event on-frontend-http-request
"""


@implementer(IHandlers)
class Recorder:
    """Handlers that record which messages came in the same NOTIFY."""

    def __init__(self, handlers: Handlers) -> None:
        self.notifies: list[list[str]] = []
        self._handlers = handlers

    def respond(
        self, messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float, outcomes: Outcomes
    ) -> bytes | PendingAnswer:
        self.notifies.append([message.name for message in messages])
        return self._handlers.respond(messages, max_size, reactor, timeout, outcomes)

    def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
        return self._handlers.refuse(names, max_size)


@bounded
async def test_kinds_of_handlers(serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str]) -> None:
    """Plain functions, Deferreds, coroutines and threads answer the messages of one NOTIFY in one ACK."""
    handlers = Handlers()

    @handlers.message("plain")
    def plain(path: str) -> Variables:
        return {"txn.plain": path}

    @handlers.message("deferred")
    def deferred(path: str) -> Deferred[Variables]:
        return deferLater(reactor, 0.01, lambda: {"txn.deferred": path})

    @handlers.message("coroutine")
    async def coroutine(path: str) -> Variables:
        return {"txn.coroutine": path}

    @handlers.message("waiting-coroutine")
    async def waiting_coroutine(path: str) -> Variables:
        await deferLater(reactor, 0.01)
        return {"txn.waiting_coroutine": path}

    main_thread = current_thread()

    @handlers.message("thread", blocking=True)
    def thread(path: str) -> Variables:
        return {"txn.thread": path, "txn.other_thread": current_thread() is not main_thread}

    recorder = Recorder(handlers)
    haproxy = start_haproxy(
        serve(recorder),
        spoe="""\
    messages plain deferred coroutine waiting-coroutine thread

spoe-message plain
    args path=path
    event on-frontend-http-request

spoe-message deferred
    args path=path
    event on-frontend-http-request

spoe-message coroutine
    args path=path
    event on-frontend-http-request

spoe-message waiting-coroutine
    args path=path
    event on-frontend-http-request

spoe-message thread
    args path=path
    event on-frontend-http-request
""",
        web=shown(
            "txn.spoa.plain",
            "txn.spoa.deferred",
            "txn.spoa.coroutine",
            "txn.spoa.waiting_coroutine",
            "txn.spoa.thread",
            "txn.spoa.other_thread",
        ),
    )

    response = await haproxy.get("/here")

    assert response.error is None
    assert response["txn.spoa.plain"] == "/here"
    assert response["txn.spoa.deferred"] == "/here"
    assert response["txn.spoa.coroutine"] == "/here"
    assert response["txn.spoa.waiting_coroutine"] == "/here"
    assert response["txn.spoa.thread"] == "/here"
    assert response["txn.spoa.other_thread"] == "1"
    assert recorder.notifies == [["plain", "deferred", "coroutine", "waiting-coroutine", "thread"]]
    assert agent_log == []


@bounded
async def test_failing_handlers(start_agent: StartAgent, start_haproxy: StartHAProxy) -> None:
    """For a handler that raises, is late or returns an invalid value, its ``on_error`` is set.

    The variables of the good handler in the same NOTIFY are set too, and HAProxy sees no error.
    """
    agent = start_agent("--listen=tcp:0:interface=127.0.0.1")
    haproxy = start_haproxy(
        await agent.address(),
        spoe="""\
    messages raise late unsendable score

spoe-message raise
    event on-frontend-http-request

spoe-message late
    event on-frontend-http-request

spoe-message unsendable
    event on-frontend-http-request

spoe-message score
    event on-frontend-http-request
""",
        web=shown("txn.spoa.raised", "txn.spoa.late", "txn.spoa.unsendable", "txn.spoa.score"),
    )

    response = await haproxy.get()

    assert (response.status, response.error) == (200, None)
    assert response["txn.spoa.raised"] == "1"
    assert response["txn.spoa.late"] == "1"
    assert response["txn.spoa.unsendable"] == "1"
    assert response["txn.spoa.score"] == "42"
    await agent.said("took longer than 0.2 s")
    assert agent.output.count("RuntimeError: boom") == 1


def recurse() -> Any:
    return recurse()


async def leave() -> NoReturn:
    raise SystemExit("why")


FAILING: dict[str, Callable[[], Any]] = {
    "name": lambda: {"txn.no\nname": 1},
    "value": lambda: {"txn.value": 1.5},
    "large": lambda: {"txn.large": "x" * 70_000},
    "recurse": recurse,
    "leave": leave,
}


@bounded
async def test_failing_handlers_beside_good_ones(serve: Serve, start_haproxy: StartHAProxy, logged: Logged) -> None:
    """In one NOTIFY, the ``on_error`` of each failing handler and the variables of the other handlers are set."""
    handlers = Handlers({"first": lambda: {"txn.first": 1}, "last": lambda: {"txn.last": "x" * 9000}})
    for name, function in FAILING.items():
        handlers.message(name, on_error={f"txn.on_error_{name}": True})(function)
    names = ["first", *FAILING, "last"]
    haproxy = start_haproxy(
        serve(handlers),
        spoe=f"    messages {' '.join(names)}\n"
        + "".join([f"\nspoe-message {name}\n    event on-frontend-http-request\n" for name in names]),
        web="    http-request set-var(txn.length) var(txn.spoa.last),length\n"
        + shown("txn.spoa.first", "txn.length", *[f"txn.spoa.on_error_{name}" for name in FAILING]),
    )

    responses = [await haproxy.get() for _ in range(3)]

    for response in responses:
        assert response.error is None
        assert response["txn.spoa.first"] == "1"
        assert response["txn.length"] == "9000"
        assert {name: response[f"txn.spoa.on_error_{name}"] for name in FAILING} == dict.fromkeys(FAILING, "1")
    lines = logged.take()
    for name in FAILING:
        assert len([line for line in lines if f"the message '{name}'" in line]) == 3
    assert len(lines) == 3 * len(FAILING)


@pytest.mark.parametrize("variables", [None, {}, {"txn.unknown": None}], ids=["None", "empty", "unset"])
@bounded
async def test_nothing_to_set(
    serve: Serve, start_haproxy: StartHAProxy, agent_log: list[str], variables: Variables | None
) -> None:
    """A handler that sets no variable causes no error: the request continues."""
    server = serve(Handlers({"one": lambda: variables}))
    haproxy = start_haproxy(server, spoe=ONE_MESSAGE, web="    http-request return status 200\n")

    responses = [await haproxy.get(), await haproxy.get()]

    assert [(response.status, response.error) for response in responses] == [(200, None)] * 2
    assert agent_log == []


@bounded
async def test_no_handler(start_agent: StartAgent, start_haproxy: StartHAProxy) -> None:
    """A message without a handler sets no variable and causes no error. The agent logs it once."""
    agent = start_agent("--listen=tcp:0:interface=127.0.0.1")
    haproxy = start_haproxy(await agent.address(), spoe=ONE_MESSAGE, web="    http-request return status 200\n")

    responses = [await haproxy.get(), await haproxy.get()]

    assert [(response.status, response.error) for response in responses] == [(200, None)] * 2
    # Wait for the agent's end, so that its output is complete.
    agent.signal(signal.SIGTERM)
    assert await agent.ended() in STOPPED
    assert agent.output.count("no handler for the message") == 1
