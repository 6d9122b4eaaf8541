"""A message's arguments -> a function's parameters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Final, final

from spoa_twisted.spop.messages import Message

# Messages of one name may come with different arguments, from several HAProxys for example. Each list of argument names
# has a plan of its own. More than this many plans, or names of more than this many characters, are not kept: peers
# choose them.
_MAX_PLANS: Final = 64
_MAX_PLANNED_LENGTH: Final = 4096

# An argument called "x-forwarded.for" is the parameter x_forwarded_for.
_NOT_IN_PARAMETERS: Final = re.compile(r"[-.]")

#: Where a function's parameters come from. First those passed by position, then those passed by name, each as an index
#: into a row of sources: the message's values, the message, the parameters' defaults. ``None`` in place of the first
#: means that the function takes exactly the message's values, in their order.
_Plan = tuple[tuple[int, ...] | None, tuple[tuple[str, int], ...]]


@final
class Binding:
    """Calls a function with the arguments of a message, bound to its parameters by name.

    A parameter takes the argument of its name; ``-`` and ``.`` in the argument's name match ``_``. The parameter
    ``message`` takes the :class:`Message`, and ``**kwargs`` every other named argument.

    :param name: the message's name, for the texts of errors.
    :raises TypeError: when the function takes ``*args``: names cannot be bound to it.
    """

    __slots__ = ("_defaults", "_function", "_parameters", "_plans")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self._function = function
        self._parameters = tuple(inspect.signature(function).parameters.values())
        for parameter in self._parameters:
            if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                raise TypeError(
                    f"the handler of the message {name!a} takes *{parameter.name}, but arguments are bound by name:"
                    " take **kwargs, or message"
                )
        self._defaults = tuple([parameter.default for parameter in self._parameters])
        # To find the plan takes much longer than to use it, so it is kept for the next message with the same arguments.
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def call(self, message: Message) -> Any:
        """Call the function with the arguments of ``message``.

        :raises TypeError: when a parameter without a default has no argument; and whatever the function raises.
        """
        plan = self._plans.get(message.names)
        if plan is None:
            plan = self._make_plan(message)
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            if sum(map(len, message.names)) <= _MAX_PLANNED_LENGTH:
                self._plans[message.names] = plan
        positional, keywords = plan
        if positional is None:
            return self._function(*message.values)
        sources = (*message.values, message, *self._defaults)
        if keywords:
            return self._function(*[sources[i] for i in positional], **{name: sources[i] for name, i in keywords})
        return self._function(*[sources[i] for i in positional])

    def _make_plan(self, message: Message) -> _Plan:
        """Find the source of each parameter.

        :raises TypeError: when a parameter without a default has no argument.
        """
        arguments: dict[str, int] = {}
        for position, name in enumerate(message.names):
            if name:
                # Of two arguments with one name, the first counts.
                arguments.setdefault(_NOT_IN_PARAMETERS.sub("_", name), position)
        the_message = len(message.names)
        first_default = the_message + 1
        positional: list[int] = []
        keywords: list[tuple[str, int]] = []
        for index, parameter in enumerate(self._parameters):
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                # **kwargs is the last parameter, so it takes the arguments that no other parameter has taken.
                keywords += arguments.items()
                continue
            if parameter.name == "message":
                arguments.pop("message", None)
                source = the_message
            elif parameter.name in arguments:
                source = arguments.pop(parameter.name)
            elif parameter.default is not inspect.Parameter.empty:
                source = first_default + index
            else:
                has = ", ".join([repr(name) for name in message.names]) or "none"
                raise TypeError(f"the message {message.name!r} has no argument {parameter.name!r}; it has: {has}")
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                keywords.append((parameter.name, source))
            else:
                positional.append(source)
        if not keywords and positional == list(range(the_message)):
            return None, ()
        return tuple(positional), tuple(keywords)
