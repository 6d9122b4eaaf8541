"""LIST-OF-MESSAGES, the payload of a NOTIFY frame: bytes and :class:`Message` (SPOE.txt, section 3.3)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, final

from spoa_twisted.spop.errors import InvalidFrame
from spoa_twisted.spop.typeddata import (
    Value,
    decode_string,
    decode_typed_data,
    encode_kv_list,
    encode_string,
)

#: NB-ARGS is one byte.
MAX_ARGUMENTS: Final = 255

#: How many messages a NOTIFY may hold: one for each ``spoe-message`` of an event, but an empty one takes two bytes.
MAX_MESSAGES: Final = 4096

_UNNAMED: Final = re.compile(r"arg\((\d{1,3})\)\Z")


@final
class Message:
    """What a ``spoe-message`` section of HAProxy's configuration sent: its name and its arguments, in order.

    ``message["ip"]`` is the argument of that name (the first, should the name be repeated), ``message[0]`` the
    argument at that position, named or not, and ``message["arg(0)"]`` the one at that position if it is unnamed,
    as those of ``args frontend=fe_id src dst`` from position 1 on are. ``"ip" in message`` tells whether there is
    one; iteration gives (name, value) pairs, an unnamed argument's name being empty. A message is read only.
    """

    __slots__ = ("name", "names", "values")

    #: The name of the ``spoe-message`` section.
    name: str
    #: The arguments' names, in order; empty for an unnamed one.
    names: tuple[str, ...]
    #: The arguments' values, in the same order.
    values: tuple[Value, ...]

    def __init__(self, name: str, arguments: Iterable[tuple[str, Value]] = ()) -> None:
        self.name = name
        if not arguments:
            self.names = self.values = ()
            return
        # Pairs of any kind will do, and Any spares their check.
        pairs: tuple[Any, ...] = tuple(arguments)
        self.names = tuple([pair[0] for pair in pairs])
        self.values = tuple([pair[1] for pair in pairs])

    def position(self, name: str) -> int:
        """Return the position of the argument called ``name``, counted from zero; -1 when there is none."""
        if name in self.names and name:
            return self.names.index(name)
        unnamed = _UNNAMED.match(name)
        if unnamed is not None:
            position = int(unnamed[1])
            if position < len(self.names) and not self.names[position]:
                return position
        return -1

    def __getitem__(self, key: str | int) -> Value:
        """Return an argument's value.

        :raises KeyError: when no argument has that name. :raises IndexError: when none has that position.
        """
        if isinstance(key, str):
            position = self.position(key)
            if position < 0:
                raise KeyError(key)
            return self.values[position]
        return self.values[key]

    def get(self, key: str, default: Value = None) -> Value:
        """Return the value of the argument called ``key``, or ``default`` when there is none."""
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
        return hash((self.name, self.names))

    def __reduce__(self) -> tuple[Any, ...]:
        # copy and pickle need it once the class is compiled.
        return Message, (self.name, tuple(self))

    def __repr__(self) -> str:
        arguments = "".join([f" {name}={value!r}" for name, value in self])
        return f"<Message {self.name}{arguments}>"


@final
class _Layout:
    """What all messages of one ``spoe-message`` section have in common: all but the values."""

    __slots__ = ("head", "labels", "misses", "name", "names")

    def __init__(self, message: Message) -> None:
        self.name = message.name
        self.names = message.names
        self.head = encode_string(message.name) + bytes((len(message.names),))
        #: The encoded name of each argument, and how long that is.
        self.labels = tuple([(label, len(label)) for label in [encode_string(name) for name in message.names]])
        #: How many messages of this name were others.
        self.misses = 0


# By how they begin: a name shorter than 240 bytes.
_layouts: Final[dict[bytes, _Layout]] = {}
_MOST_LAYOUTS: Final = 256
_LONGEST_LAYOUT: Final = 4096
_MOST_MISSES: Final = 100


def decode_messages(data: bytes, offset: int = 0) -> list[Message]:
    """Decode the LIST-OF-MESSAGES that fills ``data`` from ``offset`` on. It may be empty.

    :raises InvalidFrame: when it cannot be read to the end, or holds more than 4096 messages.
    """
    messages: list[Message] = []
    while offset < len(data):
        layout = _layouts.get(data[offset : offset + 1 + data[offset]])
        message = None
        if layout is not None:
            message, end = _decode_as(layout, data, offset)
        if message is None:
            message, end = _decode_message(data, offset)
            if layout is None or layout.misses >= _MOST_MISSES:
                _learn(message)
            else:
                # Two HAProxys may send the same message with other arguments by turns.
                layout.misses += 1
        messages.append(message)
        offset = end
        if len(messages) > MAX_MESSAGES:
            raise InvalidFrame(f"a NOTIFY has more than {MAX_MESSAGES} messages")
    return messages


def _decode_as(layout: _Layout, data: bytes, offset: int) -> tuple[Message | None, int]:
    """Decode the message at ``offset`` if ``layout`` is its own; return it and the offset behind it."""
    if not data.startswith(layout.head, offset):
        return None, offset
    offset += len(layout.head)
    values: list[Value] = []
    for label, size in layout.labels:
        if not data.startswith(label, offset):
            return None, offset
        value, offset = decode_typed_data(data, offset + size)
        values.append(value)
    message = Message(layout.name)
    message.names = layout.names
    message.values = tuple(values)
    return message, offset


def _decode_message(data: bytes, offset: int) -> tuple[Message, int]:
    """Decode the message at ``offset``, whatever it is; return it and the offset behind it."""
    name, offset = decode_string(data, offset)
    if offset >= len(data):
        raise InvalidFrame("a message ends before its number of arguments")
    count = data[offset]
    offset += 1
    arguments: list[tuple[str, Value]] = []
    for _ in range(count):
        argument, offset = decode_string(data, offset)
        value, offset = decode_typed_data(data, offset)
        arguments.append((argument, value))
    return Message(name, arguments), offset


def _learn(message: Message) -> None:
    """Let the next message like this one be decoded as it was."""
    layout = _Layout(message)
    size = len(layout.head) + sum([size for _, size in layout.labels])
    if layout.head[0] < 240 and size <= _LONGEST_LAYOUT:
        if len(_layouts) >= _MOST_LAYOUTS:
            _layouts.clear()
        _layouts[layout.head[:-1]] = layout


def encode_messages(messages: Iterable[Message]) -> bytes:
    """Encode ``messages`` as a LIST-OF-MESSAGES.

    :raises TypeError: for an argument of a type that SPOP has not.
    :raises ValueError: for more than 255 arguments, or an argument outside its type.
    """
    encoded = []
    for message in messages:
        if len(message) > MAX_ARGUMENTS:
            raise ValueError(f"the message {message.name!r} has {len(message)} arguments; SPOP allows 255")
        encoded.append(encode_string(message.name) + bytes((len(message),)) + encode_kv_list(message))
    return b"".join(encoded)
