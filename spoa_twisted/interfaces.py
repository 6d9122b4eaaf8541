"""What a protocol asks of its handlers."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import Interface

from spoa_twisted.spop.messages import Message


class IHandlers(Interface):
    """Answers the messages of NOTIFY frames. :class:`spoa_twisted.Handlers` is the one that comes along."""

    def respond(
        messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float
    ) -> bytes | Deferred[bytes]:
        """Answer the messages of one NOTIFY.

        :param messages: a list of :class:`Message`, possibly empty.
        :param max_size: the longest LIST-OF-ACTIONS that fits the ACK, in bytes.
        :param reactor: an ``IReactorTime`` for whatever needs time; if it is an ``IReactorThreads`` too, blocking
            handlers run in threads.
        :param timeout: the seconds after which a handler without a limit of its own is given up; 0 for never.
        :return: the LIST-OF-ACTIONS as ``bytes``, no longer than ``max_size``, or a ``Deferred`` of it. The
            ``Deferred`` never fails. It is cancelled when nobody waits for the answer any more, and then gives
            everything up silently.
        """
