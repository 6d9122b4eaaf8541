"""The option ``--watch`` of ``twistd spoa``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from spoa_twisted.status.watch import Watch, Watchers

_TYPES: Final = "types"
_VALUES: Final = "values"

_HELP: Final = (
    "Let spoactl watch show the next NOTIFYs to users of this machine: types without the values of arguments and"
    " variables, values with them. It needs --status."
)


def _mode(text: str) -> str:
    if text not in (_TYPES, _VALUES):
        raise ValueError(f"write {_TYPES} or {_VALUES}")
    return text


#: The row of ``optParameters``.
WATCH: Final = ["watch", None, None, _HELP, _mode]


def watch_of(agent: Any, options: Mapping[str, Any]) -> Watchers | None:
    """Return the watch that ``options`` ask for; ``None`` if they do not.

    :param agent: a ``SPOAService``, or the master of workers.
    :raises ValueError: if there is no ``--status``.
    """
    check_watch(options)
    if options["watch"] is None:
        return None
    if options["workers"]:
        watch: Watchers = agent.watch
        return watch
    return Watch(agent.factory, allow_values=allows_values(options))


def allows_values(options: Mapping[str, Any]) -> bool:
    """Return whether watchers may see values."""
    return bool(options["watch"] == _VALUES)


def check_watch(options: Mapping[str, Any]) -> None:
    """Check that the watch can be had that ``options`` ask for, if they ask for one.

    :raises ValueError: if there is no ``--status``.
    """
    if options["watch"] is not None and options["status"] is None:
        raise ValueError(
            "--watch needs --status: spoactl watch asks there; write --status tcp:8404:interface=127.0.0.1"
        )
