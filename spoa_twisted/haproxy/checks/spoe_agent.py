"""The options of a spoe-agent: names, the log, and what happens on errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from spoa_twisted.haproxy.answers import Answer, Answers
from spoa_twisted.haproxy.checks.frames import frames
from spoa_twisted.haproxy.checks.spoe_messages import engines_of, scopes_of
from spoa_twisted.haproxy.configuration import Configuration, Scope, SpoeAgent
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.grammar.branches import words_for
from spoa_twisted.haproxy.grammar.lines import Line, Word
from spoa_twisted.haproxy.grammar.sections import Section, Setting

_SCOPE: Final = re.compile(r"(?:proc|sess|txn|req|res)\.")

#: The levels of a log that leave out warnings. HAProxy logs a failure as a warning.
_ABOVE_WARNING: Final = frozenset({"emerg", "alert", "crit", "err"})

#: Words of a ``log`` line that have a value behind them.
_LOG_OPTIONS: Final = frozenset({"len", "format", "sample", "profile"})

#: The last version that accepts a line with an empty word. Later ones refuse the file.
_LAST_TO_CUT: Final = (3, 2)

#: What HAProxy >= 3.1 ignores, and a configuration for all versions does not need.
_IGNORED: Final = (
    ("maxconnrate",),
    ("maxerrrate",),
    ("max-waiting-frames",),
    ("option", "async"),
    ("no", "option", "async"),
    ("option", "send-frag-payload"),
    ("no", "option", "send-frag-payload"),
)
#: What HAProxy >= 3.1 ignores, and HAProxy <= 3.0 needs.
_IGNORED_TIMEOUTS: Final = (("timeout", "hello"), ("timeout", "idle"))


def agents(configuration: Configuration) -> Iterator[tuple[Scope, SpoeAgent]]:
    """Yield the agents that filters use, with their scopes."""
    for scope in scopes_of(configuration):
        if scope.agent is not None:
            yield scope, scope.agent


def made_names(agent: SpoeAgent) -> Iterator[tuple[str, Word]]:
    """Yield the options that make a variable, with the variable's name."""
    for option in ("set-on-error", "set-process-time", "set-total-time"):
        last = agent.section.last("option", option)
        if last is not None and len(last.words) > 2:
            yield option, last.words[2]


def check_names(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find names with a scope, where HAProxy adds scope and prefix."""
    for _, agent in agents(configuration):
        for option, word in made_names(agent):
            if found := _SCOPE.match(word.text):
                whole, name = f"txn.{agent.prefix}.{word.text}", word.text[found.end() :]
                text = f"HAProxy adds the scope: the variable is {whole}; write '{option} {name}'"
                yield Finding("scope-in-name", Severity.ERROR, word.place, text)
        for word in agent.registered:
            if found := _SCOPE.match(word.text):
                name = word.text[found.end() :]
                text = f"register-var-names takes names without scope: write {name!r} instead of {word.text!r}"
                yield Finding("scope-in-name", Severity.ERROR, word.place, text)


def check_collisions(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find handlers that set the variable of an option."""
    if answers is None:
        return
    for scope, agent in agents(configuration):
        for option, word in made_names(agent):
            own = f"txn.{word.text}"
            for message in scope.messages:
                answer = answers.by_message.get(message.name, answers.default)
                if answer is None:
                    continue
                # A handler's on_error may set the variable of set-on-error: both say that the answer failed.
                names = answer.sets or () if option == "set-on-error" else variables_of(answer)
                if own in names:
                    text = (
                        f"{answer.function} sets {own}, in which {option} stores its own value: rename one of the two"
                    )
                    yield Finding("error-name-collides", Severity.ERROR, word.place, text)
                    break


def variables_of(answer: Answer) -> frozenset[str]:
    """Return the names of the variables that a handler is known to set."""
    return frozenset(answer.on_error).union(answer.sets or (), answer.declaration.sets or ())


def check_error_rate(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find a limit of errors, after which HAProxy <= 3.0 lets requests pass."""
    if configuration.rewritten:
        return
    for _, agent in agents(configuration):
        limit = agent.section.last("maxerrrate")
        if limit is not None and limit.texts[1:2] != ("0",):
            number = " ".join(limit.texts[1:2])
            text = (
                f"after {number} errors a second, requests pass unchecked and set-on-error is not set: remove this line"
            )
            yield Finding("maxerrrate", Severity.ERROR, limit.place, text)


def check_environment(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find lines of engines and their proxies that are cut, because an environment variable is not set."""
    if configuration.version > _LAST_TO_CUT:
        return
    places = {setting.place for section in _sections(configuration) for setting in (section.head, *section.settings)}
    for document in configuration.documents:
        for line in document.lines:
            if line.words and line.words[0].place in places and (word := _cut(line, configuration.version)) is not None:
                name = word.unset[0]
                text = (
                    f"the environment variable {name} is not set: HAProxy may cut this line; write ${{{name}-DEFAULT}}"
                )
                yield Finding("empty-environment", Severity.ERROR, word.place, text)


def _cut(line: Line, version: tuple[int, int]) -> Word | None:
    """Return the word because of which HAProxy does not read a line as it is written."""
    if words_for(line.words, version) == line.words:
        return None
    return next(word for word in line.words if word.unset)


def _sections(configuration: Configuration) -> Iterator[Section]:
    for scope in scopes_of(configuration):
        if scope.agent is not None:
            yield scope.agent.section
        yield from (message.section for message in scope.messages)
        yield from (group.section for group in scope.groups)
    for engine in configuration.engines:
        yield engine.proxy.section
        if engine.backend is not None:
            yield engine.backend.section


def check_log(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find agents whose failures are not logged."""
    for _, agent in agents(configuration):
        lines = _log_lines(agent.section)
        if not lines:
            text = "failures of the agent are not logged: add 'log global' and 'option dontlog-normal'"
            yield Finding("no-log", Severity.INFO, agent.section.head.place, text)
        elif not any(_takes_warnings(configuration, line) for line in lines):
            text = "no log takes warnings, so failures of the agent are not logged: HAProxy logs them as warnings"
            yield Finding("no-log", Severity.INFO, lines[-1].place, text)


def _log_lines(section: Section) -> list[Setting]:
    lines: list[Setting] = []
    for setting in section.settings:
        if setting.starts("log"):
            lines.append(setting)
        elif setting.starts("no", "log"):
            lines.clear()
    return lines


def _takes_warnings(configuration: Configuration, setting: Setting) -> bool:
    """Return whether a ``log`` line takes warnings, or may take them."""
    if setting.texts[1:] == ("global",):
        section = configuration.global_section
        return section is None or any(_level(line) not in _ABOVE_WARNING for line in _log_lines(section))
    return _level(setting) not in _ABOVE_WARNING


def _level(setting: Setting) -> str | None:
    """Return the level of ``log ADDRESS [len N] [format F] ... FACILITY [LEVEL]``."""
    words = list(setting.texts[2:])
    while words and words[0] in _LOG_OPTIONS:
        del words[:2]
    return words[1] if len(words) > 1 else None


def check_continue(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find an error that stays set. With one frame for a request there is no later success."""
    for scope, agent in agents(configuration):
        option = agent.section.last("option", "continue-on-error")
        if option is None or agent.set_on_error is None:
            continue
        if _frame_count(scope, configuration) > 1:
            text = f"{agent.error_variable} stays set although a later event succeeds: unset it before a later group"
            yield Finding("continue-on-error", Severity.INFO, option.place, text)


def _frame_count(scope: Scope, configuration: Configuration) -> int:
    """Return how many frames an engine with this scope sends for a request, at most."""
    return max((len(frames(configuration, engine)) for engine in engines_of(configuration, scope)), default=0)


def check_ignored(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find settings that HAProxy >= 3.1 ignores."""
    if not configuration.rewritten:
        return
    for _, agent in agents(configuration):
        found = [(words, last) for words in _IGNORED if (last := agent.section.last(*words)) is not None]
        if found:
            found += [(words, last) for words in _IGNORED_TIMEOUTS if (last := agent.section.last(*words)) is not None]
            names = ", ".join(" ".join(words) for words, _ in found)
            text = f"HAProxy >= 3.1 ignores: {names}"
            yield Finding("ignored-since-3.1", Severity.INFO, min(last.place for _, last in found), text)
