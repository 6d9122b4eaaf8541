"""The limits: their values, ranges, errors, and where they are used."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from typing import Any

import pytest

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.agent.outbox import UNSENT_TIMEOUT
from spoa_twisted.limits import LIMITS, Limit, Limits
from spoa_twisted.spop.connection import AgentConnection
from spoa_twisted.tap import Options

all_limits = pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)

COUNTS = [limit for limit in LIMITS.values() if limit.number is int]
TIMES = [limit for limit in LIMITS.values() if limit.number is float]

counts = pytest.mark.parametrize("limit", COUNTS, ids=[limit.name for limit in COUNTS])
times = pytest.mark.parametrize("limit", TIMES, ids=[limit.name for limit in TIMES])


def limits(limit: Limit, value: Any) -> Limits:
    """Return limits with one value that is not the default."""
    return Limits(**{limit.name: value})


def test_each_field_has_one_definition() -> None:
    """LIMITS has the names, the order and the defaults of the fields."""
    assert {name: limit.default for name, limit in LIMITS.items()} == dataclasses.asdict(Limits())
    assert list(LIMITS) == [field.name for field in dataclasses.fields(Limits)]
    assert all(name == limit.name for name, limit in LIMITS.items())


def test_the_ranges() -> None:
    """This table repeats the ranges, so that nobody changes a range by accident."""
    assert {name: (limit.smallest, limit.largest, limit.unit) for name, limit in LIMITS.items()} == {
        "max_frame_size": (256, 2**32 - 1, "bytes"),
        "max_payload_size": (1, 2**40, "bytes"),
        "max_reassembly_size": (1, 2**40, "bytes"),
        "max_in_flight": (1, 2**40, "NOTIFYs"),
        "max_in_flight_size": (1, 2**40, "bytes"),
        "max_unsent": (1, 2**40, "bytes"),
        "max_connections": (1, 2**40, "connections"),
        "hello_timeout": (0, 10_000_000, "seconds"),
        "handler_timeout": (0, 10_000_000, "seconds"),
        "drain_timeout": (0, 10_000_000, "seconds"),
        "log_slow": (0, 10_000_000, "seconds"),
    }


@all_limits
def test_the_ends_of_the_range_are_allowed(limit: Limit) -> None:
    """The smallest and the largest value are accepted, as a keyword and as an option."""
    for value in (limit.smallest, limit.largest):
        assert getattr(limits(limit, value), limit.name) == value
        assert limit.parse(str(value)) == value


@all_limits
def test_a_number_outside_the_range_is_refused(limit: Limit) -> None:
    """The error names the limit, the number, the range and the unit."""
    for value in (limit.smallest - 1, limit.largest + 1):
        reason = f"is not between {limit.smallest:,} and {limit.largest:,} {limit.unit}$"
        with pytest.raises(ValueError, match=f"^{limit.name} is {value}, which {reason}"):
            limits(limit, value)
        with pytest.raises(ValueError, match=f"^--{limit.option}: '{value}' {reason}"):
            limit.parse(str(value))


@all_limits
@pytest.mark.parametrize("value", [None, "1", b"1", True, [1], 1j], ids=repr)
def test_a_value_that_is_not_a_number_is_refused(limit: Limit, value: object) -> None:
    """The error names the limit, and shows the value."""
    with pytest.raises(TypeError, match=f"^{limit.name} is {re.escape(repr(value))}, which is not a .*number of "):
        limits(limit, value)


@counts
@pytest.mark.parametrize("value", [1000.0, math.nan, math.inf])
def test_a_count_is_a_whole_number(limit: Limit, value: float) -> None:
    """A float is refused, also if it has no fraction."""
    reason = f"is not a whole number of {limit.unit}$"
    with pytest.raises(TypeError, match=f"^{limit.name} is {value}, which {reason}"):
        limits(limit, value)
    with pytest.raises(ValueError, match=f"^--{limit.option}: '{value}' {reason}"):
        limit.parse(str(value))


@times
def test_a_time_may_have_a_fraction(limit: Limit) -> None:
    """An int and a float are allowed, from 0 on."""
    for value in (0, 0.5, 7):
        assert getattr(limits(limit, value), limit.name) == value
        assert limit.parse(str(value)) == value


@times
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_time_is_finite(limit: Limit, value: float) -> None:
    """NaN and infinity are outside the range."""
    with pytest.raises(ValueError, match=f"^{limit.name} is {value}, which is not between"):
        limits(limit, value)
    with pytest.raises(ValueError, match=f"^--{limit.option}: '{value}' is not between"):
        limit.parse(str(value))


@all_limits
@pytest.mark.parametrize("text", ["", "x", "2s", "0x10", "1,000", "1 000"])
def test_a_text_that_is_not_a_number_is_refused(limit: Limit, text: str) -> None:
    """The error names the option, and shows the text."""
    with pytest.raises(ValueError, match=f"^--{limit.option}: '{text}' is not a .*number of {limit.unit}$"):
        limit.parse(text)


def test_an_unknown_name_is_refused() -> None:
    """Limits and SPOAFactory raise TypeError: otherwise, a misspelt limit would silently have its default."""
    unknown: dict[str, Any] = {"max_in_fligth": 1}
    with pytest.raises(TypeError, match="max_in_fligth"):
        Limits(**unknown)
    with pytest.raises(TypeError, match="max_in_fligth"):
        SPOAFactory(Handlers(), **unknown)


def test_limits_change_as_a_whole() -> None:
    """No field of Limits can be assigned. ``dataclasses.replace`` returns other limits, and checks them."""
    before = Limits()
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.max_in_flight = 1  # type: ignore[misc]
    assert dataclasses.replace(before, max_in_flight=1) == Limits(max_in_flight=1)
    with pytest.raises(ValueError, match="max_in_flight is 0"):
        dataclasses.replace(before, max_in_flight=0)


@all_limits
def test_each_limit_is_a_keyword_and_an_option(limit: Limit) -> None:
    """Its smallest value reaches the limits of the factory, and the parsed options of the command line."""
    keyword: dict[str, Any] = {limit.name: limit.smallest}
    factory = SPOAFactory(Handlers(), **keyword)
    assert factory.limits == limits(limit, limit.smallest)
    options = Options()
    options.parseOptions([f"--{limit.option}={limit.smallest}"])
    assert options[limit.option] == limit.smallest


def test_the_keywords_of_the_connection_have_the_same_names_and_defaults() -> None:
    """AgentConnection has two of the limits as parameters. They have the defaults of the limits."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(AgentConnection).parameters.items()}
    for name in ("max_frame_size", "max_payload_size"):
        assert defaults[name] == LIMITS[name].default


@all_limits
def test_the_help_texts(limit: Limit) -> None:
    """Each help text is one line of whole sentences, and names the unit."""
    assert re.fullmatch(r"[A-Z][^\n]*\.", limit.help)
    assert limit.unit.lower() in limit.help.lower()


def test_the_help_text_of_max_unsent() -> None:
    """It states UNSENT_TIMEOUT as a number: ``agent`` imports ``limits``, so ``limits`` cannot import ``agent``."""
    assert f"After {UNSENT_TIMEOUT:g} seconds with more," in LIMITS["max_unsent"].help


@pytest.mark.parametrize(
    ("keyword", "similar"),
    [("max_inflight", "max_in_flight, max_in_flight_size"), ("patience", "max_frame_size, max_payload_size, ")],
)
def test_an_unknown_keyword_is_refused(keyword: str, similar: str) -> None:
    """The error lists similar limits, or all if none is similar."""
    keywords: dict[str, Any] = {keyword: 1}
    with pytest.raises(TypeError, match=f"'{keyword}' is not a limit; use one of {similar}"):
        SPOAFactory(Handlers(), **keywords)
