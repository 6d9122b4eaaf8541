"""The lifespans of an agent's handlers: their startup, their replacement by other handlers, and their shutdown."""

from __future__ import annotations

from typing import final

from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.python.failure import Failure

from spoa_twisted.agent.protocol import SPOAFactory
from spoa_twisted.handlers.interfaces import IHandlers, ILifespan
from spoa_twisted.handlers.lifecycle import lifespan_of

#: Seconds. Shutdown functions have at least this time, also if the drain took all of ``drain_timeout``.
MIN_SHUTDOWN_TIMEOUT = 1.0


@final
class Lifespans:
    """Runs the startup, every and shutdown functions of the handlers of ``factory``, from one start to the next stop.

    Handlers that were replaced live on until the NOTIFYs that were pending then are answered.
    """

    def __init__(self, factory: SPOAFactory) -> None:
        self._factory = factory
        self._current = lifespan_of(factory.handlers, factory.reactor, factory.observer)
        # The lifespan of new handlers whose startup has not finished.
        self._next: ILifespan | None = None
        # The lifespans of handlers that were replaced, or whose startup failed, until their shutdown has finished.
        self._retired: list[ILifespan] = []

    @property
    def has_startup(self) -> bool:
        """Whether the handlers have startup functions."""
        return self._current is not None and self._current.has_startup

    def start(self) -> Deferred[None]:
        """Run the startup functions, and begin with ``every``. The Deferred fails if a startup function fails."""
        return succeed(None) if self._current is None else self._current.start()

    def replace(self, handlers: IHandlers, timeout: float) -> Deferred[None]:
        """Run the startup functions of ``handlers``, and then let ``handlers`` answer.

        If one of these functions fails, the old handlers stay. A call cancels the startup that an earlier call has
        begun.

        :param timeout: seconds for the pending NOTIFYs of the old handlers, and again for shutdown functions.
        :return: a Deferred that fires when ``handlers`` answer. It fails if a startup function fails.
        """
        timeout = max(timeout, MIN_SHUTDOWN_TIMEOUT)
        if self._next is not None:
            self._next.stop(timeout)
        lifespan = self._next = lifespan_of(handlers, self._factory.reactor, self._factory.observer)

        def on_started(result: None) -> None:
            self._next = None
            self._factory.use(handlers)
            replaced, self._current = self._current, lifespan
            if replaced is not None:
                self._retire(replaced, timeout, self._factory.when_answered())

        def on_failed(failure: Failure) -> Failure:
            assert lifespan is not None
            self._next = None
            self._retire(lifespan, timeout, succeed(None))
            return failure

        if lifespan is None:
            on_started(None)
            return succeed(None)
        return lifespan.start().addCallbacks(on_started, on_failed)

    def stop(self, timeout: float) -> Deferred[None]:
        """Run the shutdown functions of all lifespans. Call it again to end sooner.

        :return: a Deferred that fires when all of them have finished.
        """
        lifespans = [lifespan for lifespan in (self._next, self._current) if lifespan is not None]
        stopped = DeferredList([lifespan.stop(timeout) for lifespan in (*lifespans, *self._retired)])
        return stopped.addCallback(lambda _: None)

    def _retire(self, lifespan: ILifespan, timeout: float, unused: Deferred[None]) -> None:
        """Stop ``lifespan`` when ``unused`` fires, or after ``timeout`` seconds."""
        self._retired.append(lifespan)
        unused.addTimeout(timeout, self._factory.reactor).addErrback(lambda _: None)
        unused.addCallback(lambda _: lifespan.stop(timeout)).addCallback(lambda _: self._retired.remove(lifespan))
