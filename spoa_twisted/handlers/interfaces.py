"""How a connection asks for the answer to a NOTIFY."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import Interface

from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.spop.messages import Message


class IHandlers(Interface):
    """Answers the messages of NOTIFY frames. :class:`spoa_twisted.Handlers` is the package's own implementation."""

    def respond(
        messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float, outcomes: Outcomes
    ) -> bytes | Deferred[bytes]:
        """Answer the messages of one NOTIFY.

        :param messages: a list of :class:`Message`, possibly empty.
        :param max_size: the longest LIST-OF-ACTIONS that fits in the ACK, in bytes.
        :param reactor: an ``IReactorTime`` for all timeouts. If it is an ``IReactorThreads`` too, blocking handlers
            run in threads.
        :param timeout: the timeout of a handler that has none of its own, in seconds; 0 for no limit.
        :param outcomes: an :class:`~spoa_twisted.handlers.outcome.Outcomes`, which reports what became of each message
            to the agent's observers.
        :return: a LIST-OF-ACTIONS of at most ``max_size`` bytes, or a ``Deferred`` of it. The ``Deferred`` never
            fails. The agent cancels it when the connection has ended; it then cancels every pending handler, and
            reports no failure.
        """
