"""A configuration as HAProxy understands it: engines with their messages and groups, proxies with their rules.

Parts with a name are equal only if they are the same object, so that they can be the keys of a mapping.

One :class:`Configuration` is for one version of HAProxy, because ``.if version_atleast(3.1)`` and the defaults of
HAProxy differ. A checker reads the same files once for each version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from spoa_twisted.haproxy.grammar.expressions import Condition, Expression, Term
from spoa_twisted.haproxy.grammar.lines import Document, Place, Word
from spoa_twisted.haproxy.grammar.sections import Section, Setting


@dataclass(frozen=True)
class Argument:
    """A word of an ``args`` line."""

    word: Word
    #: The name before the first ``=``; ``None`` for an argument without a name.
    name: str | None
    #: ``None`` if the expression could not be read.
    expression: Expression | None


@dataclass(frozen=True)
class Event:
    """The event of a message: that of its last ``event`` line."""

    #: ``on-frontend-http-request`` or another event.
    name: str
    #: The last condition that stands on an ``event`` line of the message. HAProxy keeps the condition of an earlier
    #: line if a later line has none.
    condition: Condition | None
    setting: Setting


@dataclass(frozen=True, eq=False)
class SpoeMessage:
    """A ``spoe-message`` section."""

    section: Section
    arguments: tuple[Argument, ...]
    event: Event | None
    #: The ACLs of the section, by name. Each ``acl`` line of one name adds alternatives.
    acls: Mapping[str, tuple[Term, ...]]

    @property
    def name(self) -> str:
        """The word behind the section's kind."""
        return self.section.name


@dataclass(frozen=True, eq=False)
class SpoeGroup:
    """A ``spoe-group`` section, with the names of its messages."""

    section: Section
    messages: tuple[Word, ...]

    @property
    def name(self) -> str:
        """The word behind the section's kind."""
        return self.section.name


@dataclass(frozen=True, eq=False)
class SpoeAgent:
    """A ``spoe-agent`` section."""

    section: Section
    #: The names on its ``messages`` lines, and on its ``groups`` lines.
    messages: tuple[Word, ...]
    groups: tuple[Word, ...]
    #: The value of ``option var-prefix``; without one, the name of the agent.
    prefix: str
    #: The names that the agent's options make: ``option set-on-error``, ``set-process-time`` and ``set-total-time``.
    set_on_error: Word | None
    set_process_time: Word | None
    set_total_time: Word | None
    #: The names on its ``register-var-names`` lines.
    registered: tuple[Word, ...]
    use_backend: Word | None
    #: Seconds by the name of the timeout, ``hello``, ``idle`` or ``processing``. One that is not set is missing.
    timeouts: Mapping[str, float]

    @property
    def name(self) -> str:
        """The word behind the section's kind."""
        return self.section.name

    @property
    def error_variable(self) -> str | None:
        """The whole name of the variable that ``option set-on-error`` sets, as ``txn.iprep.error``."""
        return None if self.set_on_error is None else f"txn.{self.prefix}.{self.set_on_error.text}"


@dataclass(frozen=True, eq=False)
class Scope:
    """What an engine's file says in one scope."""

    #: ``None`` for the text before the first ``[name]``.
    name: str | None
    place: Place
    agent: SpoeAgent | None
    #: In the order of the file.
    messages: tuple[SpoeMessage, ...]
    groups: tuple[SpoeGroup, ...]


@dataclass(frozen=True, eq=False)
class Reading:
    """An expression that reads a variable: ``var(txn.iprep.score)``, in a condition or elsewhere."""

    #: ``txn.iprep.score``
    variable: str
    #: The word with the expression. For a named ACL it stands in the ``acl`` line.
    word: Word
    #: For a message of an engine: the proxy with the engine's filter.
    proxy: Proxy
    #: The rule that reads the variable; ``None`` for another setting, such as ``log-format`` or ``balance``.
    rule: Rule | None
    #: Its fetch is ``var``, or one of its converters reads the variable, as ``concat(,txn.iprep.score)`` does.
    expression: Expression
    #: The rule's line, or that of another setting, of ``args`` or of ``event``.
    setting: Setting
    #: The term of a condition; ``None`` if the value goes elsewhere, for example into a header.
    term: Term | None = None
    #: The name in a condition, or in ``acl(NAME)``, if a named ACL reads the variable.
    acl: Word | None = None
    #: The message of an engine, in whose ``args`` or ``event`` line the variable is read.
    message: SpoeMessage | None = None


@dataclass(frozen=True)
class Rule:
    """A rule of a proxy: ``http-request deny if ...``, ``tcp-request content ...``, ``use_backend`` and so on."""

    setting: Setting
    #: ``http-request``, ``tcp-request content``, ``use_backend`` and so on.
    ruleset: str
    #: ``deny``, ``set-var``, ``send-spoe-group`` and so on, without its parentheses; empty for ``use_backend``.
    action: str
    #: The words between the action and the condition. For ``set-var(txn.a)`` the first one is the action's word.
    arguments: tuple[Word, ...]
    condition: Condition | None


@dataclass(frozen=True, eq=False)
class Proxy:
    """A ``frontend``, ``backend``, ``listen`` or ``defaults`` section, with what it inherits from its defaults."""

    section: Section
    #: ``http``, ``tcp``, ``spop`` or ``log``.
    mode: str
    #: The settings of its defaults, those that its own settings do not replace, and then its own. ``no option ...`` has
    #: been applied: neither that line nor the option is in it.
    settings: tuple[Setting, ...]
    #: In the order in which HAProxy runs them within one ruleset: those of its defaults first.
    rules: tuple[Rule, ...]
    #: The ACLs of the proxy, by name. Each ``acl`` line of one name adds alternatives.
    acls: Mapping[str, tuple[Term, ...]]

    @property
    def kind(self) -> str:
        """``frontend``, ``backend``, ``listen`` or ``defaults``."""
        return self.section.kind

    @property
    def name(self) -> str:
        """The word behind the section's kind."""
        return self.section.name

    @property
    def place(self) -> Place:
        """Where its section begins."""
        return self.section.head.place

    def all(self, *texts: str) -> list[Setting]:
        """Return the settings whose first words are ``texts``."""
        return [setting for setting in self.settings if setting.starts(*texts)]

    def last(self, *texts: str) -> Setting | None:
        """Return the last setting whose first words are ``texts``. HAProxy uses the last one of a repeated setting."""
        return next(iter(self.all(*texts)[::-1]), None)


@dataclass(frozen=True, eq=False)
class Engine:
    """A ``filter spoe`` line, and what it refers to. Parts that do not exist are ``None``."""

    #: The word behind ``engine``; without it, the name of the agent.
    name: str
    filter: Setting
    proxy: Proxy
    #: The file behind ``config``; ``None`` if it could not be read.
    document: Document | None
    scope: Scope | None
    #: The backend that ``use-backend`` names.
    backend: Proxy | None

    @property
    def agent(self) -> SpoeAgent | None:
        """The ``spoe-agent`` of its scope."""
        return None if self.scope is None else self.scope.agent


@dataclass(frozen=True)
class NotRead:
    """A part of the files that could not be read, or whose meaning depends on what is not known."""

    place: Place
    #: One sentence.
    why: str


@dataclass(frozen=True, eq=False)
class Configuration:
    """All files, for one version of HAProxy."""

    #: As ``(3, 2)``.
    version: tuple[int, int]
    #: The scopes of all files of engines, by the file's name.
    scopes: Mapping[str, tuple[Scope, ...]]
    #: False if only the file of an engine was given. Checks that need haproxy.cfg then say nothing.
    has_proxies: bool = False
    global_section: Section | None = None
    #: In the order of the files; also the named and unnamed ``defaults``.
    proxies: tuple[Proxy, ...] = ()
    engines: tuple[Engine, ...] = ()
    readings: tuple[Reading, ...] = ()
    documents: tuple[Document, ...] = ()
    not_read: tuple[NotRead, ...] = field(default=())

    @property
    def rewritten(self) -> bool:
        """Whether this is HAProxy 3.1 or later, whose SPOE is another implementation."""
        return self.version >= (3, 1)
