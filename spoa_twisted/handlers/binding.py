"""A message's arguments -> a function's parameters."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final, final

from spoa_twisted.handlers.errors import MissingArgument
from spoa_twisted.spop.messages import Message

# Messages of one name may arrive with different arguments, for example from several HAProxys. Binding keeps a plan for
# each list of argument names. Peers choose these names, so the memory is limited: to this many plans, and to this many
# characters of all names of one plan.
_MAX_PLANS: Final = 64
_MAX_PLANNED_LENGTH: Final = 4096

#: Characters that an argument's name may have and a parameter's name may not: the argument "x-forwarded.for" becomes
#: the parameter x_forwarded_for.
SEPARATORS: Final = re.compile(r"[-.]")

# Takes some of the sources: the message's values, the message, and the defaults of all parameters.
_Take = Callable[[tuple[Any, ...]], tuple[Any, ...]]


@final
class _Plan:
    """How to call a function with the messages that have certain names of arguments.

    The source of a parameter is an index into the tuple of :data:`_Take`.

    :param positional: the sources of the parameters that are passed by position.
    :param keywords: the names and sources of those that are passed by name.
    :param defaults: what replaces a ``None``, each with the position of its value.
    :param count: the number of the message's values.
    """

    __slots__ = ("as_is", "defaults", "names", "take_named", "take_positional", "values_only")

    def __init__(
        self,
        positional: list[int],
        keywords: list[tuple[str, int]],
        defaults: list[tuple[int, Any]],
        count: int,
    ) -> None:
        #: True if the function takes exactly the message's values in order: most functions are called in this way.
        self.as_is = not keywords and not defaults and positional == list(range(count))
        self.defaults = tuple(defaults)
        self.names = tuple([name for name, _ in keywords])
        sources = [source for _, source in keywords]
        #: True if the message's values are the only sources.
        self.values_only = max(positional + sources, default=-1) < count
        self.take_positional = _taking(positional)
        self.take_named = _taking(sources)


def _taking(sources: list[int]) -> _Take:
    """Return a function that takes ``sources``. It is much faster than a loop in Python."""
    if len(sources) > 1:
        return itemgetter(*sources)
    # An itemgetter of one item does not return a tuple.
    return itemgetter(slice(sources[0], sources[0] + 1) if sources else slice(0))


@final
class Binding:
    """Calls a function with the arguments of a message: each argument is passed to the parameter of the same name.

    ``-`` and ``.`` in the argument's name match ``_``. A parameter with a default receives the default if the message
    does not have the argument, and if the argument's value is ``None``: HAProxy sends an absent header as NULL. The
    parameter ``message`` receives the :class:`Message`. ``**kwargs`` receives every other named argument.

    :param name: the message's name, for error texts.
    :raises TypeError: if the function takes ``*args``: arguments are passed by name, and ``*args`` has no names.
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
        # Making a plan takes much longer than using it. So each plan is kept for later messages with the same argument
        # names.
        self._plans: dict[tuple[str, ...], _Plan] = {}

    def call(self, message: Message) -> Any:
        """Call the function with the arguments of ``message``.

        :raises MissingArgument: if a parameter without a default has no argument.
        :raises BaseException: any exception of the function.
        """
        plan = self._plans.get(message.names)
        if plan is None:
            plan = self._make_plan(message)
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
            if sum(map(len, message.names)) <= _MAX_PLANNED_LENGTH:
                self._plans[message.names] = plan
        values = message.values
        if plan.as_is:
            return self._function(*values)
        for position, default in plan.defaults:
            if values[position] is None:
                values = (*values[:position], default, *values[position + 1 :])
        sources = values if plan.values_only else (*values, message, *self._defaults)
        if plan.names:
            # With strict=True, zip takes longer.
            named = dict(zip(plan.names, plan.take_named(sources)))  # noqa: B905
            return self._function(*plan.take_positional(sources), **named)
        return self._function(*plan.take_positional(sources))

    def _make_plan(self, message: Message) -> _Plan:
        """Return the plan for ``message``: the source of each parameter.

        :raises MissingArgument: if a parameter without a default has no argument.
        """
        arguments: dict[str, int] = {}
        for position, name in enumerate(message.names):
            if name:
                # If two arguments have the same name, the first one counts.
                arguments.setdefault(SEPARATORS.sub("_", name), position)
        message_source = len(message.names)
        positional: list[int] = []
        keywords: list[tuple[str, int]] = []
        defaults: list[tuple[int, Any]] = []
        for index, parameter in enumerate(self._parameters):
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                # **kwargs is the last parameter, so it takes the arguments that no other parameter has taken.
                keywords += arguments.items()
                continue
            source = self._take_source(index, arguments, message)
            default = parameter.default
            if source < message_source and default is not inspect.Parameter.empty and default is not None:
                defaults.append((source, default))
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                keywords.append((parameter.name, source))
            else:
                positional.append(source)
        return _Plan(positional, keywords, defaults, message_source)

    def _take_source(self, index: int, arguments: dict[str, int], message: Message) -> int:
        """Return the source of the parameter with the number ``index``, and remove its argument from ``arguments``.

        :raises MissingArgument: if a parameter without a default has no argument.
        """
        parameter = self._parameters[index]
        if parameter.name == "message":
            arguments.pop("message", None)
            return len(message.names)
        if parameter.name in arguments:
            return arguments.pop(parameter.name)
        if parameter.default is not inspect.Parameter.empty:
            return len(message.names) + 1 + index
        has = ", ".join([repr(name) for name in message.names]) or "none"
        raise MissingArgument(f"the message {message.name!r} has no argument {parameter.name!r}; it has: {has}")
