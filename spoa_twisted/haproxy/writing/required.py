"""Variables that have to be true, else HAProxy refuses: ``--require`` -> conditions of rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import NoneType
from typing import Final

from spoa_twisted.handlers.variable_types import members_of

#: The statuses of a refusal. HAProxy also accepts others with ``deny_status``, but they would not refuse.
_STATUSES: Final = range(400, 600)
_DEFAULT_STATUS: Final = 403


@dataclass(frozen=True)
class Required:
    """A variable of a handler that has to be true."""

    #: Its name in the handler: without HAProxy's prefix.
    variable: str
    #: The HTTP status of a refused request. ``None`` stands for 403, and is the only value in TCP mode.
    status: int | None = None

    @classmethod
    def parse(cls, text: str) -> Required:
        """Return what ``NAME`` or ``NAME=STATUS`` says.

        :raises ValueError: if the status is not one of a refusal.
        """
        variable, equals, status = text.partition("=")
        if equals and not (status.isdecimal() and int(status) in _STATUSES):
            raise ValueError(f"{text!r}: {status!r} is not a status from 400 to 599")
        return cls(variable, int(status) if equals else None)

    def __str__(self) -> str:
        return self.variable if self.status is None else f"{self.variable}={self.status}"

    @property
    def deny_status(self) -> int:
        """The HTTP status of a refused request."""
        return _DEFAULT_STATUS if self.status is None else self.status


def faults(required: Sequence[Required], known: Mapping[str, object | None], *, is_http: bool) -> Iterator[str]:
    """Yield why a variable cannot be required.

    :param known: the types of the handlers' variables; ``None`` for an unknown type.
    """
    for one in required:
        if one.variable not in known:
            similar = get_close_matches(one.variable, known, 1)
            hint = f"did you mean {similar[0]}?" if similar else f"they declare {', '.join(known) or 'none'}"
            yield f"--require {one}: no handler declares the variable {one.variable!r} in its sets; {hint}"
        elif not _can_be_true(known[one.variable]):
            yield f"--require {one}: {one.variable} is not declared as bool, so it is never true"
        if one.status is not None and not is_http:
            yield f"--require {one}: without messages of HTTP, HAProxy closes the connection, and there is no status"


def _can_be_true(declared: object | None) -> bool:
    """Return whether a variable of the declared type, or of an unknown one, can be true."""
    return declared is None or set(members_of(declared)) - {NoneType} == {bool}
