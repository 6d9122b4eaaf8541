"""Which failures of handlers a request of FakeHAProxy raises, and which are kept and logged."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import traceback
import unittest
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from spoa_twisted import NULL, Handlers, Int32, Int64, Message, UInt32
from spoa_twisted.observer import HandlerBlocked, HandlerFailed, Outcome, RespondFailed
from spoa_twisted.testing import FakeHAProxy, MessageFailure, NoHandler, NotAcknowledged, NotAsDeclared
from tests.agent.memory import OtherHandlers
from tests.conftest import Logged
from tests.handlers.answers import KINDS, Recorder, late_line, plain
from tests.programs import ENVIRONMENT

#: Functions that fail in each way but by an exception, the exception that notify() raises, and its text.
BAD_RESULTS: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: {"sess.a": 1.5}, TypeError, "float"),
    (lambda: {"sess.a": 2**63}, ValueError, "sess.a"),
    (lambda: ["sess.a"], TypeError, "a list is no mapping of variables"),
    (
        lambda: {"sess.a": "x" * 20_000, "sess.b": 1},
        ValueError,
        r"the message 'm' do not fit in the ACK: they need 200\d\d bytes, and 163\d\d are left; the largest is sess\.a",
    ),
]


class Pending:
    """Handlers whose Deferreds the test fires: ``a`` and ``b``. The handler of ``c`` has an ``on_error``."""

    def __init__(self) -> None:
        self.deferreds: dict[str, Deferred[Any]] = {}
        self.handlers = Handlers({name: self._handler(name) for name in "ab"})
        self.handlers.message("c", on_error={"sess.c": "failed"})(self._handler("c"))

    def _handler(self, name: str) -> Callable[[], Deferred[Any]]:
        return lambda: self.deferreds.setdefault(name, Deferred())

    def fail(self, name: str) -> Exception:
        """Let the handler of ``name`` fail. Return its exception."""
        error = LookupError(name)
        self.deferreds.pop(name).errback(error)
        return error


class TestRaisedFailures:
    """A handler without ``on_error`` fails. The request raises the exception, and nothing is logged or kept."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("error", [LookupError("no such row"), SystemExit("why")], ids=["Exception", "exit"])
    def test_the_exception_of_the_handler(
        self, kind: Callable[[BaseException], Callable[[], Any]], error: BaseException
    ) -> None:
        """notify() raises the same object, and the Deferred of send() fails with it."""
        haproxy = FakeHAProxy(Handlers({"m": kind(error)}))
        with pytest.raises(type(error)) as caught:
            haproxy.notify("m")
        assert caught.value is error
        failures: list[Failure] = []
        haproxy.send("m").addErrback(failures.append)
        assert failures[0].value is error
        assert haproxy.failures == []

    def test_its_traceback(self) -> None:
        """It shows the line of the test and the line of the handler, also when the handler has waited."""
        result: Deferred[Any] = Deferred()

        async def waits() -> None:
            await result

        haproxy = FakeHAProxy(Handlers({"m": plain(LookupError("no such row")), "waits": waits}))
        with pytest.raises(LookupError) as caught:
            haproxy.notify("m")
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert names[0] == "test_its_traceback"
        assert names[-1] == "handler"

        answer = haproxy.send("waits")
        result.errback(LookupError("no such row"))

        async def awaits() -> None:
            await answer

        tracebacks: list[Any] = []

        def on_failure(failure: Failure) -> None:
            tracebacks.append(failure.value.__traceback__)  # type: ignore[union-attr]

        Deferred.fromCoroutine(awaits()).addErrback(on_failure)
        names = [frame.name for frame in traceback.extract_tb(tracebacks[0])]
        assert names.index("awaits") < names.index("waits")

    def test_its_traceback_in_any_process(self) -> None:
        """Twisted 22.4 removes tracebacks. pytest-twisted prevents that, so this is another process."""
        code = (
            "from spoa_twisted import Handlers; from spoa_twisted.testing import FakeHAProxy\n"
            "def handler(): raise LookupError('no such row')\n"
            "FakeHAProxy(Handlers({'m': handler})).notify('m')"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=False
        )
        lines = ended.stderr.splitlines()
        assert lines[-1] == "LookupError: no such row"
        assert any(line.endswith(", in handler") for line in lines)

    def test_a_blocking_handler(self) -> None:
        """It runs in the thread of the test."""
        handlers = Handlers()
        handlers.message("m", blocking=True)(plain(LookupError("no such row")))
        with pytest.raises(LookupError, match="no such row"):
            FakeHAProxy(handlers).notify("m")

    def test_a_handler_that_takes_too_long(self) -> None:
        """The error names the message and the timeout. The agent's handler_timeout is an argument of FakeHAProxy."""
        haproxy = FakeHAProxy(Pending().handlers, handler_timeout=0.5)
        failures: list[Failure] = []
        haproxy.send("a").addErrback(failures.append)
        haproxy.clock.advance(0.5)
        with pytest.raises(TimeoutError, match=r"the handler of the message 'a' took longer than 0\.5 s"):
            failures[0].raiseException()
        assert haproxy.failures == []

    @pytest.mark.parametrize(("function", "kind", "text"), BAD_RESULTS)
    def test_a_result_that_cannot_be_sent(self, function: Callable[[], Any], kind: type[Exception], text: str) -> None:
        """It has a wrong type or value, or does not fit in the ACK."""
        haproxy = FakeHAProxy(Handlers({"m": function}))
        with pytest.raises(kind, match=text):
            haproxy.notify("m")
        assert haproxy.failures == []

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("check_ip", "no handler for 'check_ip'; did you mean 'check-ip'?"),
            ("scan-boddy", "no handler for 'scan-boddy'; did you mean 'scan-Body' or 'scan-body'?"),
            ("other", "no handler for 'other'; there are handlers for 'check-ip', 'scan-Body', 'scan-body'"),
        ],
    )
    def test_a_message_without_a_handler(self, name: str, text: str) -> None:
        """The error names similar messages, or all of them if none is similar."""
        haproxy = FakeHAProxy(Handlers(dict.fromkeys(["scan-body", "scan-Body", "check-ip"], lambda: None)))
        with pytest.raises(NoHandler) as caught:
            haproxy.notify(name)
        assert str(caught.value) == text
        assert isinstance(caught.value, LookupError)
        with pytest.raises(NoHandler) as caught:
            FakeHAProxy(Handlers()).notify(name)
        assert str(caught.value) == f"no handler for {name!r}"

    def test_an_on_error_without_variables(self) -> None:
        """The variables that come back would be the same as without a failure. So the exception is raised."""
        haproxy = FakeHAProxy(Handlers({"m": plain(LookupError("no such row"))}, on_error={}))
        with pytest.raises(LookupError, match="no such row"):
            haproxy.notify("m")

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (LookupError("why"), LookupError),
            (fail(LookupError("why")), LookupError),
            ("text", TypeError),
            (b"x" * 20_000, ValueError),
        ],
    )
    def test_another_implementation_of_ihandlers(self, answer: Any, kind: type[Exception]) -> None:
        """It fails as a whole, or its response cannot be sent."""
        haproxy = FakeHAProxy(OtherHandlers(answer))
        with pytest.raises(kind):
            haproxy.notify("m")
        assert haproxy.failures == []

    def test_a_failure_that_nothing_handles(self, logged: Logged) -> None:
        """The test does not look at the Deferred of send(). Twisted logs the exception."""
        FakeHAProxy(Handlers({"m": plain(LookupError("no such row"))})).send("m")
        gc.collect()
        (line,) = [line for line in logged.take() if "LookupError" in line]
        assert line.startswith("critical: ")


class TestKeptFailures:
    """Failures that no request raises are in ``failures``, and in the log."""

    @pytest.mark.parametrize(
        ("function", "kind"),
        [(plain(LookupError("why")), LookupError), *[(function, kind) for function, kind, _ in BAD_RESULTS]],
    )
    def test_on_error(self, function: Callable[[], Any], kind: type[Exception], logged: Logged) -> None:
        """Its variables come back, as on a real connection."""
        haproxy = FakeHAProxy(Handlers({"m": function}, on_error={"sess.error": 1}))
        assert haproxy.notify("m") == {"sess.error": 1}
        (failure,) = haproxy.failures
        assert failure.name == "m"
        assert type(failure.error) is kind
        (line,) = logged.take()
        assert "the message 'm'" in line

    def test_on_error_of_a_handler_that_takes_too_long(self, logged: Logged) -> None:
        """The clock has reached its timeout."""
        haproxy = FakeHAProxy(Pending().handlers)
        answers: list[Any] = []
        haproxy.send("c").addCallback(answers.append)
        haproxy.clock.advance(1)
        assert answers == [{"sess.c": "failed"}]
        assert [(failure.name, type(failure.error)) for failure in haproxy.failures] == [("c", TimeoutError)]
        assert logged.take() == [late_line("c", 1)]

    def test_an_on_error_that_does_not_fit(self, logged: Logged) -> None:
        """It sets no variables either, so this second failure is raised."""
        haproxy = FakeHAProxy(Handlers({"m": plain(LookupError("why"))}, on_error={"sess.error": "x" * 20_000}))
        with pytest.raises(ValueError, match="do not fit in the ACK"):
            haproxy.notify("m")
        assert [type(failure.error) for failure in haproxy.failures] == [LookupError]
        assert len(logged.take()) == 1

    def test_several_failures_of_one_notify(self, logged: Logged) -> None:
        """The first message without on_error counts, whichever handler fails first. The others are kept."""
        pending = Pending()
        haproxy = FakeHAProxy(pending.handlers)
        failures: list[Failure] = []
        haproxy.send(*map(Message, ["c", "a", "other", "b"])).addErrback(failures.append)
        error_b, error_c, error_a = map(pending.fail, "bca")
        assert [failure.value for failure in failures] == [error_a]
        first, second, third = haproxy.failures
        assert first == MessageFailure("c", error_c)
        assert second.name == "other"
        assert type(second.error) is NoHandler
        assert third == MessageFailure("b", error_b)
        assert logged.take() == [
            "critical: the handler of the message 'c' failed: LookupError: c",
            "warn: no handler for the message 'other': it sets no variables",
            "critical: the handler of the message 'b' failed: LookupError: b",
        ]

    def test_a_handler_that_fails_after_its_request(self, logged: Logged) -> None:
        """notify() has raised NotAcknowledged, so nothing can raise the failure."""
        pending = Pending()
        haproxy = FakeHAProxy(pending.handlers)
        with pytest.raises(NotAcknowledged, match="handlers of a, other have not finished"):
            haproxy.notify(Message("a"), Message("other"))
        error = pending.fail("a")
        other, late = haproxy.failures
        assert type(other.error) is NoHandler
        assert late == MessageFailure("a", error)
        assert len(logged.take()) == 2

    def test_a_connection_that_ends(self, logged: Logged) -> None:
        """The request fails with Twisted's reason. A handler that had failed before is not forgotten."""
        pending = Pending()
        haproxy = FakeHAProxy(pending.handlers)
        failures: list[Failure] = []
        haproxy.send(Message("a"), Message("b")).addErrback(failures.append)
        error = pending.fail("b")
        haproxy.disconnect()
        assert [failure.type for failure in failures] == [ConnectionDone]
        assert haproxy.failures == [MessageFailure("b", error)]
        assert len(logged.take()) == 1


class TestRequests:
    """Each failure belongs to the request whose message failed."""

    def test_requests_that_wait_for_the_in_flight_limit(self) -> None:
        """The agent handles them later, in the same order, also when one of them was cancelled."""
        pending = Pending()
        haproxy = FakeHAProxy(pending.handlers, max_in_flight=1)
        failures: list[list[Failure]] = [[] for _ in range(6)]
        answers = [haproxy.send(name) for name in ["a", "b", "a", "b", "a", "other"]]
        for answer, failed in zip(answers, failures, strict=True):
            answer.addErrback(failed.append)
        answers[4].cancel()
        errors = [pending.fail(name) for name in "abab"]
        pending.deferreds["a"].callback(None)
        assert [failed[0].value for failed in failures[:4]] == errors
        assert failures[5][0].type is NoHandler
        assert haproxy.failures == []

    def test_other_implementations_of_ihandlers(self) -> None:
        """Their responses fail in another order than that of the requests."""
        responses: list[Deferred[Any]] = [Deferred(), Deferred()]
        handlers = OtherHandlers(responses[0])
        haproxy = FakeHAProxy(handlers)
        answers: list[Any] = []
        haproxy.send("a").addBoth(answers.append)
        handlers.answer = responses[1]
        haproxy.send("b").addBoth(answers.append)
        responses[0].errback(LookupError("why"))
        responses[1].callback("text")
        assert [failure.type for failure in answers] == [LookupError, TypeError]
        assert haproxy.failures == []

    def test_a_request_that_the_agent_never_handled(self) -> None:
        """Its connection ended. The next connection begins without it."""
        haproxy = FakeHAProxy(Pending().handlers, max_in_flight=1)
        for _ in range(3):
            haproxy.send("a").addErrback(lambda failure: None)
        haproxy.disconnect()
        with pytest.raises(NoHandler):
            haproxy.notify("other")
        assert haproxy.failures == []


class TestObserver:
    """FakeHAProxy observes the agent, and so may the test."""

    def test_the_observer_of_the_test(self) -> None:
        """It receives each event, also of a failure that is raised, and the outcomes of each NOTIFY."""
        recorder = Recorder()
        haproxy = FakeHAProxy(Handlers({"m": plain(LookupError("why")), "n": lambda: None}), observer=recorder)
        with pytest.raises(LookupError):
            haproxy.notify(Message("n"), Message("m"))
        assert [event.name for event in recorder.events if isinstance(event, HandlerFailed)] == ["m"]
        ((names, outcomes, _),) = recorder.notifies
        assert (names, outcomes) == (["n", "m"], [Outcome.OK, Outcome.ERROR])

    def test_a_handler_that_blocks(self, logged: Logged) -> None:
        """The observer receives its event, as with a real agent. The handler lets the clock go on, as if it blocked."""
        recorder = Recorder()
        handlers = Handlers()
        haproxy = FakeHAProxy(handlers, observer=recorder)

        @handlers.message("m")
        def block() -> None:
            haproxy.clock.rightNow += 1

        haproxy.notify(Message("m"), Message("m"))
        haproxy.clock.pump([0, 0])
        assert [event for event in recorder.events if isinstance(event, HandlerBlocked)] == [
            HandlerBlocked("m", 1, 0),
            HandlerBlocked("m", 1, 0),
        ]
        assert "'m' held the agent up for 1.00 s" in logged.take()[0]

    def test_a_response_that_fails(self) -> None:
        """The observer receives the event of another IHandlers too."""
        recorder = Recorder()
        with pytest.raises(LookupError):
            FakeHAProxy(OtherHandlers(LookupError("why")), observer=recorder).notify("m")
        assert RespondFailed in map(type, recorder.events)

    def test_wrong_arguments(self) -> None:
        """As for SPOAFactory."""
        with pytest.raises(TypeError, match="a dict does not provide IHandlers"):
            FakeHAProxy({"m": lambda: None})  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="a dict does not provide IObserver"):
            FakeHAProxy(Handlers(), observer={})  # type: ignore[arg-type]

    def test_other_lines_of_the_log(self, logged: Logged) -> None:
        """They are logged as by an agent."""
        assert FakeHAProxy(Handlers({"m": lambda: {"sess." + "x" * 50: 1}})).notify("m") == {"sess." + "x" * 50: 1}
        (line,) = logged.take()
        assert "may be too long" in line


def test_trial(logged: Logged) -> None:
    """Trial fails a test that logs an exception. It does not for one that was raised, or was flushed."""

    def haproxy() -> FakeHAProxy:
        handlers = Handlers({"raises": plain(LookupError("why"))})
        handlers.message("on-error", on_error={"sess.error": 1})(plain(LookupError("why")))
        return FakeHAProxy(handlers)

    class Tests(SynchronousTestCase):
        def test_raised(self) -> None:
            with pytest.raises(LookupError):
                haproxy().notify("raises")
            self.failureResultOf(haproxy().send("raises"), LookupError)

        def test_on_error(self) -> None:
            haproxy().notify("on-error")
            assert len(self.flushLoggedErrors(LookupError)) == 1

        def test_unexpected(self) -> None:
            haproxy().notify("on-error")

    result = unittest.TestResult()
    for name in ("test_raised", "test_on_error", "test_unexpected"):
        Tests(name).run(result)
    assert [test.id().rpartition(".")[2] for test, _ in result.errors] == ["test_unexpected"]
    assert result.failures == []
    logged.take()


class TestDeclaredVariables:
    """A handler sets the variables that its option ``sets`` declares, with their types, or the request raises."""

    @pytest.mark.parametrize(
        ("sets", "variables"),
        [
            ({"txn.a": bool}, {"txn.a": True}),
            ({"txn.a": int}, {"txn.a": UInt32(5)}),
            ({"txn.a": Int64}, {"txn.a": 5}),
            ({"txn.a": bytearray}, {"txn.a": memoryview(b"x")}),
            ({"txn.a": str | None, "txn.b": int}, {"txn.a": None}),
            ({"proc.a": IPv4Address | IPv6Address}, {"proc.a": IPv6Address("::1")}),
            ({"txn.a": type(NULL)}, {"txn.a": NULL}),
            ({"txn.a": bool}, None),
        ],
    )
    def test_as_declared(self, sets: Any, variables: Any) -> None:
        """The types are those that HAProxy gets. A handler need not set each variable."""
        handlers = Handlers()
        handlers.message("m", sets=sets)(lambda: variables)
        FakeHAProxy(handlers).notify("m")

    @pytest.mark.parametrize(
        ("sets", "variables", "text"),
        [
            (
                {"txn.allowed": bool},
                {"txn.alowed": True},
                "sets 'txn.alowed', which its option sets does not declare; did you mean 'txn.allowed'?",
            ),
            ({}, {"txn.a": 1}, "the message 'm': the handler sets 'txn.a', which its option sets does not declare"),
            (
                {"txn.a": bool},
                {"txn.a": 1},
                "the message 'm': the handler sets 'txn.a' to an int, 1; its option sets declares bool",
            ),
            ({"txn.a": int}, {"txn.a": True}, "sets 'txn.a' to a bool, True; its option sets declares int"),
            ({"txn.a": Int32}, {"txn.a": 5}, "sets 'txn.a' to an int, 5; its option sets declares Int32"),
            ({"txn.a": str | bytes}, {"txn.a": 5}, "declares str | bytes"),
            (
                {"txn.a": str},
                {"txn.a": None},
                "the message 'm': the handler unsets 'txn.a'; its option sets declares str",
            ),
        ],
    )
    @pytest.mark.parametrize("on_error", [None, {"txn.error": "handler"}])
    def test_not_as_declared(self, sets: Any, variables: Any, text: str, on_error: Any) -> None:
        """The request raises also if the handler has an ``on_error``, because the handler did not fail."""
        handlers = Handlers()
        handlers.message("m", sets=sets, on_error=on_error)(lambda: variables)
        haproxy = FakeHAProxy(handlers)
        with pytest.raises(NotAsDeclared, match=re.escape(text)):
            haproxy.notify("m")
        assert haproxy.failures == []

    def test_a_deferred(self) -> None:
        """The variables that a Deferred fires with are compared, too."""
        handlers = Handlers()
        handlers.message("m", sets={"txn.a": bool})(lambda: succeed({"txn.a": "x"}))
        with pytest.raises(NotAsDeclared):
            FakeHAProxy(handlers).notify("m")

    def test_on_error_replaces_a_failure(self, logged: Logged) -> None:
        """The variables of ``on_error`` come back for a result that cannot be sent: it is not compared."""
        result: Any = {"txn.a": object()}
        handlers = Handlers()
        handlers.message("m", sets={"txn.a": bool}, on_error={"txn.error": "handler"})(lambda: result)
        haproxy = FakeHAProxy(handlers)
        assert haproxy.notify("m") == {"txn.error": "handler"}
        assert [type(failure.error) for failure in haproxy.failures] == [TypeError]
        assert logged.take()
