"""Texts of peers and of exceptions -> a part of a line of the log. A traceback holds the text of its exception."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.logger import ILogObserver, Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from spoa_twisted.escaping import cut, in_one_line, log_failure
from tests.handlers.answers import LONG, UnprintableError
from tests.lines import Lines, failure_of


def test_a_name_is_cut() -> None:
    """After 64 characters."""
    assert cut("a" * 64) == "a" * 64
    assert cut("a" * 65) == "a" * 64


def test_in_one_line() -> None:
    """The limit counts before characters are escaped."""
    assert in_one_line("a b~") == "a b~"
    assert in_one_line("\t\x7f\xe9\u2028\udc80\U0001f600") == "\\t\\x7f\\xe9\\u2028\\udc80\\U0001f600"
    assert in_one_line("\n" * 3000) == "\\n" * 2000


def log_text(error: BaseException) -> str:
    """Return the text that ``log_failure`` logs."""
    lines = Lines()
    log_failure(Logger(observer=lines), "failed with {name}", failure_of(error), name="{m}")
    (text,) = lines.take()
    assert text.startswith("critical: failed with {m}\n")
    return text


def test_a_harmless_failure_is_logged_as_it_is() -> None:
    """The event has the Failure itself, for observers of the log that show it in their own way."""
    failures: list[Failure] = []

    @implementer(ILogObserver)
    def keep(event: dict[str, Any]) -> None:
        failures.append(event["log_failure"])

    failure = failure_of(LookupError("no such row"))
    log_failure(Logger(observer=keep), "failed", failure)
    assert failures == [failure]


@pytest.mark.parametrize(
    "text", ["no such user: bob\n2026-01-01 forged", "\x1b[2J\r\x85\u2028", "é\udc80", "{0} {\n"], ids=ascii
)
def test_a_text_is_escaped(text: str) -> None:
    """It can neither forge a line nor control a terminal. The frames above it stay readable."""
    logged = log_text(ValueError(text))
    assert all(character == "\n" or " " <= character <= "~" for character in logged)
    assert "Traceback" in logged
    assert "\n    raise error\n" in logged
    assert logged.endswith("ValueError: " + text.encode("unicode_escape").decode())


def test_a_long_text_is_cut() -> None:
    """After 2,000 characters."""
    logged = log_text(ValueError("x" * LONG))
    assert logged.endswith("ValueError: " + "x" * 2000)
    assert len(logged) < 4000


def test_a_text_of_2000_characters_is_not_cut() -> None:
    """But one more is."""
    assert "x" * 2000 in log_text(ValueError("x" * 2000))
    assert "x" * 2001 not in log_text(ValueError("x" * 2001))


def test_an_exception_whose_text_changes() -> None:
    """Where its text begins in the traceback is unknown. The whole traceback becomes one line."""

    class Changing(Exception):
        count = 0

        def __str__(self) -> str:
            self.count += 1
            return f"{self.count}\nforged\x1b[2J"

    logged = log_text(Changing())
    assert len(logged.splitlines()) == 2
    assert "Traceback" in logged
    assert "\x1b" not in logged


def test_an_exception_without_a_text() -> None:
    """Its ``__str__`` raises. The traceback names its class."""
    logged = log_text(UnprintableError())
    assert "UnprintableError" in logged
    assert "Traceback" in logged
