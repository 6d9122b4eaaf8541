"""The log of a worker in the log of the master."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from twisted.logger import Logger, LogLevel, formatEvent
from twisted.python.failure import Failure

from spoa_twisted.escaping import log_failure
from spoa_twisted.workers.logs import OUTPUT, PipeObserver, WorkerLog
from spoa_twisted.workers.stacks import find_line

STACK = """\
Fatal Python error: Aborted

Thread 0x1 (most recent call first):
  File "/x/other.py", line 1 in wait

Current thread 0x2 (most recent call first):
  File "/usr/lib/python3/site-packages/lib.py", line 2 in inner
  File "/x/mymod.py", line 3 in get
  File "<string>", line 1 in <module>
""".splitlines()


class Pipe:
    """A pipe between a worker's log and the master's."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.observer = PipeObserver(self.writing)
        self.events: list[dict[str, Any]] = []
        self.reasons: list[tuple[str, list[str]]] = []
        self.places: list[str] = []
        self.log = WorkerLog(3, lambda *reason: self.reasons.append(reason), self.places.append, self.events.append)
        self.log.add_events(4)

    def pass_on(self) -> None:
        self.log.pipes[4].feed(os.read(self.reading, 2**16))

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


def test_an_event_arrives_with_the_number_of_the_worker() -> None:
    """Its level, namespace, time, text and plain fields are those of the original. Braces in the text stay."""
    pipe = Pipe()
    Logger("mine", observer=pipe.observer).warn("a {b} {c}", b="{d}", c=object, n=5)
    pipe.pass_on()
    (event,) = pipe.events
    assert formatEvent(event) == "worker 3: a {d} <class 'object'>"
    assert (event["log_level"], event["log_namespace"], event["worker"], event["n"]) == (LogLevel.warn, "mine", 3, 5)
    assert event["log_time"] > 0
    assert "c" not in event
    pipe.close()


def test_a_failure_arrives_with_its_traceback() -> None:
    pipe = Pipe()
    log = Logger("mine", observer=pipe.observer)
    try:
        raise LookupError("boom {x}")
    except LookupError:
        log.failure("it failed")
    pipe.pass_on()
    (event,) = pipe.events
    assert formatEvent(event).startswith("worker 3: it failed\nTraceback")
    assert event["traceback"].endswith("LookupError: boom {x}")
    pipe.close()


def test_a_failure_with_control_characters() -> None:
    """Its traceback is in the text of the event. It arrives apart from the text, as any other one."""
    pipe = Pipe()
    log_failure(Logger("mine", observer=pipe.observer), "{name} failed", Failure(LookupError("boom\x1b")), name="it")
    pipe.pass_on()
    (event,) = pipe.events
    assert event["log_text"] == "it failed"
    assert event["traceback"].endswith("LookupError: boom\\x1b")
    assert formatEvent(event) == f"worker 3: it failed\n{event['traceback']}"
    pipe.close()


def test_the_end_of_the_reactor_is_not_logged() -> None:
    pipe = Pipe()
    Logger("twisted.internet.base", observer=pipe.observer).info("Main loop terminated.")
    Logger("twisted.internet.base", observer=pipe.observer).error("bad")
    pipe.pass_on()
    assert [event["log_text"] for event in pipe.events] == ["bad"]
    pipe.close()


def test_nobody_reads() -> None:
    """A worker whose master has ended must not fail when it logs."""
    pipe = Pipe()
    os.close(pipe.reading)
    Logger("mine", observer=pipe.observer).info("lost")
    os.close(pipe.writing)


def test_the_line_of_a_standstill() -> None:
    pipe = Pipe()
    pipe.observer.write({"stands_in": "mymod.py, line 3, in get"})
    pipe.pass_on()
    assert (pipe.events, pipe.places) == ([], ["mymod.py, line 3, in get"])
    pipe.close()


def test_the_reason_of_a_failed_start() -> None:
    pipe = Pipe()
    pipe.observer.write({"cannot_start": "no such module", "files": ["a.py"]})
    pipe.pass_on()
    assert (pipe.events, pipe.reasons) == ([], [("no such module", ["a.py"])])
    pipe.close()


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_output(size: int) -> None:
    """Lines of stdout and stderr are events, however they are split. A line that is no event is shown as it is."""
    events: list[dict[str, Any]] = []
    log = WorkerLog(1, lambda reason, files: None, lambda place: None, events.append)
    log.add_events(4)
    for descriptor, data in ((1, b"one\r\n\ntwo \xff"), (2, b"bad\n"), (4, b'{"x": 1}\n[]\nnoise\n')):
        for start in range(0, len(data), size):
            log.pipes[descriptor].feed(data[start : start + size])
        log.pipes[descriptor].end()
    assert [(event["log_text"], event["log_level"].name) for event in events] == [
        ("one", "info"),
        ("two \ufffd", "info"),
        ("bad", "warn"),
        ('{"x": 1}', "warn"),
        ("[]", "warn"),
        ("noise", "warn"),
    ]
    assert {event["log_namespace"] for event in events} == {OUTPUT}
    assert list(log.errors) == ["bad"]


def test_a_line_without_end() -> None:
    """It is cut."""
    events: list[dict[str, Any]] = []
    log = WorkerLog(1, lambda reason, files: None, lambda place: None, events.append)
    for _ in range(33):
        log.pipes[1].feed(b"x" * 2**15)
    assert len(events) == 1
    assert json.dumps(events[0]["log_text"])


def test_the_line_of_a_stack() -> None:
    """The innermost line of the user's code, of the thread that got the signal."""
    assert find_line(STACK) == " in /x/mymod.py, line 3, in get"
    assert find_line(["something else"]) == ""
