"""The names of the agent's variables: which prefix a name has, who sets it, and where the configuration mentions it.

Engines that have the same ``option var-prefix`` share their variables. So what a name means is asked for each prefix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cached_property
from typing import Final

from spoa_twisted.handlers.declaration import RESPONSE_EVENTS
from spoa_twisted.haproxy.answers import Answer, Answers
from spoa_twisted.haproxy.configuration import Configuration, Engine, Proxy, Scope, SpoeAgent, SpoeMessage
from spoa_twisted.haproxy.grammar.expressions import Condition, Term
from spoa_twisted.haproxy.grammar.lines import Line, Place, Word

#: The scopes in which an agent may set a variable.
SCOPES: Final = ("proc", "sess", "txn", "req", "res")

_WITH_SCOPE: Final = tuple(f"{scope}." for scope in SCOPES)

#: What sets a variable in a configuration: an action as ``set-var(txn.a)``, or a converter of this name.
_SETTING_OF: Final = re.compile(r"(?:set-var|set-var-fmt|do-resolve)\(\s*([\w.]+)|(?:^|\s)set-var(?:-fmt)?\s+([\w.]+)")

#: Filters that set no variables. Any other filter may set variables of any name.
_FILTERS: Final = frozenset(
    {"spoe", "compression", "comp-req", "comp-res", "cache", "trace", "fcgi-app", "bwlim-in", "bwlim-out"}
)

#: From this ratio on two names are taken for the same name, misspelt. One wrong letter of six gives 0.83.
_SIMILAR: Final = 0.8


def is_similar(name: str, other: str) -> bool:
    """Return whether ``name`` looks like ``other``, misspelt: in another case, with another separator or letter."""
    plain, other_plain = (re.sub(r"[._-]", "", text).lower() for text in (name, other))
    if name == other:
        return False
    return plain == other_plain or (
        min(len(plain), len(other_plain)) > 3 and SequenceMatcher(None, plain, other_plain).ratio() >= _SIMILAR
    )


def terms_of(condition: Condition | None, acls: Mapping[str, tuple[Term, ...]]) -> tuple[Term, ...]:
    """Return the terms of a condition, those of named ACLs in the words of their ``acl`` lines."""
    if condition is None:
        return ()
    used = [term for terms in condition.alternatives for term in terms]
    return tuple(term for use in used for term in (acls.get(use.acl, ()) if use.acl is not None else (use,)))


@dataclass(frozen=True)
class Way:
    """A way in which a message is sent: at its event, or by a rule that sends a group."""

    #: Where the condition stands.
    place: Place
    #: Whether the scope ``res`` exists then. If not, ``req`` does.
    in_response: bool
    #: The terms of its condition, those of named ACLs in the words of their ``acl`` lines. Empty without a condition.
    terms: tuple[Term, ...]
    #: The event's name; empty for a group.
    event: str
    #: The proxy of the rule, or of the filter. ``None`` without haproxy.cfg.
    proxy: Proxy | None


@dataclass(frozen=True)
class Sent:
    """A message that an engine sends, with the handler that answers it."""

    message: SpoeMessage
    ways: tuple[Way, ...]
    #: ``None`` if no handler is known.
    answer: Answer | None

    @property
    def place(self) -> Place:
        """Where its section begins."""
        return self.message.section.head.place

    @property
    def sets(self) -> dict[str, object | None] | None:
        """The types of the variables that its handler sets, by name without prefix. ``None`` if that is not known."""
        if self.answer is None or self.answer.sets is None:
            return None
        types = dict.fromkeys(self.answer.on_error) | dict(self.answer.sets)
        return {name: type_ for name, type_ in types.items() if name.startswith(_WITH_SCOPE)}


@dataclass
class Prefix:
    """The engines that share a prefix."""

    name: str
    #: Without haproxy.cfg there are scopes, but no engines.
    engines: list[Engine] = field(default_factory=list)
    agents: list[SpoeAgent] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)

    def whole(self, name: str) -> str:
        """Return the whole name of a variable that a handler sets: ``txn.iprep.score`` for ``txn.score``."""
        scope, _, rest = name.partition(".")
        return f"{scope}.{self.name}.{rest}"

    def own(self, variable: str) -> str:
        """Return the name that a handler would set for a whole name: ``txn.score`` for ``txn.iprep.score``."""
        scope, _, rest = variable.partition(".")
        return f"{scope}.{rest[len(self.name) + 1 :]}"

    @cached_property
    def made(self) -> dict[str, Word]:
        """The whole names of the variables that options of the agents make, with the words that name them."""
        return {
            f"txn.{self.name}.{word.text}": word
            for agent in self.agents
            for word in (agent.set_on_error, agent.set_process_time, agent.set_total_time)
            if word is not None
        }

    @property
    def errors(self) -> list[Word]:
        """The names that the options ``set-on-error`` of its agents give."""
        return [agent.set_on_error for agent in self.agents if agent.set_on_error is not None]

    @cached_property
    def setters(self) -> dict[str, list[Sent]] | None:
        """The messages whose handlers set a variable, by its whole name. ``None`` if a handler may set any variable."""
        setters: dict[str, list[Sent]] = {}
        for sent in self.sent:
            if sent.sets is None:
                return None
            for name in sent.sets:
                setters.setdefault(self.whole(name), []).append(sent)
        return setters

    def may_set(self, variable: str) -> bool:
        """Return whether an agent or HAProxy may set a variable with this whole name."""
        return self.setters is None or variable in self.setters or variable in self.made

    def types(self, variable: str) -> list[object | None]:
        """Return the types that the handlers give to a variable. Empty if that is not known."""
        own = self.own(variable)
        return [(sent.sets or {})[own] for sent in (self.setters or {}).get(variable, [])]


class Names:
    """The variables of a configuration, and of the handlers if they are known."""

    def __init__(self, configuration: Configuration, answers: Answers | None) -> None:
        self.configuration = configuration
        self.answers = answers
        self.prefixes: dict[str, Prefix] = {}
        # The results of mentions(): each frontend may have an engine with the same variable.
        self._mentioned: dict[str, bool] = {}
        if configuration.has_proxies:
            for engine in configuration.engines:
                if engine.scope is not None:
                    self._add(engine.scope, engine)
        else:
            for scope in (scope for scopes in configuration.scopes.values() for scope in scopes):
                self._add(scope, None)

    def owners(self, variable: str) -> list[Prefix]:
        """Return the prefixes that a whole name may have. There are several if one prefix begins with another one."""
        scope, _, rest = variable.partition(".")
        if scope not in SCOPES:
            return []
        return [prefix for prefix in self.prefixes.values() if rest.startswith(f"{prefix.name}.")]

    @cached_property
    def are_complete(self) -> bool:
        """False if variables of any name may be set: by an engine that could not be read, Lua, or another filter."""
        configuration = self.configuration
        return (
            not configuration.not_read
            and all(engine.agent is not None for engine in configuration.engines)
            and not self.has_lua
            and all(
                setting.texts[1:2] == () or setting.texts[1] in _FILTERS
                for proxy in configuration.proxies
                for setting in proxy.settings
                if setting.starts("filter")
            )
        )

    @cached_property
    def has_lua(self) -> bool:
        """Whether Lua runs in HAProxy. It may read and set each variable."""
        section = self.configuration.global_section
        return any("lua." in word for word in self._texts) or any(
            setting.texts[0].startswith("lua-load") for setting in (() if section is None else section.settings)
        )

    @cached_property
    def set_by_rules(self) -> frozenset[str]:
        """The names of the variables that the configuration itself sets, by an action or a converter."""
        lines = [" ".join(word.text for word in line.words) for line in self._lines]
        return frozenset(
            name for line in lines for match in _SETTING_OF.finditer(line) for name in match.groups() if name
        )

    def mentions(self, variable: str) -> bool:
        """Return whether a word of the configuration holds the name of a variable, also within a longer text."""
        if variable not in self._mentioned:
            pattern = re.compile(rf"(?<![\w.]){re.escape(variable)}(?![\w.])")
            self._mentioned[variable] = any(pattern.search(text) for text in self._texts)
        return self._mentioned[variable]

    def is_unset(self, variable: str) -> bool:
        """Return whether a rule unsets a variable."""
        return any(f"unset-var({variable})" in text for text in self._texts)

    @cached_property
    def _lines(self) -> list[Line]:
        documents = [*self.configuration.documents, *(engine.document for engine in self.configuration.engines)]
        by_name = {document.name: document for document in documents if document is not None}
        return [line for document in by_name.values() for line in document.lines]

    @cached_property
    def _texts(self) -> list[str]:
        return [word.text for line in self._lines for word in line.words]

    def _add(self, scope: Scope, engine: Engine | None) -> None:
        """Add what an engine sends. Without haproxy.cfg, ``engine`` is ``None``."""
        agent = scope.agent
        if agent is None:
            return
        prefix = self.prefixes.setdefault(agent.prefix, Prefix(agent.prefix))
        if engine is not None:
            prefix.engines.append(engine)
        prefix.agents.append(agent)
        ways = self._ways(scope, agent, engine)
        for message in scope.messages:
            if message.name in ways:
                answer = self._answer(message.name)
                prefix.sent.append(Sent(message, tuple(ways[message.name]), answer))

    def _answer(self, message: str) -> Answer | None:
        return None if self.answers is None else self.answers.by_message.get(message, self.answers.default)

    def _ways(self, scope: Scope, agent: SpoeAgent, engine: Engine | None) -> dict[str, list[Way]]:
        """Return the names of the messages that the agent's section lists, each with the ways in which it is sent."""
        ways: dict[str, list[Way]] = {}
        listed = {word.text for word in agent.messages}
        for message in scope.messages:
            if message.name in listed:
                found = ways.setdefault(message.name, [])
                if (event := message.event) is not None:
                    proxy = None if engine is None else engine.proxy
                    # HAProxy has the scope "res" at these events, and "req" at all others.
                    in_response = event.name in RESPONSE_EVENTS
                    terms = terms_of(event.condition, message.acls)
                    found.append(Way(event.setting.place, in_response, terms, event.name, proxy))
        groups = {word.text for word in agent.groups}
        for group in scope.groups:
            if group.name in groups:
                for word in group.messages:
                    ways.setdefault(word.text, []).extend(self._sendings(engine, group.name))
        return ways

    def _sendings(self, engine: Engine | None, group: str) -> list[Way]:
        """Return the ways in which rules send a group."""
        return [
            Way(rule.setting.place, "response" in rule.ruleset, terms_of(rule.condition, proxy.acls), "", proxy)
            for proxy in self.configuration.proxies
            for rule in proxy.rules
            if engine is not None
            and rule.action == "send-spoe-group"
            and [word.text for word in rule.arguments] == [engine.name, group]
        ]
