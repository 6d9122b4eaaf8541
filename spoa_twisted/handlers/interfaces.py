"""The interfaces that :mod:`spoa_twisted.agent` and ``SPOAService`` call.

``IHandlers`` answers NOTIFYs. ``ILifeCycle`` is optional: handlers provide it if they have functions to run when the
agent starts, while it runs, and when it stops.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import Attribute, Interface

from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.pending import PendingAnswer
from spoa_twisted.observer import IObserver
from spoa_twisted.spop.messages import Message


class IHandlers(Interface):
    """Answers the messages of NOTIFY frames. :class:`spoa_twisted.Handlers` is the package's own implementation."""

    def respond(
        messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float, outcomes: Outcomes
    ) -> bytes | PendingAnswer:
        """Answer the messages of one NOTIFY.

        :param messages: the messages of the NOTIFY. The list may be empty.
        :param max_size: the longest LIST-OF-ACTIONS that fits in the ACK, in bytes.
        :param reactor: an ``IReactorTime`` for all timeouts. If it is an ``IReactorThreads`` too, blocking handlers
            run in threads.
        :param timeout: the timeout of a handler that has none of its own, in seconds; 0 for no limit.
        :param outcomes: an :class:`~spoa_twisted.handlers.outcome.Outcomes`. ``respond`` calls it to report the result
            of each message to the agent's observers.
        :return: a LIST-OF-ACTIONS of at most ``max_size`` bytes, or a :class:`~spoa_twisted.PendingAnswer` if it comes
            later. The agent cancels the PendingAnswer if the connection ends. It must then cancel every pending
            handler, and report no failure.
        """

    def refuse(names: tuple[str, ...], max_size: int) -> bytes:
        """Answer a NOTIFY that is too long for the agent, so that no handler can be called.

        :param names: the names of its messages, in order. Messages that had not arrived are missing.
        :param max_size: the longest LIST-OF-ACTIONS that fits in the ACK, in bytes.
        :return: a LIST-OF-ACTIONS of at most ``max_size`` bytes, which says that the messages have failed. It may be
            empty.
        """


class ILifespan(Interface):
    """One run of the functions of an :class:`ILifeCycle`, from startup to shutdown. It is started and stopped once."""

    has_startup: bool = Attribute("Whether there are startup functions. If so, the agent listens only after them.")

    def start() -> Deferred[None]:
        """Run the startup functions.

        :return: a Deferred that fires when they are done. It fails if one of them fails: then call :meth:`stop`.
        """

    def stop(timeout: float) -> Deferred[None]:
        """Run the shutdown functions. If startup has not finished, cancel it first.

        May be called again, to end sooner. If startup failed or was cancelled, only those shutdown functions run that
        belong to startup functions that succeeded.

        :param timeout: seconds after which functions that still wait are cancelled.
        :return: a Deferred that fires when all shutdown functions have finished. It does not fail.
        """


class ILifeCycle(Interface):
    """Handlers with functions to run when the agent starts, while it runs, and when it stops."""

    def lifespan(reactor: IReactorTime, observer: IObserver) -> ILifespan | None:
        """Return a new lifespan, which has not started, or ``None`` if there are no functions.

        :param reactor: the clock. If it is an ``IReactorThreads`` too, blocking functions run in threads.
        :param observer: receives failures as events.
        """
