"""Standstills of the reactor: noticed, and found in the code."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from signal import SIGCONT, SIGSTOP
from types import SimpleNamespace
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
from spoa_twisted.runner.stalls import Frame, FrameReader, Stalls, find_place, frames_of
from tests.handlers.answers import Recorder
from tests.programs import TWISTD
from tests.runner.conftest import Start
from tests.runner.test_process import Engine

TWISTED = twisted.internet.epollreactor.__file__
OURS = spoa_twisted.service.__file__
STANDARD = threading.__file__

#: The frames of a handler.
FRAMES = [
    Frame("/srv/agent/iprep.py", 14, "get_score"),
    Frame("/srv/agent/iprep.py", 30, "m"),
    Frame(TWISTED, 5, "doPoll"),
    Frame("/usr/bin/twistd", 8, "<module>"),
]


class Frames:
    """Frames that a test sets."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.log: list[str] = []

    def arm(self) -> None:
        self.log.append("arm")

    def take(self) -> list[Frame]:
        self.log.append("take")
        frames, self.frames = self.frames, []
        return frames

    def close(self) -> None:
        self.log.append("close")


class Watched:
    """A reactor in memory that is watched for standstills."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.recorder = Recorder()
        self.hold_ups = HoldUps(self.recorder)
        self.frames = Frames()
        self.monotonic = 1000.0
        self.stalls = Stalls(self.clock, self.recorder, self.hold_ups, self.frames, lambda: self.monotonic)
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
        """Each call sets the deadline of the frames again. They are taken only after a standstill."""
        for _ in range(10):
            watched.advance(0.25)
        assert watched.frames.log == ["arm"] * 11
        assert watched.recorder.take() == []

    def test_a_standstill(self, watched: Watched) -> None:
        """It has its time and its place, and the next one its own."""
        watched.frames.frames = FRAMES
        watched.advance(1.5)
        assert watched.recorder.take() == [Standstill(1.5, "/srv/agent/iprep.py, line 14, in get_score")]
        watched.advance(7)
        assert watched.recorder.take() == [Standstill(7, None)]
        watched.advance(0.99)
        assert watched.recorder.take() == []
        assert watched.frames.log == ["arm", "take", "arm", "take", "arm", "arm"]

    def test_the_clock_may_be_set(self, watched: Watched) -> None:
        """Forward, or back, so that the reactor's timers are late by another clock. Neither is a standstill."""
        watched.clock.advance(3600)
        watched.clock.rightNow -= 3600
        watched.monotonic += 3600
        watched.clock.advance(3600.25)
        assert watched.frames.log == ["arm"] * 3
        assert watched.recorder.take() == []

    def test_a_handler_that_blocked_explains_it(self, watched: Watched) -> None:
        """Its event has the place, and there is no other event. A longer standstill is not explained by it."""
        handler = Handler("m", lambda: None, None, None, blocking=False)
        for seconds, elapsed, unexplained in ((2.0, 2.5, False), (0.5, 3.0, True)):
            watched.frames.frames = FRAMES
            watched.monotonic += elapsed
            watched.clock.rightNow += elapsed
            message = Message("m")
            now = watched.clock.seconds()
            watched.hold_ups.on_long_step(handler, message, [message], seconds, now, watched.clock)
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
        assert watched.frames.log == ["arm", "close"]

    def test_it_ends_before_it_began(self) -> None:
        """The process may stop at once."""
        clock, frames = Clock(), Frames()
        watch = Stalls(clock, Recorder(), HoldUps(Recorder()), frames)
        watch.start()
        watch.stop()
        assert clock.getDelayedCalls() == []
        assert frames.log == ["close"]


class TestFrameReader:
    @pytest.fixture
    def reader(self) -> Iterator[FrameReader]:
        reader = FrameReader()
        yield reader
        reader.close()

    @staticmethod
    def read(reader: FrameReader, turns: SimpleQueue[bool]) -> list[Frame]:
        """Let the thread of ``reader`` go on, and return the frames that it reads while this thread waits for them."""
        turns.put(False)
        until = time.monotonic() + 30
        while not (frames := reader.take()):
            assert time.monotonic() < until
            time.sleep(0)
        return frames

    def test_the_frames_of_the_thread(self, reader: FrameReader, monkeypatch: pytest.MonkeyPatch) -> None:
        """They stay until the next deadline is set, and are read again then.

        Each deadline is over at once. The thread waits for the test, not for a time.
        """
        turns: SimpleQueue[bool] = SimpleQueue()
        monkeypatch.setattr(stalls, "SHORTEST", 0)
        monkeypatch.setattr(reader, "_closed", SimpleNamespace(wait=lambda seconds: turns.get()))
        for _ in range(2):
            reader.arm()
            assert reader.take() == []
            functions = [frame.function for frame in self.read(reader, turns) if frame.file == __file__]
            assert functions == ["read", "test_the_frames_of_the_thread"]
            assert reader.take() == reader.take() != []
        turns.put(True)
        assert reader._thread is not None
        reader._thread.join(30)
        assert not reader._thread.is_alive()

    def test_a_deadline_that_is_moved(self, reader: FrameReader, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is read, and the thread ends."""
        monkeypatch.setattr(stalls, "SHORTEST", 30)
        reader.arm()
        reader.arm()
        reader.close()
        assert reader._thread is not None
        reader._thread.join(30)
        assert not reader._thread.is_alive()
        assert reader.take() == []

    def test_a_long_standstill(self, reader: FrameReader, monkeypatch: pytest.MonkeyPatch) -> None:
        """The frames are read once, however long it is."""
        monkeypatch.setattr(stalls, "SHORTEST", 0.01)
        reads: list[list[Frame]] = []
        monkeypatch.setattr(reader, "_on_read", reads.append)
        self.wait_three_times(reader, monkeypatch, lambda seconds: time.sleep(0.02))
        assert len(reads) == 1

    def test_a_reactor_that_is_on_time(self, reader: FrameReader, monkeypatch: pytest.MonkeyPatch) -> None:
        """It moves the deadline before that has come. The thread waits for the rest of the time, and reads nothing."""
        monkeypatch.setattr(stalls, "SHORTEST", 30)
        waited: list[float] = []

        def wait(seconds: float) -> None:
            waited.append(seconds)
            reader.arm()

        self.wait_three_times(reader, monkeypatch, wait)
        assert all(29 < seconds <= 30 for seconds in waited)
        assert reader.take() == []

    @staticmethod
    def wait_three_times(reader: FrameReader, monkeypatch: pytest.MonkeyPatch, wait: Callable[[float], object]) -> None:
        """Let the thread of ``reader`` call ``wait`` three times instead of waiting. Then it ends."""
        left = 3

        def fake(seconds: float) -> bool:
            nonlocal left
            wait(seconds)
            left -= 1
            return not left

        monkeypatch.setattr(reader, "_closed", SimpleNamespace(wait=fake, set=lambda: None))
        reader.arm()
        assert reader._thread is not None
        reader._thread.join(30)
        assert left == 0

    def test_a_system_that_allows_no_more_threads(self, reader: FrameReader, monkeypatch: pytest.MonkeyPatch) -> None:
        """Standstills are reported without their place."""

        def start(thread: object) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", start)
        reader.arm()
        assert reader.take() == []

    def test_a_thread_that_has_ended(self) -> None:
        """It has no frames."""
        assert frames_of(None) == []


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
    place = r"; after 1 s it was in still\.py, line 6, in get_score"
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
        agent.said(rf"stood still for \d\.\d\d s, and all requests waited{place}\n")
        assert agent.output.count("stood still") == 1
        agent.signal(SIGSTOP)
        while Path(f"/proc/{agent.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.01)
        time.sleep(1.5)
        agent.signal(SIGCONT)
        agent.said(r"stood still for \d\.\d\d s", times=2)
    agent.stop()
    assert "Traceback" not in agent.output
