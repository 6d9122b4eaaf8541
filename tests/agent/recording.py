"""An observer that records what it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zope.interface import implementer

from spoa_twisted.observer import Event, IObserver, Outcome
from spoa_twisted.spop.connection import Notify


@implementer(IObserver)
class Recorder:
    """Records events, and the peer, the message names, the outcomes and the seconds of each NOTIFY."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.notifys: list[tuple[str, list[str], list[Outcome], float]] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def on_notify(self, peer: str, notify: Notify, outcomes: Sequence[Outcome], seconds: float) -> None:
        self.notifys.append((peer, [message.name for message in notify.messages], list(outcomes), seconds))

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes of the only NOTIFY that was recorded."""
        ((_, _, outcomes, _),) = self.notifys
        return outcomes

    def take(self) -> list[Any]:
        """Return the events since the last call, and forget them."""
        events, self.events = self.events, []
        return events


@implementer(IObserver)
class RaisingObserver:
    """Raises an exception whenever it is called."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_event(self, event: Event) -> None:
        raise self.error

    def on_notify(self, peer: str, notify: Notify, outcomes: Sequence[Outcome], seconds: float) -> None:
        raise self.error
