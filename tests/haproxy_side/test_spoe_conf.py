"""The checks of spoe.conf: for each id, configurations on which it speaks, and near ones on which it is silent."""

from __future__ import annotations

from collections.abc import Mapping
from types import UnionType

import pytest

from spoa_twisted.handlers.declaration import Declaration
from spoa_twisted.haproxy.answers import Answer, Answers
from spoa_twisted.haproxy.checks import spoe_conf

from .cases import Case, parameters
from .configurations import GOOD, NEW, OLD, SPOE, Files

#: Its on_error sets the variable of set-on-error.
FAILING = Answers(
    {"lookup": Answer("lookup", "agent.lookup", (), False, True, 0, ("txn.error",), Declaration(), None)}, None
)


def handlers(**sets: Mapping[str, object | None] | None) -> Answers:
    """Return handlers that set these variables; ``None`` for a handler that may set any. ``_`` in a name is ``-``."""
    return Answers(
        {
            name: Answer(name, f"agent.{name}", (), False, True, 0, (), Declaration(), variables)
            for name, variables in ((name.replace("_", "-"), variables) for name, variables in sets.items())
        },
        None,
    )


def declaring(**sets: Mapping[str, type | UnionType]) -> Answers:
    """Return handlers that declare these variables."""
    return Answers(
        {
            name: Answer(name, f"agent.{name}", (), False, True, 0, (), Declaration(sets=variables), variables)
            for name, variables in sets.items()
        },
        None,
    )


EVENT = "event on-frontend-http-request"
SECOND = "\nspoe-message second\n    args path=path\n"
TWO = GOOD.replaced("messages lookup", "messages lookup second")
GROUP = "\nspoe-group both\n    messages second\n"
WITH_GROUP = GOOD.after("messages lookup", "groups both").plus(spoe=f"{SECOND}{GROUP}")
SEND = "http-request send-spoe-group rep both"
DENY = "http-request deny unless { var(txn.rep.allowed) -m bool }"
SENT = WITH_GROUP.before(DENY, SEND)

#: Two scopes in one file, and the filter of the first one.
OTHER = SPOE.replace("[rep]", "[other]")

#: The handler of the second message needs what that of the first one sets.
NEEDS = TWO.plus(spoe=f"{SECOND}    {EVENT}\n".replace("path=path", "score=var(txn.rep.score)"))
#: The same, but the second message is sent later.
LATER = Files(
    f"{TWO.spoe}{SECOND}    event on-http-response\n".replace("path=path", "s=var(txn.rep.score)"), TWO.haproxy
)
SETS = handlers(lookup={"txn.score": int}, second={})

#: Both messages are sent at one event.
TOGETHER = TWO.plus(spoe=f"{SECOND}    {EVENT}\n")
ALLOWING = declaring(lookup={"txn.allowed": bool}, second={"txn.allowed": bool})
#: Both messages are in the group that a rule sends.
TOGETHER_IN_GROUP = SENT.replaced("    messages second", "    messages lookup second").replaced(
    "    messages lookup\n    groups", "    groups"
)

BODY = GOOD.replaced("args ip=src", "args body=req.body")
TWO_BODIES = BODY.replaced("args body=req.body", "args body=req.body\n    args again=req.body")


def small(size: int, files: Files = BODY) -> Files:
    """Return a configuration with a frame of ``size`` bytes."""
    return files.after("log global", f"max-frame-size {size}")


SPEAKS = {
    "unknown-keyword": [
        Case(
            GOOD.replaced("args ip=src", "arg ip=src"),
            "spoe.conf:14: error: HAProxy ignores the line 'arg' in the message 'lookup': did you mean 'args'?",
        ),
        Case(GOOD.replaced("args ip=src", "args ip=src\n    ACL local src 127.0.0.1"), "spoe.conf:15: error: "),
        Case(
            GOOD.plus(spoe="global\n    maxconn 10\n"),
            "spoe.conf:16: error: HAProxy ignores the line 'global' in the message 'lookup': it knows acl, args, event",
        ),
        Case(GOOD.replaced("args ip=src", "arg ip=src").alone(), "spoe.conf:14: error: "),
    ],
    "event-twice": [
        Case(
            GOOD.before(EVENT, "event on-client-session if { src 192.0.2.1 }"),
            "spoe.conf:16: error: of the events of 'lookup', only this one counts, with the condition of an earlier",
        ),
        Case(
            GOOD.before(EVENT, "event on-client-session"),
            "spoe.conf:16: error: of the events of 'lookup', only this one counts: write a message for each event",
        ),
        Case(GOOD.replaced(EVENT, f"{EVENT} if {{ path / }}\n    {EVENT} if {{ path /a }}").alone(), "spoe.conf:16: "),
    ],
    "message-never-sent": [
        Case(
            GOOD.plus(spoe=f"{SECOND}    {EVENT}\n"),
            "spoe.conf:17: warning: the message 'second' is never sent: neither 'messages' of 'rep-agent' nor a group",
        ),
        Case(
            TWO.plus(spoe=SECOND).alone(), "spoe.conf:17: warning: the message 'second' is never sent: it has no event"
        ),
    ],
    "group-never-sent": [
        Case(
            WITH_GROUP,
            "spoe.conf:21: error: no rule sends the group 'both': "
            "add 'http-request send-spoe-group rep both' to frontend www",
        ),
        Case(WITH_GROUP.before(DENY, "http-request send-spoe-group rep other"), "spoe.conf:21: error: "),
        Case(GOOD.plus(spoe=f"{SECOND}{GROUP}"), "spoe.conf:20: error: "),
        # The group is left over.
        Case(
            TWO.plus(spoe=f"{SECOND}    {EVENT}\n{GROUP}"),
            "spoe.conf:21: info: no rule sends the group 'both': its messages are sent at their events",
        ),
    ],
    "event-in-group": [
        Case(
            SENT.replaced("args path=path", "args path=path\n    event on-http-response if { method GET }"),
            "spoe.conf:20: info: 'second' is sent in the group 'both': on-http-response does nothing, only its",
        ),
    ],
    "sent-twice": [
        Case(
            SENT.replaced("messages lookup", "messages lookup second").replaced(
                "args path=path", "args path=path\n    event on-http-response"
            ),
            "spoe.conf:20: warning: 'second' is sent at on-http-response, and again in the group 'both'",
        ),
    ],
    "outside-scope": [
        Case(
            GOOD.plus(spoe=OTHER), "spoe.conf:16: warning: no filter uses the scope [other]: HAProxy ignores all in it"
        ),
        Case(
            GOOD.replaced("[rep]", f"spoe-message lost\n    {EVENT}\n[rep]"),
            "spoe.conf:1: warning: no filter uses what stands before the first [name]",
        ),
    ],
    "scope-in-name": [
        Case(
            GOOD.replaced("set-on-error error", "set-on-error txn.error"),
            "spoe.conf:5: error: HAProxy adds the scope: the variable is txn.rep.txn.error; write 'set-on-error error'",
        ),
        Case(
            GOOD.after("log global", "register-var-names hits proc.count").alone(),
            "spoe.conf:12: error: register-var-names takes names without scope: write 'count' instead of 'proc.count'",
        ),
        Case(GOOD.after("log global", "option set-total-time txn.ms"), "spoe.conf:12: error: "),
    ],
    "error-name-collides": [
        Case(
            GOOD,
            "spoe.conf:5: error: agent.lookup sets txn.error, in which set-on-error stores its own value",
            answers=handlers(lookup={"txn.error": int}),
        ),
        Case(
            GOOD.after("log global", "option set-process-time ms"),
            "spoe.conf:12: error: agent.lookup sets txn.ms, in which set-process-time ",
            answers=handlers(lookup={"txn.ms": int}),
        ),
    ],
    "maxerrrate": [
        Case(
            GOOD.after("log global", "maxerrrate 100"),
            "spoe.conf:12: error: after 100 errors a second, requests pass",
            OLD,
        ),
    ],
    "same-frame": [
        Case(
            NEEDS,
            "spoe.conf:18: error: 'second' is sent together with 'lookup', which sets txn.rep.score: send it later",
            answers=SETS,
        ),
        # Without the handlers: nothing else is sent that could set it.
        Case(NEEDS, "spoe.conf:18: error: ", OLD),
        Case(
            NEEDS.replaced("txn.rep.score", "sess.rep.score"),
            "spoe.conf:18: error: ",
            answers=handlers(lookup={"sess.score": int}, second={"txn.other": int}),
        ),
        Case(
            SENT.replaced("    messages second", "    messages lookup second")
            .replaced("    messages lookup\n    groups", "    groups")
            .replaced("path=path", "score=var(txn.rep.score)"),
            "spoe.conf:18: error: 'second' is sent together with 'lookup'",
            answers=SETS,
        ),
    ],
    "set-twice": [
        Case(
            TOGETHER,
            "spoe.conf:17: error: 'lookup' and 'second' set txn.rep.allowed in one NOTIFY, and the last one wins: give "
            "each a variable of its own",
            answers=ALLOWING,
        ),
        Case(
            TOGETHER.replaced("messages lookup second", "messages second lookup"),
            "spoe.conf:13: error: 'second' and 'lookup' set ",
            answers=declaring(lookup={"txn.allowed": bool | None}, second={"txn.allowed": str}),
        ),
        # No rule reads it; it is no bool; only the sources of the handlers say what they set.
        Case(
            TOGETHER,
            "spoe.conf:17: warning: ",
            answers=declaring(lookup={"txn.known": bool}, second={"txn.known": bool}),
        ),
        Case(
            TOGETHER,
            "spoe.conf:17: warning: ",
            answers=declaring(lookup={"txn.allowed": int}, second={"txn.allowed": int}),
        ),
        Case(
            TOGETHER,
            "spoe.conf:17: warning: ",
            answers=handlers(lookup={"txn.allowed": bool}, second={"txn.allowed": bool}),
        ),
        # The same condition, and a group.
        Case(
            GOOD.replaced("messages lookup", "messages lookup second")
            .replaced(EVENT, f"{EVENT} unless {{ path / }}")
            .plus(spoe=f"{SECOND}    {EVENT} unless {{ path / }}\n"),
            "spoe.conf:17: error: ",
            answers=ALLOWING,
        ),
        Case(TOGETHER_IN_GROUP, "spoe.conf:17: error: ", OLD, answers=ALLOWING),
    ],
    "header-commas": [
        Case(
            GOOD.replaced("ip=src", "ua=req.hdr(User-Agent),lower"),
            "spoe.conf:14: warning: req.hdr gives what follows the last comma: write req.fhdr(User-Agent)",
        ),
        Case(
            GOOD.replaced("ip=src", "ip=src hdr(cookie,1)").alone(),
            "spoe.conf:14: warning: hdr gives what follows the last comma: write req.fhdr(cookie,1)",
            OLD,
        ),
        Case(
            GOOD.replaced("ip=src", "to=res.hdr(location)"),
            "spoe.conf:14: warning: res.hdr gives what follows the last comma: write res.fhdr(location)",
        ),
    ],
    "empty-environment": [
        Case(
            GOOD.replaced("args ip=src", 'args path=path "${REP_NOT_SET}" method=method'),
            "spoe.conf:14: error: the environment variable REP_NOT_SET is not set: HAProxy may cut this line; write "
            "${REP_NOT_SET-DEFAULT}",
            (2, 6),
        ),
        Case(
            GOOD.replaced("127.0.0.1:12345 check", '127.0.0.1:12345 check "${REP_NOT_SET}" weight 2'),
            "haproxy.cfg:26: error: ",
            OLD,
        ),
    ],
    "no-log": [
        Case(GOOD.without("log global"), "spoe.conf:2: info: failures of the agent are not logged: add 'log global'"),
        Case(GOOD.replaced("log global", "log global\n    no log").alone(), "spoe.conf:2: info: "),
        Case(
            GOOD.replaced("log global", "log 127.0.0.1:514 len 4096 format raw local0 err"),
            "spoe.conf:11: info: no log takes warnings",
        ),
        Case(GOOD.replaced("raw local0 info", "raw local0 crit"), "spoe.conf:11: info: no log takes warnings"),
        Case(GOOD.replaced("    log stderr format raw local0 info\n", ""), "spoe.conf:11: info: no log takes warnings"),
    ],
    "continue-on-error": [
        Case(
            SENT.after("log global", "option continue-on-error"),
            "spoe.conf:13: info: txn.rep.error stays set although a later event succeeds",
        ),
        Case(
            TWO.after("log global", "option continue-on-error").plus(spoe=f"{SECOND}    event on-http-response\n"),
            "spoe.conf:12: info: ",
        ),
    ],
    "ignored-since-3.1": [
        Case(
            GOOD.after("log global", "maxerrrate 100", "no option async"),
            "spoe.conf:7: info: HAProxy >= 3.1 ignores: maxerrrate, no option async, timeout hello, timeout idle",
        ),
    ],
    "frame-too-small": [
        Case(
            small(4096),
            "spoe.conf:12: warning: bodies over 4046 bytes are error 3, because they do not fit in max-frame-size",
        ),
        Case(small(4096, BODY.before("log global", "no option send-frag-payload")), "spoe.conf:13: warning: ", OLD),
        Case(TWO_BODIES, "spoe.conf:15: warning: with 2 bodies in a frame, bodies over 8160 bytes are error 3"),
        Case(
            small(256, GOOD.replaced("args ip=src", f"args {'x' * 100}=src {'y' * 200}=src")),
            "spoe.conf:12: error: the names and constants at on-frontend-http-request alone do not fit in",
        ),
        Case(
            small(256, GOOD.replaced("ip=src", f"x=str({'x' * 240})")), "spoe.conf:12: error: the names and constants"
        ),
    ],
}

SILENT = {
    "unknown-keyword": [
        Case(GOOD.before(EVENT, "acl local src 127.0.0.1")),
        # HAProxy itself refuses the words of other sections.
        Case(GOOD.after("log global", "balance roundrobin")),
        # No filter uses the scope: HAProxy does not read it.
        Case(GOOD.plus(spoe=OTHER.replace("args", "arg"))),
    ],
    "event-twice": [Case(GOOD), Case(GOOD.after(EVENT, EVENT)), Case(GOOD.replaced(EVENT, ""))],
    "message-never-sent": [
        Case(GOOD),
        Case(SENT),
        Case(TWO.plus(spoe=f"{SECOND}    {EVENT}\n")),
        Case(Files("[rep]\nspoe-message lookup\n", GOOD.haproxy)),
    ],
    "group-never-sent": [
        Case(SENT),
        Case(WITH_GROUP.alone()),
        # HAProxy itself says that the rule stands in the wrong proxy.
        Case(WITH_GROUP.after("option spop-check", SEND)),
        Case(WITH_GROUP.plus(haproxy=".if unknown()\n.endif\n")),
        Case(GOOD.plus(spoe=f"[other]{SECOND}{GROUP}")),
    ],
    "event-in-group": [Case(SENT), Case(GOOD), Case(Files(f"[rep]{SECOND}{GROUP}", GOOD.haproxy))],
    "sent-twice": [
        Case(SENT),
        Case(WITH_GROUP.replaced("messages lookup", "messages lookup second")),
        # The group is never sent.
        Case(
            WITH_GROUP.replaced("messages lookup", "messages lookup second").replaced(
                "args path=path", "args path=path\n    event on-http-response"
            )
        ),
    ],
    "outside-scope": [
        Case(GOOD),
        Case(GOOD.plus(spoe=OTHER).alone()),
        Case(GOOD.plus(spoe="[other]\n")),
        # No filter uses the file.
        Case(GOOD.plus(spoe=OTHER).without("filter spoe engine rep config spoe.conf")),
        Case(
            GOOD.plus(spoe=OTHER).after(
                "filter spoe engine rep config spoe.conf", "filter spoe engine other config spoe.conf"
            )
        ),
    ],
    "scope-in-name": [
        Case(GOOD.replaced("set-on-error error", "set-on-error txn_error")),
        Case(GOOD.after("log global", "register-var-names hits resources")),
        Case(GOOD.replaced("option set-on-error error", "option set-on-error")),
    ],
    "error-name-collides": [
        Case(GOOD),
        Case(GOOD, answers=handlers(lookup={"sess.error": int, "txn.errors": int})),
        # A handler that fails may say so in the variable.
        Case(GOOD, answers=FAILING),
        Case(GOOD, answers=handlers(lookup=None)),
        Case(GOOD, answers=handlers()),
    ],
    "maxerrrate": [
        Case(GOOD.after("log global", "maxerrrate 100"), version=NEW),
        Case(GOOD.after("log global", "maxerrrate 0"), version=OLD),
        Case(GOOD, version=OLD),
    ],
    "same-frame": [
        Case(NEEDS.alone(), answers=SETS),
        Case(NEEDS, answers=handlers(lookup={"txn.other": int}, second={})),
        Case(LATER, answers=SETS),
        # It is HAProxy's own variable, and another prefix.
        Case(NEEDS.replaced("txn.rep.score", "txn.rep.error")),
        Case(NEEDS.replaced("txn.rep.score", "txn.other.score"), answers=SETS),
        Case(NEEDS.replaced("score=var(txn.rep.score)", "score=path")),
        # Each message counts in a variable of the session, or of the process.
        Case(
            NEEDS.replaced("txn.rep.score", "sess.rep.score"), answers=handlers(lookup={"sess.score": int}, second=None)
        ),
        Case(NEEDS.replaced("txn.rep.score", "sess.rep.score")),
        Case(NEEDS.replaced("txn.rep.score", "proc.rep.score")),
        # A rule sets it before, or sets it somewhere else.
        Case(NEEDS.before(DENY, "tcp-request content set-var(txn.rep.score) int(1)"), answers=SETS),
        Case(NEEDS.before(DENY, "unique-id-format %[src,set-var(txn.rep.score)]"), answers=SETS),
        Case(NEEDS.plus(haproxy="frontend other\n    filter spoe engine other config other.conf\n"), answers=SETS),
    ],
    "set-twice": [
        Case(TOGETHER),
        Case(TOGETHER.alone(), answers=ALLOWING),
        Case(TOGETHER, answers=declaring(lookup={"txn.allowed": bool}, second={"txn.known": bool})),
        Case(TOGETHER, answers=declaring(lookup={"txn.allowed": bool})),
        Case(TOGETHER, answers=handlers(lookup=None, second={"txn.allowed": bool})),
        Case(TOGETHER.replaced("mode http", "mode tcp"), answers=ALLOWING),
        Case(TOGETHER.replaced("use-backend rep-agents", "").replaced("spoe-agent rep-agent", ""), answers=ALLOWING),
        # It is HAProxy's own variable.
        Case(TOGETHER, answers=handlers(lookup={"txn.error": str}, second={"txn.error": str})),
        # Another event, another condition, and conditions that may differ from their texts.
        Case(LATER, answers=ALLOWING),
        Case(
            TWO.replaced(EVENT, f"{EVENT} if {{ path / }}").plus(spoe=f"{SECOND}    {EVENT} unless {{ path / }}\n"),
            answers=ALLOWING,
        ),
        Case(
            TWO.replaced(EVENT, f"acl root path /\n    {EVENT} if root").plus(
                spoe=f"{SECOND}    acl root path /root\n    {EVENT} if root\n"
            ),
            answers=ALLOWING,
        ),
    ],
    "header-commas": [
        Case(
            GOOD.replaced("ip=src", "ua=req.fhdr(user-agent) host=req.hdr(host) list=req.hdr(accept) x=req.hdr(x-id)")
        ),
        Case(GOOD.replaced("ip=src", "all=req.hdrs hdr req.hdr() req.hdr(user-agent")),
    ],
    "empty-environment": [
        Case(GOOD.replaced("args ip=src", 'args path=path "${REP_NOT_SET-}x" method=method'), version=(2, 6)),
        Case(GOOD.replaced("args ip=src", 'args path=path "${REP_NOT_SET}" method=method'), version=(3, 4)),
        Case(GOOD.replaced("default-path config", 'default-path config "${REP_NOT_SET}" x'), version=OLD),
        Case(GOOD.replaced("use-backend rep-agents", 'use-backend "${REP_NOT_SET-rep-agents}"'), version=OLD),
    ],
    "no-log": [
        Case(GOOD),
        Case(GOOD.alone()),
        Case(GOOD.replaced("log global", "log 127.0.0.1:514 local0")),
        Case(GOOD.replaced("log global", "log 127.0.0.1:514 local0 warning")),
        Case(GOOD.after("log global", "log 127.0.0.1:514 local0 err")),
    ],
    "continue-on-error": [
        Case(SENT),
        Case(GOOD.after("log global", "option continue-on-error")),
        Case(GOOD.after("log global", "option continue-on-error").alone()),
        Case(SENT.after("log global", "option continue-on-error").without("option set-on-error error")),
    ],
    "ignored-since-3.1": [
        # A configuration for all versions needs the two timeouts.
        Case(GOOD),
        Case(GOOD.after("log global", "maxerrrate 100", "no option async"), version=OLD),
    ],
    "frame-too-small": [
        Case(BODY),
        Case(small(16000)),
        # HAProxy <= 3.0 divides a long payload.
        Case(small(4096), version=OLD),
        Case(small(4096, GOOD)),
        Case(small(4096, BODY.replaced("req.body", "req.body,sha1"))),
        Case(BODY.after("log global", "max-frame-size")),
        Case(BODY.after("log global", f"max-frame-size {'9' * 5000}")),
        Case(BODY.after("default-path config", "tune.bufsize 65536", "tune.maxrewrite x")),
        Case(small(256, GOOD.replaced("ip=src", f"x=str({'x' * 200}) y=str({'y' * 240}),length"))),
        # Conditions may exclude each other.
        Case(
            TWO.replaced("args ip=src", "args body=req.body")
            .replaced(EVENT, f"{EVENT} if {{ path / }}")
            .plus(spoe=f"\nspoe-message second\n    args body=req.body\n    {EVENT} unless {{ path / }}\n")
        ),
    ],
}


@pytest.mark.parametrize(("id_", "case"), parameters(SPEAKS))
def test_speaks(id_: str, case: Case) -> None:
    lines = case.lines(spoe_conf, id_)
    assert lines
    assert lines[0].startswith(case.found)
    assert all(len(line) < 190 for line in lines)


@pytest.mark.parametrize(("id_", "case"), parameters(SILENT))
def test_silent(id_: str, case: Case) -> None:
    assert case.lines(spoe_conf, id_) == []


def test_each_check_has_both() -> None:
    assert list(SPEAKS) == list(SILENT) == [check.id for check in spoe_conf.CHECKS]


@pytest.mark.parametrize("version", [(2, 6), OLD, NEW, (3, 4)])
def test_nothing_is_wrong_with_the_good_configuration(version: tuple[int, int]) -> None:
    assert GOOD.found(spoe_conf, version=version) == GOOD.alone().found(spoe_conf, version=version) == []
