"""LIST-OF-MESSAGES and Message (SPOE.txt, section 3.3)."""

from __future__ import annotations

import copy
import pickle
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoa_twisted.spop.errors import InvalidFrame
from spoa_twisted.spop.messages import (
    MAX_MESSAGES,
    Message,
    _layouts,
    decode_messages,
    decode_names,
    encode_messages,
)
from spoa_twisted.spop.typeddata import Value

LISTS = [
    ([], ""),
    ([Message("m")], "016d00"),
    ([Message("")], "0000"),
    ([Message("check-ip", [("ip", IPv4Address("127.0.0.1"))])], "08636865636b2d6970" + "01" + "026970" + "067f000001"),
    ([Message("m", [("", 1), ("", 2)])], "016d02" + "000401" + "000402"),
    ([Message("m", [("a", None), ("a", True)])], "016d02" + "016100" + "016111"),
    ([Message("m", [("a", "b")]), Message("n")], "016d01" + "0161080162" + "016e00"),
    ([Message("m", [("", None)] * 255)], "016dff" + "0000" * 255),
]


@pytest.mark.parametrize(("messages", "encoded"), LISTS)
def test_a_list_is_encoded_and_decoded(messages: list[Message], encoded: str) -> None:
    """Messages are encoded as HAProxy sends them, and the bytes are decoded to equal messages."""
    data = bytes.fromhex(encoded)
    assert encode_messages(messages) == data
    assert decode_messages(data) == messages
    assert decode_messages(b"\x05" + data, 1) == messages


@pytest.mark.parametrize(("messages", "encoded"), LISTS)
def test_a_list_cut_short_is_an_error_or_a_shorter_list(messages: list[Message], encoded: str) -> None:
    """Data that ends inside a message raises InvalidFrame. Data that ends between two messages is a shorter list."""
    data = bytes.fromhex(encoded)
    ends = {len(encode_messages(messages[:count])): messages[:count] for count in range(len(messages) + 1)}
    for end in range(len(data)):
        if end in ends:
            assert decode_messages(data[:end]) == ends[end]
        else:
            with pytest.raises(InvalidFrame):
                decode_messages(data[:end])


def test_the_number_of_messages_is_limited() -> None:
    """A NOTIFY of more than 4096 messages raises InvalidFrame: a message of two bytes becomes a much larger object."""
    assert len(decode_messages(b"\0\0" * MAX_MESSAGES)) == MAX_MESSAGES
    with pytest.raises(InvalidFrame, match="more than 4096 messages"):
        decode_messages(b"\0\0" * (MAX_MESSAGES + 1))


@pytest.mark.parametrize(("messages", "encoded"), LISTS)
def test_the_names_of_a_list_cut_short(messages: list[Message], encoded: str) -> None:
    """decode_names returns the names of all messages whose name has arrived, wherever the data ends."""
    data = bytes.fromhex(encoded)
    starts = [len(encode_messages(messages[:count])) for count in range(len(messages))]
    for end in range(len(data) + 1):
        arrived = [
            message.name
            for start, message in zip(starts, messages, strict=True)
            if start + 1 + len(message.name) <= end
        ]
        assert decode_names(data[:end]) == arrived


@given(st.binary(max_size=300), st.lists(st.sampled_from(["first", "second"]), max_size=3))
def test_the_names_in_any_bytes(data: bytes, names: list[str]) -> None:
    """decode_names raises nothing, and bytes that are no messages do not hide the messages before them."""
    found = decode_names(encode_messages([Message(name, [("ip", 1)]) for name in names]) + data)
    assert found[: len(names)] == names


@pytest.mark.parametrize("name", ["", "a", "a" * 1000, "a" * 2**20])
def test_the_names_take_little_memory(name: str) -> None:
    """A peer that sends long names, or many, gets only some of them back."""
    found = decode_names(encode_messages([Message(name)] * 1000))
    assert set(found) <= {name}
    assert sum(64 + len(name) for name in found) <= 2**14


def test_more_than_255_arguments_are_refused() -> None:
    """encode_messages raises ValueError for 256 arguments, because NB-ARGS is one byte."""
    with pytest.raises(ValueError, match="'m' has 256 arguments"):
        encode_messages([Message("m", [("", None)] * 256)])


@pytest.fixture
def message() -> Message:
    """The message of ``args frontend=fe_id src dst``, and a fourth argument that is also named ``frontend``."""
    return Message("m", [("frontend", 3), ("", "src"), ("", "dst"), ("frontend", 4)])


def test_arguments_are_found_by_name_and_position(message: Message) -> None:
    """A name gets the first argument of that name, a number the argument at that position, arg(N) an unnamed one."""
    assert message["frontend"] == 3
    assert [message[0], message[1], message[-1]] == [3, "src", 4]
    assert message["arg(1)"] == "src"
    assert message["arg(2)"] == "dst"
    assert message.get("frontend") == 3
    assert message.get("nobody", "default") == "default"


@pytest.mark.parametrize("name", ["", "src", "arg(0)", "arg(4)", "arg(999)", "arg()", "arg(x)"])
def test_an_unknown_name_is_a_key_error(message: Message, name: str) -> None:
    """A name that no argument has raises KeyError. So does arg(N) if the argument at position N has a name."""
    assert name not in message
    assert message.get(name) is None
    with pytest.raises(KeyError) as caught:
        message[name]
    assert caught.value.args == (name,)


def test_a_position_outside_is_an_index_error(message: Message) -> None:
    """A position behind the last argument raises IndexError."""
    with pytest.raises(IndexError):
        message[4]


def test_a_message_is_an_ordered_view(message: Message) -> None:
    """A message has a length, yields pairs when iterated, knows its names, and shows its arguments in its repr."""
    assert len(message) == 4
    assert list(message) == [("frontend", 3), ("", "src"), ("", "dst"), ("frontend", 4)]
    assert "frontend" in message
    assert "arg(1)" in message
    assert 0 not in message
    assert repr(message) == "<Message m frontend=3 ='src' ='dst' frontend=4>"


def test_a_named_argument_may_be_called_like_an_unnamed_one() -> None:
    """If an argument is named "arg(0)", this key gets it, and not the unnamed argument at position 0."""
    assert Message("m", [("", 1), ("arg(0)", 2)])["arg(0)"] == 2


def test_a_message_is_read_only(message: Message) -> None:
    """An assignment to an argument raises TypeError."""
    with pytest.raises(TypeError):
        message["frontend"] = 5  # type: ignore[index]


def test_messages_are_compared_by_name_and_arguments(message: Message) -> None:
    """Messages of the same name and arguments are equal and have the same hash; all others differ."""
    same = Message("m", list(message))
    assert message == same
    assert hash(message) == hash(same)
    assert message != Message("n", list(message))
    assert message != Message("m")
    assert message != "m"


@pytest.mark.parametrize("messages", [messages for messages, _ in LISTS])
def test_a_message_can_be_copied_and_pickled(messages: list[Message]) -> None:
    """A copied or pickled message equals the original: a handler may send it to another process."""
    assert copy.deepcopy(messages) == messages
    assert pickle.loads(pickle.dumps(messages)) == messages


def test_arguments_may_be_pairs_of_any_kind() -> None:
    """A pair of a name and a value may be a tuple, a list (as from JSON) or a str of two characters."""
    pairs: list[Any] = [["a", 1], ("b", 2), "c3"]
    assert list(Message("m", pairs)) == [("a", 1), ("b", 2), ("c", "3")]


def encoded(*arguments: str, name: str = "turns") -> tuple[list[Message], bytes]:
    messages = [Message(name, [(argument, position) for position, argument in enumerate(arguments)])]
    return messages, encode_messages(messages)


@pytest.mark.parametrize(
    "others",
    [("b",), ("a", "b"), (), ("a",) * 255, ("aa",), ("",)],
    ids=["another name", "one more", "none", "many", "a longer name", "no name"],
)
def test_messages_of_one_name_with_other_arguments(others: tuple[str, ...]) -> None:
    """Two HAProxys may send different arguments by turns: each is decoded, and the layout is rarely replaced."""
    _layouts.clear()
    kinds = [encoded("a"), encoded(*others)]
    layouts = set()
    for turn in range(1000):
        messages, data = kinds[turn % 2]
        assert decode_messages(data) == messages
        layouts.add(id(_layouts[data[:7]]))
    assert len(layouts) <= 10
    # After a reload of HAProxy, all messages have the new arguments: they replace the layout.
    for _ in range(200):
        decode_messages(kinds[1][1])
    assert _layouts[kinds[1][1][:7]].names == others


def test_the_table_of_layouts_is_bounded() -> None:
    """At most 256 layouts of at most 4096 bytes are stored, and none of a name of 240 bytes or more."""
    _layouts.clear()
    for number in range(1000):
        messages, data = encoded("a", "b", name=f"m{number}")
        assert decode_messages(data) == messages
    assert 0 < len(_layouts) <= 256
    _layouts.clear()
    for messages, data in encoded("a" * 5000), encoded("a", name="n" * 240), encoded("a", name="n" * 300):
        for _ in range(3):
            assert decode_messages(data) == messages
    assert _layouts == {}


def test_a_message_with_a_known_layout_is_checked_as_strictly() -> None:
    """A cut or invalid message raises InvalidFrame, whether or not its layout is stored."""
    _layouts.clear()
    messages, data = encoded("a", "b")
    for whole in data, data:
        assert decode_messages(whole) == messages
        for end in range(1, len(whole)):
            with pytest.raises(InvalidFrame):
                decode_messages(whole[:end])
    with pytest.raises(InvalidFrame):
        decode_messages(data[:-2] + b"\x0f\x01")


def outcome(data: bytes, offset: int = 0, end: int = -1) -> Any:
    """Return what decode_messages returns, or the text and the offset of its error."""
    try:
        return decode_messages(data, offset, end)
    except InvalidFrame as error:
        return str(error), error.offset


VALUES: dict[str, Value] = {
    "empty": "",
    "NUL": "a\0b",
    "not UTF-8": "caf\udce9 \udcff",
    "two bytes a character": "\xe9" * 119,
    "239 bytes": "a" * 239,
    "240 bytes": "a" * 240,
    "241 bytes": "a" * 241,
    "241 bytes, 240 characters": "a" * 239 + "\xe9",
    "body": bytes(range(256)),
    "NULL": None,
    "integer of one byte": 239,
    "integer of two bytes": 240,
    "BOOL": True,
    "IPV4": IPv4Address("192.0.2.1"),
    "IPV6": IPv6Address("2001:db8::1"),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("behind", [b"", b"\0" * 300, b"\xff" * 300, b"a" * 300], ids=["", "00", "ff", "a"])
def test_a_message_is_cut_at_each_byte(value: Value, behind: bytes) -> None:
    """A known layout changes no result and no error, wherever the message ends and whatever follows it."""
    messages = [Message("cut", [("first", value), ("last", "x")])]
    data = encode_messages(messages)
    for end in range(len(data) + 1):
        _layouts.clear()
        expected = outcome(data[:end])
        if end == len(data):
            assert expected == messages
        decode_messages(data)
        assert _layouts
        assert outcome(data[:end]) == expected
        assert outcome(b"\x05" + data[:end] + behind, 1, 1 + end) == expected


def test_each_type_is_found_with_a_known_layout() -> None:
    """The type of an argument may differ from message to message: HAProxy sends NULL for a header that is missing."""
    _layouts.clear()
    for value in VALUES.values():
        messages = [Message("typed", [("first", value), ("last", value)])]
        assert decode_messages(encode_messages(messages)) == messages
    assert len(_layouts) == 1


def test_a_string_may_have_flags() -> None:
    """The flags of a STRING, a NULL and an IPV4 are ignored, as HAProxy ignores them, with a known layout too."""
    for data_type, rest, value in (
        (8, b"\x01x", "x"),
        (0, b"", None),
        (6, b"\xc0\x00\x02\x01", IPv4Address("192.0.2.1")),
    ):
        for flags in range(0, 256, 16):
            data = b"\x01m\x01\x01a" + bytes((flags | data_type,)) + rest
            assert decode_messages(data) == [Message("m", [("a", value)])]


def test_the_limit_of_messages_counts_with_other_bytes_behind_them() -> None:
    """The error for too many messages is the same, whatever follows them."""
    data = b"\x01m\0" * (MAX_MESSAGES + 1)
    expected = outcome(data)
    assert expected == ("a NOTIFY has more than 4096 messages", len(data))
    assert outcome(b"\x05" + data + b"x", 1, 1 + len(data)) == expected
