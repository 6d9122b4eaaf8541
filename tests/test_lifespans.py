"""``SPOAService`` and the life cycle of handlers: startup, replacement, shutdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock

import twisted
from spoa_twisted import Handlers, Message, SPOAFactory, SPOAService, SPOEClient
from spoa_twisted.handlers.lifecycle import LifeCycle, StartupFailed
from tests.conftest import Logged
from tests.handlers.answers import respond

reactor: Any = default_reactor


class Agent:
    """A service on a MemoryReactorClock."""

    def __init__(self, handlers: Handlers, drain_timeout: float | None = None) -> None:
        self.memory = MemoryReactorClock()
        self.factory = SPOAFactory(handlers, reactor=self.memory)
        self.service = SPOAService(self.factory, "tcp:1", drain_timeout=drain_timeout, reactor=self.memory)

    def is_listening(self) -> bool:
        return bool(self.service.addresses)

    def when_ready(self) -> list[Any]:
        results: list[Any] = []
        self.service.when_ready().addBoth(results.append)
        return results

    def stop(self) -> list[Any]:
        results: list[Any] = []
        self.service.stopService().addBoth(results.append)
        return results

    def reload(self, handlers: Handlers) -> list[Any]:
        results: list[Any] = []
        self.service.reload(handlers).addBoth(results.append)
        # The old handlers shut down in the next turn of the reactor at the earliest.
        self.memory.advance(0)
        return results


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def handlers() -> Handlers:
    return Handlers({"m": lambda: {"sess.a": 1}})


def named(name: str, calls: list[str], startup: Callable[[], Any] | None = None) -> Handlers:
    """Return handlers whose functions append their kind and ``name`` to ``calls``."""
    handlers = Handlers({"m": lambda: {"sess.a": name}})
    handlers.startup(lambda: calls.append(f"startup {name}"))
    handlers.shutdown(lambda: calls.append(f"shutdown {name}"))
    if startup is not None:
        handlers.startup(startup)
    handlers.every(30)(lambda: calls.append(f"every {name}"))
    return handlers


class TestStart:
    def test_it_listens_after_startup(self, handlers: Handlers) -> None:
        """``when_ready`` fires when the service listens. A service that listens is ready at once."""
        waits: Deferred[None] = Deferred()
        listened: list[bool] = []
        agent = Agent(handlers)
        handlers.startup(lambda: listened.append(agent.is_listening()))
        handlers.startup(lambda: waits)
        ready = agent.when_ready()
        agent.service.privilegedStartService()
        agent.service.startService()
        agent.service.startService()
        assert (listened, agent.is_listening(), ready) == ([False], False, [])
        waits.callback(None)
        assert (listened, agent.is_listening(), ready) == ([False], True, [None])
        assert agent.when_ready() == [None]

    def test_without_startup_it_listens_with_privileges(self, handlers: Handlers, calls: list[str]) -> None:
        """``every`` and shutdown functions do not change that. ``every`` begins in ``startService``."""
        handlers.every(30)(lambda: calls.append("every"))
        agent = Agent(handlers)
        agent.service.privilegedStartService()
        assert agent.is_listening()
        agent.memory.advance(30)
        agent.service.startService()
        agent.memory.advance(30)
        assert calls == ["every"]

    def test_startup_that_fails_at_once(self, calls: list[str], logged: Logged) -> None:
        """``startService`` raises the error. The service does not listen, and logs nothing."""

        def fail() -> None:
            raise LookupError("boom")

        agent = Agent(named("a", calls, fail))
        ready = agent.when_ready()
        with pytest.raises(StartupFailed, match="failed: LookupError: boom"):
            agent.service.startService()
        assert not agent.is_listening()
        assert [failure.type for failure in (*ready, *agent.when_ready())] == [StartupFailed] * 2
        assert calls == ["startup a", "shutdown a"]
        assert agent.stop() == [None]

    def test_startup_that_fails_later(self, calls: list[str], logged: Logged) -> None:
        """The error is logged, and ``when_ready`` fails with it. The service does not listen."""
        waits: Deferred[None] = Deferred()

        async def connect() -> None:
            await waits
            raise LookupError("boom")

        agent = Agent(named("a", calls, connect))
        agent.service.startService()
        ready = agent.when_ready()
        waits.callback(None)
        assert not agent.is_listening()
        assert ready[0].check(StartupFailed)
        (event,) = logged.events
        # The traceback shows the line of the startup function.
        assert event["log_failure"].getTraceback().rstrip().endswith("builtins.LookupError: boom")
        # Twisted 22.4 removes the traceback of an exception that a Deferred passes on.
        if not twisted.__version__.startswith("22."):
            assert 'raise LookupError("boom")' in event["log_failure"].getTraceback()
        (line,) = logged.take()
        assert line.startswith("critical: the agent does not start: startup function ")
        assert calls == ["startup a", "shutdown a"]

    def test_an_endpoint_that_fails_after_startup(self, calls: list[str], logged: Logged) -> None:
        """``startService`` has returned, so the error is logged."""
        waits: Deferred[None] = Deferred()
        agent = Agent(named("a", calls, lambda: waits))

        def listenTCP(*arguments: object, **keywords: object) -> None:
            raise CannotListenError("", 1, OSError("in use"))

        agent.memory.listenTCP = listenTCP  # type: ignore[method-assign]
        agent.service.startService()
        ready = agent.when_ready()
        waits.callback(None)
        assert ready[0].check(CannotListenError)
        (line,) = logged.take()
        assert line.startswith("critical: the agent does not start: Couldn't listen on any:1: in use.")
        agent.memory.advance(30)
        assert calls == ["startup a", "shutdown a"]

    def test_it_can_be_started_again(self, calls: list[str]) -> None:
        """Each start runs the startup functions, also after a start that failed."""
        works: list[Any] = []
        agent = Agent(named("a", calls, lambda: works[0]))
        with pytest.raises(StartupFailed, match="IndexError"):
            agent.service.startService()
        works.append(None)
        agent.service.startService()
        assert agent.is_listening()
        assert agent.stop() == [None]
        agent.service.startService()
        assert agent.is_listening()
        agent.stop()
        assert calls == ["startup a", "shutdown a"] * 3


class TestStop:
    def test_during_startup(self, calls: list[str], logged: Logged) -> None:
        """Startup is cancelled, and nothing listens. The shutdown functions run, and the Deferred fires."""
        agent = Agent(named("a", calls, lambda: Deferred(lambda _: calls.append("cancelled"))))
        agent.service.startService()
        ready = agent.when_ready()
        assert agent.stop() == [None]
        assert calls == ["startup a", "cancelled", "shutdown a"]
        assert ready[0].check(CancelledError)
        assert not agent.is_listening()
        assert agent.memory.getDelayedCalls() == []

    @pytest_twisted.ensureDeferred
    async def test_shutdown_follows_the_drain(self) -> None:
        """Pending handlers may use what shutdown functions close. ``every`` goes on until they have finished."""
        calls: list[str] = []
        asked: Deferred[None] = Deferred()
        waits: Deferred[Any] = Deferred()
        ticked: Deferred[None] = Deferred()
        draining: list[None] = []

        def handler() -> Deferred[Any]:
            asked.callback(None)
            return waits

        handlers = Handlers({"m": handler})
        handlers.shutdown(lambda: calls.append("shutdown"))

        @handlers.every(0.001)
        def tick() -> None:
            if draining and not ticked.called:
                ticked.callback(None)

        service = SPOAService(SPOAFactory(handlers), "tcp:0:interface=127.0.0.1")
        service.startService()
        client = SPOEClient(f"tcp:127.0.0.1:{service.addresses[0].port}")
        answer = client.notify("m")
        await asked
        stopped = service.stopService()
        draining.append(None)
        await ticked
        assert calls == []
        waits.callback({"sess.a": 1})
        assert await answer == {"sess.a": 1}
        await stopped
        assert calls == ["shutdown"]

    @pytest.mark.parametrize(("drain_timeout", "seconds"), [(10, 10), (0, 1)])
    def test_shutdown_has_the_time_of_the_drain(
        self, drain_timeout: float, seconds: float, handlers: Handlers, logged: Logged
    ) -> None:
        """That is what is left of ``drain_timeout``, but at least a second. Then the function is cancelled."""

        @handlers.shutdown
        def never() -> Deferred[None]:
            return Deferred()

        agent = Agent(handlers, drain_timeout)
        agent.service.startService()
        stopped = agent.stop()
        agent.memory.advance(seconds - 0.1)
        assert stopped == []
        agent.memory.advance(0.1)
        assert stopped == [None]
        (line,) = logged.take()
        assert line.startswith("warn: the shutdown function tests.test_lifespans.TestStop.")
        assert line.endswith(
            "never did not finish in time, and is cancelled; if it needs longer, raise --drain-timeout"
        )


class TestReload:
    @staticmethod
    def answer(agent: Agent) -> Any:
        """Return the variables that the agent's handlers set now."""
        handlers: Any = agent.factory.handlers
        return respond(handlers, Message("m"))["sess.a"]

    def test_new_handlers_answer_after_their_startup(self, calls: list[str]) -> None:
        """Then the functions of the old handlers end: ``every`` stops, and shutdown runs."""
        waits: Deferred[None] = Deferred()
        agent = Agent(named("old", calls))
        agent.service.startService()
        reloaded = agent.reload(named("new", calls, lambda: waits))
        agent.memory.advance(30)
        assert (reloaded, self.answer(agent)) == ([], "old")
        waits.callback(None)
        assert (reloaded, self.answer(agent)) == ([None], "new")
        agent.memory.advance(0)
        agent.memory.advance(30)
        agent.stop()
        assert calls == [
            *("startup old", "startup new", "every old", "shutdown old"),
            *("every new", "shutdown new"),
        ]
        assert agent.memory.getDelayedCalls() == []

    def test_without_startup_it_takes_effect_at_once(self, calls: list[str], handlers: Handlers) -> None:
        """As before there were startup functions."""
        agent = Agent(named("old", calls))
        agent.service.startService()
        assert agent.reload(handlers) == [None]
        assert self.answer(agent) == 1
        assert calls == ["startup old", "shutdown old"]

    def test_a_startup_that_fails_changes_nothing(self, calls: list[str]) -> None:
        """The old handlers answer, and their ``every`` goes on. The Deferred fails."""

        def fail() -> None:
            raise LookupError("boom")

        agent = Agent(named("old", calls))
        agent.service.startService()
        (failure,) = agent.reload(named("new", calls, fail))
        assert failure.check(StartupFailed)
        assert self.answer(agent) == "old"
        agent.memory.advance(30)
        assert calls == ["startup old", "startup new", "shutdown new", "every old"]
        assert agent.stop() == [None]
        assert agent.memory.getDelayedCalls() == []

    def test_a_second_reload_cancels_the_first(self, calls: list[str]) -> None:
        """The last handlers answer."""
        agent = Agent(named("old", calls))
        agent.service.startService()
        first = agent.reload(named("first", calls, lambda: Deferred()))
        assert agent.reload(named("second", calls)) == [None]
        assert first[0].check(CancelledError)
        assert self.answer(agent) == "second"
        assert calls == ["startup old", "startup first", "shutdown first", "startup second", "shutdown old"]

    def test_during_startup(self, calls: list[str]) -> None:
        """A reload waits until the service is ready. If the service is stopped before, the reload fails."""
        waits: Deferred[None] = Deferred()
        agent = Agent(named("old", calls, lambda: waits))
        agent.service.startService()
        reloaded = agent.reload(named("new", calls))
        assert reloaded == []
        waits.callback(None)
        assert (reloaded, self.answer(agent)) == ([None], "new")

        other = Agent(named("other", calls, lambda: Deferred()))
        other.service.startService()
        reloaded = other.reload(named("new", calls))
        other.stop()
        assert reloaded[0].check(CancelledError)

    def test_a_service_that_stops_during_a_reload(self, calls: list[str]) -> None:
        """The startup of the new handlers is cancelled; both sets shut down."""
        agent = Agent(named("old", calls))
        agent.service.startService()
        reloaded = agent.reload(named("new", calls, lambda: Deferred()))
        assert agent.stop() == [None]
        assert reloaded[0].check(CancelledError)
        assert sorted(calls) == ["shutdown new", "shutdown old", "startup new", "startup old"]
        assert agent.memory.getDelayedCalls() == []

    def test_a_service_that_stops_after_a_reload(self, calls: list[str], handlers: Handlers) -> None:
        """It waits for the shutdown functions of the old handlers too."""
        waits: Deferred[None] = Deferred()
        old = named("old", calls)
        old.shutdown(lambda: waits)
        agent = Agent(old)
        agent.service.startService()
        agent.reload(handlers)
        stopped = agent.stop()
        assert stopped == []
        waits.callback(None)
        assert stopped == [None]
        assert calls == ["startup old", "shutdown old"]
        assert agent.memory.getDelayedCalls() == []

    def test_a_service_that_does_not_run(self, calls: list[str]) -> None:
        """The handlers are used at once. Their startup functions run when the service starts."""
        agent = Agent(named("old", calls))
        assert agent.reload(named("new", calls)) == [None]
        assert calls == []
        agent.service.startService()
        assert calls == ["startup new"]

    def test_other_objects_are_refused(self, calls: list[str]) -> None:
        """``reload`` raises at once, whether the service runs or not."""
        agent = Agent(named("old", calls))
        for start in (lambda: None, agent.service.startService):
            start()
            with pytest.raises(TypeError, match="a dict does not provide IHandlers"):
                agent.service.reload({})  # type: ignore[arg-type]
            only_functions: Any = LifeCycle()
            only_functions.startup(lambda: calls.append("other"))
            with pytest.raises(TypeError, match="a LifeCycle does not provide IHandlers"):
                agent.service.reload(only_functions)
        assert calls == ["startup old"]

    @pytest.mark.parametrize("way", ["answered", "timeout"])
    @pytest_twisted.ensureDeferred
    async def test_shutdown_waits_for_pending_notifys(self, way: str) -> None:
        """The old handlers shut down when the NOTIFYs are answered that were pending, or after ``drain_timeout``."""
        calls: list[str] = []
        clock = Clock()
        asked: Deferred[None] = Deferred()
        waits: Deferred[Any] = Deferred()

        def handler() -> Deferred[Any]:
            asked.callback(None)
            return waits

        old = Handlers({"m": handler}, timeout=0)
        old.shutdown(lambda: calls.append("shutdown"))
        service = SPOAService(SPOAFactory(old, reactor=clock), "tcp:0:interface=127.0.0.1", drain_timeout=20)
        service.startService()
        client = SPOEClient(f"tcp:127.0.0.1:{service.addresses[0].port}")
        answer = client.notify("m")
        await asked
        await service.reload(Handlers({"m": lambda: {"sess.a": 2}}))
        assert await client.notify("m") == {"sess.a": 2}
        clock.advance(19)
        assert calls == []
        if way == "answered":
            waits.callback({"sess.a": 1})
            assert calls == ["shutdown"]
        else:
            clock.advance(1)
            assert calls == ["shutdown"]
            waits.callback({"sess.a": 1})
        assert await answer == {"sess.a": 1}
        await client.disconnect()
        await service.stopService()
        assert calls == ["shutdown"]


class TestFactory:
    @pytest_twisted.ensureDeferred
    async def test_a_factory_without_a_service_warns(self, calls: list[str], logged: Logged) -> None:
        """Nothing runs the functions of its handlers. The log says so when the first port opens."""
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(SPOAFactory(named("a", calls)))
        await port.stopListening()
        assert logged.take() == [
            "warn: the handlers have startup, every or shutdown functions, which never run here: use SPOAService"
        ]

    @pytest_twisted.ensureDeferred
    async def test_a_factory_in_a_service_does_not_warn(self, calls: list[str], handlers: Handlers) -> None:
        """Nor does a factory whose handlers have no functions."""
        service = SPOAService(SPOAFactory(named("a", calls)), "tcp:0:interface=127.0.0.1")
        service.startService()
        await service.stopService()
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(SPOAFactory(handlers))
        await port.stopListening()
