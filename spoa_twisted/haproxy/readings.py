"""Find each expression that reads a variable, wherever it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

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
    **dict.fromkeys(("add_item", "concat", "jwt_verify"), (0, 1)),
    "aes_gcm_dec": (1, 2, 3),
    "aes_gcm_enc": (1, 2, 3),
    "bytes": (0, 1),
    "hmac": (1,),
}
_VARIABLE = re.compile(r"(?:proc|sess|txn|req|res)\.[A-Za-z0-9_.]+", re.ASCII)

#: Settings that are read elsewhere, or whose words are texts.
_SKIPPED = frozenset({"acl", "description", "filter", "http-error", "id", "log-tag"})
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

    Any word may look like an expression, because the actions of rules differ. Whoever calls this looks for fetches
    that are no usual word.

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
    if rule is None:
        yield from _of_words(proxy, proxy.acls, setting, None, setting.words[1:])
        return
    # The word of the action may hold a log format, as the key of set-map does.
    words, _ = split_condition(setting.words)
    yield from _of_words(proxy, proxy.acls, setting, rule, words)
    if rule.condition is not None:
        yield from _of_condition(proxy, proxy.acls, setting, rule, rule.condition)


def _of_message(proxy: Proxy, message: SpoeMessage) -> Iterator[Reading]:
    for setting in message.section.all("args"):
        for argument in message.arguments:
            if argument.expression is not None and argument.word in setting.words:
                for reading in _of_expression(proxy, message.acls, setting, None, argument.word, argument.expression):
                    yield replace(reading, message=message)
    if message.event is not None and message.event.condition is not None:
        for reading in _of_condition(proxy, message.acls, message.event.setting, None, message.event.condition):
            yield replace(reading, message=message)


_ACLs = Mapping[str, tuple[Term, ...]]


def _of_words(
    proxy: Proxy, acls: _ACLs, setting: Setting, rule: Rule | None, words: Sequence[Word]
) -> Iterator[Reading]:
    for word, expression in expressions_of(words):
        yield from _of_expression(proxy, acls, setting, rule, word, expression)


def _of_expression(
    proxy: Proxy, acls: _ACLs, setting: Setting, rule: Rule | None, word: Word, expression: Expression
) -> Iterator[Reading]:
    for variable in variables_in(expression):
        yield Reading(variable, word, proxy, rule, expression, setting)
    if expression.fetch.name == "acl":
        for name in expression.fetch.arguments:
            term = Term(word, name.startswith("!"), acl=name.lstrip("!"))
            yield from _of_term(proxy, acls, setting, rule, term, ())


def _of_condition(
    proxy: Proxy, acls: _ACLs, setting: Setting, rule: Rule | None, condition: Condition
) -> Iterator[Reading]:
    for terms in condition.alternatives:
        for term in terms:
            yield from _of_term(proxy, acls, setting, rule, term, ())


def _of_term(
    proxy: Proxy, acls: _ACLs, setting: Setting, rule: Rule | None, term: Term, outer: tuple[str, ...]
) -> Iterator[Reading]:
    """Return the readings of a term. ``outer`` are the names of the ACLs that lead here: they may form a circle."""
    if term.acl is not None:
        if term.acl not in outer:
            for inner in acls.get(term.acl, ()):
                resolved = replace(inner, negated=term.negated)
                for reading in _of_term(proxy, acls, setting, rule, resolved, (*outer, term.acl)):
                    yield replace(reading, acl=term.word)
        return
    if term.expression is None:
        return
    for variable in variables_in(term.expression):
        yield Reading(variable, term.word, proxy, rule, term.expression, setting, term)
    if term.expression.fetch.name == "acl":
        for name in term.expression.fetch.arguments:
            negated = term.negated ^ name.startswith("!")
            inner_term = Term(term.word, negated, acl=name.lstrip("!"))
            yield from _of_term(proxy, acls, setting, rule, inner_term, outer)
