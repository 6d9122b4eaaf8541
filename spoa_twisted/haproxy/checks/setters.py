"""Who sets a variable, and when: agents by their messages, and rules by ``set-var``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks.frames import Frame, Moment, moment_of
from spoa_twisted.haproxy.checks.naming import Names
from spoa_twisted.haproxy.checks.spoe_agent import variables_of
from spoa_twisted.haproxy.checks.when_sent import all_frames, never_happens
from spoa_twisted.haproxy.configuration import Configuration, Rule, SpoeMessage

#: Actions and converters that set the variable whose name comes first between the parentheses.
_SETS: Final = re.compile(r"(?:set-var|set-var-fmt|do-resolve)\(\s*([A-Za-z0-9_.]+)\s*[,)]")


@dataclass(frozen=True)
class Setter:
    """What may set a variable: a rule, or the frame of an agent."""

    moment: Moment
    #: The rule that sets it, or that sends the group of the agent. ``None`` for an event.
    rule: Rule | None
    #: ``None`` for a rule that sets it without an agent.
    frame: Frame | None = None

    @property
    def text(self) -> str:
        """When it sets the variable, for a text: ``at on-backend-http-request`` or ``in line 12``."""
        if self.rule is not None:
            return f"in line {self.rule.setting.place.line}"
        return "" if self.frame is None else f"at {self.frame.event}"


class Setters:
    """What sets the variables of a configuration."""

    def __init__(self, configuration: Configuration, answers: Answers | None) -> None:
        self._configuration = configuration
        self._answers = answers
        self.names = Names(configuration, answers)
        #: The frames of all engines, without those of events that never happen.
        self.frames: list[Frame] = [
            frame for _, frame in all_frames(configuration) if not never_happens(configuration, frame)
        ]
        #: False if an engine could not be read: it may set each variable, at any time.
        self.are_known = all(engine.agent is not None for engine in configuration.engines)
        self._found: dict[str, list[Setter] | None] = {}

    def of(self, variable: str) -> list[Setter] | None:
        """Return what may set a variable. ``None`` if something else sets it, which has no place in the order."""
        if variable not in self._found:
            self._found[variable] = self._find(variable)
        return self._found[variable]

    def _find(self, variable: str) -> list[Setter] | None:
        rules = [Setter(moment, rule) for moment, rule in self._rules.get(variable, ()) if moment is not None]
        if len(rules) < len(self._rules.get(variable, ())) or (not rules and variable in self.names.set_by_rules):
            return None
        owners = self.names.owners(variable)
        engines = [engine for owner in owners for engine in owner.engines]
        return rules + [
            Setter(frame.moment, frame.rule, frame)
            for frame in self.frames
            if frame.engine in engines and any(self.may_set(message, variable) for message in frame.messages)
        ]

    def may_set(self, message: SpoeMessage, variable: str) -> bool:
        """Return whether the answer to a message may set a variable of the agent's prefix."""
        owners = self.names.owners(variable)
        if self._answers is None or any(variable in owner.made for owner in owners):
            return True
        answer = self._answers.by_message.get(message.name, self._answers.default)
        return answer is not None and (answer.sets is None or self.surely_sets(message, variable))

    def surely_sets(self, message: SpoeMessage, variable: str) -> bool:
        """Return whether the handler of a message is known to set a variable of the agent's prefix."""
        if self._answers is None:
            return False
        answer = self._answers.by_message.get(message.name, self._answers.default)
        return answer is not None and any(
            owner.own(variable) in variables_of(answer) for owner in self.names.owners(variable)
        )

    @cached_property
    def _rules(self) -> Mapping[str, list[tuple[Moment | None, Rule]]]:
        """The rules that set variables, by the variable's name, with the moment if it is known."""
        found: dict[str, list[tuple[Moment | None, Rule]]] = {}
        for proxy in self._configuration.proxies:
            # Each proxy has the rules of its defaults among its own.
            for rule in proxy.rules if proxy.kind != "defaults" else ():
                text = " ".join(rule.setting.texts)
                for variable in dict.fromkeys(_SETS.findall(text)):
                    found.setdefault(variable, []).append((moment_of(rule, proxy), rule))
        return found


def may_come_before(setter: Setter, moment: Moment) -> bool:
    """Return whether ``setter`` may run before ``moment`` for the same request.

    Two frontends do not serve the same request. It is not known how a ``listen`` and another proxy are connected.
    """
    if setter.moment.proxy is not moment.proxy:
        kinds = {setter.moment.proxy.kind, moment.proxy.kind}
        if kinds == {"frontend"} or kinds == {"backend"}:
            return False
        if "listen" in kinds:
            return True
    # A rule may set the variable in its condition, and read it in its action.
    is_same_rule = setter.frame is None and setter.moment == moment
    return is_same_rule or setter.moment.precedes(moment)
