"""The options of ``twistd spoa`` that differ from their defaults, for ``--check`` and for the status."""

from __future__ import annotations

from typing import Any, Final

from twisted.python.usage import Options

# The endpoints are shown on their own, and the others are none of the agent.
_NOT_SHOWN: Final = ("listen", "check", "help", "version")


def changed(options: Options) -> dict[str, str]:
    """Return the options whose values differ from their defaults, as on the command line, without ``--listen``.

    A flag's value is empty.
    """
    values: Any = options
    result = {}
    for option in values.longOpt:
        name = option.rstrip("=")
        value = values.get(name)
        if name not in _NOT_SHOWN and value not in (None, [], values.defaults.get(name)):
            result[name] = _text(value) if option.endswith("=") else ""
    return result


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:.12g}" if isinstance(value, float) else str(value)
