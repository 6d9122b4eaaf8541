"""Hypothesis strategies: values that SPOP can encode, and arbitrary objects."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from spoa_twisted.spop.actions import NO_ACTIONS, encode_actions
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.typeddata import NULL, Int32, Int64, UInt32, UInt64, Value

numbers = st.integers(0, 2**64 - 1) | st.sampled_from([0, 239, 240, 2287, 2288, 2**32, 2**63, 2**64 - 1])

#: Texts as decode_string returns them, for bytes that are UTF-8 and for bytes that are not.
texts = st.text(max_size=40).map(lambda text: text.encode("utf-8", "replace").decode()) | st.binary(max_size=40).map(
    lambda data: data.decode("utf-8", "surrogateescape")
)

values: st.SearchStrategy[Value] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-(2**31), 2**31 - 1).map(Int32),
    st.integers(0, 2**32 - 1).map(UInt32),
    st.integers(0, 2**64 - 1).map(UInt64),
    st.ip_addresses(),
    texts,
    st.binary(max_size=60),
)

messages = st.builds(Message, texts, st.lists(st.tuples(texts, values), max_size=5))

variable_names = st.builds(
    "{}.{}".format,
    st.sampled_from(["proc", "sess", "txn", "req", "res"]),
    st.text("ABCxyz019_.", min_size=1, max_size=80),
)

#: Variables as a handler returns them. None unsets a variable, NULL sets it to the SPOP type NULL.
#: NO_ACTIONS, the unset of "txn._" alone, is decoded as no variables.
variables = st.dictionaries(variable_names, values | st.just(NULL), max_size=5).filter(
    lambda chosen: encode_actions(chosen) != NO_ACTIONS
)

#: Objects of any type. SPOP can encode only some of them.
objects: st.SearchStrategy[Any] = st.one_of(
    values,
    st.integers(),
    st.integers(-(2**70), 2**70).map(Int32),
    st.integers(-(2**70), 2**70).map(UInt32),
    st.integers(-(2**70), 2**70).map(Int64),
    st.integers(-(2**70), 2**70).map(UInt64),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(categories=["Cs", "L", "Cc"])),
    st.binary(max_size=20).map(bytearray),
    st.binary(max_size=20).map(lambda data: memoryview(data)),
    st.lists(st.integers(), max_size=3),
    st.tuples(st.text()),
    st.frozensets(st.integers(), max_size=3),
    st.sampled_from([object(), object, Ellipsis, NotImplemented, len, Decimal(1), date(2026, 1, 1), range(3), NULL]),
)


def typed(value: Any) -> Any:
    """Return ``value`` with its types, for a strict comparison: in Python, True == 1 and Int32(1) == 1."""
    if isinstance(value, Message):
        return value.name, [(name, typed(argument)) for name, argument in value]
    if isinstance(value, dict):
        return [(name, typed(item)) for name, item in value.items()]
    if isinstance(value, list):
        return [typed(item) for item in value]
    return type(value), value
