"""The checks against the handlers: configurations on which each speaks, and near ones on which it is silent."""

from __future__ import annotations

from typing import Any

import pytest

from spoa_twisted import Handlers
from spoa_twisted.haproxy.answers import Answers, answers
from spoa_twisted.haproxy.checks import handlers as family

from .cases import Case, parameters
from .configurations import GOOD, Files

MESSAGE = "spoe-message lookup\n"
ARGS = "args ip=src"
EVENT = "event on-frontend-http-request"
FILTER = "filter spoe engine rep config spoe.conf"

#: The message in a group, which a rule sends.
GROUP = (
    GOOD.replaced("messages lookup", "groups scan")
    .without(EVENT)
    .plus(spoe="\nspoe-group scan\n    messages lookup\n")
    .after(FILTER, "http-request send-spoe-group rep scan")
)


def sends(*words: str) -> Files:
    """Return ``GOOD`` with these words on the ``args`` line."""
    return GOOD.replaced(ARGS, " ".join(("args", *words)))


def condition(files: Files, text: str) -> Files:
    """Return the files with a condition at the event."""
    return files.replaced(EVENT, f"{EVENT} {text}")


def of(function: Any, name: str = "lookup", /, **options: Any) -> Answers:
    """Return an agent with one handler, and a handler timeout of 1 s."""
    handlers = Handlers()
    handlers.message(name, **options)(function)
    return answers(handlers, 1.0)


def both(first: Any, second: Any) -> Answers:
    """Return an agent with handlers for the messages lookup and other."""
    return answers(Handlers({"lookup": first, "other": second}), 1.0)


def with_default(function: Any) -> Answers:
    """Return an agent with a handler for all messages."""
    handlers = Handlers()
    handlers.default(function)
    return answers(handlers, 1.0)


def takes_ip(ip): ...  # type: ignore[no-untyped-def]


def takes_ip_as_text(ip: str): ...  # type: ignore[no-untyped-def]


def takes_ua(ua: str): ...  # type: ignore[no-untyped-def]


def takes_any_ua(ua: object): ...  # type: ignore[no-untyped-def]


def takes_nothing(): ...  # type: ignore[no-untyped-def]


def takes_message(message): ...  # type: ignore[no-untyped-def]


def takes_both(ip, message): ...  # type: ignore[no-untyped-def]


def takes_rest(**kwargs): ...  # type: ignore[no-untyped-def]


async def waits(ip): ...  # type: ignore[no-untyped-def]


def declared(**options: Any) -> Answers:
    return of(takes_ip, **options)


IP = {"ip": "src"}
FAILED = {"txn.failed": True}

#: Two engines with agents of their own. The handlers are for the first one.
TWO_AGENTS = GOOD.plus(
    spoe="""
[waf]
spoe-agent waf-agent
    messages inspect
    option var-prefix waf
    timeout processing 1s
    use-backend rep-agents

spoe-message inspect
    args src path
    event on-frontend-http-request
"""
).after(FILTER, "filter spoe engine waf config spoe.conf")

SPEAKS = {
    "message-without-handler": [
        Case(
            GOOD,
            "spoe.conf:13: error: no handler answers the message 'lookup'; did you mean 'look-up'?",
            answers=of(takes_ip, "look-up"),
        ),
        Case(GOOD, "spoe.conf:13: error: no handler answers the message 'lookup' [", answers=of(takes_ip, "score")),
        Case(GOOD, "spoe.conf:13: info: only the default handler", answers=with_default(takes_message)),
        Case(GOOD.alone(), "spoe.conf:13: error: ", answers=of(takes_ip, "score")),
        Case(GROUP, "spoe.conf:13: error: ", answers=of(takes_ip, "score")),
        # No message of any engine has a handler.
        Case(
            TWO_AGENTS.replaced("messages inspect", "groups none"), "spoe.conf:13: error: ", answers=of(takes_ip, "x")
        ),
    ],
    "handler-without-message": [
        Case(
            GOOD,
            "spoe.conf:3: warning: the handler of 'other' is never called",
            answers=both(takes_ip, takes_ip),
        ),
        Case(GROUP, "spoe.conf:3: warning: ", answers=both(takes_ip, takes_ip)),
        # Not in "messages".
        Case(
            GOOD.plus(spoe="\nspoe-message other\n    args ip=src\n    event on-frontend-http-request\n"),
            "spoe.conf:3: warning: ",
            answers=both(takes_ip, takes_ip),
        ),
    ],
    "argument-missing": [
        Case(
            sends("address=src", "path"),
            "spoe.conf:14: error: the handler of 'lookup' needs 'ip'; the message sends: address",
            answers=of(takes_ip),
        ),
        Case(
            GOOD.without(ARGS),
            "spoe.conf:13: error: the handler of 'lookup' needs 'ip'; the message sends: none",
            answers=of(takes_ip),
        ),
        Case(
            sends("address=src"), "spoe.conf:14: error: the default handler needs 'ip'", answers=with_default(takes_ip)
        ),
        Case(sends("ip=src", "x=path"), "spoe.conf:14: error: ", answers=of(takes_ua)),
    ],
    "argument-unused": [
        Case(
            sends("ip=src", "id=unique-id"),
            "spoe.conf:14: info: the handler of 'lookup' does not take 'id'",
            answers=of(takes_ip),
        ),
        Case(sends("ip=src", "body=req.body"), "spoe.conf:14: warning: ", answers=of(takes_ip)),
        Case(sends("ip=src", "all=req.hdrs"), "spoe.conf:14: warning: ", answers=of(takes_ip)),
        Case(
            sends("src"), "spoe.conf:14: info: the handler of 'lookup' does not take 'src'", answers=of(takes_nothing)
        ),
        # What HAProxy sends for this cannot be read.
        Case(sends("ip=src", "x=!"), "spoe.conf:14: info: ", answers=of(takes_ip)),
    ],
    "argument-unnamed": [
        Case(
            sends("src"),
            "spoe.conf:14: error: this argument has no name, so no parameter gets it",
            answers=of(takes_ip),
        ),
        Case(sends("src"), "spoe.conf:14: error: ", answers=of(takes_rest)),
        Case(
            sends("ip=src", "path"),
            "spoe.conf:14: info: this argument has no name: only message[1] finds it",
            answers=of(takes_both),
        ),
    ],
    "argument-twice": [
        Case(
            sends("ip=src", "ip=dst"),
            "spoe.conf:14: warning: two arguments become 'ip'; the handler of 'lookup' gets the first one",
            answers=of(takes_ip),
        ),
        Case(sends("x-a=src", "x.a=dst"), "spoe.conf:14: warning: two arguments become 'x_a'", answers=of(takes_rest)),
    ],
    "declaration-differs": [
        Case(
            sends("ip=dst"),
            "spoe.conf:14: warning: 'ip' is declared as 'src', and sent as 'dst'",
            answers=declared(args=IP),
        ),
        Case(
            GOOD,
            "spoe.conf:14: warning: 'more' is declared, as 'path', and not sent",
            answers=of(takes_rest, args={"ip": "src", "more": "path"}),
        ),
        Case(
            GOOD,
            "spoe.conf:15: warning: declared for the event on-client-session, and sent at on-frontend-http-request",
            answers=declared(event="on-client-session"),
        ),
        Case(
            GROUP,
            "spoe.conf:13: warning: declared for the event on-frontend-http-request, and sent by a group only",
            answers=declared(event="on-frontend-http-request"),
        ),
        Case(
            condition(GOOD, "if { path_beg /api }"),
            "spoe.conf:15: warning: declared as 'on-frontend-http-request', and sent 'if { path_beg /api }'",
            answers=declared(event="on-frontend-http-request"),
        ),
        Case(
            GOOD,
            "spoe.conf:15: warning: declared as 'on-frontend-http-request if { path_beg / }', and sent without a",
            answers=declared(event="on-frontend-http-request if { path_beg / }"),
        ),
        Case(
            GOOD,
            "spoe.conf:13: warning: declared for the rule 'http-request', and in no group",
            answers=declared(rule="http-request"),
        ),
        Case(
            GROUP,
            "haproxy.cfg:14: warning: 'lookup' is declared for 'tcp-request content', and sent by 'http-request'",
            answers=declared(rule="tcp-request content"),
        ),
        Case(
            GROUP,
            "haproxy.cfg:14: warning: 'lookup' is declared for 'http-request if { method POST }', and sent without",
            answers=declared(rule="http-request if { method POST }"),
        ),
    ],
    "argument-type": [
        Case(
            sends("ua=req.hdr(user-agent)"),
            "spoe.conf:14: warning: 'ua' is annotated str, but arrives as None when absent: write str | None, or give",
            answers=of(takes_ua),
        ),
        Case(
            GOOD,
            "spoe.conf:14: warning: 'ip' is annotated str, but src arrives as IPv4Address or IPv6Address",
            answers=of(takes_ip_as_text),
        ),
        Case(
            condition(sends("ua=req.hdr(user-agent)"), "if { path_beg /api }"),
            "spoe.conf:14: warning: ",
            answers=of(takes_ua),
        ),
        Case(
            condition(sends("ua=req.hdr(user-agent)"), "unless { req.hdr(user-agent) -m found }"),
            "spoe.conf:14: warning: ",
            answers=of(takes_ua),
        ),
        Case(
            condition(sends("ua=req.hdr(user-agent)"), "if !{ req.hdr(user-agent) -m found }"),
            "spoe.conf:14: warning: ",
            answers=of(takes_ua),
        ),
        Case(
            condition(sends("ua=req.hdr(user-agent)"), "if { req.hdr(user-agent) -m found } or { path / }"),
            "spoe.conf:14: warning: ",
            answers=of(takes_ua),
        ),
        Case(GROUP.replaced(ARGS, "args ua=req.hdr(user-agent)"), "spoe.conf:14: warning: ", answers=of(takes_ua)),
    ],
    "on-error-too-late": [
        Case(
            GOOD,
            "spoe.conf:9: warning: the handler of 'lookup' may take 5 s, and HAProxy waits 2 s: its on_error never",
            answers=of(waits, timeout=5, on_error=FAILED),
        ),
        Case(GOOD, "spoe.conf:9: warning: ", answers=of(waits, timeout=2, on_error=FAILED)),
        Case(
            GOOD.replaced("timeout processing 2s", "timeout processing 500ms"),
            "spoe.conf:9: warning: ",
            answers=of(waits, on_error=FAILED),
        ),
    ],
}

_SOUND = of(takes_ip)

SILENT = {
    "message-without-handler": [
        Case(GOOD, answers=_SOUND),
        Case(GOOD),
        Case(GROUP, answers=_SOUND),
        # Another program is the agent of the other engine.
        Case(TWO_AGENTS, answers=_SOUND),
        # It is never sent.
        Case(
            GOOD.plus(spoe="\nspoe-message other\n    args ip=src\n    event on-frontend-http-request\n"),
            answers=_SOUND,
        ),
        Case(GOOD.replaced("[rep]", "[unused]"), answers=of(takes_ip, "score")),
    ],
    "handler-without-message": [
        Case(GOOD, answers=_SOUND),
        Case(GOOD),
        Case(GROUP, answers=_SOUND),
        Case(GOOD, answers=with_default(takes_message)),
        # No engine is read, so nothing is known.
        Case(GOOD.replaced("[rep]", "[unused]"), answers=of(takes_ip, "score")),
        Case(GOOD.replaced("spoe-agent rep-agent\n", "spoe-message x\n"), answers=of(takes_ip, "score")),
    ],
    "argument-missing": [
        Case(GOOD, answers=_SOUND),
        Case(GOOD.without(ARGS), answers=of(lambda ip=None: None)),
        Case(GOOD.without(ARGS), answers=of(takes_rest)),
        Case(sends("user-agent=req.hdr(user-agent)"), answers=of(lambda user_agent: None)),
        Case(GOOD.without(ARGS), answers=of(takes_message)),
    ],
    "argument-unused": [
        Case(GOOD, answers=_SOUND),
        Case(sends("ip=src", "id=unique-id"), answers=of(takes_rest)),
        Case(sends("ip=src", "body=req.body"), answers=of(takes_message)),
        Case(sends("ip=src", "body=req.body")),
    ],
    "argument-unnamed": [
        Case(GOOD, answers=_SOUND),
        Case(sends("src", "dst"), answers=of(takes_message)),
        Case(sends("src", "dst")),
        Case(sends("src"), answers=of(takes_nothing)),
    ],
    "argument-twice": [
        Case(GOOD, answers=_SOUND),
        Case(sends("ip=src", "x=path", "x=query"), answers=_SOUND),
        Case(sends("ip=src", "ip=dst")),
    ],
    "declaration-differs": [
        Case(GOOD, answers=_SOUND),
        Case(GOOD, answers=declared(args=IP, event="on-frontend-http-request")),
        Case(
            condition(GOOD, "if { path_beg /api }"),
            answers=declared(event="on-frontend-http-request  if { path_beg /api }"),
        ),
        Case(
            condition(GOOD, "if { path_beg '/a b' /c\\ d }"),
            answers=declared(event="on-frontend-http-request if { path_beg /a\\ b '/c d' }"),
        ),
        # The value of a variable of the environment is not known.
        Case(
            condition(GOOD, "if { path_beg /api }"),
            answers=declared(event='on-frontend-http-request if { path_beg "$API" }'),
        ),
        # The ACL may say the same.
        Case(
            condition(GOOD, "if api").after(ARGS, "acl api path_beg /api"),
            answers=declared(event="on-frontend-http-request if { path_beg /api }"),
        ),
        Case(GROUP, answers=declared(args=IP, rule="http-request")),
        Case(
            GROUP.replaced("send-spoe-group rep scan", "send-spoe-group rep scan if { method POST }"),
            answers=declared(rule="http-request if { method POST }"),
        ),
        # The rules are not known, and not sent.
        Case(GROUP.alone(), answers=declared(rule="http-request if { method POST }")),
        Case(GROUP.without("http-request send-spoe-group rep scan"), answers=declared(rule="http-request")),
        # It has no event. HAProxy never sends it.
        Case(GOOD.without(EVENT), answers=declared(event="on-frontend-http-request")),
        # An error already: see argument-missing.
        Case(GOOD.without(ARGS), answers=declared(args=IP)),
    ],
    "argument-type": [
        Case(GOOD, answers=_SOUND),
        Case(sends("ua=req.hdr(user-agent)"), answers=of(lambda ua: None)),
        Case(condition(sends("ua=req.hdr(user-agent)"), "if { req.hdr(user-agent) -m found }"), answers=of(takes_ua)),
        Case(
            condition(sends("ua=req.hdr(User-Agent)"), "if { req.hdr_cnt(user-agent) gt 0 } { path / }"),
            answers=of(takes_ua),
        ),
        Case(
            condition(sends("ua=req.hdr(user-agent)"), "if has_ua").after(
                "args ua=req.hdr(user-agent)", "acl has_ua req.hdr(user-agent) -m found"
            ),
            answers=of(takes_ua),
        ),
        # The ACL, the rules and the group are not known.
        Case(condition(sends("ua=req.hdr(user-agent)"), "if unknown"), answers=of(takes_ua)),
        Case(GROUP.replaced(ARGS, "args ua=req.hdr(user-agent)").alone(), answers=of(takes_ua)),
        Case(
            GROUP.replaced(ARGS, "args ua=req.hdr(user-agent)").replaced(
                "send-spoe-group rep scan", "send-spoe-group rep scan if { req.hdr(user-agent) -m found }"
            ),
            answers=of(takes_ua),
        ),
        Case(sends("ua=path"), answers=of(takes_ua)),
        Case(sends("ua=req.hdr(user-agent)"), answers=of(takes_any_ua)),
        Case(sends("ua=!"), answers=of(takes_ua)),
        Case(sends("ip=src"), answers=of(takes_ua)),
    ],
    "on-error-too-late": [
        Case(GOOD, answers=of(waits, on_error=FAILED)),
        Case(GOOD, answers=of(waits, timeout=5)),
        # A plain function cannot be given up, and no timeout is not late.
        Case(GOOD.replaced("timeout processing 2s", "timeout processing 1ms"), answers=of(takes_ip, on_error=FAILED)),
        Case(GOOD, answers=of(waits, timeout=0, on_error=FAILED)),
        Case(GOOD.without("timeout processing 2s"), answers=of(waits, timeout=5, on_error=FAILED)),
        Case(GOOD),
    ],
}


@pytest.mark.parametrize(("id_", "case"), parameters(SPEAKS))
def test_it_speaks(id_: str, case: Case) -> None:
    """It finds the line, once."""
    (line,) = case.lines(family, id_)
    assert line.startswith(case.found)


@pytest.mark.parametrize(("id_", "case"), parameters(SILENT))
def test_it_is_silent(id_: str, case: Case) -> None:
    assert case.lines(family, id_) == []


def test_the_good_configuration_has_no_finding() -> None:
    assert GOOD.found(family, answers=_SOUND) == []
    assert GOOD.found(family) == []
    assert GROUP.found(family, answers=_SOUND) == []


def test_a_duplicate_is_found_for_each_parameter() -> None:
    """Two parameters without arguments are two findings."""
    found = GOOD.without(ARGS).found(family, answers=of(lambda ip, ua: None))
    assert [line.rpartition("[")[2] for line in found] == ["argument-missing]"] * 2
