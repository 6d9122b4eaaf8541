"""Sample expressions, as ``req.hdr(host),lower``, and conditions, as ``if { src 10.0.0.0/8 } !blocked``."""

from __future__ import annotations

from dataclasses import dataclass

from spoa_twisted.haproxy.grammar.lines import Word


@dataclass(frozen=True)
class Call:
    """A fetch or a converter, with its arguments."""

    #: ``req.hdr`` in ``req.hdr(host)``.
    name: str
    #: The text between the parentheses, split at commas; empty without parentheses.
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Expression:
    """A fetch and the converters behind it."""

    #: The whole expression, as HAProxy reads it.
    text: str
    fetch: Call
    converters: tuple[Call, ...] = ()

    @property
    def variable(self) -> str | None:
        """The name of the variable that ``var(NAME)`` reads, as ``txn.iprep.score``. ``None`` for another fetch."""
        return self.fetch.arguments[0] if self.fetch.name == "var" and self.fetch.arguments else None


@dataclass(frozen=True)
class Term:
    """One test of a condition: ``blocked``, ``!blocked``, or ``{ src 10.0.0.0/8 }``."""

    word: Word
    negated: bool
    #: The name of the ACL; ``None`` for an anonymous ACL in braces.
    acl: str | None = None
    #: The expression of an anonymous ACL; ``None`` for a named one, and for one that could not be read.
    expression: Expression | None = None
    #: The flags of an anonymous ACL, in order: ``-m``, ``bool``, ``-i``, ``-f``, ``FILE``.
    flags: tuple[str, ...] = ()
    #: The words behind the flags: an operator, and the values to compare with.
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Condition:
    """A condition of a rule or an event: alternatives, separated by ``or`` or ``||``, of which one must hold."""

    #: True for ``unless``.
    unless: bool
    words: tuple[Word, ...]
    alternatives: tuple[tuple[Term, ...], ...]
