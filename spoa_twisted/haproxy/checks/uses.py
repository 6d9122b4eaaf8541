"""Where rules use variables in their conditions, also through named ACLs, and whether they want them true or false."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from spoa_twisted.haproxy.configuration import Configuration, Proxy, Rule
from spoa_twisted.haproxy.grammar.expressions import Condition, Term
from spoa_twisted.haproxy.grammar.lines import Place, Word

#: Actions that end a request or refuse a connection. A Lua action may do so.
_REFUSING: Final = frozenset({"deny", "reject", "tarpit", "silent-drop", "return", "redirect", "auth"})

#: Actions after which HAProxy does not look at the further rules, so that a rule below them can refuse all the rest.
_ALLOWING: Final = frozenset({"allow", "accept"})

#: Actions that keep a decision for a rule below them.
_KEEPING: Final = ("set-var", "set-var-fmt", "set-acl", "add-acl", "set-map", "sc-")


@dataclass(frozen=True)
class Use:
    """A term of a rule's condition that reads a variable."""

    variable: str
    proxy: Proxy
    rule: Rule
    #: The term with the expression: for a named ACL, that of its ``acl`` line.
    term: Term
    #: Whether the rule applies if the term is false, by ``!`` or ``unless``.
    negated: bool
    #: The terms of the same alternative, also this one, in the words of their ``acl`` lines.
    alternative: tuple[Term, ...]

    @property
    def place(self) -> Place:
        """Where the expression stands."""
        return self.term.word.place

    @property
    def has_default(self) -> bool:
        """Whether the expression gives a value also if the variable is not set: ``var(txn.iprep.score,0)``."""
        expression = self.term.expression
        return expression is not None and len(expression.fetch.arguments) > 1


def uses(configuration: Configuration) -> Iterator[Use]:
    """Yield each use of a variable in the condition of a rule."""
    for proxy in configuration.proxies:
        for rule in proxy.rules if proxy.kind != "defaults" else ():
            if rule.condition is not None:
                yield from _uses_in(proxy, rule, rule.condition)


def _uses_in(proxy: Proxy, rule: Rule, condition: Condition) -> Iterator[Use]:
    for alternative in condition.alternatives:
        terms = {used: resolved(proxy, used) for used in alternative}
        together = tuple(term for resolved_terms in terms.values() for term in resolved_terms)
        for used, resolved_terms in terms.items():
            for term in resolved_terms:
                if term.expression is not None and (variable := term.expression.variable) is not None:
                    # For a named ACL, the negation of the use is added to that of the definition.
                    negated = used.negated ^ condition.unless ^ (term is not used and term.negated)
                    yield Use(variable, proxy, rule, term, negated, together)


def resolved(proxy: Proxy, term: Term) -> tuple[Term, ...]:
    """Return the terms of a named ACL; for an anonymous one, the term itself."""
    return (term,) if term.acl is None else tuple(proxy.acls.get(term.acl, ()))


def is_lua(rule: Rule) -> bool:
    """Return whether a rule calls Lua, which may refuse the request."""
    return rule.action.startswith("lua.") or any(word.text.startswith("lua.") for word in rule.arguments)


def refuses_or_routes(rule: Rule) -> bool:
    """Return whether a rule can keep a request from the server to which it would go without the rule."""
    return rule.action in _REFUSING or rule.ruleset in {"use_backend", "redirect"} or is_lua(rule)


def allows(rule: Rule) -> bool:
    """Return whether a rule lets requests pass that the rules below it may refuse."""
    return rule.action in _ALLOWING or rule.ruleset == "use_backend"


def keeps(rule: Rule) -> bool:
    """Return whether a rule keeps a decision, on which a rule below it may refuse."""
    return rule.action.startswith(_KEEPING)


def refuses(rule: Rule) -> bool:
    """Return whether a rule surely refuses. A redirection or a response may be what the agent is there for."""
    if rule.action == "return":
        return any(
            _is_error(rule.arguments, index) for index, word in enumerate(rule.arguments) if word.text == "status"
        )
    return rule.action in {"deny", "reject", "tarpit", "silent-drop"}


def _is_error(words: tuple[Word, ...], index: int) -> bool:
    """Return whether the word behind ``status`` is the number of an error."""
    return any(word.text.startswith(("4", "5")) for word in words[index + 1 : index + 2])
