"""Checks of what happens to requests when the agent fails, or sets nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks.naming import Names, Prefix, terms_of
from spoa_twisted.haproxy.checks.uses import Use, allows, is_lua, keeps, refuses, refuses_or_routes, uses
from spoa_twisted.haproxy.configuration import Configuration, Proxy, Rule
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.grammar.lines import Place

#: A name that was meant to be that of ``set-on-error``. If it is wrong, error-never-set says so.
_ERROR: Final = re.compile(r".*[._](?:err|errors?)")

#: Actions that change a header of a request.
_CHANGING: Final = frozenset({"del-header", "set-header", "replace-header", "replace-value"})

#: A fetch of a header, with its name: ``req.hdr(x-user)``.
_HEADER_FETCH: Final = re.compile(r"hdr\w*\(([^,)]*)[,)]", re.IGNORECASE)


def check_failures(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find agents whose failures let requests pass: ``fail-open`` and ``error-unread``."""
    names = Names(configuration, answers)
    if not configuration.has_proxies or configuration.not_read:
        return
    all_uses = list(uses(configuration))
    found = {}
    for prefix in names.prefixes.values():
        refusing = _open(names, prefix, all_uses)
        if refusing is not None:
            error = next((word.text for word in prefix.errors), "error")
            option = "" if prefix.errors else "'option set-on-error error' and "
            rule = "http-request deny" if refusing.rule.ruleset.startswith("http") else "tcp-request content reject"
            text = (
                "if the agent fails, requests pass this rule: add"
                f" {option}'{rule} if {{ var(txn.{prefix.name}.{error}) -m found }}'"
            )
            place = refusing.rule.setting.place
            found[place] = Finding("fail-open", Severity.WARNING, place, text)
        for agent in prefix.agents:
            variable, word = agent.error_variable, agent.set_on_error
            if variable is not None and word is not None and not names.mentions(variable) and not names.has_lua:
                severity = Severity.INFO if refusing is None else Severity.WARNING
                text = f"no rule reads {variable}: if the agent fails, requests go on as if it had set nothing"
                found[word.place] = Finding("error-unread", severity, word.place, text)
    yield from found.values()


def _open(names: Names, prefix: Prefix, all_uses: list[Use]) -> Use | None:
    """Return the first rule that refuses by a variable of the agent, if no rule refuses when the agent fails."""
    own = [use for use in all_uses if prefix in names.owners(use.variable)]
    needing = {use.rule.setting.place for use in own if not use.negated}
    rules = [(rule, proxy) for proxy in names.configuration.proxies for rule in proxy.rules]
    if any(_closes(use, prefix) for use in own) or any(
        _may_close(rule, prefix, needing) or _asks_for_agents(rule, proxy, prefix) for rule, proxy in rules
    ):
        return None
    # A rule without a condition refuses all that the rules above it did not let pass.
    if any(refuses(rule) and rule.condition is None for use in own for rule in use.proxy.rules):
        return None
    return next((use for use in own if refuses(use.rule) and use.variable not in names.set_by_rules), None)


def _closes(use: Use, prefix: Prefix) -> bool:
    """Return whether a rule may refuse if the variable is not set because the agent failed."""
    if use.has_default or allows(use.rule):
        return True
    if not refuses_or_routes(use.rule) and not keeps(use.rule):
        return False
    return use.negated or use.variable in prefix.made or _ERROR.fullmatch(use.variable) is not None


def _may_close(rule: Rule, prefix: Prefix, needing: set[Place]) -> bool:
    """Return whether a rule may refuse, or keep what another rule refuses by, without a variable in its condition.

    :param needing: where the rules stand that do not apply if the agent fails.
    """
    if is_lua(rule):
        return rule.setting.place not in needing
    if rule.condition is not None and any(word.text.startswith("acl(") for word in rule.condition.words):
        # The fetch "acl" may negate a named ACL.
        return True
    return (allows(rule) or keeps(rule)) and any(f".{prefix.name}." in word.text for word in rule.arguments)


def _asks_for_agents(rule: Rule, proxy: Proxy, prefix: Prefix) -> bool:
    """Return whether a rule refuses by the state of the agents' servers, as ``nbsrv(iprep-agents)`` tells it."""
    backends = {agent.use_backend.text for agent in prefix.agents if agent.use_backend is not None}
    return refuses_or_routes(rule) and any(
        term.expression is not None and backends & {name.partition("/")[0] for name in term.expression.fetch.arguments}
        for term in terms_of(rule.condition, proxy.acls)
    )


def check_headers(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find headers of requests that a rule sets from a variable of the agent, but that the client may send as well."""
    names = Names(configuration, answers)
    all_uses = list(uses(configuration))
    refused = {use.variable for use in all_uses if use.negated and refuses_or_routes(use.rule)}
    guards = _Guards(configuration)
    found = {}
    for use in all_uses:
        rule = use.rule
        if names.owners(use.variable) and not use.negated and _sets_header(rule, use.variable):
            header, place = rule.arguments[0].text, rule.setting.place
            if use.variable not in refused and not guards.has(header, rule):
                mend = f"first 'http-request del-header {header}'"
                text = f"if {use.variable} is not set, the client's own {header} passes: {mend}"
                found[place] = Finding("spoofable-header", Severity.INFO, place, text)
    yield from found.values()


def _sets_header(rule: Rule, variable: str) -> bool:
    """Return whether a rule replaces a header of the request by a value with the variable."""
    # "add-header" leaves the client's header there in any case, so the server must expect both.
    values = rule.arguments[1:] if rule.ruleset == "http-request" and rule.action == "set-header" else ()
    return any(variable in word.text for word in values)


class _Guards:
    """The headers of requests that rules change, or for which they refuse requests."""

    def __init__(self, configuration: Configuration) -> None:
        #: Where the rules stand that change a header, by its name in lower case.
        self._changing: dict[str, set[Place]] = {}
        #: Where the rules stand that change headers by a pattern, as ``del-header x- -m beg`` does.
        self._changing_by_pattern: set[Place] = set()
        #: The headers in conditions of rules that refuse, in lower case.
        self._refused: set[str] = set()
        for rule in (rule for proxy in configuration.proxies for rule in proxy.rules):
            if rule.action in _CHANGING:
                self._add_change(rule)
            elif rule.condition is not None and refuses_or_routes(rule):
                for word in rule.condition.words:
                    self._refused.update(name.lower() for name in _HEADER_FETCH.findall(word.text))

    def _add_change(self, rule: Rule) -> None:
        texts = [word.text for word in rule.arguments]
        if "-m" in texts:
            self._changing_by_pattern.add(rule.setting.place)
        for header in texts[:1]:
            self._changing.setdefault(header.lower(), set()).add(rule.setting.place)

    def has(self, header: str, rule: Rule) -> bool:
        """Return whether another rule than ``rule`` changes the header, or refuses a request that has it."""
        others = self._changing_by_pattern | self._changing.get(header.lower(), set())
        return "%" in header or header.lower() in self._refused or bool(others - {rule.setting.place})
