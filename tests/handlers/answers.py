"""Ask handlers for the answer to a NOTIFY, as an agent does, and read the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import Logger
from zope.interface import implementer

from spoa_twisted import Handlers, Message, SPOAFactory
from spoa_twisted.agent.protocol import SPOAProtocol
from spoa_twisted.handlers.deadlines import Deadlines
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.pending import PendingAnswer
from spoa_twisted.log import LogObserver
from spoa_twisted.observer import Event, IObserver, Outcome
from spoa_twisted.spop.actions import decode_actions
from spoa_twisted.spop.connection import EngineConnection, Notify, State
from spoa_twisted.spop.frames import HAProxyHello
from spoa_twisted.spop.unread import Receipt
from tests.conftest import Logged

#: The bytes of actions that fit in the ACK, unless a test says otherwise.
ROOM = 16000

#: Longer than any name, value or text that the log may show whole.
LONG = 3_000_000

#: The variables that the other two handlers of each NOTIFY of answer_of set.
GOOD = {"sess.before": 1, "sess.after": 2}


@implementer(IObserver)
class Recorder:
    """An observer that keeps everything it hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        #: What on_notify was called with: the names of the messages, the outcomes, and the seconds.
        self.notifies: list[tuple[list[str], list[Outcome], float]] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def on_notify(self, peer: str, notify: Notify, outcomes: Sequence[Outcome], seconds: float) -> None:
        self.notifies.append(([message.name for message in notify.messages], list(outcomes), seconds))

    def take(self) -> list[Event]:
        """Return the events since the last call, and forget them."""
        events, self.events = self.events, []
        return events


def ask(
    handlers: Handlers,
    *messages: Message,
    room: int = ROOM,
    clock: Any = None,
    timeout: float = 10,
    deadlines: Deadlines | None = None,
) -> bytes | Deferred[bytes]:
    """Return what ``handlers`` answer to ``messages``; a Deferred of the answer, if it comes later.

    Failures are logged, as in an agent.

    :param clock: a Clock or a reactor.
    :param deadlines: those of the agent. Without it, this is the only NOTIFY of the agent.
    """
    reactor = clock or Clock()
    outcomes = Outcomes(LogObserver(Logger(), reactor), deadlines=deadlines)
    return later(handlers.respond(list(messages), room, reactor, timeout, outcomes))


def later(answer: bytes | PendingAnswer) -> bytes | Deferred[bytes]:
    """Return ``answer``, or a Deferred that fires with it. To cancel the Deferred cancels the answer."""
    if not isinstance(answer, PendingAnswer):
        return answer
    deferred: Deferred[bytes] = Deferred(lambda _: answer.cancel())
    answer.on_actions = lambda _, actions: deferred.callback(actions)
    return deferred


def respond(
    handlers: Handlers, *messages: Message, room: int = ROOM, clock: Any = None, timeout: float = 10
) -> dict[str, Any]:
    """Return the variables that ``handlers`` set for ``messages``. They answer at once."""
    answer = ask(handlers, *messages, room=room, clock=clock, timeout=timeout)
    assert isinstance(answer, bytes)
    return decode_actions(answer)


def begin(
    handlers: Handlers,
    *messages: Message,
    room: int = ROOM,
    clock: Any = None,
    timeout: float = 10,
    deadlines: Deadlines | None = None,
) -> Deferred[bytes]:
    """Return a Deferred of the answer of ``handlers`` to ``messages``. They do not answer at once."""
    answer = ask(handlers, *messages, room=room, clock=clock, timeout=timeout, deadlines=deadlines)
    assert isinstance(answer, Deferred)
    return answer


def result_of(answer: bytes | Deferred[bytes]) -> dict[str, Any]:
    """Return the variables of ``answer``, which has fired if it is a Deferred."""
    if isinstance(answer, bytes):
        return decode_actions(answer)
    results: list[Any] = []
    answer.addBoth(results.append)
    (actions,) = results
    assert isinstance(actions, bytes), actions
    return decode_actions(actions)


def answer_of(function: Callable[..., Any], on_error: Any = None, size: int = 16380, **options: Any) -> dict[str, Any]:
    """Return the variables that ``function``, or its ``on_error``, adds to the variables of two other handlers.

    All three answer one NOTIFY on a connection of an agent. The NOTIFY has exactly one ACK, no timer is left, and the
    next NOTIFY on the same connection is answered too.

    :param size: HAProxy's max-frame-size, in bytes.
    :param options: for the registration of ``function``.
    """
    clock = Clock()
    handlers = Handlers({"before": lambda: {"sess.before": 1}, "after": lambda: {"sess.after": 2}})
    handlers.message("tested", on_error={"sess.error": True} if on_error is None else on_error, **options)(function)
    agent = SPOAFactory(handlers, reactor=clock).buildProtocol(None)
    assert isinstance(agent, SPOAProtocol)
    engine = EngineConnection(HAProxyHello(max_frame_size=size))
    wire = StringTransport()
    agent.makeConnection(wire)

    def exchange() -> list[Any]:
        agent.dataReceived(engine.data_to_send())
        # Longer than handler_timeout.
        clock.advance(1.1)
        engine.receive_data(wire.value())
        wire.clear()
        return list(iter(engine.next_event, None))

    exchange()
    ids = engine.send_notify([Message("before"), Message("tested"), Message("after")])
    (ack,) = exchange()
    assert ack.ids == ids
    engine.send_notify([Message("before")])
    (next_ack,) = exchange()
    assert next_ack.variables == {"sess.before": 1}
    assert engine.state is State.RUNNING
    assert not wire.disconnecting
    # Until the agent takes for granted that HAProxy has read all ACKs.
    clock.pump([1] * Receipt.UNKNOWN.value)
    assert clock.getDelayedCalls() == []
    assert ack.variables.items() >= GOOD.items()
    return {name: value for name, value in ack.variables.items() if name not in GOOD}


def line_of(logged: Logged) -> str:
    """Return the first line of the only text that was logged. It is short, and the whole text is printable ASCII."""
    (text,) = logged.take()
    line = text.partition("\n")[0]
    assert "the message 'tested'" in line
    assert len(line) < 3000
    assert all(character == "\n" or " " <= character <= "~" for character in text)
    return line


def late_line(name: str, timeout: float) -> str:
    """Return the line of a handler that did not finish within ``timeout`` seconds, as ``Logged`` returns it."""
    return (
        f"error: the handler of the message {name!r} took longer than {timeout:g} s; to allow more, register it with"
        " timeout=, or start the agent with --handler-timeout, and let HAProxy's timeout processing be longer"
    )


def plain(error: BaseException) -> Callable[[], Any]:
    """Return a plain function that raises ``error``."""

    def handler() -> NoReturn:
        raise error

    return handler


def deferred(error: BaseException) -> Callable[[], Any]:
    """Return a function whose Deferred has failed with ``error``."""
    return lambda: fail(error)


def coroutine_at_once(error: BaseException) -> Callable[[], Any]:
    """Return a coroutine function that raises ``error`` before it waits."""

    async def handler() -> NoReturn:
        raise error

    return handler


def coroutine_that_waited(error: BaseException) -> Callable[[], Any]:
    """Return a coroutine function that raises ``error`` after an ``await``."""

    async def handler() -> NoReturn:
        await succeed(None)
        raise error

    return handler


#: Each returns a handler that fails with the given exception.
KINDS = [plain, deferred, coroutine_at_once, coroutine_that_waited]


class UnprintableError(Exception):
    """An exception whose ``__str__`` raises another."""

    def __str__(self) -> str:
        raise LookupError("no such attribute")
