"""The text of ``twistd spoa --help``: the options in groups, the most used first, and examples.

Twisted prints all options in one list, in the order of the alphabet.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, final

from spoa_twisted.help_text import NO_BREAK, fill, items
from spoa_twisted.limits import LIMITS

SYNOPSIS: Final = "[options] --handlers MODULE"

DESCRIPTION: Final = """\
An agent for HAProxy's SPOE (Stream Processing Offload Engine) that answers with your handlers. Each option may also be
written with a space for the "=". The options of twistd itself, as -n and --logfile, stand before the word spoa.
"""

EPILOG: Final = """\
exit status:
  0  the agent has stopped, or --check has found no error; twistd without -n has started it
  1  the command line is wrong, or the agent cannot start, or has stopped because of an error

Twisted 24.10 and newer end with the signal that has stopped them.

examples:
  twistd -n spoa --handlers iprep
  twistd -n spoa --handlers iprep --check
  twistd -n spoa --handlers iprep --listen unix:/run/spoa/agent.sock:mode=660
  twist spoa --handlers iprep --status tcp:8404:interface=127.0.0.1 --workers 4

"spoactl --help" lists the commands that try and check an agent.
"""

#: The options of each group. An option that stands in none of them is in the last group.
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "Handlers and endpoints": ("handlers", "listen", "check"),
    "Timeouts": ("handler-timeout", "drain-timeout", "hello-timeout"),
    "Log and status": ("status", "watch", "log-format", "log-slow", "debug"),
    "Workers": ("workers", "reload-on-change", "start-timeout", "stall-timeout"),
    "Capabilities of SPOP": ("pipelining", "async"),
    "Limits": tuple(limit.option for limit in LIMITS.values() if limit.unit != "seconds"),
    "Other options": ("help", "version"),
}

#: What the values of options are called in the help. Those of limits have their unit.
METAVARS: Final[Mapping[str, str]] = {
    "handlers": "MODULE",
    "listen": "ENDPOINT",
    "status": "ENDPOINT",
    "watch": "{types,values}",
    "log-format": "{text,json}",
    "pipelining": "{auto,always,never}",
    "workers": "N",
    "start-timeout": "SECONDS",
    "stall-timeout": "SECONDS",
    "settings": "FILE",
}

_UNITS: Final = {"seconds": "SECONDS", "bytes": "BYTES"}
#: The column of the options, in characters. The text of a longer option begins on the next line.
_COLUMN: Final = 22


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """An option of ``twistd spoa``.

    :param metavar: what its value is called; empty if it takes none.
    :param default: the default, empty if there is none.
    :param help: sentences.
    """

    name: str
    metavar: str
    default: str
    help: str = field(repr=False)

    @property
    def text(self) -> str:
        """The sentences, and the default as Twisted shows it."""
        return f"{self.help} [default:{NO_BREAK}{self.default}]" if self.default else self.help


def groups(options: Any) -> Iterator[tuple[str, list[Entry]]]:
    """Yield each group with its options.

    :param options: an instance of Twisted's ``Options``.
    """
    entries = {entry.name: entry for entry in _entries(options)}
    *_, last = GROUPS
    known = {name for names in GROUPS.values() for name in names}
    for title, names in GROUPS.items():
        others = [name for name in entries if name not in known] if title == last else []
        yield title, [entries[name] for name in (*others, *names)]


def _entries(options: Any) -> Iterator[Entry]:
    for option in options.longOpt:
        name = option.rstrip("=")
        takes_value = option.endswith("=")
        default = options.defaults.get(name) if takes_value else None
        yield Entry(
            name,
            _metavar(name) if takes_value else "",
            "" if default is None else str(default),
            _sentences(options.docs[name]),
        )


def _metavar(name: str) -> str:
    limit = LIMITS.get(name.replace("-", "_"))
    if limit is not None:
        return _UNITS.get(limit.unit, "N")
    return METAVARS.get(name, "VALUE")


def _sentences(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def usage(options: Any, width: int) -> str:
    """Return the text that follows the synopsis, in lines of at most ``width`` characters."""
    parts = [fill(DESCRIPTION, width)]
    for title, entries in groups(options):
        rows = [(f"--{entry.name}={entry.metavar}".removesuffix("="), entry.text) for entry in entries]
        parts.append("\n".join([f"{title}:", *items(rows, width, _COLUMN), ""]))
    return "\n".join(["", *parts, fill(EPILOG, width)])
