"""LIST-OF-MESSAGES, the payload of a NOTIFY frame: bytes to :class:`Message` and back (SPOE.txt, sections 3.2, 3.3).

One message is encoded as::

    MESSAGE-NAME (a STRING)   NB-ARGS (one byte)   NB-ARGS times: name (a STRING) and value (TYPED-DATA)

HAProxy sends the messages of one event in one NOTIFY, in the order of its configuration. All messages of one
``spoe-message`` section have the same name and the same arguments' names. So the decoder keeps a :class:`_Layout` for
each section that it has seen. It compares the names' bytes with those of the layout and decodes only the values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, final

from spoa_twisted.spop.errors import InvalidFrame
from spoa_twisted.spop.typeddata import (
    DataType,
    Value,
    decode_string,
    decode_typed_data,
    encode_kv_list,
    encode_string,
    known_ipv4,
)

#: The largest number of arguments of a message: NB-ARGS is one byte.
MAX_ARGUMENTS: Final = 255

#: The largest number of messages in a NOTIFY that is accepted. HAProxy sends one for each ``spoe-message`` of the
#: event. Two bytes can encode a message, and its Message object takes much more memory: without this limit, a payload
#: of 1 MiB would become 524,288 objects.
MAX_MESSAGES: Final = 4096

# Bytes. The most memory that the result of decode_names takes, and the memory of a short name, about.
_MAX_NAMES_SIZE: Final = 2**14
_STR_SIZE: Final = 64

# Plain integers: a comparison with an IntEnum member would call a Python function.
_STRING: Final = int(DataType.STRING)
_NULL: Final = int(DataType.NULL)
_IPV4: Final = int(DataType.IPV4)

# The notation arg(N) for an unnamed argument; the docstring of Message explains it.
_UNNAMED: Final = re.compile(r"arg\((\d{1,3})\)\Z")


@final
class Message:
    """A message from HAProxy: the name of a ``spoe-message`` section and its arguments, in order. It is read-only.

    ``message["ip"]`` is the value of the first argument named ``ip``. ``message[0]`` is the value of the first
    argument, named or unnamed. ``message["arg(0)"]`` is the value of the first argument if that argument is unnamed:
    of ``args frontend=fe_id src dst``, the unnamed arguments are ``arg(1)`` and ``arg(2)``.

    ``"ip" in message`` is true if an argument has this name. Iteration yields pairs of a name and a value; the name of
    an unnamed argument is empty.
    """

    __slots__ = ("name", "names", "values")

    #: The name of the ``spoe-message`` section.
    name: str
    #: The arguments' names, in order. The name of an unnamed argument is empty.
    names: tuple[str, ...]
    #: The arguments' values, in the same order.
    values: tuple[Value, ...]

    def __init__(self, name: str, arguments: Iterable[tuple[str, Value]] = ()) -> None:
        self.name = name
        if not arguments:
            self.names = self.values = ()
            return
        # A pair may be a tuple, a list or another sequence of two. With the type Any, mypyc compiles no type check.
        pairs: tuple[Any, ...] = tuple(arguments)
        self.names = tuple([pair[0] for pair in pairs])
        self.values = tuple([pair[1] for pair in pairs])

    def position(self, name: str) -> int:
        """Return the position of the argument called ``name``, counted from 0; -1 if no argument has this name.

        The argument's own name takes precedence over the notation ``arg(N)`` of unnamed arguments.
        """
        if name in self.names and name:
            return self.names.index(name)
        unnamed = _UNNAMED.match(name)
        if unnamed is not None:
            position = int(unnamed[1])
            if position < len(self.names) and not self.names[position]:
                return position
        return -1

    def __getitem__(self, key: str | int) -> Value:
        """Return the value of the argument with the name or at the position ``key``.

        :raises KeyError: if no argument has this name.
        :raises IndexError: if no argument has this position.
        """
        if isinstance(key, str):
            position = self.position(key)
            if position < 0:
                raise KeyError(key)
            return self.values[position]
        return self.values[key]

    def get(self, key: str, default: Value = None) -> Value:
        """Return the value of the argument called ``key``, or ``default`` if no argument has this name."""
        position = self.position(key)
        return default if position < 0 else self.values[position]

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.position(key) >= 0

    def __iter__(self) -> Iterator[tuple[str, Value]]:
        return zip(self.names, self.values, strict=True)

    def __len__(self) -> int:
        return len(self.values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return (self.name, self.names, self.values) == (other.name, other.names, other.values)

    def __hash__(self) -> int:
        # The values are left out: a bytearray among them would not be hashable.
        return hash((self.name, self.names))

    def __reduce__(self) -> tuple[Any, ...]:
        # A class that mypyc has compiled can only be copied and pickled with this method.
        return Message, (self.name, tuple(self))

    def __repr__(self) -> str:
        arguments = "".join([f" {name}={value!r}" for name, value in self])
        return f"<Message {self.name}{arguments}>"


@final
class _Layout:
    """The constant part of the messages of one ``spoe-message`` section: all names, and no values."""

    __slots__ = ("head", "labels", "misses", "name", "names")

    def __init__(self, message: Message) -> None:
        self.name = message.name
        self.names = message.names
        #: The encoded MESSAGE-NAME and NB-ARGS, the bytes that a message begins with.
        self.head = encode_string(message.name) + bytes((len(message.names),))
        #: The encoded name of each argument, and its length in bytes.
        self.labels = tuple([(label, len(label)) for label in [encode_string(name) for name in message.names]])
        #: The number of messages with this head whose arguments were not those of this layout.
        self.misses = 0


# The layouts by their head. The length of the MESSAGE-NAME must be one byte. A peer chooses the names. So the number of
# layouts and the size of each, in bytes, are limited; a full table is emptied.
_layouts: Final[dict[bytes, _Layout]] = {}
_MAX_LAYOUTS: Final = 256
_MAX_LAYOUT_SIZE: Final = 4096
# After so many messages that did not match, the layout is replaced: HAProxy was probably reloaded with other arguments.
_MAX_MISSES: Final = 100


def decode_messages(data: bytes, offset: int = 0, end: int = -1) -> list[Message]:
    """Decode the LIST-OF-MESSAGES that fills ``data`` from ``offset`` to its end. It may be empty.

    :param end: the list ends here, and other bytes may follow. With it, the offset of an error counts from ``offset``,
        as if the list had been cut out of ``data``. To cut it out would copy a body once more.
    :raises InvalidFrame: if a message cannot be decoded or is cut off, or there are more than 4096 messages.
    """
    start = offset
    is_part = end >= 0
    if not is_part:
        end = len(data)
    messages: list[Message] = []
    while offset < end:
        # data[offset] is the length of the MESSAGE-NAME if it is below 240. Otherwise no layout has this key.
        layout = _layouts.get(data[offset : offset + 2 + data[offset]])
        message = None
        if layout is not None:
            message, following = _decode_with_layout(layout, data, offset, end)
        if message is None:
            if is_part:
                # decode_message, and the texts of its errors, take the end of the bytes for the end of the list.
                return decode_messages(data[start:end])
            message, following = decode_message(data, offset)
            if layout is None or layout.misses >= _MAX_MISSES:
                _remember_layout(message)
            else:
                # Two HAProxys may send the same message with different arguments, by turns. The layout is not replaced
                # at each turn: then no message would match it.
                layout.misses += 1
        messages.append(message)
        offset = following
        if len(messages) > MAX_MESSAGES:
            raise InvalidFrame(f"a NOTIFY has more than {MAX_MESSAGES} messages", offset - start if is_part else offset)
    return messages


def decode_names(data: bytes) -> list[str]:
    """Return the names of the messages in ``data``, the beginning of a LIST-OF-MESSAGES. It accepts any bytes.

    The last message may be cut off anywhere behind its name. Bytes that are not a message end the list. So do more
    names than a configuration of HAProxy has: a peer could otherwise fill the memory with them.
    """
    names: list[str] = []
    size = 0
    offset = 0
    try:
        while offset < len(data):
            name, end = decode_string(data, offset)
            size += _STR_SIZE + end - offset
            if size > _MAX_NAMES_SIZE:
                break
            names.append(name)
            _, offset = decode_message(data, offset)
    except InvalidFrame:
        # The last message is cut off, or the bytes are not a message.
        pass
    return names


def _decode_with_layout(layout: _Layout, data: bytes, offset: int, end: int) -> tuple[Message | None, int]:
    """Decode the message at ``offset``, which begins with the head of ``layout``; return it and the offset behind it.

    Return ``None`` for the message if its names differ, it cannot be decoded, or it does not end by ``end``. Then
    :func:`decode_message` decodes it, or raises the error.
    """
    offset += len(layout.head)
    values: list[Value] = []
    value: Value
    try:
        for label, size in layout.labels:
            value_offset = offset + size
            if data[offset:value_offset] != label:
                return None, offset
            # This is decode_typed_data without the calls, for the types that most arguments have.
            data_type = data[value_offset]
            if data_type == _STRING and (length := data[value_offset + 1]) < 240:
                text_offset = value_offset + 2
                offset = text_offset + length
                try:
                    # Without a second argument, decode is faster, and nearly all texts are UTF-8.
                    value = data[text_offset:offset].decode()
                except UnicodeDecodeError:
                    value = data[text_offset:offset].decode("utf-8", "surrogateescape")
            elif data_type == _NULL:
                value = None
                offset = value_offset + 1
            elif data_type == _IPV4 and (value := known_ipv4.get(data[value_offset + 1 : value_offset + 5])):
                offset = value_offset + 5
            else:
                value, offset = decode_typed_data(data, value_offset)
            values.append(value)
    except (IndexError, InvalidFrame):
        return None, offset
    # A slice may have returned fewer bytes, or the values may go on in the bytes behind the end.
    if offset > end:
        return None, offset
    # The names and values are assigned directly: the constructor would need a tuple for each argument.
    message = Message(layout.name)
    message.names = layout.names
    message.values = tuple(values)
    return message, offset


def decode_message(data: bytes, offset: int) -> tuple[Message, int]:
    """Decode the message at ``offset`` without a layout; return it and the offset behind it.

    :raises InvalidFrame: if a name or a value cannot be decoded, or ``data`` ends before the message does.
    """
    name, offset = decode_string(data, offset)
    if offset >= len(data):
        raise InvalidFrame("a message ends before NB-ARGS, the number of its arguments", offset)
    count = data[offset]
    offset += 1
    arguments: list[tuple[str, Value]] = []
    for _ in range(count):
        argument, offset = decode_string(data, offset)
        value, offset = decode_typed_data(data, offset)
        arguments.append((argument, value))
    return Message(name, arguments), offset


def _remember_layout(message: Message) -> None:
    """Store the layout of ``message``, so that the next message of its section is decoded faster."""
    layout = _Layout(message)
    size = len(layout.head) + sum([size for _, size in layout.labels])
    # decode_messages looks up a name by its first byte as the length; from 240 on, the length has more bytes.
    if layout.head[0] < 240 and size <= _MAX_LAYOUT_SIZE:
        if len(_layouts) >= _MAX_LAYOUTS:
            _layouts.clear()
        _layouts[layout.head] = layout


def encode_messages(messages: Iterable[Message]) -> bytes:
    """Encode ``messages`` as a LIST-OF-MESSAGES.

    :raises TypeError: if a name is not a ``str``, or an argument's value has no SPOP type.
    :raises ValueError: for a message of more than 255 arguments, or an integer outside the range of its type.
    """
    encoded = []
    for message in messages:
        if len(message) > MAX_ARGUMENTS:
            raise ValueError(f"the message {message.name!r} has {len(message)} arguments; SPOP allows 255")
        encoded.append(encode_string(message.name) + bytes((len(message),)) + encode_kv_list(message))
    return b"".join(encoded)
