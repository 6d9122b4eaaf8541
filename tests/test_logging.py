"""The log of JSON lines: what writes to it, and where it is."""

from __future__ import annotations

import io
import json
import logging as standard
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.logger import Logger, globalLogPublisher
from twisted.python.reflect import namedAny

from spoa_twisted import logging


@pytest.fixture(autouse=True)
def last_resort() -> Iterator[None]:
    """Restores the handler that Python's ``logging`` uses when the application has configured none."""
    before = standard.lastResort
    yield
    standard.lastResort = before


@pytest.fixture
def observer() -> Iterator[io.StringIO]:
    """What an observer of the global log writes."""
    file = io.StringIO()
    observer = logging.json_observer(file)
    globalLogPublisher.addObserver(observer)
    yield file
    globalLogPublisher.removeObserver(observer)


@pytest.fixture
def json_log() -> Iterator[logging.JSONLog]:
    """The object that twistd calls, and its state, which is restored."""
    before = signal.getsignal(signal.SIGUSR1)
    yield logging.json
    logging.json.path = ""
    signal.signal(signal.SIGUSR1, before)


def taken(file: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.getvalue().splitlines()]


def test_twistd_finds_it_by_its_name() -> None:
    assert namedAny("spoa_twisted.logging.json") is logging.json


def test_by_default_it_writes_to_stdout(capsys: pytest.CaptureFixture[str], json_log: logging.JSONLog) -> None:
    observer: Any = json_log()
    Logger("my.app", observer=observer).info("text")
    line = json.loads(capsys.readouterr().out)
    assert (line["logger"], line["message"]) == ("my.app", "text")


@pytest_twisted.ensureDeferred
async def test_a_new_file_on_sigusr1(tmp_path: Path, json_log: logging.JSONLog) -> None:
    """The old file is complete, and the next line is in the new one."""
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    json_log.path = str(tmp_path / "agent.log")
    observer: Any = json_log()
    log = Logger(observer=observer)
    log.info("one")
    os.kill(os.getpid(), signal.SIGUSR1)
    # Python calls the signal handler, and the reactor what that has asked for, before this Deferred fires.
    await deferLater(reactor, 0, lambda: None)
    log.info("two")
    observer._outFile.close()
    for name, text in [("agent.log.1", "one"), ("agent.log", "two")]:
        (line,) = (tmp_path / name).read_text().splitlines()
        assert json.loads(line)["message"] == text


def test_a_signal_handler_of_the_application_stays(tmp_path: Path, json_log: logging.JSONLog) -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    json_log.path = str(tmp_path / "agent.log")
    observer: Any = json_log()
    observer._outFile.close()
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN


def test_a_file_that_cannot_be_opened(tmp_path: Path, json_log: logging.JSONLog) -> None:
    """twistd prints one line, and ends."""
    json_log.path = str(tmp_path / "missing" / "agent.log")
    with pytest.raises(SystemExit) as caught:
        json_log()
    assert str(caught.value) == f"spoa: cannot open the log file {json_log.path}: No such file or directory"


@pytest.fixture
def library() -> standard.Logger:
    """A logger of a library, as if no application had configured ``logging``: pytest has, so it has no parent."""
    return standard.Logger("some.library")


def test_pythons_logging_goes_to_the_same_log(
    observer: io.StringIO, library: standard.Logger, logged: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """With its level, and a traceback. Python's own default does not log levels below WARNING either."""
    library.info("not logged")
    library.warning("%d rows\nmore", 5)
    try:
        raise LookupError("no such row")
    except LookupError:
        library.exception("it failed")
    library.critical("the end")
    warning, error, critical = taken(observer)
    assert (warning["level"], warning["logger"], warning["message"]) == ("warn", "some.library", "5 rows\nmore")
    assert (error["level"], error["message"]) == ("error", "it failed")
    assert error["traceback"].endswith("LookupError: no such row\n")
    assert critical["level"] == "critical"
    assert len(logged.take()) == 3
    assert "rows" not in capfd.readouterr().err


def test_a_record_that_cannot_be_formatted(
    observer: io.StringIO, library: standard.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's ``logging`` reports it on stderr, which twistd logs."""
    library.warning("%d", "no number")
    assert taken(observer) == []
    assert "TypeError" in capsys.readouterr().err


def test_no_event_runs_in_a_circle(observer: io.StringIO) -> None:
    """Twisted's observer for ``logging`` passes events on to the logger ``twisted``."""
    standard.Logger("twisted").warning("text")
    assert taken(observer) == []


def test_handlers_of_the_application_stay(observer: io.StringIO, library: standard.Logger) -> None:
    """An application that has configured ``logging`` gets what it wants."""
    stream = io.StringIO()
    library.addHandler(standard.StreamHandler(stream))
    library.warning("text")
    assert stream.getvalue() == "text\n"
    assert taken(observer) == []


def test_all_levels() -> None:
    file = io.StringIO()
    observer = logging.json_observer(file)
    globalLogPublisher.addObserver(observer)
    try:
        handler = logging.StandardHandler()
        for level in (5, standard.DEBUG, standard.INFO):
            handler.handle(standard.LogRecord("n", level, "", 1, "text", (), None))
        handler.handle(standard.LogRecord("n", standard.INFO, "", 1, "text", (), (None, None, None)))
    finally:
        globalLogPublisher.removeObserver(observer)
    assert [line["level"] for line in taken(file)] == ["debug", "debug", "info", "info"]
    assert "twisted.internet.reactor" in sys.modules
