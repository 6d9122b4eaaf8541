"""The agent, the messages and the groups of each scope are read."""

from __future__ import annotations

import pytest

from spoa_twisted.haproxy.configuration import Scope
from spoa_twisted.haproxy.grammar.documents import parse_lines
from spoa_twisted.haproxy.scopes import scopes
from spoa_twisted.haproxy.times import seconds

ENGINE = """\
[e]
spoe-agent a
    messages m n
    messages o
    groups g
    option var-prefix p
    option var-prefix q
    option set-on-error err
    option set-total-time total
    option set-process-time
    register-var-names v w
    timeout hello 2s
    timeout idle soon
    timeout processing 500
    use-backend agents
spoe-agent second
spoe-group g
    messages m
    messages n
spoe-message m
    args ip=src hdr=str("a=b") req.hdr(x)
    args =src bad=src(
    event on-client-session if bad
    event
    event on-frontend-http-request
    acl bad src 10.0.0.1
    acl bad src 10.0.0.2
    acl empty
    acl
spoe-message n
    event on-server-session
[f]
"""


def read(text: str) -> tuple[Scope, ...]:
    """Return the scopes of a file."""
    return scopes(parse_lines(text, "spoe.conf", {}).lines, (3, 0))


def test_agent() -> None:
    """Lines with names add up, and of a repeated value the last one counts."""
    agent = read(ENGINE)[0].agent
    assert agent is not None
    assert (agent.name, agent.prefix, agent.error_variable) == ("a", "q", "txn.q.err")
    assert [word.text for word in (*agent.messages, *agent.groups, *agent.registered)] == ["m", "n", "o", "g", "v", "w"]
    assert [str(agent.use_backend), str(agent.set_on_error), str(agent.set_total_time)] == ["agents", "err", "total"]
    assert agent.set_process_time is None
    assert agent.timeouts == {"hello": 2.0, "processing": 0.5}


def test_defaults() -> None:
    """Without an option, the prefix is the agent's name, and no variable is set."""
    ((agent,),) = ([scope.agent for scope in read("spoe-agent a\n")],)
    assert agent is not None
    assert (agent.prefix, agent.error_variable, agent.use_backend, agent.timeouts) == ("a", None, None, {})


def test_messages() -> None:
    """Arguments are split at the first "=", ACLs add up, and the last event keeps the condition of an earlier line."""
    message, other = read(ENGINE)[0].messages
    assert [(argument.name, argument.expression and argument.expression.text) for argument in message.arguments] == [
        ("ip", "src"),
        ("hdr", "str(a=b)"),
        (None, "req.hdr(x)"),
        ("", "src"),
        ("bad", None),
    ]
    assert message.event is not None
    assert (message.event.name, message.event.setting.place.line) == ("on-frontend-http-request", 25)
    assert message.event.condition is not None
    assert [term.acl for term in message.event.condition.alternatives[0]] == ["bad"]
    assert {name: [term.patterns for term in terms] for name, terms in message.acls.items()} == {
        "bad": [("10.0.0.1",), ("10.0.0.2",)],
        "empty": [()],
    }
    assert (message.name, other.name, other.arguments) == ("m", "n", ())
    assert other.event is not None
    assert other.event.condition is None


@pytest.mark.parametrize(
    ("first", "second", "condition"),
    [("", "", None), (" if a", "", "a"), ("", " if b", "b"), (" if a", " if b", "b"), (" if a", " unless b", "b")],
)
def test_the_condition_that_counts(first: str, second: str, condition: str | None) -> None:
    """The last condition of all ``event`` lines counts."""
    text = f"spoe-message m\n  event on-client-session{first}\n  event on-frontend-http-request{second}\n"
    event = read(text)[0].messages[0].event
    assert event is not None
    assert event.name == "on-frontend-http-request"
    assert (event.condition and event.condition.words[-1].text) == condition


def test_scopes_of_a_file() -> None:
    """A file has a scope for each name, and one for what stands before the first, if that is a section."""
    first, second = read(ENGINE)
    assert [(first.name, first.place.line), (second.name, second.place.line)] == [("e", 1), ("f", 32)]
    assert (second.agent, second.messages, second.groups) == (None, (), ())
    ((group,),) = (first.groups,)
    assert (group.name, [word.text for word in group.messages]) == ("g", ["m", "n"])
    assert [scope.name for scope in read("# lost\nspoe-message m\n[e]\n[e]\n")] == [None, "e"]
    assert [scope.name for scope in read("lost\n[e]\n")] == ["e"]
    assert read("spoe-message m\n")[0].messages[0].event is None


@pytest.mark.parametrize(
    ("text", "found"),
    [("500", 0.5), ("7us", 7e-6), ("7ms", 0.007), ("7s", 7.0), ("2m", 120.0), ("1h", 3600.0), ("1d", 86400.0)],
)
def test_times(text: str, found: float) -> None:
    """A number without a unit counts milliseconds."""
    assert seconds(text) == pytest.approx(found)


@pytest.mark.parametrize("text", ["", "s", "-1", "1.5s", "1 s", "1w", "9" * 16])
def test_no_times(text: str) -> None:
    """Another text is no time."""
    assert seconds(text) is None
