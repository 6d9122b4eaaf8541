"""Names of messages in texts: lists of them, and those that are similar to a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Final

# A peer chooses the names of messages, and to compare two names takes a time that grows with the product of their
# lengths. So the number of characters and the number of names that are compared are limited.
_MAX_LENGTH: Final = 64
_MAX_NAMES: Final = 256

_MAX_NEAREST: Final = 3

# How many names of messages a list in a text has at most.
_MAX_SHOWN: Final = 20


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Return up to three of ``names`` that are similar to ``name``, the most similar first.

    Names that differ only in case, or have ``_`` where the other has ``-``, are the most similar ones.
    """
    by_key: dict[str, list[str]] = {}
    for candidate in islice(names, _MAX_NAMES):
        by_key.setdefault(_key(candidate), []).append(candidate)
    keys = get_close_matches(_key(name), by_key, n=_MAX_NEAREST)
    return [candidate for key in keys for candidate in by_key[key]][:_MAX_NEAREST]


def list_messages(names: Sequence[str], *, has_default: bool) -> str:
    """Return a text for the log about the messages that have a handler: ``the messages check-ip, scan-body``.

    :param has_default: true if there is a handler for all other messages.
    """
    if not names:
        return "all messages" if has_default else "no messages: no handlers are registered yet"
    hidden = len(names) - _MAX_SHOWN
    others = f" and {hidden} more" if hidden > 0 else ""
    if has_default:
        others = " and all others"
    return f"the message{'s' if names[1:] or others else ''} {', '.join(names[:_MAX_SHOWN])}{others}"


def did_you_mean(names: Iterable[str]) -> str:
    """Return the end of an error text: the names that the user may have meant. It is empty if there are no ``names``.

    :param names: the names that the text shows, quoted if the text quotes names.
    """
    choice = " or ".join(names)
    return f"; did you mean {choice}?" if choice else ""


def _key(name: str) -> str:
    """Return the text to compare for ``name``."""
    return name[:_MAX_LENGTH].lower().replace("_", "-")
