"""The options of ``twistd spoa`` for workers. :mod:`spoa_twisted.tap` adds them to its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from spoa_twisted.runner.errors import CannotStart

#: More workers than this are surely a mistake.
MAX_WORKERS: Final = 1024

# Seconds. Twisted's timers fail with numbers that are much larger.
_MOST_SECONDS: Final = 10_000_000

#: In the text of an endpoint, this stands for the number of a worker.
WORKER_FIELD: Final = "{worker}"


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_WORKERS:
        raise CannotStart(f"--workers: {text!r} is not a whole number of processes between 1 and {MAX_WORKERS}")
    return int(text)


def _seconds(option: str) -> Any:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= _MOST_SECONDS:
            raise CannotStart(f"--{option}: {text!r} is not a number of seconds between 0 and {_MOST_SECONDS:,}")
        return value

    return convert


_WORKERS: Final = (
    "Answer in this many worker processes. One more, the master, hands the connections to them. SIGHUP replaces the"
    " workers by new ones with the present code. --max-connections is for all workers together, each other limit for"
    " one."
)
_START_TIMEOUT: Final = (
    "Seconds for a worker to import the handlers and to run their startup functions; 0: no limit. After that, it"
    " is ended."
)
_STALL_TIMEOUT: Final = (
    "A worker that stands still for this many seconds logs where it stands, is ended, and is replaced; 0: never."
)
_RELOAD_ON_CHANGE: Final = (
    "For development: replace the workers when a file changes from which they have imported a module."
)

#: Rows for ``optParameters`` of Twisted's ``Options``: name, short name, default, help, conversion.
PARAMETERS: Final[list[list[Any]]] = [
    ["workers", None, None, _WORKERS, _count],
    ["start-timeout", None, 30, _START_TIMEOUT, _seconds("start-timeout")],
    ["stall-timeout", None, 30, _STALL_TIMEOUT, _seconds("stall-timeout")],
]

#: Rows for ``optFlags``.
FLAGS: Final[list[list[Any]]] = [["reload-on-change", None, _RELOAD_ON_CHANGE]]


def expand(endpoints: Sequence[str], workers: int) -> list[tuple[str, int]]:
    """Return the text of each endpoint with the number of the worker that it belongs to; 0 if it belongs to all.

    A text with ``{worker}`` stands for one endpoint for each worker.
    """
    expanded: list[tuple[str, int]] = []
    for text in endpoints:
        if WORKER_FIELD in text:
            expanded += [(text.replace(WORKER_FIELD, str(number)), number) for number in range(1, workers + 1)]
        else:
            expanded.append((text, 0))
    return expanded


def check(options: Mapping[str, Any]) -> None:
    """Check the options for workers together with the others.

    :param options: all options of ``twistd spoa``. The attribute ``parent``, if there is one, has those of ``twistd``.
    :raises CannotStart: for options that cannot be used together.
    """
    if options["workers"] is None:
        if options["reload-on-change"]:
            raise CannotStart("--reload-on-change needs --workers; write --workers 1 for one process")
        for endpoint in options["listen"]:
            if WORKER_FIELD in endpoint:
                raise CannotStart(
                    f"--listen {endpoint}: {WORKER_FIELD} stands for the number of a worker: add --workers"
                )
    elif (getattr(options, "parent", None) or {}).get("chroot"):
        raise CannotStart(
            "--workers and twistd's --chroot cannot be used together: inside of it, there is no Python to start workers"
            " with; let systemd confine the agent, or leave out --workers"
        )
