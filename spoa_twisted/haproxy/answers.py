"""The handlers as a checker of HAProxy's configuration needs to know them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spoa_twisted.handlers.declaration import Declaration


@dataclass(frozen=True)
class Parameter:
    """A parameter of a handler that takes an argument of the message."""

    name: str
    #: False if it has a default.
    required: bool
    #: The annotation's source, as ``str`` or ``str | None``; ``None`` without an annotation.
    annotation: str | None = None


@dataclass(frozen=True)
class Answer:
    """A handler, seen from HAProxy."""

    #: The name of the message; empty for the default handler.
    message: str
    #: The name of the function with its module, for the texts of findings.
    function: str
    #: Without the parameter ``message``.
    parameters: tuple[Parameter, ...]
    #: Whether it takes the :class:`Message` itself, so that it can read each argument.
    takes_message: bool
    #: Whether it has ``**kwargs``, which take every other named argument.
    takes_rest: bool
    #: Seconds after which the agent gives the handler up; 0 for never.
    timeout: float
    #: The names of the variables of its ``on_error``.
    on_error: tuple[str, ...]
    declaration: Declaration
    #: The types of all variables that it sets, by name, from its declaration, or from the source of a function that
    #: returns nothing but dict displays with constant keys. The type is ``None`` if only the name is known. ``None`` in
    #: place of the mapping if the handler may set any variable.
    sets: Mapping[str, object | None] | None


@dataclass(frozen=True)
class Answers:
    """All handlers of an agent."""

    by_message: Mapping[str, Answer]
    default: Answer | None
