"""What a handler says about HAProxy's side: which arguments it needs, when it is asked, and which variables it sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Final

#: The events that begin a message while HAProxy handles a connection or a request.
REQUEST_EVENTS: Final = (
    "on-client-session",
    "on-frontend-tcp-request",
    "on-backend-tcp-request",
    "on-frontend-http-request",
    "on-backend-http-request",
)
#: The events that begin a message when a server is connected, or has answered.
RESPONSE_EVENTS: Final = ("on-server-session", "on-tcp-response", "on-http-response")
#: The rulesets with ``send-spoe-group``.
REQUEST_RULESETS: Final = ("http-request", "tcp-request content")
RESPONSE_RULESETS: Final = ("http-response", "tcp-response content")

# The name of an event or a ruleset, and the condition behind it.
_WHEN: Final = re.compile(r"(.*?)(?:\s+((?:if|unless)(?:\s.*)?))?\Z", re.DOTALL)


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

    @property
    def when(self) -> tuple[str, str] | None:
        """The name of the event or the ruleset, and the condition with its ``if`` or ``unless``, which may be empty."""
        text = self.event if self.event is not None else self.rule
        return None if text is None else split_condition(text)


#: The declaration of a handler that declares nothing.
UNDECLARED: Final = Declaration()


def split_condition(text: str) -> tuple[str, str]:
    """Return the name of the event or ruleset at the beginning of ``text``, and the condition behind it."""
    match = _WHEN.match(text.strip())
    assert match is not None
    return " ".join(match[1].split()), match[2] or ""
