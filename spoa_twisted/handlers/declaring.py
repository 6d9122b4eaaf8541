"""The options ``args``, ``event``, ``rule`` and ``sets`` of ``@handlers.message`` -> a :class:`Declaration`.

HAProxy accepts nearly all mistakes in them without a word: a misspelt argument is missing, a variable is dropped. So
:func:`declare` checks them when the handler is registered.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType, UnionType
from typing import Any, Final

from spoa_twisted.handlers.binding import SEPARATORS
from spoa_twisted.handlers.declaration import (
    REQUEST_EVENTS,
    REQUEST_RULESETS,
    RESPONSE_EVENTS,
    RESPONSE_RULESETS,
    Declaration,
    split_condition,
)
from spoa_twisted.handlers.names import did_you_mean, nearest
from spoa_twisted.handlers.variable_types import has_type, members_of, show_type
from spoa_twisted.spop.actions import Scope, Variables, decode_actions, encode_actions
from spoa_twisted.spop.hints import type_of

#: HAProxy drops a variable whose name, with its scope and the prefix of the agent, is longer.
LONGEST_VARIABLE: Final = 63
#: The variable that the configuration's ``option set-on-error`` sets. An ``on_error`` may set it without declaring it.
ERROR_VARIABLE: Final = "txn.error"

# HAProxy refuses a line of more words. A line of a rule has a few words more than its condition.
_MOST_WORDS: Final = 58

# A word of a condition as HAProxy cuts it, a comment, or a quote or a backslash without its end.
_WORD: Final = re.compile(r"""(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|[^\s\\'"#])+|(?P<wrong>['"\\#])""")

_REQUEST_BODY: Final = re.compile(r"\breq\.body\b")
_RESPONSE_BODY: Final = re.compile(r"\bres\.body\b")
# At these, HAProxy has not read an HTTP request yet.
_BEFORE_HTTP: Final = {"on-client-session", "on-frontend-tcp-request", "on-backend-tcp-request", "tcp-request content"}


def declare(
    name: str,
    function: Callable[..., Any],
    on_error: bytes,
    args: Mapping[str, str] | None,
    event: str | None,
    rule: str | None,
    sets: Mapping[str, type | UnionType] | None,
) -> Declaration:
    """Return the declaration of the handler ``function`` of the message called ``name``.

    :param on_error: the actions of the variables that the message sets if the handler fails.
    :raises TypeError: if an option has a wrong type, or a variable in ``on_error`` another one than in ``sets``.
    :raises ValueError: if HAProxy or the handler cannot work as it is declared. The text says why.
    """
    try:
        declaration = Declaration(
            _copy("args", args), _checked_text("event", event), _checked_text("rule", rule), _copy("sets", sets)
        )
        when = _check_when(declaration)
        if declaration.args is not None:
            _check_args(declaration.args, when)
            _check_parameters(declaration.args, function)
        if declaration.sets is not None:
            _check_sets(declaration.sets, when)
            _check_on_error(decode_actions(on_error), declaration.sets)
    except (TypeError, ValueError) as error:
        raise type(error)(f"the message {name!a}: {error}") from error
    return declaration


def words_of(condition: str) -> Iterator[str]:
    """Yield the words of a condition, with their quotes, as HAProxy cuts the line.

    :raises ValueError: for a comment, and for a quote or a backslash without its end.
    """
    for match in _WORD.finditer(condition):
        wrong = match["wrong"]
        if wrong == "#":
            raise ValueError(f"in the condition {condition!r}, '#' begins a comment: write it in quotes")
        if wrong:
            raise ValueError(f"in the condition {condition!r}, {wrong} has no end: write it in quotes, or end it")
        yield match[0]


def _copy(option: str, value: Any) -> Any:
    """Return a copy of a mapping that cannot be changed."""
    if value is None:
        return None
    if not isinstance(value, Mapping):
        example = '{"ip": "src"}' if option == "args" else '{"txn.denied": bool}'
        raise TypeError(f"{option} is {type_of(value)}, not a dict; write {option}={example}")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(f"a name in {option} is {type_of(key)}, not a str")
    return MappingProxyType(dict(value))


def _checked_text(option: str, value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, str):
        raise TypeError(f"{option} is {type_of(value)}, not a str")
    if not value.isprintable():
        raise ValueError(
            f"{option} is {value!a}: HAProxy reads one line, so leave out line ends and control characters"
        )
    return value.strip()


def _check_when(declaration: Declaration) -> str | None:
    """Check ``event`` and ``rule``; return the name of the event or the ruleset, ``None`` if there is neither."""
    if declaration.event is not None and declaration.rule is not None:
        raise ValueError("both event and rule are given, so HAProxy would ask twice: leave one of them out")
    known: tuple[str, ...]
    if declaration.event is not None:
        option, known = "event", (*REQUEST_EVENTS, *RESPONSE_EVENTS)
        name, condition = split_condition(declaration.event)
    elif declaration.rule is not None:
        option, known = "rule", (*REQUEST_RULESETS, *RESPONSE_RULESETS)
        name, condition = split_condition(declaration.rule)
    else:
        return None
    if name not in known:
        hint = did_you_mean(map(repr, nearest(name, known))) or f"; use one of {', '.join(known)}"
        raise ValueError(f"{option} begins with {name!r}, which HAProxy does not have{hint}")
    words = list(words_of(condition))
    if len(words) == 1:
        raise ValueError(f"{option} ends with {condition!r} without a condition: write one behind it")
    if len(words) > _MOST_WORDS:
        raise ValueError(
            f"the condition of {option} has {len(words)} words, and a line of HAProxy has at most 64: write one pattern"
            " for several words, or use -f FILE"
        )
    return name


def _check_args(args: Mapping[str, str], when: str | None) -> None:
    """Check the names and the expressions of ``args``."""
    for argument, expression in args.items():
        if not isinstance(expression, str):
            raise TypeError(
                f"the argument {argument!r} is {type_of(expression)}, not a str: write a sample expression, such as"
                " 'src' or 'req.hdr(host)'"
            )
        if not argument or "=" in argument or not argument.isprintable():
            raise ValueError(f"the argument {argument!a} cannot have this name: HAProxy ends it at the first '='")
        if not expression.strip() or not expression.isprintable():
            raise ValueError(
                f"the argument {argument!r} has the expression {expression!a}: write a sample expression on one line,"
                " such as 'src'"
            )
        if _REQUEST_BODY.search(expression) and when in _BEFORE_HTTP:
            raise ValueError(
                f"the argument {argument!r} reads req.body, but at {when} HAProxy has not read an HTTP request:"
                " write rule='http-request', or event='on-frontend-http-request'"
            )
        if _RESPONSE_BODY.search(expression) and when == "on-http-response":
            raise ValueError(
                f"the argument {argument!r} reads res.body, but at on-http-response the body has not arrived: write"
                " rule='http-response'"
            )


def _check_parameters(args: Mapping[str, str], function: Callable[..., Any]) -> None:
    """Check that each parameter has an argument, and each argument a parameter."""
    parameters = {parameter.name: parameter for parameter in inspect.signature(function).parameters.values()}
    takes_all = "message" in parameters or any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()
    )
    passed: dict[str, str] = {}
    for argument in args:
        parameter_name = SEPARATORS.sub("_", argument)
        if parameter_name in passed:
            raise ValueError(
                f"the arguments {passed[parameter_name]!r} and {argument!r} are one parameter, {parameter_name!r}:"
                " rename one of them"
            )
        passed[parameter_name] = argument
        if parameter_name not in parameters and not takes_all:
            hint = did_you_mean(map(repr, nearest(parameter_name, parameters)))
            raise ValueError(f"no parameter of the handler takes the argument {argument!r}{hint}")
    for parameter in parameters.values():
        needed = parameter.kind is not inspect.Parameter.VAR_KEYWORD and parameter.default is inspect.Parameter.empty
        if needed and parameter.name != "message" and parameter.name not in passed:
            raise ValueError(
                f"args has no {parameter.name!r}, which the handler needs: add it, or give the parameter a default"
            )


def _check_sets(sets: Mapping[str, type | UnionType], when: str | None) -> None:
    """Check the names and the types of ``sets``."""
    for variable, declared in sets.items():
        try:
            members_of(declared)
        except TypeError as error:
            raise TypeError(f"sets: variable {variable!r}: {error}") from error
        try:
            encode_actions({variable: None})
        except ValueError as error:
            raise ValueError(f"sets: {error}") from error
        scope, dot, _ = variable.partition(".")
        if not dot:
            raise ValueError(f"sets: variable {variable!r} has no scope: write {'txn.' + variable!r}")
        # A prefix has a character or more, and a dot.
        if len(variable) + len("p.") > LONGEST_VARIABLE:
            raise ValueError(
                f"sets: variable {variable!r} is too long: with the agent's prefix HAProxy allows {LONGEST_VARIABLE}"
                " characters, and drops longer names"
            )
        _check_scope(variable, scope, when)


def _check_scope(variable: str, scope: str, when: str | None) -> None:
    """Check that the variables of ``scope`` exist at an event or a rule."""
    if scope == Scope.REQ.name.lower() and when in {*RESPONSE_EVENTS, *RESPONSE_RULESETS}:
        raise ValueError(f"sets: variable {variable!r}: at {when} HAProxy drops req. variables: use res. or txn.")
    if scope == Scope.RES.name.lower() and when in {*REQUEST_EVENTS, *REQUEST_RULESETS}:
        raise ValueError(f"sets: variable {variable!r}: at {when} HAProxy drops res. variables: use req. or txn.")


def _check_on_error(on_error: Variables, sets: Mapping[str, type | UnionType]) -> None:
    for variable, value in on_error.items():
        if variable == ERROR_VARIABLE:
            continue
        if variable not in sets:
            raise ValueError(
                f"on_error sets {variable!r}, which sets does not declare: add it to sets, or set {ERROR_VARIABLE!r}"
            )
        if not has_type(value, sets[variable]):
            raise TypeError(
                f"on_error sets {variable!r} to {type_of(value)}, but sets declares {show_type(sets[variable])}"
            )
