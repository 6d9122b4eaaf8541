"""The handlers as a checker of HAProxy's configuration needs to know them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

from spoa_twisted.handlers.declaration import Declaration
from spoa_twisted.handlers.handler import Handler
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.haproxy.inference import infer_variables
from spoa_twisted.spop.actions import decode_actions


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
    #: Seconds after which the agent gives the handler up; 0 for never. A plain function is never given up.
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


def answers(handlers: Handlers, handler_timeout: float) -> Answers:
    """Return ``handlers`` as a checker needs to know them.

    :param handler_timeout: the timeout of a handler that has none of its own, in seconds; 0 for no limit.
    """
    seen = {name: _answer(name, handler, handler_timeout) for name, handler in handlers.registered()}
    default = seen.pop("", None)
    return Answers(seen, default)


def _answer(name: str, handler: Handler, handler_timeout: float) -> Answer:
    parameters = inspect.signature(handler.function).parameters.values()
    timeout = handler_timeout if handler.timeout is None else handler.timeout
    sets = handler.declaration.sets
    return Answer(
        message=name,
        function=str(handler),
        parameters=tuple(
            [
                Parameter(parameter.name, parameter.default is parameter.empty, _source_of(parameter.annotation))
                for parameter in parameters
                if parameter.kind is not parameter.VAR_KEYWORD and parameter.name != "message"
            ]
        ),
        takes_message=any(parameter.name == "message" for parameter in parameters),
        takes_rest=any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters),
        timeout=0.0 if handler.kind == "plain" else timeout,
        on_error=tuple(decode_actions(handler.on_error)),
        declaration=handler.declaration,
        sets=infer_variables(handler.function) if sets is None else sets,
    )


def _source_of(annotation: object) -> str | None:
    """Return the source of an annotation. ``from __future__ import annotations`` keeps it as a text."""
    if annotation is inspect.Parameter.empty:
        return None
    if isinstance(annotation, str):
        return annotation
    return annotation.__name__ if type(annotation) is type else str(annotation)
