"""The checks of the order: for each id, configurations on which it speaks, and near ones on which it is silent."""

from __future__ import annotations

import pytest

from spoa_twisted.haproxy.checks import order

from .cases import Case, parameters
from .configurations import GOOD, HAPROXY, OLD, Files
from .test_spoe_conf import handlers

EVENT = "event on-frontend-http-request"
FILTER = "filter spoe engine rep config spoe.conf"
ERROR = "http-request deny deny_status 503 if { var(txn.rep.error) -m found }"
DENY = "http-request deny unless { var(txn.rep.allowed) -m bool }"
RETURN = "http-request return status 200"
SEND = "http-request send-spoe-group rep group"

#: The message is in a group, and no rule sends it.
GROUP = (
    GOOD.replaced("messages lookup", "groups group")
    .without(EVENT)
    .plus(spoe="\nspoe-group group\n    messages lookup\n")
)
#: A rule sends it before the rules that read the variables.
SENT = GROUP.before(ERROR, SEND)

#: A rule for TCP that sends the group.
CONTENT = "tcp-request content send-spoe-group rep group"
DELAY = "tcp-request inspect-delay 5s"

READ = "http-request set-header x-score %[var(txn.rep.score)]"
ALLOWED = handlers(lookup={"txn.allowed": bool, "txn.score": int})

TCP = GOOD.replaced("    bind", "    mode tcp\n    bind").without(ERROR).without(DENY).without(RETURN)
TCP_GROUP = GROUP.replaced("    bind", "    mode tcp\n    bind").without(ERROR).without(DENY).without(RETURN)
TCP_RULE = "tcp-request content reject if { var(sess.rep.bad) -m bool }"

BODY = GOOD.replaced("ip=src", "body=req.body")
BODY_GROUP = GROUP.replaced("ip=src", "body=req.body")
BODY_SENT = SENT.replaced("ip=src", "body=req.body")
WAIT = "http-request wait-for-body time 5s"
BUFFER = "option http-buffer-request"

APP = "\nbackend app\n    server app 127.0.0.1:8081\n"


def at(event: str, files: Files = GOOD) -> Files:
    """Return a configuration whose message is sent at another event."""
    return files.replaced("on-frontend-http-request", event)


def named(expression: str, files: Files = GOOD) -> Files:
    """Return a configuration with another argument."""
    return files.replaced("ip=src", f"value={expression}")


def rules(*lines: str, files: Files = GOOD) -> Files:
    """Return a configuration with more rules in the frontend, in front of the others."""
    return files.after(FILTER, *lines)


#: The same with rules of defaults.
DEFAULTS = GOOD.replaced("timeout client 5s", f"timeout client 5s\n    {READ}").replaced("defaults\n", "defaults d\n")
FROM = DEFAULTS.replaced("frontend www\n", "frontend www from d\n").replaced(
    "\nbackend rep-agents\n", "\ndefaults\n    timeout connect 1s\n\nbackend rep-agents\n"
)

#: A second engine with the same prefix, or another one, at an earlier event.
SECOND = """
[second]
spoe-agent second
    messages early
    option var-prefix rep
    timeout processing 2s
    use-backend rep-agents
    log global

spoe-message early
    args ip=src
    event on-client-session
"""
TWO = GOOD.after(FILTER, "filter spoe engine second config spoe.conf").plus(spoe=SECOND)

#: The filter stands in the backend.
IN_BACKEND = Files(
    GOOD.spoe,
    GOOD.without(FILTER).replaced("    http-request return status 200\n", "    default_backend app\n").haproxy,
).plus(haproxy=f"{APP}    {FILTER}\n")

LISTEN = Files(GOOD.spoe, HAPROXY.replace("frontend www", "listen www"))

SPEAKS = {
    "http-event-in-tcp": [
        Case(
            TCP, "spoe.conf:15: error: on-frontend-http-request never happens in mode tcp: set 'mode http' in frontend"
        ),
        Case(TCP.before("bind 127.0.0.1:8080", "default_backend rep-agents"), "spoe.conf:15: ", OLD),
        Case(
            at("on-http-response", GOOD).without(FILTER).plus(haproxy=f"{APP}    mode tcp\n    {FILTER}\n"),
            "spoe.conf:15: error: on-http-response never happens in mode tcp: set 'mode http' in backend app",
        ),
    ],
    "too-early": [
        Case(
            GROUP.before(RETURN, SEND),
            "haproxy.cfg:14: error: this rule reads txn.rep.error before it can be set, in line 16: move the rule",
        ),
        Case(
            at("on-backend-http-request"),
            "haproxy.cfg:14: error: this rule reads txn.rep.error before it can be set, at on-backend-http-request: "
            "ask earlier",
        ),
        Case(rules("tcp-request content reject if { var(txn.rep.bad) -m bool }"), "haproxy.cfg:14: error: "),
        # Once for a connection.
        Case(
            at("on-client-session", rules("tcp-request session reject if { var(sess.rep.bad) -m bool }")),
            "haproxy.cfg:14: error: this rule reads sess.rep.bad before it can be set, at on-client-session",
        ),
        # For each request, and no other rule reads it in time.
        Case(rules("tcp-request content reject if { var(sess.rep.bad) -m bool }"), "haproxy.cfg:14: error: "),
        Case(
            at("on-tcp-response", TCP.before("bind 127.0.0.1:8080", TCP_RULE, "default_backend app")).plus(haproxy=APP),
            "haproxy.cfg:13: error: this rule reads sess.rep.bad before it can be set, at on-tcp-response",
        ),
        # A named ACL, and the rule of a defaults section.
        Case(
            GROUP.before(RETURN, SEND).before(ERROR, "acl bad var(txn.rep.bad) -m bool", "http-request deny if !bad"),
            "haproxy.cfg:15: error: this rule reads txn.rep.bad",
        ),
        Case(
            FROM.replaced("messages lookup", "groups group")
            .without(EVENT)
            .plus(spoe="\nspoe-group group\n    messages lookup\n")
            .before(ERROR, SEND),
            "haproxy.cfg:9: error: this rule reads txn.rep.score before it can be set, in line 15",
        ),
        # By the handlers: only the group sets it.
        Case(
            SENT.replaced("groups group", "messages other\n    groups group")
            .before(ERROR, "http-request deny if TRUE")
            .replaced("http-request deny if TRUE", "http-request set-var(txn.x) var(txn.rep.allowed)")
            .replaced(
                f"{SEND}\n    http-request set-var(txn.x) var(txn.rep.allowed)",
                f"http-request set-var(txn.x) var(txn.rep.allowed)\n    {SEND}",
            )
            .plus(spoe=f"\nspoe-message other\n    {EVENT}\n"),
            "haproxy.cfg:14: error: this rule reads txn.rep.allowed before it can be set, in line 15",
            answers=handlers(lookup={"txn.allowed": bool}, other={"txn.other": int}),
        ),
        Case(
            at("on-server-session", IN_BACKEND),
            "haproxy.cfg:13: error: this rule reads txn.rep.error before it can be set, at on-server-session",
        ),
    ],
    "argument-too-early": [
        Case(
            rules("http-request set-var(txn.real) str(x)", files=named("var(txn.real)")),
            "spoe.conf:14: error: 'value' is read at on-frontend-http-request, before a rule sets txn.real, in "
            "line 14: "
            "send a group after it",
        ),
        Case(
            rules("http-request set-header X-Tenant blue", files=named("req.hdr(x-tenant)")),
            "spoe.conf:14: error: 'value' is read at on-frontend-http-request, before set-header in line 14",
        ),
        Case(
            rules("http-request set-src req.hdr(x-real-ip)"),
            "spoe.conf:14: error: 'ip' is read at on-frontend-http-request, before set-src in line 14",
        ),
        Case(at("on-client-session", rules("tcp-request content set-src str(192.0.2.1)")), "spoe.conf:14: error: "),
        Case(
            SENT.before(RETURN, "http-request set-src req.hdr(x-real-ip)"),
            "spoe.conf:14: error: 'ip' is read by the rule in line 14, before set-src in line 17",
        ),
        # The agent's own prefix, as if the agent set it: it is meant for the agent.
        Case(
            rules("http-request set-var(txn.rep.app) str(x)", files=named("var(txn.rep.app)")),
            "spoe.conf:14: error: 'value' is read at on-frontend-http-request, before a rule sets txn.rep.app, in",
        ),
        # Of two engines at one event, that of the first filter asks first.
        Case(
            Files(
                TWO.spoe.replace("var-prefix rep\n    timeout", "var-prefix second\n    timeout")
                .replace("on-client-session", "on-frontend-http-request")
                .replace("args ip=src", "args x=var(txn.second.x)", 1),
                TWO.haproxy,
            ),
            "spoe.conf:14: error: 'x' is read at on-frontend-http-request, before the engine 'second' sets it: "
            "put the filter in line 14 first",
        ),
        Case(
            Files(
                TWO.spoe.replace("on-client-session", "on-http-response").replace("ip=src", "x=var(txn.rep.x)", 1),
                TWO.haproxy,
            ),
            "spoe.conf:14: error: 'x' is read at on-frontend-http-request, before the agent sets txn.rep.x, "
            "at on-http-response",
            answers=handlers(early={"txn.x": int}, lookup={}),
        ),
        Case(
            at("on-client-session", rules("tcp-request content set-var(sess.x) src", files=named("var(sess.x)"))),
            "spoe.conf:14: error: 'value' is read at on-client-session, before a rule sets sess.x",
        ),
    ],
    "body-not-awaited": [
        Case(
            BODY,
            "spoe.conf:14: error: req.body is what came with the header: add 'option http-buffer-request' to",
        ),
        # A rule comes after the event.
        Case(rules(WAIT, files=BODY), "spoe.conf:14: error: "),
        Case(
            BODY_SENT,
            "spoe.conf:14: error: req.body is what came with the header: "
            "add 'http-request wait-for-body time 5s' before line 14",
        ),
        Case(BODY_SENT.before(ERROR, WAIT), "spoe.conf:14: error: "),
        Case(BODY.after("option spop-check", BUFFER), "spoe.conf:14: error: "),
        Case(BODY.plus(haproxy=f"\nfrontend other\n    {BUFFER}\n"), "spoe.conf:14: error: "),
        Case(named("req.body_param(a)"), "spoe.conf:14: error: req.body_param is"),
        Case(
            at("on-http-response", named("res.body")),
            "spoe.conf:14: error: res.body is what came with the header: send a group after 'http-response",
        ),
        Case(
            named("res.body", GROUP.before(RETURN, SEND.replace("request", "response"))),
            "spoe.conf:14: error: res.body is what came with the header: add 'http-response wait-for-body time",
        ),
        Case(named("res.body", rules(WAIT, files=at("on-http-response"))), "spoe.conf:14: error: "),
    ],
    "body-cut": [
        Case(
            rules(BUFFER, files=BODY),
            "spoe.conf:14: info: of a longer body, 15360 bytes arrive, less the header: refuse longer ones",
        ),
        Case(
            rules(BUFFER, files=BODY).after("default-path config", "tune.bufsize 65536", "tune.maxrewrite 536"),
            "spoe.conf:14: info: of a longer body, 65000 bytes arrive",
        ),
        Case(BODY_GROUP.before(ERROR, WAIT, SEND), "spoe.conf:14: info: "),
    ],
    "payload-too-early": [
        Case(
            at("on-frontend-tcp-request", named("req.payload(0,4)", TCP)),
            "spoe.conf:14: error: req.payload is empty at on-frontend-tcp-request, before the client has sent",
        ),
        Case(at("on-frontend-tcp-request", named("req.ssl_sni", TCP)), "spoe.conf:14: error: "),
        Case(at("on-backend-tcp-request", named("req.len", LISTEN)), "spoe.conf:14: error: "),
        Case(
            named("req.len", TCP_GROUP.before("bind 127.0.0.1:8080", DELAY, CONTENT)),
            "spoe.conf:14: error: req.len is empty by the rule in line 14, before the client has sent anything: add",
        ),
    ],
    "inspect-delay-short": [
        Case(
            GROUP.before(RETURN, DELAY, f"{CONTENT} if WAIT_END"),
            "haproxy.cfg:17: error: WAIT_END waits until inspect-delay is over, and no time is left for the group",
        ),
        Case(GROUP.before(RETURN, DELAY, f"{CONTENT} if {{ src 127.0.0.1 }} WAIT_END or WAIT_END"), "haproxy.cfg:17: "),
        Case(
            GROUP.before(RETURN, DELAY, "tcp-request content set-var(txn.x) src if WAIT_END", CONTENT),
            "haproxy.cfg:18: ",
        ),
        Case(
            GROUP.before(RETURN, "tcp-request inspect-delay 500ms", "tcp-request content send-spoe-group rep group"),
            "haproxy.cfg:16: error: tcp-request inspect-delay is shorter than timeout processing: the group is given "
            "up, nothing is logged; write 'tcp-request inspect-delay 3s'",
        ),
        Case(
            GROUP.before(RETURN, "tcp-request content send-spoe-group rep group"),
            "haproxy.cfg:16: error: without tcp-request inspect-delay, HAProxy does not wait for the group: write",
        ),
        Case(
            GROUP.before(
                "timeout client 5s",
                "tcp-response inspect-delay 1s",
            ).before(RETURN, "tcp-response content send-spoe-group rep group"),
            "haproxy.cfg:",
        ),
    ],
    "no-unique-id": [
        Case(
            named("unique-id"),
            "spoe.conf:14: warning: unique-id is NULL: add 'unique-id-format %[uuid]' to frontend www",
        ),
        Case(
            named("unique-id", at("on-backend-http-request", IN_BACKEND)),
            "spoe.conf:14: warning: unique-id is NULL: add 'unique-id-format %[uuid]' to the frontend",
        ),
    ],
    "own-answers": [
        Case(
            at("on-http-response"),
            "spoe.conf:15: info: 'lookup' is not sent for HAProxy's own answers, as those of 'deny' in line 14",
        ),
    ],
}

#: A frontend of its own, without defaults: a part of a configuration.
PART = Files(GOOD.spoe, f"frontend www\n    {FILTER}\n    {DENY}\n")

SILENT = {
    "http-event-in-tcp": [
        Case(GOOD),
        Case(at("on-frontend-tcp-request", TCP)),
        # HAProxy parses the request all the same.
        Case(TCP.before("bind 127.0.0.1:8080", "default_backend app").plus(haproxy=APP)),
        Case(TCP.before("bind 127.0.0.1:8080", "use_backend %[src] if TRUE")),
        Case(TCP.before("bind 127.0.0.1:8080", "tcp-request content switch-mode http if TRUE")),
        Case(PART),
    ],
    "too-early": [
        Case(GOOD),
        Case(SENT),
        Case(TWO),
        # Another engine with the same prefix sets it before.
        Case(rules("tcp-request content reject if { var(txn.rep.bad) -m bool }", files=TWO)),
        Case(GOOD.alone()),
        # The first of two sendings is early enough, whatever their conditions are.
        Case(rules(f"{SEND} if {{ path /a }}", files=GROUP).before(RETURN, f"{SEND} if {{ path /b }}")),
        # The group is sent unless the answer is known.
        Case(GROUP.before(ERROR, f"{SEND} unless {{ var(txn.rep.allowed) -m found }}")),
        # An earlier request of the connection may have set it: another rule reads it in time, or the response sets it.
        Case(
            SENT.after(FILTER, "http-request deny if { var(sess.rep.bad) -m bool }").before(
                RETURN, "http-request deny if { var(sess.rep.bad) -m bool }"
            )
        ),
        Case(
            at("on-http-response", rules("http-request deny if { var(sess.rep.bad) -m bool }"))
            .without(ERROR)
            .without(DENY)
        ),
        Case(GROUP.before(RETURN, SEND).without(ERROR).without(DENY).after(FILTER, READ.replace("txn", "proc"))),
        # A rule sets it, too.
        Case(
            GROUP.before(RETURN, SEND)
            .without(ERROR)
            .without(DENY)
            .after(FILTER, READ)
            .before(READ, "http-request set-var(txn.rep.score) int(0)")
        ),
        Case(
            GROUP.before(RETURN, SEND)
            .without(ERROR)
            .without(DENY)
            .after(FILTER, f"{READ} if {{ src,set-var(txn.rep.score) -m found }}")
        ),
        Case(
            rules("tcp-request content reject if { var(txn.rep.bad) -m bool }").before(
                FILTER, "unique-id-format %[src,set-var(txn.rep.bad)]"
            )
        ),
        Case(
            rules("tcp-request content reject if { var(txn.rep.bad) -m bool }").before(
                FILTER, "stick store-request src,set-var(txn.rep.bad)"
            )
        ),
        # A rule sets it, and no agent.
        Case(
            rules("http-request deny if { var(txn.rep.own) -m bool }", "http-request set-var(txn.rep.own) bool(1)"),
            answers=ALLOWED,
        ),
        # It belongs to no agent, or to one that could not be read.
        Case(rules("tcp-request content reject if { var(txn.other.bad) -m bool }")),
        Case(
            rules(
                "tcp-request content reject if { var(txn.rep.bad) -m bool }", "filter spoe engine x config missing.conf"
            )
        ),
        # The handlers do not set it.
        Case(rules("tcp-request content reject if { var(txn.rep.bad) -m bool }"), answers=ALLOWED),
        Case(rules("tcp-request content reject if { var(txn.rep.bad) -m bool }"), answers=handlers()),
        # A frontend without the filter, and a listen behind the frontend.
        Case(GOOD.plus(haproxy=f"\nfrontend other\n    {READ}\n")),
        Case(at("on-http-response").without(ERROR).without(DENY).plus(haproxy=f"\nlisten other\n    {READ}\n")),
        # The order of these is not known.
        Case(
            rules("stick store-request var(txn.rep.score)", files=GROUP.before(RETURN, SEND))
            .without(ERROR)
            .without(DENY)
        ),
        Case(rules("log-format %[var(txn.rep.score)]", files=GROUP.before(RETURN, SEND)).without(ERROR).without(DENY)),
        # The rule of a backend comes later, and the event of a listen is that of a frontend.
        Case(GOOD.plus(haproxy=f"{APP}    {READ}\n")),
        Case(at("on-backend-http-request", LISTEN)),
        # The event never happens at all.
        Case(TCP.before("bind 127.0.0.1:8080", TCP_RULE)),
        Case(FROM),
        # The filter of a backend misses the event.
        Case(IN_BACKEND),
    ],
    "argument-too-early": [
        Case(GOOD),
        Case(named("var(txn.real)")),
        Case(rules("tcp-request content set-var(txn.real) str(x)", files=named("var(txn.real)"))),
        Case(named("var(txn.real)", GROUP.before(ERROR, "http-request set-var(txn.real) str(x)", SEND))),
        # An earlier request may have set it, or Lua.
        Case(rules("http-request set-var(sess.real) str(x)", files=named("var(sess.real)"))),
        Case(rules("http-request set-var(proc.real) str(x)", files=named("var(proc.real)"))),
        Case(rules("http-request lua.real", "http-request set-var(txn.real) str(x)", files=named("var(txn.real)"))),
        # Another frontend sets it.
        Case(named("var(txn.real)").plus(haproxy="\nfrontend other\n    http-request set-var(txn.real) str(x)\n")),
        # A message of the same frame sets it, which is another check.
        Case(named("var(txn.rep.allowed)")),
        # The client's own header is meant, or the agent sets the header.
        Case(rules("http-request set-header Host example", files=named("req.hdr(host)"))),
        Case(rules("http-request set-header Accept-Encoding br", files=named("req.hdr(accept-encoding)"))),
        Case(rules("http-request set-header X-Score %[var(txn.rep.score)]", files=named("req.hdr(x-score)"))),
        Case(rules("http-request set-header X-Other a", files=named("req.hdr(x-score)"))),
        Case(rules("http-request set-header", files=named("req.hdr(x-score)"))),
        Case(rules("http-response set-header X-Score a", files=named("req.hdr(x-score)"))),
        Case(rules("http-request set-header X-Score a", files=at("on-http-response", named("req.hdr(x-score)")))),
        # Something sets it before.
        Case(
            rules("tcp-request content set-src str(192.0.2.1)", "http-request set-src req.hdr(x-real-ip)", files=GOOD)
        ),
        Case(GOOD.plus(haproxy="\nfrontend other\n    http-request set-src req.hdr(x-real-ip)\n")),
        # A later message has the address, too.
        Case(
            Files(TWO.spoe, rules("http-request set-src req.hdr(x-real-ip)", files=TWO).haproxy).replaced(
                "    event on-frontend-http-request", "    event on-backend-http-request"
            )
        ),
        Case(named("path")),
        Case(named("req.hdr")),
        Case(named("(")),
        Case(
            rules(
                "filter spoe engine x config missing.conf",
                "http-request set-var(txn.real) str(x)",
                files=named("var(txn.real)"),
            )
        ),
        # The engine in front of it sets it.
        Case(
            Files(
                TWO.spoe.replace("ip=src", "x=var(txn.rep.x)", 1),
                TWO.haproxy,
            )
        ),
    ],
    "body-not-awaited": [
        Case(GOOD),
        Case(rules(BUFFER, files=BODY)),
        Case(BODY.after("timeout client 5s", BUFFER)),
        Case(BODY_GROUP.before(ERROR, WAIT, SEND)),
        # The rule's condition may be that of the group.
        Case(BODY_GROUP.before(ERROR, f"{WAIT} if {{ method POST }}", f"{SEND} if {{ path / }}")),
        Case(named("req.body_size")),
        # In the frontend for the backend's event, and in the backend.
        Case(at("on-backend-http-request", rules(WAIT, files=BODY))),
        Case(at("on-backend-http-request", IN_BACKEND.replaced("ip=src", "b=req.body").after(FILTER, BUFFER))),
        Case(
            named(
                "res.body",
                GROUP.before(RETURN, "http-response wait-for-body time 5s", SEND.replace("request", "response")),
            )
        ),
        # HAProxy itself refuses them.
        Case(at("on-http-response", BODY)),
        Case(named("res.body")),
        Case(at("on-frontend-tcp-request", BODY)),
    ],
    "body-cut": [
        Case(GOOD),
        Case(BODY),
        Case(rules(BUFFER, files=named("req.body_len"))),
        # Rules look at the size.
        Case(rules(BUFFER, "http-request deny if { req.body_size gt 10000 }", files=BODY)),
        Case(rules(BUFFER, "acl long req.hdr(Content-Length) -m int gt 10000", files=BODY)),
    ],
    "payload-too-early": [
        Case(at("on-frontend-tcp-request", TCP)),
        Case(at("on-backend-tcp-request", named("req.len", TCP))),
        Case(named("req.len", SENT)),
        Case(named("req.len", TCP_GROUP.before("bind 127.0.0.1:8080", DELAY, f"{CONTENT} if {{ req.len gt 0 }}"))),
        Case(
            named(
                "req.len",
                TCP_GROUP.before(
                    "bind 127.0.0.1:8080", DELAY, CONTENT, "tcp-request content reject unless { req.len gt 0 }"
                ),
            )
        ),
        Case(named("req.len", GROUP.before(RETURN, DELAY, CONTENT))),
    ],
    "inspect-delay-short": [
        Case(SENT),
        Case(GROUP.before(RETURN, DELAY, f"{CONTENT} if {{ req.len gt 0 }} or WAIT_END")),
        Case(GROUP.before(RETURN, DELAY, f"{CONTENT} if {{ req.len gt 0 }}")),
        Case(GROUP.before(RETURN, DELAY, f"{CONTENT} unless WAIT_END")),
        Case(GROUP.before(RETURN, DELAY, f"{CONTENT} if !WAIT_END")),
        Case(
            GROUP.before(RETURN, DELAY, "tcp-request content set-var(txn.x) src if { src 127.0.0.1 } WAIT_END", CONTENT)
        ),
        Case(GROUP.before(RETURN, "tcp-request inspect-delay 5s", "tcp-request content send-spoe-group rep group")),
        Case(GROUP.before(RETURN, "tcp-request inspect-delay x", "tcp-request content send-spoe-group rep group")),
        Case(GROUP.before(RETURN, "tcp-request content send-spoe-group rep group").without("timeout processing 2s")),
        Case(GOOD),
    ],
    "no-unique-id": [
        Case(GOOD),
        Case(named("unique-id", rules("unique-id-format %[uuid]"))),
        Case(named("unique-id", GOOD.after("timeout client 5s", "unique-id-format %[uuid]"))),
        Case(
            named("unique-id", at("on-backend-http-request", IN_BACKEND)).replaced(
                "    bind", "    unique-id-format x\n    bind"
            )
        ),
    ],
    "own-answers": [
        Case(GOOD),
        Case(at("on-http-response").without(ERROR).without(DENY).without(RETURN)),
        Case(at("on-tcp-response")),
    ],
}


@pytest.mark.parametrize(("id_", "case"), parameters(SPEAKS))
def test_speaks(id_: str, case: Case) -> None:
    lines = case.lines(order, id_)
    assert lines
    assert lines[0].startswith(case.found)
    assert all(len(line) < 190 for line in lines)


@pytest.mark.parametrize(("id_", "case"), parameters(SILENT))
def test_silent(id_: str, case: Case) -> None:
    assert case.lines(order, id_) == []


def test_each_check_has_both() -> None:
    assert list(SPEAKS) == list(SILENT) == [check.id for check in order.CHECKS]


@pytest.mark.parametrize("version", [(2, 6), OLD, (3, 2), (3, 4)])
def test_nothing_is_wrong_with_the_good_configuration(version: tuple[int, int]) -> None:
    assert GOOD.found(order, version=version) == GOOD.alone().found(order, version=version) == []
