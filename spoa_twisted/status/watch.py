"""Show the NOTIFYs of a running agent. The handlers are wrapped only while there is a watcher.

A :class:`Watch` belongs to one agent. Each :class:`Watcher` takes the next NOTIFYs, and delivers an object for each.
With workers, the watch of the master is another subclass of :class:`Watchers`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Final, final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from spoa_twisted.agent.protocol import SPOAFactory
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.pending import FollowedAnswer, PendingAnswer
from spoa_twisted.shown import actions_to_json, message_to_json, show_name
from spoa_twisted.spop.actions import decode_actions
from spoa_twisted.spop.errors import InvalidFrame
from spoa_twisted.spop.messages import Message

#: How many clients may watch at the same time. Each of them costs some 50 µs a NOTIFY.
MAX_WATCHERS: Final = 4

#: Messages of a NOTIFY, and arguments of a message, that are shown. HAProxy's configuration seldom has as many.
MAX_MESSAGES: Final = 20
MAX_ARGUMENTS: Final = 50

#: One NOTIFY and its answer, as a JSON object.
Seen = dict[str, Any]


class TooManyWatchers(Exception):
    """There are MAX_WATCHERS watchers already."""


class ValuesNotAllowed(Exception):
    """The agent was not started with values allowed."""


@final
class Watcher:
    """Takes the next NOTIFYs. Create it with :meth:`Watch.begin`, and end it with :meth:`end`.

    :param number: differs from the numbers of the other watchers.
    :param deliver: called with each NOTIFY when it is answered. It must not block, or keep all that it gets.
    """

    _log = Logger()

    def __init__(self, watch: Watchers, number: int, count: int, values: bool, deliver: Callable[[Seen], None]) -> None:
        self.number = number
        self.values = values
        #: How many NOTIFYs are still to be taken, and how many of the taken ones are still to be answered.
        self.left = count
        self.pending = 0
        self.is_over = False
        #: Fires when all are answered.
        self.finished: Deferred[None] = Deferred()
        self._watch = watch
        self._deliver = deliver

    def take(self, count: int = 1) -> bool:
        """Return whether this watcher takes another object, and count the NOTIFYs that the object stands for."""
        if self.is_over or not self.left:
            return False
        self.left -= min(count, self.left)
        self.pending += 1
        return True

    def answered(self, seen: Seen) -> None:
        """Deliver an object that was taken."""
        self.pending -= 1
        if self.is_over:
            return
        try:
            self._deliver(seen)
        except Exception:
            # A fault in here must not become the fault of the handler.
            self._log.failure("a watcher of NOTIFYs has failed")
            self.end()
            return
        if not self.left and not self.pending:
            self.end()

    def end(self) -> None:
        """Take and deliver no more."""
        if not self.is_over:
            self.is_over = True
            self._watch.forget(self)
            self.finished.callback(None)


class Watchers:
    """The watchers of the present time. A subclass lets them see NOTIFYs.

    :param allow_values: whether a watcher may see the values of arguments and variables, or their types only.
    """

    def __init__(self, *, allow_values: bool = False) -> None:
        self.allow_values = allow_values
        self._watchers: list[Watcher] = []
        self._numbers = itertools.count(1)

    def begin(self, count: int, *, values: bool, deliver: Callable[[Seen], None]) -> Watcher:
        """Begin to deliver the next ``count`` NOTIFYs.

        :raises TooManyWatchers: if there are :data:`MAX_WATCHERS` watchers already.
        :raises ValuesNotAllowed: if ``values`` is true, and the agent does not allow it.
        """
        if values and not self.allow_values:
            raise ValuesNotAllowed("the agent shows no values; start it with --watch values")
        if len(self._watchers) >= MAX_WATCHERS:
            raise TooManyWatchers(f"{MAX_WATCHERS} clients watch already, which is the most")
        watcher = Watcher(self, next(self._numbers), count, values, deliver)
        self._watchers.append(watcher)
        self._begun(watcher)
        return watcher

    def forget(self, watcher: Watcher) -> None:
        """Remove ``watcher``. :meth:`Watcher.end` calls this."""
        self._watchers.remove(watcher)
        self._ended(watcher)

    def _begun(self, watcher: Watcher) -> None:
        """Let ``watcher``, which is the last one of the list, see NOTIFYs."""

    def _ended(self, watcher: Watcher) -> None:
        """Let ``watcher``, which is not in the list any more, see no more NOTIFYs."""


@final
class Watch(Watchers):
    """Lets others see the NOTIFYs of ``agent``.

    :param allow_values: whether a watcher may see the values of arguments and variables, or their types only.
    """

    def __init__(self, agent: SPOAFactory, *, allow_values: bool = False) -> None:
        super().__init__(allow_values=allow_values)
        self._agent = agent

    def _begun(self, watcher: Watcher) -> None:
        if len(self._watchers) == 1:
            self._agent.wrap(lambda handlers: WatchedHandlers(handlers, self._taking))

    def _ended(self, watcher: Watcher) -> None:
        if not self._watchers:
            self._agent.wrap(None)

    def _taking(self) -> list[Watcher]:
        """Return the watchers that take the present NOTIFY."""
        return [watcher for watcher in self._watchers if watcher.take()]


@final
@implementer(IHandlers)
class WatchedHandlers:
    """Handlers that pass each NOTIFY and its answer to the watchers.

    :param taking: returns the watchers that take a NOTIFY.
    """

    _log = Logger()

    def __init__(self, handlers: IHandlers, taking: Callable[[], list[Watcher]]) -> None:
        self._handlers = handlers
        self._taking = taking

    def respond(
        self, messages: list[Message], max_size: int, reactor: IReactorTime, timeout: float, outcomes: Outcomes
    ) -> bytes | PendingAnswer:
        """Answer the messages, and show them and the answer to the watchers; see :meth:`IHandlers.respond`."""
        watchers = self._taking()
        began = reactor.seconds()
        try:
            answer = self._handlers.respond(messages, max_size, reactor, timeout, outcomes)
        except BaseException:
            # The agent reports it.
            self._show(None, watchers, messages, reactor, began)
            raise
        if watchers:
            if isinstance(answer, PendingAnswer):
                return FollowedAnswer(answer, lambda actions: self._show(actions, watchers, messages, reactor, began))
            self._show(answer, watchers, messages, reactor, began)
        return answer

    def refuse(self, names: tuple[str, ...], max_size: int) -> bytes:
        """Answer a NOTIFY that is too long, and show its names; see :meth:`IHandlers.refuse`."""
        answer = self._handlers.refuse(names, max_size)
        seen = {"refused": [show_name(name) for name in names[:MAX_MESSAGES]]}
        for watcher in self._taking():
            watcher.answered(seen)
        return answer

    def _show(
        self, answer: Any, watchers: list[Watcher], messages: list[Message], reactor: IReactorTime, began: float
    ) -> None:
        """Show the NOTIFY.

        :param answer: the actions; ``None`` if there are none.
        """
        seconds = max(0.0, reactor.seconds() - began)
        for watcher in watchers:
            # A fault in here must not become the fault of the handler.
            try:
                seen = _describe(messages, answer, values=watcher.values)
            except Exception:
                self._log.failure("a NOTIFY cannot be shown to a watcher")
                seen = {"error": "the agent cannot show this NOTIFY: its log says why"}
            watcher.answered({"time": round(began, 6), "seconds": round(seconds, 6), **seen})


def _describe(messages: list[Message], answer: Any, *, values: bool) -> Seen:
    """Return the messages of a NOTIFY and the variables of its ACK."""
    seen: Seen = {"messages": [_describe_message(message, values=values) for message in messages[:MAX_MESSAGES]]}
    if len(messages) > MAX_MESSAGES:
        seen["more_messages"] = len(messages) - MAX_MESSAGES
    if not isinstance(answer, bytes):
        # The connection ended, so the handlers were cancelled; or another IHandlers than Handlers has failed.
        seen["unanswered"] = True
        return seen
    try:
        actions = list(decode_actions(answer).items())
    except InvalidFrame as error:
        # Another IHandlers than Handlers may return anything.
        seen["error"] = str(error)
        return seen
    seen["actions"] = actions_to_json(actions[:MAX_ARGUMENTS], values=values)
    if len(actions) > MAX_ARGUMENTS:
        seen["more_actions"] = len(actions) - MAX_ARGUMENTS
    return seen


def _describe_message(message: Message, *, values: bool) -> Seen:
    shown = message_to_json(Message(message.name, list(message)[:MAX_ARGUMENTS]), values=values)
    if len(message) > MAX_ARGUMENTS:
        shown["more_arguments"] = len(message) - MAX_ARGUMENTS
    return shown
