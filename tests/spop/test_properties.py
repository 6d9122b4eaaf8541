"""Properties of the codec, which Hypothesis checks with arbitrary values and with arbitrary bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import strategies as st

from spoa_twisted.spop.actions import decode_actions, encode_actions
from spoa_twisted.spop.errors import InvalidFrame, SPOPError
from spoa_twisted.spop.frames import (
    AgentHello,
    Disconnect,
    Flags,
    FrameBuffer,
    FrameType,
    HAProxyHello,
    encode_frame,
    encode_ids,
)
from spoa_twisted.spop.messages import Message, _layouts, decode_messages, encode_messages
from spoa_twisted.spop.typeddata import (
    Value,
    decode_kv_list,
    decode_string,
    decode_typed_data,
    encode_kv_list,
    encode_string,
    encode_typed_data,
)
from spoa_twisted.spop.varint import decode_varint, encode_varint
from tests.profile import holds_for

from .strategies import messages, numbers, objects, texts, typed, values, variable_names, variables

any_bytes = st.binary(max_size=200)


def read_at(decode: Callable[[bytes, int], tuple[Any, int]], encoded: bytes, before: bytes, behind: bytes) -> Any:
    """Decode ``encoded`` between other bytes, and return the value. Each shorter part must raise InvalidFrame."""
    value, offset = decode(before + encoded + behind, len(before))
    assert offset == len(before) + len(encoded)
    for end in range(len(encoded)):
        with pytest.raises(InvalidFrame):
            decode(before + encoded[:end], len(before))
    return value


@holds_for(numbers, any_bytes, any_bytes)
def test_varint(number: int, before: bytes, behind: bytes) -> None:
    """A number is decoded to itself, between arbitrary bytes."""
    assert read_at(decode_varint, encode_varint(number), before, behind) == number


@holds_for(texts, any_bytes, any_bytes)
def test_string(text: str, before: bytes, behind: bytes) -> None:
    """A text is decoded to itself, even if its bytes are not UTF-8."""
    assert read_at(decode_string, encode_string(text), before, behind) == text


@holds_for(values, any_bytes, any_bytes)
def test_typed_data(value: Value, before: bytes, behind: bytes) -> None:
    """A value is decoded to itself, with its type."""
    assert typed(read_at(decode_typed_data, encode_typed_data(value), before, behind)) == typed(value)


@holds_for(st.dictionaries(texts, values, max_size=5))
def test_kv_list(items: dict[str, Value]) -> None:
    """Items are decoded in their order."""
    assert typed(decode_kv_list(encode_kv_list(items.items()))) == typed(items)


@holds_for(st.lists(messages, max_size=4))
def test_messages(sent: list[Message]) -> None:
    """Messages and their arguments are decoded in their order."""
    assert typed(decode_messages(encode_messages(sent))) == typed(sent)


def outcome(data: bytes, offset: int = 0, end: int = -1) -> Any:
    """Return what decode_messages returns, or the text and the offset of its error."""
    try:
        return typed(decode_messages(data, offset, end))
    except InvalidFrame as error:
        return str(error), error.offset


@holds_for(st.lists(messages, min_size=1, max_size=3), any_bytes, st.integers(0, 2**16), st.integers(0, 255))
def test_known_layouts_change_no_result(sent: list[Message], behind: bytes, position: int, byte: int) -> None:
    """A payload with a wrong byte has the same result or error with known layouts, and with other bytes behind it."""
    encoded = encode_messages(sent)
    changed = bytearray(encoded)
    changed[position % len(changed)] = byte
    _layouts.clear()
    expected = outcome(bytes(changed))
    _layouts.clear()
    decode_messages(encoded)
    assert outcome(bytes(changed) + behind, 0, len(changed)) == expected
    assert outcome(bytes(changed)) == expected


@holds_for(variables)
def test_actions(sent: dict[str, Value]) -> None:
    """Variables are decoded in their order."""
    assert typed(decode_actions(encode_actions(sent))) == typed(sent)


versions = st.lists(st.sampled_from(["2.0", "1.0", "2.5", "3.1"]), max_size=3).map(lambda others: ("2.0", *others))
words = st.frozensets(st.text("abcxyz-", min_size=1, max_size=10), max_size=3)
sizes = st.integers(256, 2**32 - 1)


@holds_for(st.builds(HAProxyHello, versions, sizes, words, texts, st.booleans()))
def test_haproxys_hello(hello: HAProxyHello) -> None:
    """Each item of the HELLO is decoded to itself."""
    assert HAProxyHello.decode(hello.encode()) == hello


@holds_for(st.builds(AgentHello, st.sampled_from(["2.0", "2.7"]), sizes, words))
def test_an_agents_hello(hello: AgentHello) -> None:
    """Each item of the HELLO is decoded to itself."""
    assert AgentHello.decode(hello.encode()) == hello


@holds_for(st.integers(0, 2**32 - 1), st.text(st.characters()))
def test_disconnect(code: int, text: str) -> None:
    """The code is decoded to itself. Of the text, as many whole characters are left as fit in 255 bytes."""
    received = Disconnect.decode(Disconnect(code, text).encode())
    assert received.status_code == code
    sent = text.encode("utf-8", "replace").decode()
    assert sent.startswith(received.message)
    length = len(received.message.encode())
    assert length <= 255
    assert received.message == sent or length > 251


frames = st.tuples(
    st.sampled_from(FrameType),
    st.integers(0, 3).map(Flags),
    st.builds(encode_ids, numbers, numbers),
    st.binary(max_size=100),
)


@holds_for(st.lists(frames, max_size=5), st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_frames_in_pieces(sent: list[tuple[FrameType, Flags, bytes, bytes]], cuts: list[int]) -> None:
    """The same frames come out of the buffer, however the bytes were cut into pieces."""
    data = b"".join([encode_frame(*frame) for frame in sent])
    for sizes in ([len(data) + 1], [1], cuts):
        buffer = FrameBuffer(2**16)
        received: list[Any] = []
        offset = number = 0
        while offset < len(data):
            size = sizes[number % len(sizes)]
            buffer.feed(data[offset : offset + size])
            offset += size
            number += 1
            received += iter(buffer.next_frame, None)
        assert received == sent
        assert len(buffer) == 0


@pytest.mark.parametrize("decode", [decode_varint, decode_string, decode_typed_data])
@holds_for(any_bytes, st.integers(0, 250))
def test_any_bytes_are_decoded_or_raise_spoperror(
    decode: Callable[[bytes, int], tuple[Any, int]], data: bytes, offset: int
) -> None:
    """A decoded value ends within the bytes, is the same with other bytes behind it, and cannot be cut."""
    try:
        value, end = decode(data, offset)
    except SPOPError:
        return
    assert offset < end <= len(data)
    assert typed(decode(data + b"\xff\x00", offset)) == typed((value, end))
    with pytest.raises(SPOPError):
        decode(data[: end - 1], offset)


@holds_for(any_bytes)
def test_a_varint_has_one_encoding(data: bytes) -> None:
    """Any bytes that are decoded to a number are the encoding of that number."""
    try:
        number, end = decode_varint(data, 0)
    except SPOPError:
        return
    assert encode_varint(number) == data[:end]


@pytest.mark.parametrize(
    ("decode", "encode"),
    [
        (decode_kv_list, lambda items: encode_kv_list(items.items())),
        (decode_messages, encode_messages),
        (HAProxyHello.decode, HAProxyHello.encode),
        (AgentHello.decode, AgentHello.encode),
        (Disconnect.decode, None),
        (decode_actions, None),
    ],
)
@holds_for(any_bytes)
def test_any_payload_is_decoded_or_raises_spoperror(
    decode: Callable[[bytes], Any], encode: Callable[[Any], bytes] | None, data: bytes
) -> None:
    """The decoded value can be encoded, and is then decoded to the same value."""
    try:
        value = decode(data)
    except SPOPError:
        return
    if encode is not None:
        assert typed(decode(encode(value))) == typed(value)


@holds_for(
    st.dictionaries(variable_names | objects.filter(lambda name: type(name).__hash__ is not None), objects, max_size=3)
)
def test_actions_of_any_objects(sent: dict[Any, Any]) -> None:
    """encode_actions encodes any names and values, or raises a TypeError or ValueError that names the variable."""
    try:
        encoded = encode_actions(sent)
    except (TypeError, ValueError) as error:
        assert any(f"variable {name!r:.60}" in str(error) for name in sent)
    else:
        assert len(decode_actions(encoded)) <= len(sent)
        assert encoded or not sent


@holds_for(objects, objects, objects)
def test_messages_of_any_objects(name: Any, argument: Any, value: Any) -> None:
    """encode_messages encodes any name, argument and value, or raises TypeError or ValueError."""
    try:
        encoded = encode_messages([Message(name, [(argument, value)])])
    except (TypeError, ValueError):
        return
    (message,) = decode_messages(encoded)
    assert message.names == (argument,)


@holds_for(st.integers())
def test_ids_of_any_number(number: int) -> None:
    """encode_ids raises ValueError for a number below 0 or above 2^64 - 1."""
    if 0 <= number < 2**64:
        assert decode_varint(encode_varint(number), 0)[0] == number
    else:
        with pytest.raises(ValueError, match="64 bits"):
            encode_ids(number, 1)
