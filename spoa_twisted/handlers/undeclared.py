"""The differences between the variables of a handler's first results and its option ``sets``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Final, final

from spoa_twisted.escaping import cut
from spoa_twisted.handlers.names import did_you_mean, nearest
from spoa_twisted.handlers.variable_types import has_type, show_type
from spoa_twisted.spop.actions import decode_actions
from spoa_twisted.spop.hints import type_of
from spoa_twisted.spop.typeddata import NULL

#: How many results of each handler are compared. To compare a result takes longer than to encode it.
RESULTS: Final = 64

# How many names of each handler are reported. A handler may take the names of its variables from a client's data.
_MAX_NAMES: Final = 16


@final
class Undeclared:
    """Finds the variables that a handler sets, but does not declare, or declares with another type. Each name once.

    :param sets: the option ``sets`` of the handler.
    """

    __slots__ = ("_found", "_sets", "left")

    def __init__(self, sets: Mapping[str, type | UnionType]) -> None:
        self._sets = sets
        self._found: set[str] = set()
        #: How many results are still to be compared.
        self.left = RESULTS

    def compare(self, actions: bytes) -> Iterator[str]:
        """Yield what is wrong with ``actions``, the encoded variables of a result, in the words of the log.

        A handler may always unset a variable, or set it to NULL: the rules must be ready for an absent variable.
        """
        self.left -= 1
        for variable, value in decode_actions(actions).items():
            if variable in self._found or len(self._found) >= _MAX_NAMES or value is None or value is NULL:
                continue
            name = ascii(cut(variable))
            if variable not in self._sets:
                hint = did_you_mean(map(repr, nearest(variable, self._sets)))
                difference = f"set {name}, which its sets does not declare{hint}"
            elif not has_type(value, self._sets[variable]):
                difference = f"set {name} to {type_of(value)}, and its sets declares {show_type(self._sets[variable])}"
            else:
                continue
            self._found.add(variable)
            yield difference
