"""The engine that HAProxy needs for the handlers: its messages and groups, when they are sent, and its timeouts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from spoa_twisted.handlers.declaration import RESPONSE_EVENTS, RESPONSE_RULESETS
from spoa_twisted.handlers.declaring import ERROR_VARIABLE, LONGEST_VARIABLE
from spoa_twisted.haproxy.answers import Answer, Answers
from spoa_twisted.haproxy.writing.addresses import is_address
from spoa_twisted.haproxy.writing.required import Required, faults

#: Milliseconds that HAProxy waits longer than the slowest handler, so that the variables of its ``on_error`` arrive.
_MARGIN: Final = 500
_SHORTEST_PROCESSING: Final = 2000
#: A day. HAProxy accepts 24 days.
_LONGEST_PROCESSING: Final = 86_400_000
_IDLE: Final = 120_000
#: How much longer HAProxy keeps a connection than it waits on it.
_LONGER: Final = 60_000

_ENGINE: Final = re.compile(r"[A-Za-z0-9._:-]+\Z")
_PREFIX: Final = re.compile(r"[A-Za-z0-9_.]+\Z")
_NOT_IN_ENGINE: Final = re.compile(r"[^A-Za-z0-9._:-]")
_NOT_IN_PREFIX: Final = re.compile(r"[^A-Za-z0-9_.]")

# Bytes for the headers of a request, for the other arguments, and for what HAProxy itself needs.
_BESIDE_BODY: Final = 65_536
# HAProxy's default of tune.bufsize, in bytes.
_DEFAULT_BUFSIZE: Final = 16_384


class CannotWrite(ValueError):
    """There is no configuration for these handlers or options. The text says why, and what to do."""


class Phase(Enum):
    """When a message is sent. The rules that read its variables come later."""

    REQUEST = "request"
    #: After the frontend has chosen a backend.
    BACKEND = "backend"
    RESPONSE = "response"


@dataclass(frozen=True)
class PlannedMessage:
    """A message that HAProxy sends."""

    answer: Answer
    #: The name of the event or the ruleset, and the condition with its ``if`` or ``unless``, which may be empty.
    when: str
    condition: str

    @property
    def name(self) -> str:
        """The name of the message."""
        return self.answer.message

    @property
    def args(self) -> Mapping[str, str]:
        """The sample expression of each argument."""
        return self.answer.declaration.args or {}

    @property
    def sets(self) -> Mapping[str, object | None]:
        """The types of the variables, as far as they are known."""
        return self.answer.sets or {}

    @property
    def by_rule(self) -> bool:
        """Whether a rule sends it, in a group."""
        return self.answer.declaration.rule is not None

    @property
    def is_http(self) -> bool:
        """Whether HAProxy sends it in HTTP mode only."""
        return "http" in self.when

    @property
    def phase(self) -> Phase:
        """When it is sent."""
        if self.when in {*RESPONSE_EVENTS, *RESPONSE_RULESETS}:
            return Phase.RESPONSE
        return Phase.BACKEND if self.when.startswith("on-backend-") else Phase.REQUEST

    def reads(self, fetch: str) -> bool:
        """Return whether an argument uses ``fetch``."""
        return any(re.search(rf"\b{re.escape(fetch)}\b", expression) for expression in self.args.values())


@dataclass(frozen=True)
class PlannedGroup:
    """Messages that one rule sends, in one frame."""

    messages: tuple[PlannedMessage, ...]

    @property
    def name(self) -> str:
        """The name of the group, which is that of its first message."""
        return self.messages[0].name

    @property
    def ruleset(self) -> str:
        """``http-request`` or another ruleset."""
        return self.messages[0].when

    @property
    def condition(self) -> str:
        """The condition of the rule, with its ``if`` or ``unless``; it may be empty."""
        return self.messages[0].condition


@dataclass(frozen=True)
class Options:
    """What the user asks for."""

    #: The name of the engine.
    engine: str
    #: The prefix of the variables. Without it, the name of the engine, with ``_`` for characters that cannot be in it.
    prefix: str | None = None
    #: The addresses of the agents.
    servers: Sequence[str] = ("127.0.0.1:12345",)
    #: Whether requests pass while the agent fails.
    fail_open: bool = False
    #: ``timeout processing`` in seconds. Without it, the greatest timeout of the handlers and half a second.
    processing: float | None = None
    #: The longest body in bytes.
    body: int | None = None
    #: The variables without which HAProxy refuses.
    required: Sequence[Required] = ()


@dataclass(frozen=True)
class Plan:
    """All that HAProxy's configuration says about the agent: one engine, which is a scope of spoe.conf and a filter."""

    engine: str
    messages: tuple[PlannedMessage, ...]
    prefix: str
    servers: tuple[str, ...]
    fail_open: bool
    #: Timeouts in milliseconds.
    processing: int
    idle: int
    server: int
    #: ``tune.bufsize`` in bytes; ``None`` for HAProxy's default.
    bufsize: int | None
    #: The variables without which HAProxy refuses.
    required: tuple[Required, ...]

    @property
    def agent(self) -> str:
        """The name of the spoe-agent."""
        return f"{self.engine}-agent"

    @property
    def backend(self) -> str:
        """The name of the agents' backend."""
        return f"{self.engine}-agents"

    @property
    def by_event(self) -> list[PlannedMessage]:
        """The messages that an event sends."""
        return [message for message in self.messages if not message.by_rule]

    @property
    def groups(self) -> list[PlannedGroup]:
        """The groups: a group has the messages whose rules are the same."""
        rules: dict[tuple[str, str], list[PlannedMessage]] = {}
        for message in self.messages:
            if message.by_rule:
                rules.setdefault((message.when, message.condition), []).append(message)
        return [PlannedGroup(tuple(messages)) for messages in rules.values()]

    @property
    def is_http(self) -> bool:
        """Whether the engine works in HTTP mode only."""
        return any(message.is_http for message in self.messages)

    @property
    def needs_listen(self) -> bool:
        """Whether the filter must be in a ``listen`` section.

        A frontend has no ``tcp-response content`` rules, and the filter and the rules that send its groups must be in
        the same section.
        """
        return any(message.when == "tcp-response content" for message in self.messages)

    @property
    def error(self) -> str:
        """The variable that HAProxy sets when the agent fails."""
        return self.variable(ERROR_VARIABLE)

    def variable(self, name: str) -> str:
        """Return the name that a variable of a handler has in HAProxy: with the prefix behind the scope."""
        scope, _, rest = name.partition(".")
        return f"{scope}.{self.prefix}.{rest}"


def engine_name(module: str) -> str:
    """Return a name for the engine of a module, a file, or ``module:attribute``."""
    source = module.rpartition(":")[0] or module
    name = source.replace("\\", "/").rstrip("/").rpartition("/")[2]
    name = name.removesuffix(".py") if name.endswith(".py") else name.rpartition(".")[2]
    return _NOT_IN_ENGINE.sub("_", name)


def plan(answers: Answers, options: Options) -> Plan:
    """Return the plan for the handlers that declare when HAProxy asks them.

    :raises CannotWrite: if there is none, or HAProxy cannot do what the handlers and ``options`` say.
    """
    prefix = _NOT_IN_PREFIX.sub("_", options.engine) if options.prefix is None else options.prefix
    _check_names(options, prefix)
    messages = tuple(_planned(answers))
    if not messages:
        raise CannotWrite("no handler declares its arguments and when HAProxy asks it")
    _check_variables(messages, prefix)
    _check_set_once(messages)
    processing = _processing(messages, options.processing)
    idle = max(_IDLE, processing + _LONGER)
    made = Plan(
        engine=options.engine,
        messages=messages,
        prefix=prefix,
        servers=tuple(options.servers),
        fail_open=options.fail_open,
        processing=processing,
        idle=idle,
        server=idle + _LONGER,
        bufsize=None if options.body is None else max(_DEFAULT_BUFSIZE, options.body + _BESIDE_BODY),
        required=tuple(options.required),
    )
    known = {name: declared for message in messages for name, declared in message.sets.items()}
    for fault in faults(made.required, known, is_http=made.is_http):
        raise CannotWrite(fault)
    return made


def is_complete(answer: Answer) -> bool:
    """Return whether a handler declares all that HAProxy's configuration needs."""
    declaration = answer.declaration
    needs = answer.takes_message or any(parameter.required for parameter in answer.parameters)
    return declaration.when is not None and not (declaration.args is None and needs)


def _planned(answers: Answers) -> Iterator[PlannedMessage]:
    for answer in answers.by_message.values():
        when = answer.declaration.when
        if when is not None and is_complete(answer):
            yield PlannedMessage(answer, *when)


def _check_names(options: Options, prefix: str) -> None:
    if not _ENGINE.match(options.engine):
        raise CannotWrite(
            f"{options.engine!r} cannot be the name of an engine; use A-Z, a-z, 0-9, '_', '-', '.' and ':'"
        )
    if not _PREFIX.match(prefix):
        raise CannotWrite(f"{prefix!r} cannot be the prefix of variables; use A-Z, a-z, 0-9, '_' and '.'")
    for server in options.servers:
        if not is_address(server):
            raise CannotWrite(
                f"{server!r} is not the address of an agent; write it as 127.0.0.1:12345 or /path/to/socket"
            )


def _check_variables(messages: Sequence[PlannedMessage], prefix: str) -> None:
    """Check the names of the variables with their prefix."""
    for message in messages:
        if ERROR_VARIABLE in (message.answer.declaration.sets or {}):
            raise CannotWrite(
                f"the handler of {message.name!r} declares {ERROR_VARIABLE!r}, which HAProxy sets when the agent fails:"
                " rename the variable"
            )
        for variable in message.sets:
            if len(variable) + len(prefix) + len(".") > LONGEST_VARIABLE:
                raise CannotWrite(
                    f"the variable {variable!r} of {message.name!r} has more than {LONGEST_VARIABLE} characters with"
                    f" the prefix {prefix!r}, so HAProxy drops it: use a shorter --prefix, or rename the variable"
                )
    if len(ERROR_VARIABLE) + len(prefix) + len(".") > LONGEST_VARIABLE:
        raise CannotWrite(
            f"the prefix {prefix!r} is too long: HAProxy would drop the variables; use a shorter --prefix"
        )


def _check_set_once(messages: Sequence[PlannedMessage]) -> None:
    """Check that no two messages which HAProxy sends in one NOTIFY declare the same variable.

    Messages with different conditions may exclude each other.
    """
    first: dict[tuple[bool, str, str, str], PlannedMessage] = {}
    for message in messages:
        for variable in message.answer.declaration.sets or {}:
            other = first.setdefault((message.by_rule, message.when, message.condition, variable), message)
            if other is not message:
                raise CannotWrite(
                    f"the handlers of {other.name!r} and {message.name!r} both set {variable!r}, and HAProxy asks both"
                    " in one NOTIFY: the last one wins, so a request that the other one refuses passes; give each a"
                    " variable of its own, and a --require of its own"
                )


def _processing(messages: Sequence[PlannedMessage], seconds: float | None) -> int:
    """Return ``timeout processing`` in milliseconds."""
    if seconds is None:
        slowest = max(message.answer.timeout for message in messages)
        wanted = max(_SHORTEST_PROCESSING, slowest * 1000 + _MARGIN)
    else:
        wanted = max(1, seconds * 1000)
    if wanted > _LONGEST_PROCESSING:
        raise CannotWrite(
            f"HAProxy would wait {wanted / 1000:g} s for a handler: give it a shorter timeout, or use --processing"
        )
    return math.ceil(wanted)
