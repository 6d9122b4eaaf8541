"""Standstills of the reactor: noticed, and found in the code."""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import Any

import pytest
import twisted.internet.epollreactor
from twisted.internet.task import Clock

import spoa_twisted.service
from spoa_twisted import Message
from spoa_twisted.handlers.handler import Handler
from spoa_twisted.handlers.hold_ups import HoldUps
from spoa_twisted.observer import HandlerBlocked, Standstill
from spoa_twisted.runner import stalls
from spoa_twisted.runner.stalls import (
    FaultHandler,
    Frame,
    NoTracebacks,
    Stalls,
    find_place,
    frames_of,
    tracebacks_of_this_python,
)
from tests.handlers.answers import Recorder
from tests.programs import TWISTD
from tests.runner.conftest import Start
from tests.runner.test_process import Engine

#: Only there, Python has a timer for tracebacks that is used.
cpython = pytest.mark.skipif(sys.implementation.name != "cpython", reason="only CPython's faulthandler is used")

TWISTED = twisted.internet.epollreactor.__file__
OURS = spoa_twisted.service.__file__
STANDARD = threading.__file__

#: The text of CPython's faulthandler, with the traceback of this thread and of another one.
TEXT = f"""\
Timeout (0:00:01)!
Thread 0x00007f0000000001 [spoa-blocking-1] (most recent call first):
  File "/srv/other.py", line 1 in other

Thread 0x{threading.get_ident():016x} (most recent call first):
  File "/srv/agent/iprep.py", line 14 in get_score
  File "/srv/agent/iprep.py", line 30 in "f"
  File "{TWISTED}", line 5 in doPoll
  File "/usr/bin/twistd", line 8 in <module>
"""


class Tracebacks:
    """Tracebacks that a test sets."""

    def __init__(self) -> None:
        self.text = ""
        self.log: list[str] = []

    def arm(self) -> None:
        self.log.append("arm")

    def disarm(self) -> str:
        self.log.append("disarm")
        text, self.text = self.text, ""
        return text

    def close(self) -> None:
        self.log.append("close")


class Watched:
    """A reactor in memory that is watched for standstills."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.recorder = Recorder()
        self.hold_ups = HoldUps(self.recorder)
        self.tracebacks = Tracebacks()
        self.monotonic = 1000.0
        self.stalls = Stalls(self.clock, self.recorder, self.hold_ups, self.tracebacks, lambda: self.monotonic)
        self.stalls.start()
        self.clock.advance(0)

    def advance(self, seconds: float) -> None:
        """Let the reactor come back after ``seconds``."""
        self.monotonic += seconds
        self.clock.advance(seconds)


@pytest.fixture
def watched() -> Watched:
    return Watched()


class TestStalls:
    def test_a_reactor_that_runs(self, watched: Watched) -> None:
        """Each call arms the tracebacks again. They are read only after a standstill."""
        for _ in range(10):
            watched.advance(0.25)
        assert watched.tracebacks.log == ["arm"] * 11
        assert watched.recorder.take() == []

    def test_a_standstill(self, watched: Watched) -> None:
        """It has its time and its place, and the next one its own."""
        watched.tracebacks.text = TEXT
        watched.advance(1.5)
        assert watched.recorder.take() == [Standstill(1.5, "/srv/agent/iprep.py, line 14, in get_score")]
        watched.advance(7)
        assert watched.recorder.take() == [Standstill(7, None)]
        watched.advance(0.99)
        assert watched.recorder.take() == []
        assert watched.tracebacks.log == ["arm", "disarm", "arm", "disarm", "arm", "arm"]

    def test_the_clock_may_be_set(self, watched: Watched) -> None:
        """Forward, or back, so that the reactor's timers are late by another clock. Neither is a standstill."""
        watched.clock.advance(3600)
        watched.clock.rightNow -= 3600
        watched.monotonic += 3600
        watched.clock.advance(3600.25)
        assert watched.tracebacks.log == ["arm"] * 3
        assert watched.recorder.take() == []

    def test_a_handler_that_blocked_explains_it(self, watched: Watched) -> None:
        """Its event has the place, and there is no other event. A longer standstill is not explained by it."""
        handler = Handler("m", lambda: None, None, None, blocking=False)
        for seconds, elapsed, unexplained in ((2.0, 2.5, False), (0.5, 3.0, True)):
            watched.tracebacks.text = TEXT
            watched.monotonic += elapsed
            watched.clock.rightNow += elapsed
            message = Message("m")
            started = watched.clock.seconds() - seconds
            watched.hold_ups.on_step(handler, message, [message], started, watched.clock)
            watched.clock.pump([0, 0])
            place = "/srv/agent/iprep.py, line 14, in get_score"
            blocked = HandlerBlocked("m", seconds, 0, place=place)
            events = watched.recorder.take()
            assert [event for event in events if isinstance(event, HandlerBlocked)] == [blocked]
            assert [event for event in events if isinstance(event, Standstill)] == (
                [Standstill(elapsed, place)] if unexplained else []
            )

    def test_an_observer_that_blocks(self, watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
        """That is the next standstill."""
        events: list[Any] = []

        def block(event: Any) -> None:
            events.append(event)
            watched.monotonic += 5
            watched.clock.rightNow += 5

        monkeypatch.setattr(watched.recorder, "on_event", block)
        watched.advance(2)
        watched.advance(0.25)
        assert [event.seconds for event in events] == [2, 5.25]

    def test_it_ends(self, watched: Watched) -> None:
        """Without a timer, and only once."""
        watched.stalls.stop()
        watched.stalls.stop()
        assert watched.clock.getDelayedCalls() == []
        assert watched.tracebacks.log == ["arm", "close"]

    def test_it_ends_before_it_began(self) -> None:
        """The process may stop at once."""
        clock, tracebacks = Clock(), Tracebacks()
        watch = Stalls(clock, Recorder(), HoldUps(Recorder()), tracebacks)
        watch.start()
        watch.stop()
        assert clock.getDelayedCalls() == []
        assert tracebacks.log == ["close"]


class TestFrames:
    def test_those_of_one_thread(self) -> None:
        """The innermost first."""
        assert frames_of(TEXT, threading.get_ident())[:2] == [
            Frame("/srv/agent/iprep.py", 14, "get_score"),
            Frame("/srv/agent/iprep.py", 30, '"f"'),
        ]
        assert frames_of(TEXT, 0x7F0000000001) == [Frame("/srv/other.py", 1, "other")]
        assert frames_of(TEXT, 5) == []
        assert frames_of("", 5) == []

    def test_the_current_thread(self) -> None:
        """CPython names the thread that runs so."""
        text = 'Current thread 0x0a (most recent call first):\n  File "a.py", line 1 in a\n  ...\n'
        assert frames_of(text, 10) == [Frame("a.py", 1, "a")]

    @cpython
    def test_those_of_a_real_traceback(self) -> None:
        """The file is empty again after it was read."""
        tracebacks = FaultHandler()
        with tempfile.TemporaryFile() as other:
            faulthandler.dump_traceback(other)
            other.seek(0)
            text = other.read().decode()
        frame = frames_of(text, threading.get_ident())[0]
        assert (Path(frame.file), frame.function) == (Path(__file__), "test_those_of_a_real_traceback")
        tracebacks.arm()
        faulthandler.dump_traceback(tracebacks._file)
        assert frames_of(tracebacks.disarm(), threading.get_ident())
        assert tracebacks.disarm() == ""
        tracebacks.close()

    @cpython
    def test_a_system_without_files_in_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It has a temporary file."""
        monkeypatch.delattr(os, "memfd_create", raising=False)
        tracebacks = tracebacks_of_this_python()
        assert isinstance(tracebacks, FaultHandler)
        tracebacks.arm()
        assert tracebacks.disarm() == ""
        tracebacks.close()

    def test_a_python_without_the_timer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Or a system that can open no file: standstills are reported without their place."""
        monkeypatch.setattr(sys.implementation, "name", "other")
        tracebacks = tracebacks_of_this_python()
        assert isinstance(tracebacks, NoTracebacks)
        tracebacks.arm()
        assert tracebacks.disarm() == ""
        tracebacks.close()

        def fail(self: object) -> None:
            raise OSError("Too many open files")

        monkeypatch.setattr(sys.implementation, "name", "cpython")
        monkeypatch.setattr(FaultHandler, "__init__", fail)
        assert isinstance(tracebacks_of_this_python(), NoTracebacks)


class TestFindPlace:
    OWN = Frame("/srv/agent/iprep.py", 14, "get_score")
    OUTER = Frame("/srv/agent/iprep.py", 30, "m")
    PACKAGE = Frame("/usr/lib/python3/dist-packages/requests/api.py", 1, "get")
    SLEEP = Frame(STANDARD, 2, "wait")
    FROZEN = Frame("<frozen importlib._bootstrap>", 3, "_load")
    AGENT = Frame(OURS, 4, "respond")
    POLL = Frame(TWISTED, 5, "doPoll")
    RUN = Frame(TWISTED, 6, "run")
    PROGRAM = Frame("/usr/bin/twistd", 8, "<module>")

    @pytest.mark.parametrize(
        ("frames", "place"),
        [
            ([OWN, OUTER, AGENT, RUN, PROGRAM], OWN),
            ([SLEEP, FROZEN, PACKAGE, OWN, AGENT, RUN, PROGRAM], OWN),
            ([SLEEP, PACKAGE, AGENT, RUN, PROGRAM], PACKAGE),
            ([SLEEP, AGENT, RUN, PROGRAM], SLEEP),
            ([RUN, PROGRAM], RUN),
            ([POLL, RUN, PROGRAM], None),
            ([Frame(STANDARD, 1, "select"), RUN, PROGRAM], None),
            ([Frame(stalls.__file__, 1, "arm"), RUN, PROGRAM], None),
            ([OWN], OWN),
            ([], None),
        ],
    )
    def test_the_innermost_line_of_the_users_own_code(self, frames: list[Frame], place: Frame | None) -> None:
        """Else that of another package, else the innermost one. A reactor that waits for events is at no place."""
        assert find_place(frames) == (None if place is None else str(place))

    def test_a_file_in_the_current_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Its name is enough."""
        monkeypatch.chdir(tmp_path)
        assert str(Frame(str(tmp_path / "a" / "iprep.py"), 14, "f")) == "a/iprep.py, line 14, in f"
        assert str(Frame(str(tmp_path.parent / "iprep.py"), 14, "f")) == f"{tmp_path.parent}/iprep.py, line 14, in f"


MODULE = """\
import time
from twisted.internet import reactor, task
from spoa_twisted import Handlers

def get_score(seconds):
    time.sleep(seconds)
    return {"sess.score": 1}

def callback():
    return task.deferLater(reactor, 0).addCallback(lambda _: get_score(1.6))

handlers = Handlers({"blocks": lambda: get_score(1.6), "callback": callback, "now": lambda: {"sess.now": 1}})
"""


@pytest.mark.soak
def test_a_program_that_stands_still(start: Start, folder: Path) -> None:
    """It needs more than a second for each standstill: shorter ones are not reported."""
    (folder / "still.py").write_text(MODULE)
    agent = start(*TWISTD, "-n", "spoa", "--handlers=still", "--listen=unix:agent.sock")
    agent.said("SPOA listening")
    place = r"; after 1 s it was in still\.py, line 6, in get_score" if sys.implementation.name == "cpython" else ""
    with Engine("agent.sock") as engine:
        for name in ("blocks", "now"):
            engine.connection.send_notify([Message(name)])
        engine.send()
        assert engine.next_event().variables == {"sess.score": 1}
        assert engine.next_event().variables == {"sess.now": 1}
        agent.said(
            rf"the message 'blocks' held the agent up for \d\.\d\d s{place}; 1 other request waited: say blocking"
        )
        engine.connection.send_notify([Message("callback")])
        engine.send()
        assert engine.next_event().variables == {"sess.score": 1}
        agent.said(rf"stood still for \d\.\d\d s{place}\n")
        assert agent.output.count("stood still") == 1
        agent.signal(SIGSTOP)
        while Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)
        time.sleep(1.5)
        agent.signal(SIGCONT)
        agent.said(r"stood still for \d\.\d\d s", times=2)
    agent.stop()
    assert "Traceback" not in agent.output
