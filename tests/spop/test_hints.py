"""What to send instead of a value that has no SPOP type."""

from __future__ import annotations

import asyncio
import uuid
from array import array
from collections import deque
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from ipaddress import ip_network
from pathlib import PurePath
from types import SimpleNamespace
from typing import Any

import pytest

from spoa_twisted.spop.hints import advice, type_of
from spoa_twisted.spop.typeddata import encode_typed_data


class Color(Enum):
    RED = 1


class Integer:
    def __index__(self) -> int:
        return 1


class Scalar:
    """Like a scalar of numpy."""

    dtype = "float32"


def function() -> None: ...


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.5, "send an int, such as round"),
        (Decimal("1.5"), "send an int, such as round"),
        (Fraction(1, 2), "send an int, such as round"),
        ([1], 'send a str, such as ",".join(...)'),
        ((1, 2), 'send a str, such as ",".join(...)'),
        ([None], 'send a str, such as ",".join(...)'),
        ({1}, 'send a str, such as ",".join(...)'),
        (deque([1]), 'send a str, such as ",".join(...)'),
        ((x for x in "ab"), 'send a str, such as ",".join(...)'),
        (array("i", [1]), 'send a str, such as ",".join(...)'),
        ({"a": 1}, "send a str, such as json.dumps"),
        (datetime.now(tz=timezone.utc), "value.isoformat()"),
        (date(2026, 1, 1), "value.isoformat()"),
        (time(1), "value.isoformat()"),
        (timedelta(1), "int(value.total_seconds())"),
        (Color.RED, "send its value attribute"),
        (ip_network("192.0.2.0/24"), "send its network_address attribute"),
        (ip_network("2001:db8::/32"), "send its network_address attribute"),
        (Integer(), "send an int, such as int(...)"),
        (Scalar(), "value.item()"),
        (uuid.UUID(int=1), "send a str, such as str(...)"),
        (PurePath("/a"), "send a str, such as str(...)"),
        (SimpleNamespace(), "send a str, such as str(...)"),
        (LookupError("a"), "send a str, such as str(...)"),
        (int, "send a str, such as str(...)"),
        (function, "call it"),
        (PurePath("/a").as_posix, "call it"),
        ("a".upper, "call it"),
    ],
    ids=lambda parameter: type(parameter).__name__,
)
def test_the_advice_fits_the_type(value: Any, text: str) -> None:
    """The error of ``encode_typed_data`` names the type, and then says what to send."""
    assert text in advice(value)
    with pytest.raises(TypeError) as caught:
        encode_typed_data(value)
    assert str(caught.value) == f"{type_of(value)} has no SPOP type; {advice(value)}"


def test_a_coroutine_is_to_be_awaited() -> None:
    """A handler has called an async function, and forgot to await it."""
    coroutine = asyncio.sleep(0)
    assert advice(coroutine).startswith("await it")
    coroutine.close()


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "an int"), (1.5, "a float"), ([], "a list"), (object(), "an object"), (uuid.uuid4(), "a UUID")],
)
def test_the_type_has_its_article(value: Any, text: str) -> None:
    """Error texts begin with it: "an int is no mapping of variables"."""
    assert type_of(value) == text
