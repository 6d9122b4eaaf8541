"""What a handler says about HAProxy's side: which arguments it needs, when it is asked, and which variables it sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType


@dataclass(frozen=True)
class Declaration:
    """The options ``args``, ``event``, ``rule`` and ``sets`` of ``@handlers.message``. ``None`` is not declared."""

    #: The sample expression of each argument, by the argument's name, in the order of the ``args`` line.
    args: Mapping[str, str] | None = None
    #: ``on-frontend-http-request``, also with a condition: ``on-frontend-http-request if { path_beg /api }``.
    event: str | None = None
    #: The rule that sends the message in a group, as ``http-request if { method POST }``.
    rule: str | None = None
    #: The type of each variable that the handler sets, by its name with its scope, as ``sess.score``. ``str | None`` is
    #: a variable that the handler may also unset.
    sets: Mapping[str, type | UnionType] | None = None
