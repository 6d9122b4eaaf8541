"""Handlers that block run in threads."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections import UserDict
from functools import partial
from ipaddress import IPv4Address
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.task import Clock, deferLater
from zope.interface import implementer

from spoa_twisted import Handlers, Message
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.threads import BlockingThreads
from spoa_twisted.observer import Event, HandlerTimedOut, ThreadAwaited
from spoa_twisted.spop.actions import decode_actions
from tests.conftest import Logged
from tests.handlers.answers import ROOM, Recorder, UnprintableError, begin, late_line, later, line_of, plain, respond

reactor: Any = default_reactor


def ask(handlers: Handlers, *messages: Message) -> Deferred[bytes]:
    """Return the Deferred that ``handlers`` return for ``messages`` on the reactor."""
    return begin(handlers, *messages, clock=reactor)


@implementer(IReactorThreads)
class ThreadsClock(Clock):
    """A Clock that runs threads. Their results arrive in the thread of the real reactor."""

    def callFromThread(self, callable: Any, *args: Any, **kwargs: Any) -> None:  # noqa: A002 - as the interface
        reactor.callFromThread(callable, *args, **kwargs)

    def callInThread(self, callable: Any, *args: Any, **kwargs: Any) -> None:  # noqa: A002
        raise NotImplementedError

    def getThreadPool(self) -> Any:
        raise NotImplementedError

    def suggestThreadPoolSize(self, size: int) -> None:
        raise NotImplementedError


class TestBlockingThreads:
    """The threads alone, with jobs that are no handlers."""

    @pytest_twisted.ensureDeferred
    async def test_jobs_begin_in_their_order(self) -> None:
        """One job at a time, with one thread. The Deferreds fire in the reactor's thread."""
        threads = BlockingThreads(1)
        order: list[int] = []
        fired_in: list[threading.Thread] = []
        jobs = [threads.run(reactor, partial(order.append, number)) for number in range(5)]
        for job in jobs:
            job.addCallback(lambda _: fired_in.append(threading.current_thread()))
        for job in jobs:
            await job
        assert order == [0, 1, 2, 3, 4]
        assert set(fired_in) == {threading.current_thread()}
        threads.end()

    @pytest_twisted.ensureDeferred
    async def test_a_job_that_is_cancelled_before_it_began_is_not_run(self) -> None:
        """One that runs already runs to its end, and its result is dropped."""
        threads = BlockingThreads(1)
        began, release = threading.Event(), threading.Event()
        order: list[str] = []

        def running() -> str:
            began.set()
            assert release.wait(30)
            order.append("running")
            return "dropped"

        jobs = [
            threads.run(reactor, running),
            threads.run(reactor, lambda: order.append("queued")),
            threads.run(reactor, lambda: order.append("last")),
        ]
        assert began.wait(30)
        for job in jobs[:2]:
            job.addErrback(lambda failure: failure.trap(CancelledError))
            job.cancel()
        release.set()
        await jobs[2]
        assert [await job for job in jobs[:2]] == [CancelledError, CancelledError]
        assert order == ["running", "last"]
        threads.end()

    @pytest_twisted.ensureDeferred
    async def test_as_many_jobs_run_at_a_time_as_there_are_threads(self) -> None:
        """Three jobs wait for each other, and a fourth for one of them."""
        threads = BlockingThreads(3)
        barrier = threading.Barrier(4)
        jobs = [threads.run(reactor, lambda: barrier.wait(30)) for _ in range(3)]
        fourth = threads.run(reactor, lambda: "fourth")
        assert not fourth.called
        barrier.wait(30)
        for job in jobs:
            await job
        assert await fourth == "fourth"
        threads.end()

    @pytest_twisted.ensureDeferred
    async def test_the_system_may_refuse_to_start_a_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The job has failed, and nothing is kept of the thread. The next job tries again, and the end works."""
        threads = BlockingThreads(2)
        refused: list[weakref.ref[threading.Thread]] = []

        def start(thread: threading.Thread) -> None:
            refused.append(weakref.ref(thread))
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            for _ in range(3):
                with pytest.raises(RuntimeError, match="can't start new thread"):
                    await threads.run(reactor, lambda: 1)
        gc.collect()
        assert [thread() for thread in refused] == [None] * 3
        thread = await threads.run(reactor, threading.current_thread)
        threads.end()
        thread.join(30)
        assert not thread.is_alive()


class TestWaiting:
    """Waiting for a thread is not the handler's slowness: the events and the lines tell the two apart."""

    @staticmethod
    def handlers(release: threading.Event) -> Handlers:
        """Return handlers with one thread: ``holds`` keeps it until ``release`` is set, ``next`` takes no time."""
        handlers = Handlers(blocking_threads=1)
        handlers.message("holds", blocking=True, timeout=0)(lambda: release.wait(30) and None)  # type: ignore[type-var]
        handlers.message("next", blocking=True, timeout=5)(lambda: {"sess.next": 1})
        return handlers

    @pytest_twisted.ensureDeferred
    async def test_a_job_tells_how_long_it_waited(self) -> None:
        """Until now while it waits, and until it began afterwards. The clock may be set back."""
        clock = ThreadsClock()
        threads = BlockingThreads(1)
        release = threading.Event()
        running = threads.run(clock, lambda: release.wait(30))
        waiting = threads.run(clock, lambda: None)
        clock.advance(3)
        assert threads.waiting == 1
        assert threads.wait_of(running) == (0, True, 1)
        assert threads.wait_of(waiting) == (3, False, 1)
        waits: list[Any] = []
        waiting.addCallback(lambda _: waits.append(threads.wait_of(waiting)))
        clock.rightNow -= 10
        assert threads.wait_of(waiting) == (0, False, 1)
        clock.rightNow += 11
        release.set()
        await waiting
        assert waits == [(4, True, 1)]
        assert threads.waiting == 0
        threads.end()

    @pytest_twisted.ensureDeferred
    async def test_a_handler_that_never_began(self, logged: Logged) -> None:
        """It timed out in the queue."""
        clock, recorder, release = ThreadsClock(), Recorder(), threading.Event()
        handlers = self.handlers(release)
        answers = [
            later(handlers.respond([Message(name)], ROOM, clock, 1, Outcomes(recorder))) for name in ("holds", "next")
        ]
        clock.pump([5, 0])
        assert recorder.take() == [HandlerTimedOut("next", 5, began=False, waited=5, threads=1)]
        release.set()
        for answer in answers:
            assert isinstance(answer, Deferred)
            assert await answer == b""
        assert recorder.take() == []

    @pytest_twisted.ensureDeferred
    async def test_a_handler_that_waited_and_then_took_long(self) -> None:
        """The event has both times."""
        clock, recorder, release = ThreadsClock(), Recorder(), threading.Event()
        handlers = self.handlers(release)
        began: Deferred[None] = Deferred()
        end = threading.Event()

        @handlers.message("slow", blocking=True, timeout=5)
        def slow() -> None:
            reactor.callFromThread(began.callback, None)
            assert end.wait(30)

        handlers.respond([Message("holds")], ROOM, clock, 1, Outcomes(recorder))
        late = later(handlers.respond([Message("slow")], ROOM, clock, 1, Outcomes(recorder)))
        clock.advance(3)
        release.set()
        await began
        clock.pump([2, 0])
        assert recorder.take() == [HandlerTimedOut("slow", 5, began=True, waited=3, threads=1)]
        end.set()
        assert isinstance(late, Deferred)
        assert await late == b""

    @pytest.mark.parametrize(("seconds", "events"), [(0.25, [ThreadAwaited("next", 0.25, 1)]), (0.2, [])])
    @pytest_twisted.ensureDeferred
    async def test_a_handler_that_waited_and_finished(self, seconds: float, events: list[Event]) -> None:
        """A quarter of a second is worth a warning, and less is not."""
        clock, recorder, release = ThreadsClock(), Recorder(), threading.Event()
        handlers = self.handlers(release)
        handlers.respond([Message("holds")], ROOM, clock, 1, Outcomes(recorder))
        answer = later(handlers.respond([Message("next")], ROOM, clock, 1, Outcomes(recorder)))
        clock.advance(seconds)
        release.set()
        assert isinstance(answer, Deferred)
        assert decode_actions(await answer) == {"sess.next": 1}
        assert recorder.take() == events


class TestBlocking:
    @pytest_twisted.ensureDeferred
    async def test_a_handler_runs_in_a_thread_of_its_handlers(self) -> None:
        """Neither in the reactor's thread nor in the reactor's thread pool."""
        handlers = Handlers()

        @handlers.message("m", blocking=True)
        def slow(ip: IPv4Address) -> dict[str, Any]:
            return {"sess.ip": ip, "sess.thread": threading.current_thread().name}

        variables = decode_actions(await ask(handlers, Message("m", [("ip", IPv4Address("192.0.2.1"))])))
        assert variables["sess.ip"] == IPv4Address("192.0.2.1")
        assert "spoa-blocking" in str(variables["sess.thread"])

    @pytest_twisted.ensureDeferred
    async def test_a_mapping_is_read_in_the_thread(self) -> None:
        """A mapping that looks up its values when they are read may block, too."""
        threads: list[threading.Thread] = []

        class Lookups(UserDict[str, Any]):
            def __getitem__(self, name: str) -> Any:
                threads.append(threading.current_thread())
                return super().__getitem__(name)

        handlers = Handlers()
        handlers.message("m", blocking=True)(lambda: Lookups({"sess.a": "x" * 50, "sess.b": 1}))
        assert decode_actions(await ask(handlers, Message("m"))) == {"sess.a": "x" * 50, "sess.b": 1}
        assert len(threads) == 2
        assert threading.current_thread() not in threads

    @pytest_twisted.ensureDeferred
    async def test_a_handler_that_fails_in_a_thread(self, logged: Logged) -> None:
        """Its message has the variables of on_error, as without a thread. A Deferred is no result of a thread."""
        handlers = Handlers(on_error={"sess.e": 1})
        handlers.message("raises", blocking=True)(lambda: 1 / 0)  # type: ignore[type-var]
        handlers.message("list", blocking=True)(lambda: [1])  # type: ignore[type-var]
        handlers.message("late", blocking=True)(lambda: succeed({"sess.a": 1}))
        for name in ("raises", "list", "late"):
            assert decode_actions(await ask(handlers, Message(name))) == {"sess.e": 1}
        assert len(logged.take()) == 3

    @pytest.mark.parametrize(
        "error", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, UnprintableError]
    )
    @pytest_twisted.ensureDeferred
    async def test_every_exception_in_a_thread_is_caught(self, error: type[BaseException], logged: Logged) -> None:
        """The only thread goes on to run the next handler."""
        handlers = Handlers(blocking_threads=1, on_error={"sess.error": True})
        handlers.message("tested", blocking=True)(plain(error("why")))
        handlers.message("good", blocking=True)(lambda: {"sess.good": 1})
        answer = await ask(handlers, Message("tested"), Message("good"))
        assert decode_actions(answer) == {"sess.error": True, "sess.good": 1}
        assert line_of(logged).startswith("critical: the handler of the message 'tested' failed")

    @pytest_twisted.ensureDeferred
    async def test_a_handler_that_waits_too_long_for_a_thread_is_not_run(self, logged: Logged) -> None:
        """It times out while another handler has the only thread."""
        handlers = Handlers(blocking_threads=1)
        release = threading.Event()
        ran: list[str] = []

        @handlers.message("holds", blocking=True, timeout=0)
        def holds() -> None:
            ran.append("holds")
            assert release.wait(30)

        @handlers.message("waits", blocking=True, timeout=0.01)
        def waits() -> None:
            ran.append("waits")

        holding = ask(handlers, Message("holds"))
        assert await ask(handlers, Message("waits")) == b""
        release.set()
        assert await holding == b""
        await ask(handlers, Message("holds"))
        assert ran == ["holds", "holds"]
        assert logged.take() == [
            (
                "error: the handler of the message 'waits' did not begin within 0.01 s: all 1 blocking_threads"
                " are busy; raise blocking_threads, or find the handler that is slow"
            )
        ]

    @pytest_twisted.ensureDeferred
    async def test_a_handler_that_times_out_while_it_runs(self, logged: Logged) -> None:
        """It keeps its thread until it returns. Its result is dropped, and the next handler has the thread."""
        handlers = Handlers(blocking_threads=1)
        release = threading.Event()
        handlers.message("holds", blocking=True, timeout=0.01)(lambda: release.wait(30) and None)  # type: ignore[type-var]
        handlers.message("next", blocking=True)(lambda: {"sess.next": 1})
        assert await ask(handlers, Message("holds")) == b""
        following = ask(handlers, Message("next"))
        assert not following.called
        release.set()
        assert decode_actions(await following) == {"sess.next": 1}
        assert logged.take() == [late_line("holds", 0.01)]

    @pytest_twisted.ensureDeferred
    async def test_a_handler_that_times_out_in_the_queue_leaves_nothing(self, logged: Logged) -> None:
        """Its message is forgotten, also when the handler that has the thread never returns."""

        class Body(str):
            """A text that can be referred to weakly."""

            __slots__ = ("__weakref__",)

        handlers = Handlers(blocking_threads=1)
        release = threading.Event()
        handlers.message("holds", blocking=True, timeout=0)(lambda: release.wait(30) and None)  # type: ignore[type-var]
        handlers.message("waits", blocking=True, timeout=0.01)(lambda body: None)
        holding = ask(handlers, Message("holds"))
        bodies = []
        answers = []
        for _ in range(10):
            body = Body("body")
            bodies.append(weakref.ref(body))
            answers.append(ask(handlers, Message("waits", [("body", body)])))
        del body
        for answer in answers:
            assert await answer == b""
        del answers, answer
        await deferLater(reactor, 0)
        gc.collect()
        assert [body() for body in bodies] == [None] * 10
        release.set()
        assert await holding == b""
        assert len(logged.take()) == 10

    @pytest_twisted.ensureDeferred
    async def test_the_system_may_refuse_to_start_a_thread(
        self, logged: Logged, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The message has the variables of on_error. The next message may get a thread."""
        handlers = Handlers(blocking_threads=1, on_error={"sess.failed": True})
        handlers.message("m", blocking=True)(lambda: {"sess.a": 1})

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        # The Deferred has failed before the handlers see it, so they answer at once.
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            for _ in range(3):
                assert respond(handlers, Message("m"), clock=reactor) == {"sess.failed": True}
        assert len(logged.take()) == 3
        assert decode_actions(await ask(handlers, Message("m"))) == {"sess.a": 1}

    @pytest_twisted.ensureDeferred
    async def test_threads_end_with_their_handlers(self) -> None:
        """A service that reloads drops its old handlers."""
        handlers = Handlers()
        handlers.message("m", blocking=True)(lambda: {"sess.thread": threading.get_ident()})
        answer = ask(handlers, Message("m"))
        number = decode_actions(await answer)["sess.thread"]
        (thread,) = [thread for thread in threading.enumerate() if thread.ident == number]
        del handlers, answer
        # Until the next turn of the reactor, a frame of the answer's callbacks refers to the handlers.
        await deferLater(reactor, 0)
        gc.collect()
        thread.join(30)
        assert not thread.is_alive()

    def test_on_a_reactor_without_threads_a_handler_runs_in_place(self) -> None:
        """For example in a test with a Clock."""
        handlers = Handlers()
        handlers.message("m", blocking=True)(lambda: {"sess.a": 1})
        assert respond(handlers, Message("m")) == {"sess.a": 1}
