"""The problems of an agent, each once, and the events that are counted."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.python.failure import Failure

import spoa_twisted.observer as observer
from spoa_twisted.observer import (
    ConnectionEnded,
    ConnectionMade,
    ConnectionRefused,
    DisconnectReceived,
    Event,
    HandlerBlocked,
    HandlerFailed,
    HandlerTimedOut,
    HelloReceived,
    HelloTimedOut,
    MessageUnhandled,
    PayloadRefused,
    PeerDropped,
    ProtocolError,
    Standstill,
)
from spoa_twisted.spop.errors import FrameTooBig
from spoa_twisted.spop.frames import Disconnect, HAProxyHello
from spoa_twisted.status.counters import Counters
from spoa_twisted.status.problems import MAX_SUBJECTS, Problems, describe
from spoa_twisted.status.recorder import Recorder
from spoa_twisted.status.report import Problem

PEER = "127.0.0.1:12345"


def failure(error: BaseException) -> Failure:
    try:
        raise error
    except BaseException:
        return Failure()


class Recorded:
    def __init__(self) -> None:
        self.counters = Counters()
        self.recorder = Recorder(self.counters, Clock())

    def problem(self, event: Event) -> Problem:
        """Report ``event``, and return the problem that it is."""
        self.recorder.on_event(event)
        return self.recorder.problems.snapshot()[0]


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


class TestProblems:
    def test_each_kind_and_subject_once(self) -> None:
        now = 1000.0
        problems = Problems(lambda: now)
        for second in range(5):
            now = 1000.0 + 10 * second
            problems.add("HandlerFailed", "m", lambda text=str(second): text)  # type: ignore[misc]
        now = 1050.0
        problems.add("HandlerFailed", "n", lambda: "other")
        last, first = problems.snapshot()
        assert last["subject"] == "n"
        assert first == {
            "kind": "HandlerFailed",
            "subject": "m",
            "text": "4",
            "count": 5,
            "first": 1000.0,
            "last": 1040.0,
        }

    def test_a_text_is_made_once_a_second(self) -> None:
        """A handler may fail with each of 10,000 requests a second."""
        now = 1000.0
        made: list[float] = []
        problems = Problems(lambda: now)

        def text() -> str:
            made.append(now)
            return "text"

        for tenth in range(30):
            now = 1000.0 + tenth / 10
            problems.add("HandlerFailed", "m", text)
        assert made == [1000.0, 1001.0, 1002.0]
        assert problems.snapshot()[0]["count"] == 30

    def test_they_are_bounded(self) -> None:
        """A peer that invents names of messages removes its own problems only."""
        problems = Problems(lambda: 1000.0)
        problems.add("HandlerFailed", "m", lambda: "text")
        for number in range(10 * MAX_SUBJECTS):
            problems.add("MessageUnhandled", f"message-{number}", lambda: "x" * 10_000)
        found = problems.snapshot()
        assert len(found) == MAX_SUBJECTS + 1
        assert "m" in [problem["subject"] for problem in found]
        assert max(len(problem["text"]) for problem in found) <= 400
        assert len(problems._texts_made) == len(found)

    def test_they_are_one_line_of_ascii(self) -> None:
        problems = Problems(lambda: 1000.0)
        problems.add("MessageUnhandled", "a\nb\x1b[31m\ud800" + "x" * 1000, lambda: "two\nlines \u2028 \ud800")
        (problem,) = problems.snapshot()
        for text in (problem["subject"], problem["text"]):
            assert text.isascii()
            assert text.isprintable()
        json.dumps(problem).encode()

    def test_the_clock_may_be_set_back(self) -> None:
        """The text is made again."""
        now = 1000.0
        problems = Problems(lambda: now)
        problems.add("HandlerFailed", "m", lambda: "first")
        now = 10.0
        problems.add("HandlerFailed", "m", lambda: "second")
        assert problems.snapshot()[0]["text"] == "second"


class TestDescribe:
    def test_the_line_of_the_users_code(self) -> None:
        """Not that of the library which raised the exception."""

        def handler() -> None:
            json.loads("no json")

        try:
            handler()
        except ValueError:
            text = describe(Failure())
        assert text.startswith("JSONDecodeError: ")
        assert "(test_problems.py, line " in text
        assert text.endswith(", in handler)")

    def test_no_text_and_no_traceback(self) -> None:
        assert describe(Failure(LookupError())) == "LookupError"

    def test_a_long_text_leaves_the_place(self) -> None:
        assert describe(failure(ValueError("x" * 1000))).endswith(", in failure)")

    def test_deep_recursion(self) -> None:
        def deep() -> None:
            deep()

        try:
            deep()
        except RecursionError:
            text = describe(Failure())
        assert text.startswith("RecursionError")


class TestRecorder:
    @pytest.mark.parametrize(
        ("event", "subject", "text"),
        [
            (HandlerTimedOut("m", 5.0), "m", "it took longer than 5 s"),
            (
                HandlerTimedOut("m", 5.0, False, 5.0, 10),
                "m",
                "no thread was free within 5 s: all 10 blocking_threads are busy",
            ),
            (
                HandlerTimedOut("m", 5.0, True, 4.0, 10),
                "m",
                "it took longer than 5 s, 4.00 s of it to get a thread: all 10 blocking_threads are busy",
            ),
            (
                HandlerBlocked("m", 2.0, 31, place="a.py, line 1, in get"),
                "m",
                "it held the agent up for 2.00 s; after 1 s it was in a.py, line 1, in get; 31 other requests waited",
            ),
            (HandlerBlocked("m", 2.0, 1), "m", "it held the agent up for 2.00 s; 1 other request waited"),
            (HandlerBlocked("m", 2.0, 0), "m", "it held the agent up for 2.00 s"),
            (Standstill(1.55, None), "", "stood still for 1.55 s"),
            (MessageUnhandled("m"), "m", "no handler, so it sets no variables"),
            (ConnectionRefused(1000), "", "1,000 connections are open, as many as max_connections allows"),
            (PeerDropped(PEER, 1000), "127.0.0.1", "it left more than max_unsent, 1,000 bytes, unread"),
            (HelloTimedOut("[::1]:12345"), "[::1]", "no HAPROXY-HELLO within hello_timeout"),
            (
                ProtocolError("unix socket", FrameTooBig("too long")),
                "unix socket",
                "too long (status code 3, frame is too big)",
            ),
            (
                PayloadRefused(PEER, ("m", "n"), "max_payload_size", 1000),
                "m",
                "fragments exceed max_payload_size, 1,000 bytes; raise --max-payload-size",
            ),
            (
                DisconnectReceived(PEER, Disconnect(2, "a timeout occurred")),
                "127.0.0.1",
                "HAPROXY-DISCONNECT: a timeout occurred (status code 2)",
            ),
        ],
    )
    def test_problems(self, recorded: Recorded, event: Event, subject: str, text: str) -> None:
        problem = recorded.problem(event)
        assert (problem["kind"], problem["subject"], problem["text"]) == (type(event).__name__, subject, text)

    def test_what_is_no_problem(self, recorded: Recorded) -> None:
        recorded.recorder.on_event(ConnectionMade(PEER))
        recorded.recorder.on_event(ConnectionEnded(PEER, Failure(ConnectionResetError())))
        recorded.recorder.on_event(DisconnectReceived(PEER, Disconnect(0, "normal")))
        assert recorded.recorder.problems.snapshot() == []

    def test_counts(self, recorded: Recorded) -> None:
        for event in (
            ConnectionMade(PEER),
            ConnectionMade(PEER),
            ConnectionRefused(2),
            HelloReceived(PEER, HAProxyHello(healthcheck=True)),
            HelloReceived(PEER, HAProxyHello()),
            DisconnectReceived(PEER, Disconnect(0, "normal")),
            # A peer may send any number, which must not become a label.
            DisconnectReceived(PEER, Disconnect(12345, "own")),
            DisconnectReceived(PEER, Disconnect(12346, "own")),
            ProtocolError(PEER, FrameTooBig("too long")),
            HelloTimedOut(PEER),
            PayloadRefused(PEER, (), "max_payload_size", 1),
            PeerDropped(PEER, 1),
            Standstill(1.5, None),
            HandlerBlocked("m", 2.0, 0),
            HandlerBlocked("m", 0.3, 0),
        ):
            recorded.recorder.on_event(event)
        counters = recorded.counters
        assert (counters.connections, counters.refused, counters.health_checks) == (2, 1, 1)
        assert counters.disconnects == {"haproxy 0": 1, "haproxy 99": 2, "agent 3": 1}
        assert counters.dropped == {"hello_timeout": 1, "payload": 1, "unread": 1}
        assert (counters.stalls, counters.stall_seconds) == (2, 3.5)

    def test_each_kind_of_event_can_be_recorded(self, recorded: Recorded) -> None:
        """No kind makes the recorder fail, so that a new kind is noticed here."""
        samples: dict[str, Any] = {
            "peer": PEER,
            "failure": failure(LookupError("no such row")),
            "reason": failure(ConnectionResetError()),
            "error": FrameTooBig("too long"),
            "hello": HAProxyHello(),
            "disconnect": Disconnect(0, "normal"),
            "names": ("m",),
            "known": (),
            "place": None,
        }
        numbers = {"int": 1, "float": 1.0, "bool": True, "str": "text"}
        kinds = [
            kind
            for kind in vars(observer).values()
            if isinstance(kind, type) and issubclass(kind, Event) and "on_event" not in vars(kind)
        ]
        for kind in kinds:
            values = {field.name: samples.get(field.name, numbers.get(str(field.type))) for field in fields(kind)}
            recorded.recorder.on_event(kind(**values))
        assert len(kinds) > 25
        assert len(recorded.recorder.problems.snapshot()) >= 20

    def test_a_failing_handler(self, recorded: Recorded) -> None:
        problem = recorded.problem(HandlerFailed("m", failure(ValueError("no such user"))))
        assert problem["text"].startswith("ValueError: no such user (test_problems.py, line ")
