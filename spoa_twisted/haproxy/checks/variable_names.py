"""Checks of the names of variables: names that nothing sets, that are too long, or that another proxy sets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from spoa_twisted.handlers.declaring import LONGEST_VARIABLE
from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks.naming import SCOPES, Names, Prefix, is_similar
from spoa_twisted.haproxy.checks.uses import refuses, refuses_or_routes, uses
from spoa_twisted.haproxy.configuration import Configuration, Engine, Proxy, Reading
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.grammar.lines import Place

#: Usual names for the variable of ``option set-on-error``. Other variables rarely have them.
_ERROR: Final = re.compile(r"(?:\w+[._])?(?:err|errors?|failed|failure)", re.IGNORECASE)

#: The settings of a frontend that name a backend.
_USING: Final = frozenset({"use_backend", "default_backend"})

#: A name with at least this ratio is proposed in place of a name that nothing sets.
_CLOSE: Final = 0.75


def check_unset(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find variables that nothing sets: ``variable-unset`` and ``error-never-set``."""
    names = Names(configuration, answers)
    if not names.are_complete:
        return
    found = {}
    for reading in configuration.readings:
        if reading.variable not in names.set_by_rules:
            place = reading.word.place
            text, id_ = _error_never_set(names, reading), "error-never-set"
            if text is None:
                text, id_ = _unset(names, reading.variable), "variable-unset"
            if text is not None:
                # A line that reads a variable twice is one finding.
                found[id_, place.file, place.line, text] = Finding(id_, Severity.ERROR, place, text)
    yield from found.values()


def _error_never_set(names: Names, reading: Reading) -> str | None:
    """Return what is wrong with a variable that was meant to be that of ``set-on-error``."""
    owners = names.owners(reading.variable)
    if any(reading.variable in prefix.made for prefix in owners):
        return None
    if not owners:
        return _error_without_prefix(names, reading.variable)
    return next(filter(None, (_error_of(names, prefix, reading) for prefix in owners)), None)


def _error_of(names: Names, prefix: Prefix, reading: Reading) -> str | None:
    """Return what is wrong with a variable of this prefix, if it was meant to be that of ``set-on-error``."""
    variable, setters, right = reading.variable, prefix.setters, _error_variables(prefix)
    own = _bare(prefix, variable)
    if setters is not None and variable in setters:
        return None
    if own in {word.text for word in prefix.errors}:
        return f"nothing sets {variable}: option set-on-error sets {right[0]}"
    if not _ERROR.fullmatch(own):
        return None
    if setters is not None:
        return _no_error(variable, right, own)
    # The handlers are not known, and may set this variable. But they hardly do if no rule reads the variable of
    # set-on-error. If a rule refuses by this variable as by that of set-on-error, and nothing else refuses when the
    # agent fails, the option is missing in any case.
    unread = [error for error in right if not names.mentions(error)]
    if unread or (not right and _refuses_by_error(reading) and not _is_closed(names, prefix, reading)):
        return _no_error(variable, unread, own, unless=" unless the agent does")
    return None


def _error_without_prefix(names: Names, variable: str) -> str | None:
    """Return what is wrong with a variable without the prefix of an engine, if it has the name of an error."""
    scope, _, rest = variable.partition(".")
    head, _, name = rest.partition(".")
    for prefix in names.prefixes.values() if scope in SCOPES else ():
        for error in _error_variables(prefix):
            own = _bare(prefix, error)
            if rest == own or (name == own and _is_meant(prefix, head)):
                return f"nothing sets {variable}: option set-on-error sets {error}"
    return None


def _no_error(variable: str, right: list[str], name: str, *, unless: str = "") -> str:
    if right:
        return f"nothing sets {variable}{unless}: option set-on-error sets {right[0]}"
    return f"nothing sets {variable}{unless}, so this rule never applies: add 'option set-on-error {name}'"


def _error_variables(prefix: Prefix) -> list[str]:
    """Return the names of the variables that the options ``set-on-error`` of a prefix set."""
    # Each frontend may have an engine with the same agent.
    agents = dict.fromkeys(prefix.agents)
    return [agent.error_variable for agent in agents if agent.error_variable is not None]


def _refuses_by_error(reading: Reading) -> bool:
    """Return whether a rule refuses if ``txn.PREFIX.error`` is found or a number, as HAProxy's errors are."""
    return (
        reading.rule is not None
        and refuses(reading.rule)
        and reading.term is not None
        and not reading.term.negated
        and reading.term.flags in {("-m", "found"), ("-m", "int")}
        and re.fullmatch(r"txn\..*\.err(?:or)?", reading.variable) is not None
    )


def _is_closed(names: Names, prefix: Prefix, reading: Reading) -> bool:
    """Return whether a rule refuses requests for which the agent has not set another variable of the prefix."""
    return any(
        use.negated
        and use.variable != reading.variable
        and prefix in names.owners(use.variable)
        and refuses_or_routes(use.rule)
        for use in uses(names.configuration)
    )


def _is_meant(prefix: Prefix, head: str) -> bool:
    """Return whether ``head`` stands where the prefix should, misspelt or as another name of the engine."""
    others = {engine.name for engine in prefix.engines} | {agent.name for agent in prefix.agents}
    return is_similar(head, prefix.name) or head in others - {prefix.name}


def _unset(names: Names, variable: str) -> str | None:
    """Return what is wrong with a variable that nothing sets."""
    owners = names.owners(variable)
    if owners:
        if any(prefix.may_set(variable) for prefix in owners):
            return None
        return f"no handler sets {variable}{_nearest(owners, variable)}"
    scope, _, rest = variable.partition(".")
    head, _, name = rest.partition(".")
    for prefix in names.prefixes.values():
        if name and _is_meant(prefix, head):
            return f"no engine has the prefix '{head}'; did you mean {scope}.{prefix.name}.{name}?"
        setters = prefix.setters or {}
        for whole in (f"{scope}.{prefix.name}.{rest}", f"{scope}.{prefix.name}.{name}"):
            if whole in setters:
                return f"nothing sets {variable}; did you mean {whole}?"
    return None


def _nearest(owners: list[Prefix], variable: str) -> str:
    """Return the name that was probably meant, as the end of a sentence."""
    for prefix in owners:
        # The names without scope and prefix, which would make all of them similar.
        known: dict[str, list[str]] = {}
        for name in [*(prefix.setters or {}), *prefix.made]:
            known.setdefault(_bare(prefix, name), []).append(name)
        for bare in get_close_matches(_bare(prefix, variable), known, n=1, cutoff=_CLOSE):
            in_scope = [name for name in known[bare] if name.partition(".")[0] == variable.partition(".")[0]]
            return f"; did you mean {[*in_scope, *known[bare]][0]}?"
    return ": conditions on it are always false"


def _bare(prefix: Prefix, variable: str) -> str:
    return prefix.own(variable).partition(".")[2]


def check_wrong_proxy(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find rules of a frontend that has no filter of the engine whose variable they read."""
    names = Names(configuration, answers)
    if not names.are_complete:
        return
    found = {}
    for reading in configuration.readings:
        engine = _engine_elsewhere(names, reading)
        if engine is not None:
            text = (
                f"{reading.proxy.kind} '{reading.proxy.name}' reads {reading.variable}, but has no filter that sets it;"
                f" only '{engine.proxy.name}' has engine '{engine.name}'"
            )
            place = reading.word.place
            found[place.file, place.line, text] = Finding("wrong-proxy", Severity.WARNING, place, text)
    yield from found.values()


def _engine_elsewhere(names: Names, reading: Reading) -> Engine | None:
    """Return an engine that sets the variable for other proxies only."""
    proxy, rule = reading.proxy, reading.rule
    if rule is None or proxy.kind not in {"frontend", "listen"} or reading.variable in names.set_by_rules:
        return None
    # A rule from the defaults is in all proxies, also in those that do not need it.
    if rule.setting not in proxy.section.settings or reading.variable.startswith("proc."):
        return None
    engines = [engine for prefix in names.owners(reading.variable) for engine in prefix.engines]
    # A frontend may read the variables of a backend in the response.
    backends = _used_backends(proxy)
    if any("%" in name for name in backends) or any(
        engine.proxy.name in backends or engine.proxy.section == proxy.section for engine in engines
    ):
        return None
    return next(iter(engines), None)


def _used_backends(proxy: Proxy) -> set[str]:
    """Return the names of the backends to which a frontend may send requests. One with "%" is computed."""
    return {setting.texts[1] for setting in proxy.settings if setting.texts[0] in _USING and len(setting.texts) > 1}


def check_too_long(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find names that are too long for HAProxy, of variables that handlers or options set, or that rules read."""
    names = Names(configuration, answers)
    found: dict[str, Place] = {}
    for prefix in names.prefixes.values():
        for sent in prefix.sent:
            for name in sent.sets or {}:
                found.setdefault(prefix.whole(name), sent.place)
        for name, word in prefix.made.items():
            found.setdefault(name, word.place)
    for reading in configuration.readings:
        if names.owners(reading.variable) and reading.variable not in names.set_by_rules and not names.has_lua:
            found.setdefault(reading.variable, reading.word.place)
    for name, place in found.items():
        if len(name) > LONGEST_VARIABLE:
            text = f"{name} has {len(name)} characters: HAProxy drops a variable with more than {LONGEST_VARIABLE}"
            yield Finding("variable-too-long", Severity.ERROR, place, text)


def check_proc(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find variables of the scope ``proc`` that HAProxy does not know when it starts."""
    names = Names(configuration, answers)
    if not configuration.has_proxies:
        return
    found = {}
    for prefix in names.prefixes.values():
        registered = {word.text for agent in prefix.agents for word in agent.registered}
        may_set_all = any(agent.section.all("option", "force-set-var") for agent in prefix.agents)
        for sent in () if may_set_all else prefix.sent:
            for name in sent.sets or {}:
                scope, _, own = name.partition(".")
                if scope == "proc" and own not in registered and not names.mentions(prefix.whole(name)):
                    found[prefix.whole(name), own] = sent.place
    for (whole, name), place in found.items():
        text = f"HAProxy drops {whole}, because nothing names it: add 'register-var-names {name}' to the agent"
        yield Finding("proc-unregistered", Severity.WARNING, place, text)
