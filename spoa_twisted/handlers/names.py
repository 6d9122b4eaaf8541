"""The names of messages: which of them a wrong name may stand for."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

# How many names a hint has at most.
_MAX_NEAREST: Final = 3

# Characters. A peer may send a name that is as long as a frame, and comparing it would block the reactor.
_MAX_LENGTH: Final = 256


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Return at most three of ``names`` that are similar to ``name``, the most similar first.

    ``_`` and ``-`` count as equal, and so do upper and lower case. A ``name`` of more than 256 characters is similar to
    none of them.
    """
    if len(name) > _MAX_LENGTH:
        return []
    by_key: dict[str, list[str]] = {}
    for known in names:
        by_key.setdefault(_key(known), []).append(known)
    similar = get_close_matches(_key(name), by_key, _MAX_NEAREST)
    return [known for key in similar for known in by_key[key]][:_MAX_NEAREST]


def _key(name: str) -> str:
    return name.casefold().replace("_", "-")
