"""The variables that an ACK sets: as lines, as JSON, and compared with the variables that the user expects."""

from __future__ import annotations

from typing import Any

from spoa_twisted.shown import show_text, show_value, value_to_json
from spoa_twisted.spop.actions import Variables
from spoa_twisted.spop.typeddata import NULL, Value, encode_typed_data


def canonical(variables: Variables) -> dict[str, str]:
    """Return the variables sorted by name, each with its encoded value in hexadecimal.

    Two sets of variables have equal results if they have the same names, values and types. A variable that is unset
    (``None``) and a variable that is set to NULL are equal, because both are unset in HAProxy.
    """
    return {
        name: encode_typed_data(None if value is NULL else value).hex() for name, value in sorted(variables.items())
    }


def show_variable(name: str, value: Value) -> str:
    """Return a variable as one line: ``scope.name=type:value``, or ``unset scope.name``."""
    return f"unset {show_text(name)}" if value is None else f"{show_text(name)}={show_value(value)}"


def differences(expected: Variables, variables: Variables) -> list[str]:
    """Return a line for each expected variable that is not as expected in ``variables``.

    A variable that is expected to be unset may be unset, set to NULL, or missing. Variables that are not in
    ``expected`` may have any value.
    """
    lines = []
    for name, value in expected.items():
        received = variables.get(name)
        if canonical({name: value}) != canonical({name: received}):
            shown = show_variable(name, received) if name in variables else f"no {show_text(name)}"
            lines.append(f"expected {show_variable(name, NULL if value is None else value)}, got {shown}")
    return lines


def variables_to_json(variables: Variables) -> dict[str, Any]:
    """Return the variables as a JSON object. ``spoactl send --help`` describes it."""
    return {show_text(name): None if value is None else value_to_json(value) for name, value in variables.items()}
