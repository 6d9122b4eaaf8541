"""Find each expression that reads a variable, wherever it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from spoa_twisted.haproxy.configuration import Engine, Proxy, Reading, Rule, SpoeMessage
from spoa_twisted.haproxy.grammar.conditions import split_condition
from spoa_twisted.haproxy.grammar.expressions import Condition, Expression, Term
from spoa_twisted.haproxy.grammar.lines import Word
from spoa_twisted.haproxy.grammar.samples import expressions_in, parse_expression
from spoa_twisted.haproxy.grammar.sections import Setting
from spoa_twisted.haproxy.rules import parse_rule

#: Converters with arguments that are names of variables, and the positions of these arguments.
_CONVERTERS = {
    **dict.fromkeys(("add", "and", "div", "mod", "mul", "or", "sub", "xor", "strcmp", "secure_memcmp"), (0,)),
    **dict.fromkeys(("add_item", "concat", "hmac"), (1,)),
    **dict.fromkeys(("bytes", "jwt_verify"), (0, 1)),
    "aes_gcm_dec": (1, 2, 3),
    "aes_gcm_enc": (1, 2, 3),
}
_VARIABLE = re.compile(r"(?:proc|sess|txn|req|res)\.[A-Za-z0-9_.]+", re.ASCII)

#: Settings that are read elsewhere, or whose words are texts.
_SKIPPED = frozenset({"acl", "description", "filter", "http-error", "id", "log-tag"})
#: ACLs that one term may lead to, by way of ``acl(NAME)`` in other ACLs. More would be a recursion that is too deep.
_MAX_ACLS = 100
#: Behind these words of ``return`` and similar actions a text stands that is no log format.
_TEXTS = frozenset({"errorfile", "errorfiles", "file", "string"})


def readings(proxies: Iterable[Proxy], engines: Iterable[Engine]) -> Iterator[Reading]:
    """Return the readings of all proxies, and of the messages of all engines.

    A ``defaults`` section has none of its own: each proxy that inherits a rule has the rule's readings.
    """
    for proxy in proxies:
        if proxy.kind != "defaults":
            for setting in proxy.settings:
                yield from _of_setting(proxy, setting)
    for engine in engines:
        if engine.scope is not None:
            for message in engine.scope.messages:
                yield from _of_message(engine.proxy, message)


def variables_in(expression: Expression) -> Iterator[str]:
    """Return the names of the variables that an expression reads: as ``var(NAME)``, and in its converters."""
    if expression.variable is not None:
        yield expression.variable
    for converter in expression.converters:
        for position in _CONVERTERS.get(converter.name, ()):
            for argument in converter.arguments[position : position + 1]:
                if _VARIABLE.fullmatch(argument):
                    yield argument


def expressions_of(words: Sequence[Word], *, texts: frozenset[str] = _TEXTS) -> Iterator[tuple[Word, Expression]]:
    """Return the expressions in words: those that are a whole word, and those in log formats.

    Any word may look like an expression: ``deny`` is read as a fetch. So a caller looks for certain names of fetches,
    for example ``var``.

    :param texts: the word behind one of these is left out.
    """
    before = ""
    for word in words:
        if before not in texts:
            expression = parse_expression(word.text)
            for found in [expression] if expression is not None else expressions_in(word.text):
                yield word, found
        before = word.text


def _of_setting(proxy: Proxy, setting: Setting) -> Iterator[Reading]:
    if setting.texts[0] in _SKIPPED:
        return
    rule = parse_rule(setting)
    line = _Line(proxy, proxy.acls, setting, rule)
    if rule is None:
        yield from line.of_words(setting.words[1:])
        return
    # The word of the action may hold a log format, as the key of set-map does.
    words, _ = split_condition(setting.words)
    yield from line.of_words(words)
    if rule.condition is not None:
        yield from line.of_condition(rule.condition)


def _of_message(proxy: Proxy, message: SpoeMessage) -> Iterator[Reading]:
    expressions = {argument.word: argument.expression for argument in message.arguments}
    for setting in message.section.all("args"):
        line = _Line(proxy, message.acls, setting, None)
        for word in setting.words[1:]:
            if (expression := expressions[word]) is not None:
                yield from (replace(reading, message=message) for reading in line.of_expression(word, expression))
    if message.event is not None and message.event.condition is not None:
        line = _Line(proxy, message.acls, message.event.setting, None)
        yield from (replace(reading, message=message) for reading in line.of_condition(message.event.condition))


@dataclass(frozen=True)
class _Line:
    """A line with expressions, and the ACLs that conditions in it may name."""

    proxy: Proxy
    acls: Mapping[str, tuple[Term, ...]]
    setting: Setting
    rule: Rule | None

    def of_words(self, words: Sequence[Word]) -> Iterator[Reading]:
        for word, expression in expressions_of(words):
            yield from self.of_expression(word, expression)

    def of_expression(self, word: Word, expression: Expression) -> Iterator[Reading]:
        for variable in variables_in(expression):
            yield Reading(variable, word, self.proxy, self.rule, expression, self.setting)
        yield from self._of_acl_fetch(word, expression, set(), negated=False)

    def of_condition(self, condition: Condition) -> Iterator[Reading]:
        for terms in condition.alternatives:
            for term in terms:
                yield from self._of_term(term, set())

    def _of_term(self, term: Term, seen: set[str]) -> Iterator[Reading]:
        """Return the readings of a term. ``seen`` are the names of ACLs that need not be resolved again."""
        if term.acl is not None:
            if term.acl not in seen and len(seen) < _MAX_ACLS:
                seen.add(term.acl)
                for inner in self.acls.get(term.acl, ()):
                    resolved = replace(inner, negated=term.negated)
                    yield from (replace(reading, acl=term.word) for reading in self._of_term(resolved, seen))
        elif term.expression is not None:
            for variable in variables_in(term.expression):
                yield Reading(variable, term.word, self.proxy, self.rule, term.expression, self.setting, term)
            yield from self._of_acl_fetch(term.word, term.expression, seen, negated=term.negated)

    def _of_acl_fetch(self, word: Word, expression: Expression, seen: set[str], *, negated: bool) -> Iterator[Reading]:
        """Return the readings of the ACLs in ``acl(NAME,!NAME)``."""
        if expression.fetch.name == "acl":
            for name in expression.fetch.arguments:
                term = Term(word, negated ^ name.startswith("!"), acl=name.lstrip("!"))
                yield from self._of_term(term, seen)
