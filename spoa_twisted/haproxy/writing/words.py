"""Words and times as HAProxy reads them in a configuration file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

#: HAProxy accepts 64 words a line. The first ones say what the others are.
WORDS_A_LINE: Final = 60

# Words with other characters need quotes. Elsewhere, HAProxy reads "$" as itself, but a reader may not know that.
_PLAIN: Final = re.compile(r"""[^\s#\\$"']+\Z""")


def quoted(word: str) -> str:
    """Return ``word`` as HAProxy reads it from a file, in quotes if it needs them."""
    if _PLAIN.match(word):
        return word
    # Between these quotes, each character stands for itself. A quote itself stands between two quoted parts.
    return "'" + word.replace("'", r"'\''") + "'"


def lines_of(keyword: str, words: Sequence[str]) -> Iterator[str]:
    """Yield the lines for ``words``: HAProxy adds up several lines with the same ``keyword``."""
    for begin in range(0, len(words), WORDS_A_LINE):
        yield f"    {keyword} {' '.join(words[begin : begin + WORDS_A_LINE])}"


def time_of(milliseconds: int) -> str:
    """Return a time as HAProxy reads it: ``2s``, ``2m`` or ``700ms``."""
    for unit, size in (("m", 60_000), ("s", 1000)):
        if milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"
