"""The arguments in parentheses of fetches, converters and conditional predicates."""

from __future__ import annotations

from typing import NamedTuple

_ESCAPES = {"t": "\t", "n": "\n", "r": "\r"}


class Arguments(NamedTuple):
    """Arguments, and the position behind their closing parenthesis."""

    values: tuple[str, ...]
    end: int


def read_arguments(text: str, position: int) -> Arguments | None:
    """Read ``(a,"b c",d)`` from its opening parenthesis on. Return ``None`` if the closing one is missing.

    The line's own quotes and escapes are gone already: these are the quotes that are left, as in ``'str("a,b")'``.
    An empty argument is empty text; ``()`` has no argument. As in HAProxy the first parenthesis ``)`` outside quotes
    ends the arguments: there are no nested parentheses.
    """
    values: list[str] = []
    value, quote = "", ""
    index = position + 1
    while index < len(text):
        character = text[index]
        following = text[index + 1 : index + 2]
        if character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        elif character == "\\" and quote != "'" and following and following in "\\ '\"rnt":
            value += _ESCAPES.get(following, following)
            index += 1
        elif not quote and character == ",":
            values.append(value)
            value = ""
        elif not quote and character == ")":
            if values or index > position + 1:
                values.append(value)
            return Arguments(tuple(values), index + 1)
        else:
            value += character
        index += 1
    return None
