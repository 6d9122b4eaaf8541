"""Events -> lines of the log."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.logger import FileLogObserver, Logger, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from spoa_twisted import Handlers, Message, SPOAFactory, observer
from spoa_twisted.json_lines import json_line
from spoa_twisted.log import LogObserver, agent_log
from spoa_twisted.observer import (
    AcksHeldBack,
    ArgumentMissing,
    CancelFailed,
    ConnectionEnded,
    ConnectionMade,
    ConnectionRefused,
    DisconnectReceived,
    DrainTimedOut,
    Event,
    HandlerBlocked,
    HandlerFailed,
    HandlersReplaced,
    HandlerTimedOut,
    HelloReceived,
    HelloTimedOut,
    IObserver,
    LifeCycleFailed,
    LifeCycleIgnored,
    MessageTime,
    MessageUnhandled,
    NotifySlow,
    Outcome,
    PayloadRefused,
    PeerDropped,
    PipeliningChanged,
    ProtocolError,
    RespondFailed,
    ResponseUnsendable,
    ResultNotAsDeclared,
    ResultTooBig,
    ResultUnsendable,
    ShutdownTimedOut,
    Standstill,
    ThreadAwaited,
    VariableNameLong,
    VariableWithoutScope,
)
from spoa_twisted.spop.connection import Notify
from spoa_twisted.spop.errors import FrameTooBig, InvalidFrame
from spoa_twisted.spop.frames import Disconnect, HAProxyHello
from spoa_twisted.testing import FakeHAProxy
from tests.agent.memory import Session
from tests.conftest import Logged
from tests.handlers.answers import KINDS, LONG, UnprintableError, answer_of, late_line, plain
from tests.lines import Lines, failure_of

PEER = "192.0.2.1:12345"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def log(lines: Lines, clock: Clock) -> LogObserver:
    return LogObserver(Logger(observer=lines), clock)


FAILURE = failure_of(LookupError("no such row"))

#: The line of each event. Where an event has a Failure, its traceback follows.
LINES: list[tuple[Event, str]] = [
    (ConnectionMade(PEER), f"debug: {PEER}: connected"),
    (ConnectionEnded(PEER, Failure(ConnectionDone())), f"debug: {PEER}: ended: Connection was closed cleanly."),
    (
        ConnectionRefused(5),
        (
            "warn: 5 connections are open, as many as max_connections allows: new ones are refused; find out who opens"
            " them, or raise --max-connections"
        ),
    ),
    (
        HelloReceived(PEER, HAProxyHello(engine_id="\x85{peer}")),
        (
            f"debug: {PEER}: HAProxyHello(supported_versions=('2.0',), max_frame_size=16380, capabilities=frozenset(),"
            " engine_id='\\x85{peer}', healthcheck=False)"
        ),
    ),
    (HelloTimedOut(PEER), f"debug: {PEER}: sent no HAPROXY-HELLO within hello_timeout"),
    (
        DisconnectReceived(PEER, Disconnect(2, "a\nb\udc80")),
        f"debug: {PEER}: HAPROXY-DISCONNECT: status code 2, 'a\\nb\\udc80'",
    ),
    (
        DisconnectReceived(PEER, Disconnect(3, "frame is too big")),
        (
            f"warn: {PEER}: HAPROXY-DISCONNECT: status code 3, 'frame is too big': A frame was longer than the"
            " max-frame-size that the HELLOs agreed on"
        ),
    ),
    (
        ProtocolError(PEER, InvalidFrame("no such frame")),
        f"warn: {PEER}: broke the protocol: no such frame (status code 4, invalid frame received)",
    ),
    (
        PayloadRefused(PEER, ("a\n", "b" * 100), "max_payload_size", 1000),
        (
            f"warn: {PEER}: refused a NOTIFY of 'a\\n', '{'b' * 64}': its fragments exceed"
            f" max_payload_size, 1000 bytes; raise --max-payload-size to accept it"
        ),
    ),
    (
        PayloadRefused(PEER, tuple("abcdefg"), "max_reassembly_size", 1000),
        (
            f"warn: {PEER}: refused a NOTIFY of 'a', 'b', 'c', 'd', 'e' and 2 more: the fragments of all connections"
            f" exceed max_reassembly_size, 1000 bytes; raise --max-reassembly-size to accept it"
        ),
    ),
    (
        PayloadRefused(PEER, (), "max_payload_size", 1),
        (
            f"warn: {PEER}: refused a NOTIFY of unknown messages: its fragments exceed max_payload_size, 1 bytes;"
            f" raise --max-payload-size to accept it"
        ),
    ),
    (
        PeerDropped(PEER, 2000),
        (
            f"warn: {PEER}: dropped: it left more than max_unsent, 2000 bytes, unread; find out why it does not read,"
            " or raise --max-unsent"
        ),
    ),
    (
        PipeliningChanged(PEER, "\x85{peer}", True, 804),
        (f"info: {PEER}: the answers to the engine \\x85{{peer}} are short: its next connections have pipelining"),
    ),
    (
        PipeliningChanged(PEER, "e" * 100, False, 804),
        (
            f"info: {PEER}: answers to the engine {'e' * 64} are longer than 804 bytes: its next connections have no"
            " pipelining, so that long answers do not wait for each other"
        ),
    ),
    (AcksHeldBack(PEER, 300), f"debug: {PEER}: holding back 300 bytes of ACKs until HAProxy has read others"),
    (RespondFailed(PEER, FAILURE), f"critical: {PEER}: the handlers failed to respond"),
    (
        ResponseUnsendable(PEER, TypeError("not bytes")),
        f"error: {PEER}: the response of the handlers cannot be sent: not bytes",
    ),
    (MessageUnhandled("m"), "warn: no handler for the message 'm': it sets no variables"),
    (
        MessageUnhandled("check_ip", ["check-ip", "check-ips", "scan"]),
        "warn: no handler for the message 'check_ip': it sets no variables; did you mean 'check-ip' or 'check-ips'?",
    ),
    (HandlerFailed("m", FAILURE), "critical: the handler of the message 'm' failed"),
    (HandlerTimedOut("m", 0.5), late_line("m", 0.5)),
    (
        HandlerTimedOut("m", 3, began=False, waited=3.001, threads=4),
        (
            "error: the handler of the message 'm' did not begin within 3 s: all 4 blocking_threads are busy; raise"
            " blocking_threads, or find the handler that is slow"
        ),
    ),
    (
        HandlerTimedOut("m", 5, began=True, waited=2.9, threads=4),
        (
            "error: the handler of the message 'm' took longer than 5 s, 2.90 s of it to get a thread: all 4"
            " blocking_threads were busy; raise blocking_threads, or find the handler that is slow"
        ),
    ),
    (HandlerTimedOut("m", 5, began=True, waited=0.2, threads=4), late_line("m", 5)),
    (
        ThreadAwaited("m", 3, 4),
        (
            "warn: the handler of the message 'm' waited 3.00 s for a thread: all 4 blocking_threads were busy; raise"
            " blocking_threads, or find the handler that is slow"
        ),
    ),
    (
        ArgumentMissing("m", TypeError("the message 'm' has no argument 'ip'; it has: 'src'")),
        (
            "error: the handler of the message 'm' was not called: the message 'm' has no argument 'ip'; it has: 'src';"
            " add it to the args of the spoe-message, rename the parameter, or give the parameter a default"
        ),
    ),
    (
        HandlerBlocked("m", 2, 31),
        (
            "warn: the handler of the message 'm' held the agent up for 2.00 s; 31 other requests waited: say"
            " blocking=True"
        ),
    ),
    (
        HandlerBlocked("m", 2, 1, timeout=0.5, place="iprep.py, line 14, in get_score"),
        (
            "warn: the handler of the message 'm' held the agent up for 2.00 s; after 1 s it was in iprep.py, line 14,"
            " in get_score; 1 other request waited: say blocking=True; its timeout of 0.5 s cannot interrupt a plain"
            " function"
        ),
    ),
    (
        HandlerBlocked("m", 0.3, 0, coroutine=True, timeout=0.1),
        (
            "warn: the handler of the message 'm' held the agent up for 0.30 s; no other request came meanwhile, else"
            " it would have waited: a coroutine must not block; make it a plain function with blocking=True"
        ),
    ),
    (
        Standstill(1.552, "iprep.py, line 14, in get_score"),
        (
            "warn: the agent stood still for 1.55 s, and all requests waited; after 1 s it was in iprep.py, line 14, in"
            " get_score"
        ),
    ),
    (
        Standstill(7, None),
        (
            "warn: the agent stood still for 7.00 s, and all requests waited; perhaps the process was stopped, or had"
            " no CPU"
        ),
    ),
    (
        ResultUnsendable("m", TypeError("variable 'sess.a': a float has no SPOP type")),
        (
            "error: the handler of the message 'm' returned a value that cannot be sent: variable 'sess.a': a float has"
            " no SPOP type"
        ),
    ),
    (
        ResultTooBig("m", 500, 200, "sess.big"),
        (
            "error: the variables of the message 'm' do not fit in the ACK: they need 500 bytes, and 200 are left; the"
            " largest is sess.big; set less, or raise tune.bufsize in HAProxy"
        ),
    ),
    (
        ResultNotAsDeclared("m", "set 'txn.b', which its sets does not declare"),
        "warn: the handler of the message 'm' set 'txn.b', which its sets does not declare",
    ),
    (
        VariableNameLong("sess.long"),
        (
            "warn: the name of the variable 'sess.long' may be too long: HAProxy drops a variable silently when"
            " scope.prefix.name has more than 63 characters"
        ),
    ),
    (
        VariableWithoutScope("allowed"),
        (
            "warn: the variable 'allowed' has no scope, so HAProxy sets it in proc, which all clients share: write"
            " 'txn.allowed' to set it for one request, or 'proc.allowed' if they shall share it"
        ),
    ),
    (
        NotifySlow(PEER, "m", 1.0, tuple(MessageTime(c, 0.1) for c in "abcdefg"), 0.06, 0.04, 0.06, 5, 2, "i\n"),
        (
            f"warn: {PEER}: a NOTIFY took 1.000 s: 'a' 0.100 s; 'b' 0.100 s; 'c' 0.100 s; 'd' 0.100 s; 'e' 0.100 s; and"
            " 2 more messages; waited to be read for up to 0.060 s while the agent stood still; the agent stood still"
            " for 0.060 s of that; stream-id 5, frame-id 2, id 'i\\n'"
        ),
    ),
    (
        NotifySlow(PEER, "", 0.2, (), answered=False),
        (
            f"warn: {PEER}: a NOTIFY took 0.200 s, and the connection ended before its ACK: no messages; stream-id 0,"
            " frame-id 0"
        ),
    ),
    (CancelFailed(FAILURE), "critical: a handler's Deferred failed to be cancelled"),
    (LifeCycleFailed("every", "mymod.read", FAILURE), "critical: the every function mymod.read failed"),
    (
        LifeCycleIgnored(),
        "warn: the handlers have startup, every or shutdown functions, which never run here: use SPOAService",
    ),
    (
        ShutdownTimedOut("mymod.close"),
        (
            "warn: the shutdown function mymod.close did not finish in time, and is cancelled; if it needs longer,"
            " raise --drain-timeout"
        ),
    ),
    (
        DrainTimedOut(7),
        "warn: closing 7 connections that were not drained in time; if handlers need longer, raise --drain-timeout",
    ),
]

COUNT_OF_TWO = "error: the handler of the message 'm' failed 2 more times in the last minute"


class TestLines:
    @pytest.mark.parametrize(("event", "line"), LINES, ids=lambda parameter: type(parameter).__name__)
    def test_each_event_has_its_line(self, event: Event, line: str, log: LogObserver, lines: Lines) -> None:
        """Faults of the handlers are errors, faults of a peer are warnings, and the rest is debug."""
        log.on_event(event)
        (logged,) = lines.take()
        first, _, traceback = logged.partition("\n")
        assert first == line
        assert traceback.endswith("LookupError: no such row" if hasattr(event, "failure") else "")

    def test_no_event_is_forgotten(self) -> None:
        """A new kind of event must have a line. Only HandlersReplaced has none."""
        known = {type(event) for event, _ in LINES}
        events = {kind for kind in vars(observer).values() if isinstance(kind, type) and issubclass(kind, Event)}
        kinds = events - {base for kind in events for base in kind.__bases__}
        assert kinds == {*known, HandlersReplaced}

    def test_it_is_an_observer(self, log: LogObserver, lines: Lines) -> None:
        """It logs nothing of a NOTIFY, because each fault in it is an event."""
        assert verifyObject(IObserver, log)
        log.on_notify(PEER, Notify(b"", [Message("m")]), [Outcome.ERROR], 0.1)
        assert lines.take() == []

    def test_an_unknown_event_is_skipped(self, log: LogObserver, lines: Lines) -> None:
        """So are events that have a line in a later version."""

        class Unknown(Event):
            pass

        log.on_event(Unknown())
        log.on_event(HandlersReplaced())
        assert lines.take() == []

    def test_braces_are_no_format(self, log: LogObserver, lines: Lines) -> None:
        """The peer's text is a value of the format, not a part of it."""
        log.on_event(MessageUnhandled("{peer} {name!r} {0} {"))
        log.on_event(ResultUnsendable("{name}", ValueError("{error} {")))
        log.on_event(ProtocolError(PEER, InvalidFrame("{code}")))
        assert lines.take() == [
            "warn: no handler for the message '{peer} {name!r} {0} {': it sets no variables",
            "error: the handler of the message '{name}' returned a value that cannot be sent: {error} {",
            f"warn: {PEER}: broke the protocol: {{code}} (status code 4, invalid frame received)",
        ]


def test_lines_of_json(clock: Clock) -> None:
    """Each line has the kind of its event, and numbers are numbers. Parts of a text are no fields."""
    file = io.StringIO()
    for event, _ in LINES:
        # A new observer for each, because some kinds are logged once a minute.
        LogObserver(Logger(observer=FileLogObserver(file, json_line)), clock).on_event(event)
    fields = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [line["kind"] for line in fields] == [type(event).__name__ for event, _ in LINES]
    assert not [name for line in fields for name in line if name.startswith("_")]
    blocked, *_ = [line for line in fields if line["kind"] == "HandlerBlocked"]
    assert (blocked["name"], blocked["seconds"], blocked["waiting"], blocked["place"]) == ("m", 2, 31, None)
    (failed,) = [line for line in fields if line["kind"] == "LifeCycleFailed"]
    assert (failed["role"], failed["function"]) == ("every", "mymod.read")
    assert failed["traceback"].endswith("LookupError: no such row\n")


def test_the_count_in_json(clock: Clock) -> None:
    """It says which message, how many times, and which fault."""
    file = io.StringIO()
    log = LogObserver(Logger(observer=FileLogObserver(file, json_line)), clock)
    for _ in range(1244):
        log.on_event(HandlerFailed("m", FAILURE))
    clock.advance(60)
    *lines, count = [json.loads(line) for line in file.getvalue().splitlines()]
    assert len(lines) == 10
    assert (count["name"], count["count"], count["kind"], count["level"]) == ("m", 1234, "HandlerFailed", "error")
    assert count["message"] == "the handler of the message 'm' failed 1,234 more times in the last minute"


class TestNames:
    """The name of a message comes from a peer: it may be as long as a frame, and may hold any character."""

    @pytest.mark.parametrize(
        "event",
        [
            lambda name: MessageUnhandled(name),
            lambda name: ArgumentMissing(name, TypeError("why")),
            lambda name: HandlerBlocked(name, 1, 0),
            lambda name: HandlerFailed(name, FAILURE),
            lambda name: HandlerTimedOut(name, 1),
            lambda name: ThreadAwaited(name, 1, 1),
            lambda name: ResultUnsendable(name, ValueError("why")),
            lambda name: ResultTooBig(name, 2, 1, "sess.a"),
            lambda name: ResultNotAsDeclared(name, "set 'txn.b'"),
            lambda name: VariableNameLong(name),
            lambda name: VariableWithoutScope(name),
        ],
    )
    def test_it_is_cut_and_escaped(self, event: Callable[[str], Event], log: LogObserver, lines: Lines) -> None:
        """The line shows 64 characters, of which each one that is not printable ASCII is escaped."""
        name = "m\nforged\x1b[2J\x85\u2028é\udc80" + "x" * LONG
        log.on_event(event(name))
        (line,) = lines.take()
        assert "'m\\nforged\\x1b[2J\\x85\\u2028\\xe9\\udc80" + "x" * 48 + "'" in line
        assert "x" * 49 not in line
        assert line.isascii()

    def test_the_largest_variable_is_cut(self, log: LogObserver, lines: Lines) -> None:
        """A handler may make its name of the peer's text."""
        log.on_event(ResultTooBig("m", 2, 1, "sess." + "v" * LONG))
        (line,) = lines.take()
        assert line.endswith("the largest is sess." + "v" * 59 + "; set less, or raise tune.bufsize in HAProxy")

    def test_a_similar_name_is_cut_and_escaped(self, log: LogObserver, lines: Lines) -> None:
        """A user may register a handler under any name."""
        log.on_event(MessageUnhandled("m" * 64, ["M" * 62 + "\n" + "x" * LONG]))
        (line,) = lines.take()
        assert line.endswith("; did you mean '" + "M" * 62 + "\\nx'?")

    @pytest.mark.parametrize("kind", [MessageUnhandled, VariableNameLong, VariableWithoutScope])
    def test_each_name_is_logged_once(
        self, kind: type[MessageUnhandled | VariableNameLong | VariableWithoutScope], log: LogObserver, lines: Lines
    ) -> None:
        """These faults repeat with every request. Two names that begin with the same 64 characters count as one."""
        for name in ("a", "b", "a", "b", "x" * 64 + "1", "x" * 64 + "2"):
            log.on_event(kind(name))
        assert ["'a'" in line or "'b'" in line for line in lines.take()] == [True, True, False]

    def test_a_message_and_a_variable_may_have_the_same_name(self, log: LogObserver, lines: Lines) -> None:
        """They are two faults."""
        log.on_event(MessageUnhandled("a"))
        log.on_event(VariableNameLong("a"))
        assert len(lines.take()) == 2

    def test_at_most_a_thousand_names_are_logged(self, log: LogObserver, lines: Lines) -> None:
        """A peer could else fill the memory and the log with names."""
        for number in range(1500):
            log.on_event(MessageUnhandled(f"name{number}"))
        assert len(lines.take()) == 1000

    def test_the_search_for_similar_names_is_limited(self, log: LogObserver, lines: Lines) -> None:
        """A peer may send thousands of names in one NOTIFY, and each search takes time. New handlers begin anew."""
        for _ in range(2):
            for number in range(100, 200):
                log.on_event(MessageUnhandled(f"check{number}", ["check"]))
            log.on_event(HandlersReplaced())
            found = ["did you mean 'check'?" in line for line in lines.take()]
            assert found == [True] * 20 + [False] * 80

    @pytest.mark.parametrize(
        "event",
        [
            HelloReceived(PEER, HAProxyHello(engine_id="\n" * LONG)),
            DisconnectReceived(PEER, Disconnect(4, "\n" * LONG)),
        ],
    )
    def test_long_texts_of_a_peer_are_cut(self, event: Event, log: LogObserver, lines: Lines) -> None:
        """A HELLO may have 16 KiB, and a DISCONNECT 2 MiB."""
        log.on_event(event)
        (line,) = lines.take()
        assert len(line) < 4500
        assert "\n" not in line

    def test_new_handlers_are_warned_about_again(self, log: LogObserver, lines: Lines) -> None:
        """Their author wants to know which messages they do not answer."""
        for event in (MessageUnhandled("a"), HandlersReplaced(), MessageUnhandled("a"), MessageUnhandled("a")):
            log.on_event(event)
        assert len(lines.take()) == 2


class TestFloods:
    """A handler that fails with each request would fill the disk."""

    COUNTED: list[tuple[Event, str]] = [
        (
            ArgumentMissing("m", TypeError("why")),
            "the handler of the message 'm' was not called, for lack of an argument,",
        ),
        (CancelFailed(FAILURE), "a handler's Deferred failed to be cancelled"),
        (HandlerFailed("m", FAILURE), "the handler of the message 'm' failed"),
        (HandlerTimedOut("m", 1), "the handler of the message 'm' timed out"),
        (NotifySlow(PEER, "m", 1.0, (MessageTime("m", 1.0),)), "a NOTIFY of the message 'm' was slow"),
        (LifeCycleFailed("every", "mymod.read", FAILURE), "the function mymod.read failed"),
        (
            PayloadRefused(PEER, ("m",), "max_payload_size", 1000),
            "a NOTIFY was refused, because its fragments exceed a limit,",
        ),
        (RespondFailed(PEER, FAILURE), "the handlers failed to respond"),
        (
            ResponseUnsendable(PEER, TypeError("not bytes")),
            "the handlers responded with a value that cannot be sent",
        ),
        (
            ResultTooBig("m", 500, 200, "sess.big"),
            "the handler of the message 'm' returned variables that do not fit in the ACK",
        ),
        (
            ResultUnsendable("m", TypeError("why")),
            "the handler of the message 'm' returned a value that cannot be sent",
        ),
    ]

    @pytest.mark.parametrize(("event", "fault"), COUNTED, ids=lambda parameter: type(parameter).__name__)
    def test_ten_a_minute_are_logged(
        self, event: Event, fault: str, log: LogObserver, lines: Lines, clock: Clock
    ) -> None:
        """The others are counted, and the count is logged at the end of the minute, without a further event."""
        for _ in range(10 + 12_345):
            log.on_event(event)
        assert len(lines.take()) == 10
        clock.advance(59.9)
        assert lines.take() == []
        clock.advance(0.1)
        level = "warn" if isinstance(event, (NotifySlow, PayloadRefused)) else "error"
        assert lines.take() == [f"{level}: {fault} 12,345 more times in the last minute"]
        log.on_event(event)
        assert len(lines.take()) == 1
        assert clock.getDelayedCalls() == []

    def test_a_text_in_a_name_is_escaped(self, log: LogObserver, lines: Lines, clock: Clock) -> None:
        """As in each line."""
        for _ in range(11):
            log.on_event(HandlerTimedOut("{a}\n" + "x" * LONG, 1))
        lines.take()
        clock.advance(60)
        (line,) = lines.take()
        assert line == (
            f"error: the handler of the message '{{a}}\\n{'x' * 60}' timed out 1 more time in the last minute"
        )

    def test_names_that_a_peer_invents(self, log: LogObserver, lines: Lines, clock: Clock) -> None:
        """A default handler that fails has any number of names. After a hundred, all others have ten lines together."""
        for number in range(1000):
            log.on_event(HandlerTimedOut(f"name{number}", 1))
        assert len(lines.take()) == 110
        clock.advance(60)
        assert lines.take() == ["error: handlers of other messages timed out 890 more times in the last minute"]

    def test_a_failure_that_is_not_logged_costs_little(self, log: LogObserver, lines: Lines) -> None:
        """Its traceback is not even made."""

        class Counting(Failure):
            made = 0

            def getTraceback(self, *args: Any, **options: Any) -> str:
                self.made += 1
                return str(super().getTraceback(*args, **options))

        failure = Counting(LookupError("why"))
        for _ in range(10):
            log.on_event(HandlerFailed("m", failure))
        made = failure.made
        for _ in range(100):
            log.on_event(HandlerFailed("m", failure))
        assert made
        assert failure.made == made

    def test_hold_ups_are_logged_once_a_minute_and_message(self, log: LogObserver, lines: Lines, clock: Clock) -> None:
        """And waits for a thread once a minute, because all handlers share the threads."""
        for _ in range(3):
            for name in ("a", "b"):
                log.on_event(HandlerBlocked(name, 1, 0))
                log.on_event(ThreadAwaited(name, 1, 1))
        assert len(lines.take()) == 3
        clock.advance(60)
        log.on_event(HandlerBlocked("a", 1, 0))
        assert len(lines.take()) == 1

    def test_flush(self, log: LogObserver, lines: Lines, clock: Clock) -> None:
        """The counts are logged at once, and no timer is left. Later faults are counted on."""
        log.flush()
        for _ in range(12):
            log.on_event(HandlerTimedOut("m", 1))
        lines.take()
        log.flush()
        assert lines.take() == ["error: the handler of the message 'm' timed out 2 more times in the last minute"]
        assert clock.getDelayedCalls() == []
        log.flush()
        assert lines.take() == []
        log.on_event(HandlerTimedOut("m", 1))
        clock.advance(60)
        assert lines.take() == ["error: the handler of the message 'm' timed out 1 more time in the last minute"]


class TestFaultsOfPeers:
    """HAProxy <= 3.0 reconnects hundreds of times a second after a protocol error."""

    def test_the_same_fault_of_a_host_is_a_warning_once_a_minute(
        self, log: LogObserver, lines: Lines, clock: Clock
    ) -> None:
        """Meanwhile it is logged at the level debug. The port is not part of the fault, and the text is not either."""
        for port in range(3):
            log.on_event(ProtocolError(f"192.0.2.1:{port}", InvalidFrame(f"text {port}")))
        clock.advance(59.9)
        log.on_event(ProtocolError(PEER, InvalidFrame("a")))
        clock.advance(0.2)
        log.on_event(ProtocolError(PEER, InvalidFrame("a")))
        log.on_event(ProtocolError(PEER, InvalidFrame("a")))
        assert [line.partition(":")[0] for line in lines.take()] == ["warn", "debug", "debug", "debug", "warn", "debug"]

    def test_another_host_or_status_code_is_another_fault(self, log: LogObserver, lines: Lines) -> None:
        """Each is a warning."""
        for peer in (PEER, "192.0.2.2:12345", "[2001:db8::1]:12345", "[2001:db8::2]:12345"):
            log.on_event(ProtocolError(peer, InvalidFrame("a")))
            log.on_event(ProtocolError(peer, FrameTooBig("a")))
        assert [line.partition(":")[0] for line in lines.take()] == ["warn"] * 8

    def test_a_disconnect_is_a_warning_if_a_frame_was_refused(self, log: LogObserver, lines: Lines) -> None:
        """Once a minute for each host and code. All codes that SPOE.txt does not list count as one."""
        log.on_event(ProtocolError(PEER, InvalidFrame("a")))
        lines.take()
        for code in (0, 1, 2, 4, 4, 99, 200, 201, 2**32 - 1):
            log.on_event(DisconnectReceived(PEER, Disconnect(code, "a")))
        levels = [line.partition(":")[0] for line in lines.take()]
        assert levels == ["debug", "debug", "debug", "warn", "debug", "warn", "warn", "debug", "debug"]

    def test_a_refused_connection_is_logged_once_a_minute(self, log: LogObserver, lines: Lines, clock: Clock) -> None:
        """Whatever host it came from."""
        for seconds in (0, 30, 29, 2):
            clock.advance(seconds)
            log.on_event(ConnectionRefused(5))
        assert len(lines.take()) == 2

    def test_the_clock_may_be_set_back(self, log: LogObserver, lines: Lines, clock: Clock) -> None:
        """The fault is logged again at once, not when the clock shows the old time again."""
        clock.advance(10_000)
        log.on_event(ConnectionRefused(5))
        clock.rightNow -= 5000
        log.on_event(ConnectionRefused(5))
        log.on_event(ConnectionRefused(5))
        assert len(lines.take()) == 2

    def test_at_most_a_thousand_faults_are_remembered(self, log: LogObserver, lines: Lines) -> None:
        """Then all are forgotten: a peer with many addresses must not fill the memory."""
        first = ProtocolError("192.0.2.1:1", InvalidFrame("a"))
        log.on_event(first)
        for number in range(999):
            log.on_event(ProtocolError(f"[2001:db8::{number:x}]:1", InvalidFrame("a")))
        lines.take()
        log.on_event(first)
        assert lines.take()[0].startswith("debug")
        log.on_event(ProtocolError("192.0.2.2:1", InvalidFrame("a")))
        log.on_event(first)
        assert [line.partition(":")[0] for line in lines.take()] == ["warn", "warn"]


class TestResultUnsendable:
    def test_the_error_is_in_one_line(self, log: LogObserver, lines: Lines) -> None:
        """It may quote the peer's text: 2,000 characters of it are shown, escaped."""
        log.on_event(ResultUnsendable("m", ValueError("a\nforged\x1b[2J\udc80" + "x" * LONG)))
        (line,) = lines.take()
        assert "cannot be sent: a\\nforged\\x1b[2J\\udc80xxx" in line
        assert line.count("x") < 2010
        assert "\n" not in line
        assert line.isascii()

    def test_an_error_without_a_text(self, log: LogObserver, lines: Lines) -> None:
        """Its ``__str__`` raises. The line names its class."""
        log.on_event(ResultUnsendable("m", UnprintableError()))
        (line,) = lines.take()
        assert "cannot be sent: <UnprintableError instance" in line


@pytest.mark.parametrize(
    "event",
    [lambda f: HandlerFailed("m", f), lambda f: CancelFailed(f), lambda f: RespondFailed(PEER, f)],
    ids=["handler", "cancel", "respond"],
)
def test_every_event_with_a_failure_is_escaped(
    event: Callable[[Failure], Event], log: LogObserver, lines: Lines
) -> None:
    """Whatever code of the application raised the exception."""
    log.on_event(event(failure_of(ValueError("a\nforged\x1b[2J"))))
    (text,) = lines.take()
    assert text.endswith("ValueError: a\\nforged\\x1b[2J")


class TestThroughAnAgent:
    """Failures of handlers, from the exception to the text in the log."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        "text", ["no such user: bob\n2026-01-01 forged", "\x1b[2J\r\x85\u2028", "é\udc80"], ids=ascii
    )
    def test_a_clients_text_in_an_exception_is_escaped(
        self, kind: Callable[[BaseException], Callable[[], Any]], text: str, logged: Logged
    ) -> None:
        """For every kind of handler. The traceback is logged nevertheless."""
        assert answer_of(kind(ValueError(text))) == {"sess.error": True}
        (logged_text,) = logged.take()
        assert all(character == "\n" or " " <= character <= "~" for character in logged_text)
        assert "Traceback" in logged_text
        assert logged_text.endswith("ValueError: " + text.encode("unicode_escape").decode())

    def test_a_clients_argument_in_an_exception_is_escaped(self, logged: Logged) -> None:
        """It arrived in a NOTIFY, and its bytes that are not UTF-8 are lone surrogates."""

        def raising(token: str) -> None:
            raise ValueError(f"bad token {token}")

        handlers = Handlers({"m": raising}, on_error={"sess.error": True})
        assert FakeHAProxy(handlers).notify("m", token="\udc80é") == {"sess.error": True}
        (line,) = logged.take()
        assert line.isascii()
        assert "the message 'm' failed" in line
        assert "bad token \\udc80\\xe9" in line

    def test_a_long_text_is_cut(self, logged: Logged) -> None:
        """The text of an exception may hold everything that a client sent."""
        assert answer_of(plain(ValueError("x" * LONG))) == {"sess.error": True}
        (text,) = logged.take()
        assert "ValueError: xxxx" in text
        assert len(text) < 4000

    def test_a_recursion_does_not_fill_the_log(self, logged: Logged) -> None:
        """Only the last of its thousand frames are logged."""

        def deeper(depth: int) -> Any:
            return deeper(depth + 1)

        assert answer_of(lambda: deeper(0)) == {"sess.error": True}
        (text,) = logged.take()
        assert "RecursionError" in text
        assert "in deeper" in text
        assert len(text) < 13_000

    def test_the_name_of_an_exception_is_escaped(self, logged: Logged) -> None:
        """A handler may make it of a client's text."""

        def raising() -> None:
            raise type("No\x1b[2JUser", (Exception,), {})("bob")

        assert answer_of(raising) == {"sess.error": True}
        (text,) = logged.take()
        assert "No\\x1b[2JUser: bob" in text
        assert "\x1b" not in text

    def test_the_exception_of_a_canceller_is_escaped(self, logged: Logged) -> None:
        """It is logged like an exception of the handler."""

        def canceller(deferred: Deferred[Any]) -> None:
            raise ValueError("a\nforged")

        assert answer_of(lambda: Deferred(canceller)) == {"sess.error": True}
        late, text = logged.take()
        assert "took longer than" in late
        assert text.endswith("ValueError: a\\nforged")

    def test_the_count_is_logged_when_the_agent_ends(self, logged: Logged, clock: Clock) -> None:
        """When its last connection is closed after its ports, or its last port after its connections."""
        handlers = Handlers({"m": plain(ValueError("why"))})
        session = Session(SPOAFactory(handlers, reactor=clock))
        for _ in range(12):
            session.notify("m")
        assert len(logged.take()) == 10
        session.lose()
        assert logged.take() == [COUNT_OF_TWO]
        factory = SPOAFactory(handlers, reactor=clock)
        factory.doStart()
        for _ in range(12):
            assert factory.handlers.respond([Message("m")], 100, clock, 1, factory.outcomes) == b""
        assert len(logged.take()) == 10
        factory.doStop()
        assert logged.take() == [COUNT_OF_TWO]
        assert clock.getDelayedCalls() == []

    def test_an_unknown_message_is_logged_once(self, logged: Logged, clock: Clock) -> None:
        """On all connections of the agent together. Its name is cut."""
        factory = SPOAFactory(Handlers({"known": lambda: {"sess.known": 1}}), reactor=clock)
        for _ in range(3):
            session = Session(factory)
            session.notify_together("other", "known")
            assert [ack.variables for ack in session.events()] == [{"sess.known": 1}]
            session.lose()
        assert logged.take() == ["warn: no handler for the message 'other': it sets no variables"]
        Session(factory).notify("x" * 10_000)
        (line,) = logged.take()
        assert len(line) < 200
        Session(factory).notify("Known")
        assert logged.take() == [
            "warn: no handler for the message 'Known': it sets no variables; did you mean 'known'?"
        ]

    def test_a_long_name_of_a_variable_is_logged_once(self, logged: Logged) -> None:
        """HAProxy drops scope.prefix.name above 63 characters. The variable is sent nevertheless."""
        name = "a" * 41
        haproxy = FakeHAProxy(Handlers({"m": lambda: {f"sess.{name}": 1, f"proc.{name}": 1, f"txn.{name[1:]}": 1}}))
        for _ in range(3):
            assert len(haproxy.notify("m")) == 3
        warnings = logged.take()
        assert len(warnings) == 2
        assert all("may be too long: HAProxy drops" in line for line in warnings)

    def test_a_variable_without_a_scope_is_logged_once(self, logged: Logged) -> None:
        """Whichever handlers set it. HAProxy sets it in proc."""
        haproxy = FakeHAProxy(Handlers({"m": lambda: {"allowed": 1}, "n": lambda: {"allowed": 2, "proc.shared": 3}}))
        for _ in range(3):
            assert haproxy.notify("m") == {"proc.allowed": 1}
            assert haproxy.notify("n") == {"proc.allowed": 2, "proc.shared": 3}
        (line,) = logged.take()
        assert line.startswith("warn: the variable 'allowed' has no scope")

    def test_a_reload_warns_again(self, logged: Logged, clock: Clock) -> None:
        """``SPOAFactory.use`` gives the agent other handlers. What an old handler still answers is logged too."""
        factory = SPOAFactory(Handlers(), reactor=clock)
        for _ in range(2):
            factory.outcomes.unhandled(0, Message("m"))
        assert len(logged.take()) == 1
        factory.use(Handlers())
        for _ in range(2):
            factory.outcomes.unhandled(0, Message("m"))
        assert len(logged.take()) == 1


class TestTheLogOfAFactory:
    """Health checks come every two seconds, and twistd writes events of all levels."""

    @staticmethod
    def log_of(log: Logger | None) -> list[str]:
        """Return what an agent logs of a health check and of an unknown message."""
        lines = Lines()
        globalLogPublisher.addObserver(lines)
        try:
            factory = SPOAFactory(Handlers(), reactor=Clock(), log=log)
            factory.observer.on_event(HelloReceived(PEER, HAProxyHello(healthcheck=True)))
            factory.observer.on_event(MessageUnhandled("m"))
        finally:
            globalLogPublisher.removeObserver(lines)
        return [line[:20] for line in lines.take()]

    def test_it_drops_debug_events(self, logged: Logged) -> None:
        """Faults are logged."""
        assert self.log_of(None) == self.log_of(agent_log()) == ["warn: no handler for"]
        logged.take()

    @pytest.mark.parametrize("log", [Logger(), agent_log(debug=True)], ids=["own", "debug"])
    def test_a_logger_gets_all_events(self, log: Logger, logged: Logged) -> None:
        """An application that passes a Logger chooses the levels by its observers."""
        assert self.log_of(log) == [f"debug: {PEER}"[:20], "warn: no handler for"]
        logged.take()
