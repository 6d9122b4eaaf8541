"""A NOTIFY with handlers that have not finished."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure

from spoa_twisted import Handlers, Message
from spoa_twisted.handlers.exchange import Exchange
from spoa_twisted.handlers.handler import Handler
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.pending_call import PendingCall
from spoa_twisted.observer import CancelFailed, HandlerFailed, HandlerTimedOut, Outcome
from spoa_twisted.spop.actions import encode_actions
from spoa_twisted.status.counters import Tally
from tests.conftest import Logged
from tests.handlers.answers import ROOM, Recorder, answer_of, ask, begin, late_line, later, line_of, result_of


class Direct:
    """An exchange with two pending calls and one message that is answered already, in the middle."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.observer = Recorder()
        self.record = [Outcome.OK] * 3
        self.cancelled: list[Deferred[Any]] = []
        self.deferreds: list[Deferred[Any]] = [Deferred(self.cancelled.append), Deferred(self.cancelled.append)]

    def start(self, timeout: float = 5, handler_timeout: float | None = None) -> bytes | Deferred[bytes]:
        handler = Handler("m", lambda: None, handler_timeout, {"sess.e": 1}, blocking=False)
        messages = [Message(name) for name in "abc"]
        outcomes = Outcomes(self.observer, self.record)
        parts = [b"", encode_actions({"sess.b": 1}), b""]
        exchange = Exchange(messages, parts, ROOM, lambda message: handler, outcomes)
        for position, deferred in zip((0, 2), self.deferreds, strict=True):
            call = PendingCall(
                handler, messages[position], position, ROOM, deferred, self.clock, outcomes, Tally(), 0.0, 0, None
            )
            answer = call.wait(timeout)
            if isinstance(answer, bytes):
                parts[position] = answer
            else:
                exchange.add(answer)
        return later(exchange.start())


class TestDirect:
    """An exchange alone."""

    def test_it_fires_when_the_last_call_has_finished(self) -> None:
        """The parts are joined in the order of the messages. A Failure is the on_error of its handler."""
        direct = Direct()
        answer = direct.start()
        assert isinstance(answer, Deferred)
        direct.deferreds[1].callback({"sess.c": 1})
        assert not answer.called
        direct.deferreds[0].errback(LookupError("no such row"))
        assert list(result_of(answer)) == ["sess.e", "sess.b", "sess.c"]
        (event,) = direct.observer.take()
        assert isinstance(event, HandlerFailed)
        assert event.name == "a"
        assert direct.record == [Outcome.ERROR, Outcome.OK, Outcome.OK]
        assert direct.clock.getDelayedCalls() == []

    def test_it_answers_at_once_when_all_deferreds_have_fired(self) -> None:
        """There is no Deferred then, and no timer."""
        direct = Direct()
        for deferred in direct.deferreds:
            deferred.callback(None)
        assert direct.start() == encode_actions({"sess.b": 1})
        assert direct.clock.getDelayedCalls() == []

    @pytest.mark.parametrize(
        ("handler_timeout", "timeout", "expected"), [(3, 5, 3), (None, 5, 5), (0, 5, None), (None, 0, None)]
    )
    def test_the_timeout(self, handler_timeout: float | None, timeout: float, expected: float | None) -> None:
        """It is the timeout of the handler, or else that of the agent. 0 is no limit."""
        direct = Direct()
        answer = direct.start(timeout, handler_timeout)
        direct.clock.advance(expected or 1000)
        assert isinstance(answer, Deferred)
        if expected is None:
            assert not answer.called
            assert direct.observer.take() == []
        else:
            assert result_of(answer) == {"sess.e": 1, "sess.b": 1}
            assert direct.observer.take() == [HandlerTimedOut("a", expected), HandlerTimedOut("c", expected)]
            assert direct.record == [Outcome.TIMEOUT, Outcome.OK, Outcome.TIMEOUT]
            assert direct.cancelled == direct.deferreds
        assert direct.clock.getDelayedCalls() == []

    def test_to_cancel_it_reports_nothing(self) -> None:
        """Neither the cancelled calls nor a result that arrives later."""
        direct = Direct()
        answer = direct.start()
        assert isinstance(answer, Deferred)
        failures: list[Failure] = []
        answer.addErrback(failures.append)
        answer.cancel()
        assert failures[0].check(CancelledError)
        assert direct.cancelled == direct.deferreds
        assert direct.observer.take() == []
        assert direct.record == [Outcome.OK] * 3
        assert direct.clock.getDelayedCalls() == []

    def test_a_canceller_that_raises_is_reported(self) -> None:
        """The other call is cancelled nevertheless."""
        direct = Direct()

        def canceller(deferred: Deferred[Any]) -> None:
            raise SystemExit("why")

        direct.deferreds[0] = Deferred(canceller)
        answer = direct.start()
        assert isinstance(answer, Deferred)
        answer.addErrback(lambda failure: None)
        answer.cancel()
        (event,) = direct.observer.take()
        assert isinstance(event, CancelFailed)
        assert event.failure.check(SystemExit)
        assert direct.cancelled == [direct.deferreds[1]]


class TestOrder:
    def test_variables_are_in_the_order_of_the_messages(self) -> None:
        """In any order that the handlers finish. Of two values for a variable, that of the later message counts."""
        slow: Deferred[Any] = Deferred()
        slower: Deferred[Any] = Deferred()
        handlers = Handlers({"a": lambda: slow, "b": lambda: {"sess.x": "b", "sess.b": 1}, "c": lambda: slower})
        answer = begin(handlers, Message("a"), Message("b"), Message("c"))
        slower.callback({"sess.x": "c"})
        slow.callback({"sess.x": "a", "sess.a": None})
        assert list(result_of(answer).items()) == [("sess.x", "c"), ("sess.a", None), ("sess.b", 1)]

    @pytest_twisted.ensureDeferred
    async def test_handlers_of_one_notify_run_at_the_same_time(self) -> None:
        """The second is called before the first has finished."""
        order: list[str] = []

        def wait(message: Message) -> Deferred[Any]:
            order.append(f"begins {message[0]!r}")
            return deferLater(reactor, 0, order.append, f"ends {message[0]!r}")

        await begin(Handlers({"m": wait}), *[Message("m", [("", n)]) for n in (1, 2)], clock=reactor)
        assert order == ["begins 1", "begins 2", "ends 1", "ends 2"]


class TestDeferreds:
    def test_a_deferred_that_waits_for_another(self) -> None:
        """It was called, but has no result: the exchange waits for it."""
        inner: Deferred[Any] = Deferred()
        clock = Clock()
        answer = begin(Handlers({"m": lambda: succeed(1).addCallback(lambda _: inner)}), Message("m"), clock=clock)
        inner.callback({"sess.a": 1})
        assert result_of(answer) == {"sess.a": 1}
        assert clock.getDelayedCalls() == []

    def test_a_future_of_asyncio(self) -> None:
        """An application on Twisted's asyncio reactor may return one."""

        async def test() -> None:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            answer = begin(Handlers({"m": lambda: future}), Message("m"))
            future.set_result({"sess.a": 1})
            await asyncio.sleep(0)
            assert result_of(answer) == {"sess.a": 1}

        asyncio.run(test())

    def test_a_deferred_that_fires_with_a_deferred(self, logged: Logged) -> None:
        """Twisted forbids it, and some versions raise an error."""
        assert answer_of(lambda: succeed(Deferred())) == {"sess.error": True}
        line_of(logged)

    def test_a_deferred_that_is_paused(self, logged: Logged) -> None:
        """It has a result, but its callbacks do not run: the handler times out."""
        paused = succeed({"sess.v": 1})
        paused.pause()
        assert answer_of(lambda: paused) == {"sess.error": True}
        assert "took longer than 1 s" in line_of(logged)


class TestSharedDeferreds:
    """A handler may return the same Deferred twice, for example from a cache."""

    def test_it_may_answer_several_messages(self) -> None:
        """Its result stays for callbacks that are added later."""
        shared: Deferred[Any] = Deferred()
        answer = begin(Handlers({"a": lambda: shared, "b": lambda: shared}), Message("a"), Message("b"))
        shared.callback({"sess.a": 1})
        assert result_of(answer) == {"sess.a": 1}
        results: list[Any] = []
        shared.addCallback(results.append)
        assert results == [{"sess.a": 1}]

    def test_it_may_fail(self, logged: Logged) -> None:
        """All its messages have failed, also in other NOTIFYs. Twisted does not log the failure as unhandled."""
        shared: Deferred[Any] = Deferred()
        handlers = Handlers()
        for name in "abc":
            handlers.message(name, on_error={f"txn.{name}": True})(lambda: shared)
        answers = [begin(handlers, Message("a"), Message("b")), begin(handlers, Message("c"))]
        shared.errback(LookupError("no such table"))
        assert [result_of(answer) for answer in answers] == [{"txn.a": True, "txn.b": True}, {"txn.c": True}]
        assert len(logged.take()) == 3
        del handlers
        # Only here is the Deferred collected, which would log an unhandled failure.
        shared = Deferred()
        gc.collect()

    def test_a_cancelled_notify_cancels_it(self, logged: Logged) -> None:
        """The handlers of other NOTIFYs that wait for it have failed."""
        shared: Deferred[Any] = Deferred()
        handlers = Handlers({"a": lambda: shared}, on_error={"txn.failed": True})
        given_up, answer = begin(handlers, Message("a")), begin(handlers, Message("a"))
        given_up.addErrback(lambda failure: failure.trap(CancelledError))
        given_up.cancel()
        assert result_of(answer) == {"txn.failed": True}
        assert len(logged.take()) == 1

    def test_a_notify_that_has_it_twice_is_cancelled(self) -> None:
        """To cancel the first call finishes the second. Neither is reported."""
        shared: Deferred[Any] = Deferred()
        clock = Clock()
        answer = begin(Handlers({"a": lambda: shared}), Message("a"), Message("a"), clock=clock)
        failures: list[Failure] = []
        answer.addErrback(failures.append)
        answer.cancel()
        assert [failure.type for failure in failures] == [CancelledError]
        assert clock.getDelayedCalls() == []

    def test_it_may_time_out(self, logged: Logged) -> None:
        """The first message has timed out. The others then fail, because their Deferred was cancelled."""
        shared: Deferred[Any] = Deferred()
        clock = Clock()
        handlers = Handlers({"a": lambda: shared}, on_error={"txn.failed": True})
        answer = begin(handlers, Message("a"), Message("a"), clock=clock, timeout=1)
        clock.advance(1)
        assert result_of(answer) == {"txn.failed": True}
        late, cancelled = logged.take()
        assert "took longer than 1 s" in late
        assert "CancelledError" in cancelled


class TestSizes:
    def test_one_result_that_is_too_long(self, logged: Logged) -> None:
        """The message sets the variables of on_error, whether it is alone in its NOTIFY or not."""
        for others in ([], [Message("other")]):
            deferred: Deferred[Any] = Deferred()
            handlers = Handlers({"m": lambda deferred=deferred: deferred}, on_error={"sess.e": 1})
            handlers.message("other")(lambda: None)
            answer = begin(handlers, Message("m"), *others, room=100)
            deferred.callback({"sess.a": "x" * 200})
            assert result_of(answer) == {"sess.e": 1}
            assert len(logged.take()) == 1


class TestTimeouts:
    def test_a_slow_handler_times_out(self, logged: Logged) -> None:
        """After its own timeout. Its Deferred is cancelled, and the result of that is dropped."""
        clock = Clock()
        cancelled: list[object] = []
        slow: Deferred[Any] = Deferred(cancelled.append)
        handlers = Handlers({"good": lambda: {"sess.good": 1}}, timeout=5)
        handlers.message("slow", timeout=0.2, on_error={"sess.late": True})(lambda: slow)
        answer = begin(handlers, Message("good"), Message("slow"), clock=clock)
        clock.advance(0.19)
        assert not answer.called
        clock.advance(0.02)
        assert result_of(answer) == {"sess.good": 1, "sess.late": True}
        assert cancelled == [slow]
        assert logged.take() == [late_line("slow", 0.2)]

    @pytest.mark.parametrize(
        ("set_timeout", "agent_timeout", "expected"), [(3, 10, 3), (None, 10, 10), (0, 10, None), (None, 0, None)]
    )
    def test_the_timeout_is_that_of_the_set_or_the_agent(
        self, set_timeout: float | None, agent_timeout: float, expected: float | None
    ) -> None:
        """When the handler has none of its own. 0 is no limit."""
        clock = Clock()
        deferred: Deferred[Any] = Deferred()
        handlers = Handlers({"m": lambda: deferred}, timeout=set_timeout)
        answer = begin(handlers, Message("m"), clock=clock, timeout=agent_timeout)
        assert [call.getTime() for call in clock.getDelayedCalls()] == ([expected] if expected else [])
        deferred.callback(None)
        assert result_of(answer) == {}
        assert clock.getDelayedCalls() == []

    def test_a_coroutine_that_catches_its_cancellation(self, logged: Logged) -> None:
        """The ACK does not wait for it."""
        clock = Clock()

        async def stubborn() -> dict[str, Any]:
            while True:
                try:
                    await Deferred()
                except CancelledError:
                    await Deferred()

        answer = begin(Handlers({"m": stubborn}, on_error={"sess.e": 1}), Message("m"), clock=clock, timeout=1)
        clock.advance(1)
        assert result_of(answer) == {"sess.e": 1}
        assert logged.take() == [late_line("m", 1)]

    def test_a_canceller_that_raises(self, logged: Logged) -> None:
        """Its exception is logged, and the ACK is sent."""
        clock = Clock()

        def canceller(deferred: object) -> None:
            raise LookupError("cannot")

        handlers = Handlers({"m": lambda: Deferred(canceller)}, on_error={"sess.e": 1})
        answer = begin(handlers, Message("m"), clock=clock, timeout=1)
        clock.advance(1)
        assert result_of(answer) == {"sess.e": 1}
        late, failed = logged.take()
        assert late == late_line("m", 1)
        assert failed == "critical: a handler's Deferred failed to be cancelled: LookupError: cannot"


class TestCancelling:
    """The agent cancels the answer when the connection has ended."""

    def test_it_cancels_every_pending_handler(self) -> None:
        """No timer is left, and nothing is logged."""
        clock = Clock()
        cancelled: list[object] = []
        pending: list[Deferred[Any]] = [Deferred(cancelled.append), Deferred(cancelled.append)]
        handlers = Handlers({"a": lambda: pending[0], "b": lambda: pending[1], "c": lambda: {"sess.c": 1}})
        answer = begin(handlers, Message("a"), Message("b"), Message("c"), clock=clock)
        failures: list[Failure] = []
        answer.addErrback(failures.append)
        answer.cancel()
        assert cancelled == pending
        assert failures[0].check(CancelledError)
        assert clock.getDelayedCalls() == []

    def test_a_handler_that_has_finished_is_not_cancelled(self) -> None:
        """The agent may cancel the answer while another handler is pending."""
        cancelled: list[object] = []
        pending: list[Deferred[Any]] = [Deferred(cancelled.append), Deferred(cancelled.append)]
        answer = begin(Handlers({"m": lambda message: pending[message[0]]}), *[Message("m", [("", n)]) for n in (0, 1)])
        answer.addErrback(lambda failure: failure.trap(CancelledError))
        pending[0].callback(None)
        answer.cancel()
        assert cancelled == [pending[1]]

    def test_a_canceller_may_cancel_the_answer_that_times_out(self, logged: Logged) -> None:
        """As when it closes the connection. Then there is no ACK, and nothing has to fit in it."""
        answers: list[Any] = []
        clock = Clock()

        def wait() -> Deferred[Any]:
            return Deferred(lambda _: answers[0].cancel())

        handlers = Handlers({"m": wait}, on_error={"txn.error": "x" * 100})
        answer = begin(handlers, Message("m"), room=50, clock=clock, timeout=1)
        answer.addErrback(lambda failure: failure.trap(CancelledError))
        answers.append(answer)
        clock.advance(1)
        assert answer.called
        assert logged.take() == [late_line("m", 1)]

    def test_a_canceller_may_cancel_the_answer_again(self) -> None:
        """A cancelled Deferred ignores it."""
        answers: list[bytes | Deferred[bytes]] = []

        def canceller(deferred: object) -> None:
            (answer,) = answers
            assert isinstance(answer, Deferred)
            answer.cancel()

        answers.append(ask(Handlers({"m": lambda: Deferred(canceller)}), Message("m"), Message("m")))
        (answer,) = answers
        assert isinstance(answer, Deferred)
        failures: list[Failure] = []
        answer.addErrback(failures.append)
        answer.cancel()
        assert [failure.type for failure in failures] == [CancelledError]
