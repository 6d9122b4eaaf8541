"""docs/reference/types.rst: values arrive, and are sent, as the table says."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from spoa_twisted import (
    NULL,
    Handlers,
    Int32,
    Int64,
    UInt32,
    UInt64,
)
from spoa_twisted.spop.typeddata import DataType, encode_typed_data
from spoa_twisted.testing import FakeHAProxy

from .pages import Page

TYPES: dict[str, list[Any]] = {
    "NULL": [NULL],
    "BOOL": [True],
    "INT32": [Int32(-5)],
    "UINT32": [UInt32(5)],
    "INT64": [-5, Int64(5)],
    "UINT64": [UInt64(5)],
    "IPV4": [ipaddress.IPv4Address("192.0.2.1")],
    "IPV6": [ipaddress.IPv6Address("2001:db8::1")],
    "STRING": ["text"],
    "BINARY": [b"data", bytearray(b"data"), memoryview(b"data")],
}


def type_name(value: object) -> str:
    """Return how the README calls the class of a value."""
    if value in (None, NULL):
        return repr(value)
    name = type(value).__name__
    return f"ipaddress.{name}" if name.startswith("IPv") else name


def test_the_types() -> None:
    """What is sent for a type goes as that type, and arrives as what the table says."""
    arrived: list[Any] = []
    haproxy = FakeHAProxy(Handlers({"value": lambda value: arrived.append(value)}))
    rows = []
    for name, values in TYPES.items():
        arrived.clear()
        for value in values:
            assert encode_typed_data(value)[0] & 0x0F == DataType[name]
            haproxy.notify("value", value=value)
        (arrives_as,) = {type_name(value) for value in arrived}
        rows.append([name, arrives_as, ", ".join([type_name(value) for value in values])])

    assert Page("reference/types").table("Types") == rows


def test_the_values_of_a_handler() -> None:
    """``None`` unsets, ``NULL`` is sent, integers may be negative; the rest is an error of the handler."""
    values: dict[str, Any] = {"txn.a": None, "txn.b": NULL, "txn.c": -5}
    haproxy = FakeHAProxy(Handlers({"value": lambda: values}))
    assert haproxy.notify("value") == {"txn.a": None, "txn.b": NULL, "txn.c": -5}
    for value in (1.5, UInt32(-1), 2**63, object()):
        values["txn.a"] = value
        with pytest.raises((TypeError, ValueError)):
            haproxy.notify("value")
