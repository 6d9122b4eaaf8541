"""Events of Twisted's log -> lines of JSON. Each line is a JSON object, whatever the event holds."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from datetime import datetime
from ipaddress import IPv4Address
from typing import Any, NoReturn

import pytest
from twisted.logger import FileLogObserver, LegacyLogObserverWrapper, Logger, LogLevel, LogPublisher
from twisted.python import log as old_log

from spoa_twisted.escaping import log_failure
from spoa_twisted.json_lines import json_line
from tests.lines import failure_of

STANDARD = ["time", "level", "logger", "message"]


def strict(line: str) -> dict[str, Any]:
    """Parse ``line`` as strict parsers do: no NaN, no lone surrogates, no name twice, no numbers beyond 64 bits."""

    def refuse(text: str) -> NoReturn:
        raise ValueError(text)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    def integer(text: str) -> int:
        assert -(2**63) <= int(text) < 2**63
        return int(text)

    assert line.endswith("\n")
    assert line.isascii()
    assert line.count("\n") == 1
    parsed = json.loads(line, parse_constant=refuse, object_pairs_hook=unique, parse_int=integer)
    assert isinstance(parsed, dict)
    str(parsed).encode("utf-8")
    for name, value in parsed.items():
        assert name
        assert value is None or isinstance(value, (str, int, float, bool))
    return parsed


def logged(emit: Callable[[Logger], object]) -> dict[str, Any]:
    """Return the line of the event that ``emit`` logs."""
    file = io.StringIO()
    emit(Logger("my.app", observer=FileLogObserver(file, json_line)))
    return strict(file.getvalue())


def own(line: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of ``line`` without the standard ones."""
    assert list(line)[:4] == STANDARD
    return {name: value for name, value in line.items() if name not in STANDARD}


class Unprintable:
    """It has no text."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


def test_the_standard_fields_come_first() -> None:
    line = logged(lambda log: log.warn("{peer} sent {count:,} frames", peer="192.0.2.1:5", count=12345))
    assert list(line) == [*STANDARD, "peer", "count"]
    assert line["level"] == "warn"
    assert line["logger"] == "my.app"
    assert line["message"] == "192.0.2.1:5 sent 12,345 frames"
    assert line["count"] == 12345


def test_the_time_is_utc() -> None:
    line = strict(json_line({"log_time": 1796000000.25, "log_level": LogLevel.info, "log_format": "text"}))
    assert line["time"] == "2026-11-30T00:53:20.250000Z"


def test_the_worker_follows_the_message() -> None:
    line = logged(lambda log: log.info("text", peer="a", worker=2))
    assert list(line) == [*STANDARD, "worker", "peer"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (2**63 - 1, 2**63 - 1),
        (2**63, "9223372036854775808"),
        (1.5, 1.5),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (b"\xff\n", "\\xff\n"),
        ("\udc80 \ud83d\ude00 \u2028\x1b", "\\udc80 \\ud83d\\ude00 \u2028\x1b"),
        (IPv4Address("192.0.2.1"), "192.0.2.1"),
        ([1, "a"], "[1, 'a']"),
        ({"a": 1}, "{'a': 1}"),
        (10**5000, "(a int that cannot be shown)"),
        ("x" * 1001, "x" * 1000 + "..."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_json_or_a_text(value: object, shown: object) -> None:
    """So are values that Python's json would refuse, or would write as something that is no JSON."""
    line = logged(lambda log: log.info("text", value=value))
    if value == 10**5000 and line["value"] != shown:
        # CPython < 3.10.7 and PyPy have no limit for the digits of an integer.
        assert line["value"].startswith("1000")
    else:
        assert line["value"] == shown


def test_a_value_that_has_no_text() -> None:
    """The line says so, and has the rest."""
    line = logged(lambda log: log.info("text", value=Unprintable(), count=1))
    assert "Unprintable" in line["value"]
    assert line["count"] == 1


def test_own_fields_do_not_replace_standard_ones() -> None:
    values = {"message": "m", "message_": "m_", "time": 1, "logger": "l", "traceback": 5}
    line = logged(lambda log: log.emit(LogLevel.info, "text {message}", **values))
    assert own(line) == {"message_": "m", "message__": "m_", "time_": 1, "logger_": "l", "traceback_": 5}
    assert line["message"] == "text m"
    assert line["logger"] == "my.app"


def test_a_name_is_a_text_too() -> None:
    values: dict[str, Any] = {"\udc80\n": 1, "\\udc80\n": 2}
    assert own(logged(lambda log: log.info("text", **values))) == {"\\udc80\n": 1, "\\udc80\n_": 2}


def test_an_event_whose_format_fails() -> None:
    """The line has what the event holds."""
    line = logged(lambda log: log.info("{nope} {peer}", peer="192.0.2.1"))
    assert line["message"].startswith("Unable to format event")
    assert line["peer"] == "192.0.2.1"
    line = logged(lambda log: log.info("{value}", value=Unprintable()))
    assert line["level"] == "info"


def test_a_long_message_is_cut() -> None:
    assert logged(lambda log: log.info("{text}", text="x" * 9000))["message"] == "x" * 4000 + "..."


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"log_level": 5, "log_time": "x", "log_namespace": Unprintable()},
        {"log_time": float("nan"), "log_failure": None, 5: 6},
        {"log_time": 1e300, "log_format": b"\xff", "traceback": None},
    ],
)
def test_an_event_without_the_usual_items(event: dict[str, Any]) -> None:
    """The time is now, if the event has none."""
    line = strict(json_line(event))
    assert list(line)[:4] == STANDARD
    assert datetime.strptime(line["time"], "%Y-%m-%dT%H:%M:%S.%fZ").year > 2000


def test_a_traceback_is_text() -> None:
    failure = failure_of(LookupError("no such row"))
    line = logged(lambda log: log.failure("it failed: {peer}", failure, peer="a"))
    assert list(line) == [*STANDARD, "peer", "traceback"]
    assert line["message"] == "it failed: a"
    assert line["level"] == "critical"
    assert line["traceback"] == failure.getTraceback()


def test_the_end_of_a_traceback_is_kept() -> None:
    failure = failure_of(LookupError("x" * 9000 + "end"))
    traceback = logged(lambda log: log.failure("it failed", failure))["traceback"]
    assert len(traceback) == 8000
    assert traceback.endswith("end\n")


def test_an_escaped_traceback_is_a_field_too() -> None:
    """``log_failure`` puts it into the message, if the exception has control characters."""
    failure = failure_of(LookupError("a\n\udc80"))
    line = logged(lambda log: log_failure(log, "it failed: {name}", failure, name="m"))
    assert line["message"] == "it failed: m"
    assert line["traceback"].startswith("Traceback (most recent call last):\n")
    assert line["traceback"].endswith("LookupError: a\\n\\udc80")
    assert own(line).keys() == {"name", "traceback"}


def test_a_failure_that_cannot_be_shown() -> None:
    failure = failure_of(LookupError())
    failure.getTraceback = Unprintable().__str__  # type: ignore[method-assign, assignment]
    line = logged(lambda log: log.failure("it failed", failure))
    assert line["traceback"] == "(a Failure that cannot be shown)"


def old_event(*message: object, **values: object) -> dict[str, Any]:
    """Return the line of an event of the old ``twisted.python.log``."""
    file = io.StringIO()
    publisher = LogPublisher(FileLogObserver(file, json_line))
    old_log.LogPublisher(publisher, publisher).msg(*message, **values)
    return strict(file.getvalue())


def test_events_of_the_old_log() -> None:
    """Their own fields are those that the caller gave."""
    line = old_event("a", 5, system="HTTPChannel", foo=1)
    assert line["message"] == "a 5"
    assert own(line) == {"system": "HTTPChannel", "foo": 1}
    assert own(old_event("a", system="-")) == {}
    line = old_event(format="%(who)s failed", who="x", isError=1)
    assert (line["message"], line["level"], own(line)) == ("x failed", "critical", {"who": "x"})
    line = old_event(failure=failure_of(LookupError("no")), why="reason", isError=1)
    assert line["message"] == "reason"
    assert line["level"] == "critical"
    assert list(line) == [*STANDARD, "traceback"]
    assert line["traceback"].endswith("LookupError: no\n")


def test_what_another_observer_adds_is_left_out() -> None:
    """An observer of the old log, which receives the event first, adds items to it."""
    file = io.StringIO()
    publisher = LogPublisher(LegacyLogObserverWrapper(lambda event: None), FileLogObserver(file, json_line))  # type: ignore[arg-type]
    log = Logger("my.app", observer=publisher)
    log.failure("it failed", failure_of(LookupError()), count=1)
    line = strict(file.getvalue())
    assert list(line) == [*STANDARD, "count", "traceback"]
