"""The rules of a proxy: ``http-request deny if ...`` and so on."""

from __future__ import annotations

from spoa_twisted.haproxy.configuration import Rule
from spoa_twisted.haproxy.grammar.conditions import split_condition
from spoa_twisted.haproxy.grammar.sections import Setting

#: The first words of rules, with an action behind them.
_WITH_ACTION = (
    ("quic-initial",),
    ("tcp-request", "connection"),
    ("tcp-request", "session"),
    ("tcp-request", "content"),
    ("http-request",),
    ("tcp-response", "content"),
    ("http-response",),
    ("http-after-response",),
    ("stick",),
)
#: The first words of rules without an action.
_PLAIN = ("use_backend", "use-server", "use-fcgi-app", "redirect", "monitor", "force-persist", "ignore-persist")


def parse_rule(setting: Setting) -> Rule | None:
    """Return the rule of a line; ``None`` for a setting that is no rule."""
    for ruleset in _WITH_ACTION:
        if setting.starts(*ruleset):
            action, *words = setting.words[len(ruleset) :] or (None,)
            arguments, condition = split_condition(words)
            name, parenthesis, _ = ("" if action is None else action.text).partition("(")
            if action is not None and parenthesis:
                arguments = (action, *arguments)
            return Rule(setting, " ".join(ruleset), name, arguments, condition)
    if setting.texts[0] in _PLAIN:
        arguments, condition = split_condition(setting.words[1:])
        return Rule(setting, setting.texts[0], "", arguments, condition)
    return None
