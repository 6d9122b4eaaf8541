"""Read the conditions of rules and events: ``if { src 10.0.0.0/8 } !blocked or admin``, and ``acl`` lines."""

from __future__ import annotations

from collections.abc import Sequence

from spoa_twisted.haproxy.grammar.expressions import Condition, Term
from spoa_twisted.haproxy.grammar.lines import Word
from spoa_twisted.haproxy.grammar.samples import parse_expression

#: Flags of an ACL with a value behind them: a matching method, a file or an identifier.
_WITH_VALUE = frozenset({"-f", "-m", "-u"})
_ALONE = frozenset({"-i", "-M", "-n"})


def split_condition(words: Sequence[Word]) -> tuple[tuple[Word, ...], Condition | None]:
    """Divide words at the first ``if`` or ``unless``: those in front of it, and the condition."""
    for index, word in enumerate(words):
        if word.text in ("if", "unless"):
            return tuple(words[:index]), parse_condition(words[index:])
    return tuple(words), None


def parse_condition(words: Sequence[Word]) -> Condition:
    """Read a condition. The first word is ``if`` or ``unless``.

    Words behind an opening brace without its closing one are left out; HAProxy refuses them.
    """
    alternatives: list[list[Term]] = [[]]
    negated = False
    index = 1
    while index < len(words):
        word = words[index]
        name = word.text.lstrip("!")
        # A lone exclamation mark negates the next word.
        negated ^= (len(word.text) - len(name)) % 2 == 1
        if name.lower() == "or" or name == "||":
            alternatives.append([])
            negated = False
        elif name == "{":
            end = next((at for at in range(index + 1, len(words)) if words[at].text == "}"), None)
            if end is None:
                break
            alternatives[-1].append(parse_test(words[index + 1 : end], word, negated=negated))
            negated, index = False, end
        elif name:
            alternatives[-1].append(Term(word, negated, acl=name))
            negated = False
        index += 1
    return Condition(words[0].text == "unless", tuple(words), tuple(tuple(terms) for terms in alternatives))


def parse_test(words: Sequence[Word], place: Word, *, negated: bool = False) -> Term:
    """Read the words between braces, or behind the name in an ``acl`` line: an expression, flags and patterns.

    :param place: the word for :attr:`Term.word` if there is no expression.
    """
    if not words:
        return Term(place, negated)
    flags: list[str] = []
    index = 1
    while index < len(words) and (flag := words[index].text) in _WITH_VALUE | _ALONE:
        taken = words[index : index + (2 if flag in _WITH_VALUE else 1)]
        flags += [word.text for word in taken]
        index += len(taken)
    if index < len(words) and words[index].text == "--":
        index += 1
    patterns = tuple(word.text for word in words[index:])
    return Term(words[0], negated, None, parse_expression(words[0].text), tuple(flags), patterns)
