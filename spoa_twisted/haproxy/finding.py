"""What a check has found, and how bad it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from spoa_twisted.haproxy.grammar.lines import Place


class Severity(Enum):
    """How bad a finding is. The value is the word in the output."""

    #: It does not work as it is written.
    ERROR = "error"
    #: It works, but not in all cases that matter.
    WARNING = "warning"
    #: Good to know. ``spoactl check`` ends with status 0 if there is nothing worse.
    INFO = "info"


@dataclass(frozen=True)
class Finding:
    """A finding, with the line that it is about."""

    #: As ``event-twice``: the id of the check, by which it is ignored or explained.
    id: str
    severity: Severity
    place: Place
    #: What is wrong and what to do, without the place and the id.
    text: str
