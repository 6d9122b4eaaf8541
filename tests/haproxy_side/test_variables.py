"""The checks of variables: for each id, configurations on which it speaks, and near ones on which it is silent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pytest

from spoa_twisted.handlers.declaration import Declaration
from spoa_twisted.haproxy.answers import Answer, Answers
from spoa_twisted.haproxy.checks import variables
from spoa_twisted.haproxy.checks.naming import is_similar

from .configurations import GOOD, NEW, OLD, Files


def setting(
    types: Mapping[str, object | None] | None, *, message: str = "lookup", on_error: Iterable[str] = ()
) -> Answer:
    """Return a handler that sets variables of these types. ``None``: it may set any variable."""
    return Answer(message, "agent.handler", (), False, True, 0, tuple(on_error), Declaration(), types)


def handlers(*answers: Answer, default: Answer | None = None) -> Answers:
    """Return the handlers of an agent."""
    return Answers({answer.message: answer for answer in answers}, default)


#: What the rules of ``GOOD`` need.
ALLOWS = {"txn.allowed": bool}


def sets(**types: object) -> Answers:
    """Return a handler of ``lookup`` that sets ``txn.allowed``, and variables of these names: ``txn_score=int``."""
    return handlers(setting(ALLOWS | {name.replace("_", ".", 1): type_ for name, type_ in types.items()}))


@dataclass(frozen=True)
class Case:
    """A configuration, and the handlers. Without them, the checks must know by the configuration alone."""

    files: Files
    answers: Answers | None = None
    #: How the line begins that is found, as ``haproxy.cfg:16: error: ...``.
    found: str = ""


def rules(*lines: str) -> Files:
    """Return ``GOOD`` with more rules in its frontend."""
    return GOOD.before(RETURN, *lines)


RETURN = "http-request return status 200"
UNLESS = "http-request deny unless { var(txn.rep.allowed) -m bool }"
ERROR_RULE = "http-request deny deny_status 503 if { var(txn.rep.error) -m found }"

#: Nothing refuses when the agent fails.
OPEN = (
    GOOD.without(UNLESS)
    .without(ERROR_RULE)
    .after("filter spoe engine rep config spoe.conf", "http-request deny if { var(txn.rep.bad) -m bool }")
)
EVENT = "event on-frontend-http-request"
LONG = "x" * (63 - len("txn.rep."))

OTHER = """
frontend other
    bind 127.0.0.1:8081
    http-request deny if { var(txn.rep.allowed) -m bool }
"""

SECOND = """
[other]
spoe-agent other
    messages second
    option var-prefix rep
    use-backend rep-agents
    timeout processing 2s
spoe-message second
    args ip=src
    event on-frontend-http-request
"""

SESS_RULE = "http-request deny if { var(sess.rep.denied) -m bool }"
SESS_SET = sets(sess_denied=bool)
LOGIN = f"{EVENT} if {{ path_beg /login }}"

GROUP = (
    GOOD.replaced("    messages lookup\n", "    groups g\n")
    .without(EVENT)
    .plus(spoe="\nspoe-group g\n    messages lookup\n")
)
USER_HEADER = "http-request set-header X-User %[var(txn.rep.user)] if { var(txn.rep.user) -m found }"

#: The first one of the lines that rules() adds.
FIRST = "haproxy.cfg:16: error: "

SPEAKS: dict[str, list[Case]] = {
    "wrong-proxy": [
        Case(GOOD.plus(haproxy=OTHER), found="haproxy.cfg:30: warning: frontend 'other' reads txn.rep.allowed"),
        Case(GOOD.plus(haproxy=OTHER + "    default_backend rep-agents\n")),
        Case(GOOD.plus(haproxy=OTHER + "    default_backend\n").replaced("frontend www", "listen www")),
    ],
    "variable-unset": [
        Case(
            rules("http-request deny if { var(txn.rep.score) -m int ge 5 }"),
            sets(txn_user=str),
            FIRST + "no handler sets txn.rep.score: ",
        ),
        Case(
            rules("http-request deny if { var(txn.rep.score) -m int ge 5 }"),
            sets(sess_score=int),
            FIRST + "no handler sets txn.rep.score; did you mean sess.rep.score?",
        ),
        Case(
            rules("http-request deny if { var(txn.rep.score) -m int ge 5 }"),
            sets(sess_scores=int, txn_scores=int),
            FIRST + "no handler sets txn.rep.score; did you mean txn.rep.scores?",
        ),
        Case(rules("http-request deny if { var(txn.rep.Allowed) -m bool }"), sets()),
        Case(rules("http-request set-header x %[var(txn.rep.score)]"), sets()),
        # Without the prefix, or with another one.
        Case(
            rules("http-request deny unless { var(txn.allowed) -m bool }"),
            sets(),
            FIRST + "nothing sets txn.allowed; did you mean txn.rep.allowed?",
        ),
        Case(
            rules("http-request deny unless { var(txn.any.allowed) -m bool }"),
            sets(),
            FIRST + "nothing sets txn.any.allowed; did you mean txn.rep.allowed?",
        ),
        # A prefix that no engine has is wrong without handlers, too.
        Case(
            rules("http-request deny if { var(txn.rep-agent.bad) -m bool }"),
            None,
            FIRST + "no engine has the prefix 'rep-agent'; did you mean txn.rep.bad?",
        ),
        Case(GOOD.replaced("var(txn.rep.allowed)", "var(txn.REP.allowed)")),
        Case(
            GOOD.without("option var-prefix rep")
            .replaced("spoe-agent rep-agent", "spoe-agent reputation")
            .replaced("txn.rep.error", "txn.reputation.error")
        ),
        Case(GOOD.replaced("args ip=src", "args ip=src score=var(txn.rep.score)"), sets()),
    ],
    "error-never-set": [
        Case(GOOD.without("option set-on-error error").without(UNLESS)),
        Case(GOOD.without("option set-on-error error"), sets()),
        Case(GOOD.replaced("set-on-error error", "set-on-error err")),
        Case(GOOD.replaced("set-on-error error", "set-on-error err"), sets()),
        Case(GOOD.replaced("var(txn.rep.error)", "var(sess.rep.error)")),
        Case(GOOD.replaced("var(txn.rep.error)", "var(txn.error)")),
        Case(GOOD.replaced("var(txn.rep.error)", "var(txn.rep-agent.error)")),
        Case(
            GOOD.replaced("{ var(txn.rep.error) -m found }", "{ var(txn.rep.error) -m int gt 0 }")
            .without("option set-on-error error")
            .without(UNLESS)
        ),
    ],
    "variable-lost": [
        Case(GOOD.replaced(EVENT, "event on-http-response"), sets(req_score=int)),
        Case(GOOD.replaced(EVENT, "event on-server-session"), handlers(setting({}, on_error=["req.score"]))),
        Case(GOOD, sets(res_score=int)),
        Case(GROUP.before(UNLESS, "http-response send-spoe-group rep g"), sets(req_score=int)),
        Case(GOOD.alone(), sets(res_score=int)),
    ],
    "variable-gone": [
        Case(rules("http-response set-header x %[var(req.rep.user)]")),
        Case(rules("http-after-response set-header x y if { var(req.rep.user) -m found }")),
        Case(rules('log-format "%ci %[var(req.rep.user)]"'), sets(req_user=str)),
    ],
    "variable-too-long": [
        Case(GOOD, handlers(setting(ALLOWS | {f"txn.{LONG}y": int}))),
        Case(
            GOOD.replaced("set-on-error error", f"set-on-error {LONG}y").replaced("txn.rep.error", f"txn.rep.{LONG}y")
        ),
        Case(rules(f"http-request deny if {{ var(txn.rep.{LONG}y) -m bool }}")),
        Case(GOOD.alone(), handlers(setting(ALLOWS | {f"sess.{LONG}": int}))),
    ],
    "variable-type": [
        Case(rules("http-request deny if { var(txn.rep.bad) -m str true }"), sets(txn_bad=bool)),
        Case(rules("http-request deny if { var(txn.rep.bad) -m str -i yes true }"), sets(txn_bad=bool | None)),
        Case(rules("http-request deny if { var(txn.rep.bad) -m str true }"), sets(txn_bad=bool | int)),
        Case(
            rules("http-request deny if { var(txn.rep.bad) -m bool }"), sets(txn_bad=str), "haproxy.cfg:16: warning: "
        ),
        Case(rules("http-request deny if { var(txn.rep.bad) -m bool }"), sets(txn_bad=bytes)),
        Case(rules("http-request deny if { var(txn.rep.bad) -m int ge 5 }"), sets(txn_bad=bytes)),
        Case(rules("http-request deny if { var(txn.rep.bad) -m str high }"), sets(txn_bad=int)),
        Case(rules("acl bad var(txn.rep.bad) -m bool", "http-request deny if !bad"), sets(txn_bad=str)),
    ],
    "found-on-bool": [
        Case(rules("http-request deny if { var(txn.rep.bad) -m found }"), sets(txn_bad=bool)),
        Case(rules("acl bad var(txn.rep.bad) -m found", "http-request deny if { path /a } bad"), sets(txn_bad=bool)),
    ],
    "proc-unregistered": [
        Case(GOOD, sets(proc_hits=int)),
        Case(GOOD.after("log global", "register-var-names proc.hits"), sets(proc_hits=int)),
    ],
    "sess-sticks": [
        Case(
            rules("http-request set-header x %[var(sess.rep.denied)]").replaced(EVENT, LOGIN),
            SESS_SET,
            "spoe.conf:15: warning: ",
        ),
        Case(rules(SESS_RULE), SESS_SET, "spoe.conf:15: info: "),
        Case(rules(SESS_RULE).replaced(EVENT, LOGIN), SESS_SET, "spoe.conf:15: warning: "),
        Case(rules(SESS_RULE).replaced(EVENT, LOGIN), None, "spoe.conf:15: warning: "),
        Case(
            rules(SESS_RULE).replaced(EVENT, f"{EVENT} if login").after("args ip=src", "acl login path_beg /login"),
            SESS_SET,
            "spoe.conf:16: warning: ",
        ),
        Case(rules(SESS_RULE).replaced(EVENT, f"{EVENT} if {{ src 127.0.0.1 }}"), SESS_SET, "spoe.conf:15: info: "),
        # There is no status at a request, so the condition is true for each one.
        Case(rules(SESS_RULE).replaced(EVENT, f"{EVENT} unless {{ status 200 }}"), SESS_SET, "spoe.conf:15: info: "),
        # The rule asks for the same path as the event.
        Case(
            rules("http-request deny if { path_beg /login } { var(sess.rep.denied) -m bool }").replaced(EVENT, LOGIN),
            SESS_SET,
            "spoe.conf:15: info: ",
        ),
        Case(
            GROUP.before(ERROR_RULE, "http-request send-spoe-group rep g if { method POST }", SESS_RULE),
            SESS_SET,
            "haproxy.cfg:14: warning: ",
        ),
    ],
    "spoofable-header": [
        # These rules leave the client's header there.
        Case(rules("http-request add-header X-User nobody", USER_HEADER)),
        Case(rules("http-request set-header y z if { req.hdr(X-User) -m found }", USER_HEADER)),
        # These rules refuse nobody for whom the agent sets nothing.
        Case(rules("http-request set-header y z unless { var(txn.rep.user) -m found }", USER_HEADER)),
        Case(rules("http-request deny if { var(txn.rep.user) -m str root }", USER_HEADER)),
        Case(rules(USER_HEADER), sets(txn_user=str)),
        Case(rules(USER_HEADER)),
        Case(rules(USER_HEADER, "http-request del-header X-Other")),
    ],
    "fail-open": [
        # These rules refuse nothing, and route by variables of their own.
        Case(OPEN.before(RETURN, "http-request set-header x y unless { var(txn.rep.ok) -m bool }")),
        Case(OPEN.before(RETURN, "http-request set-header x %[var(txn.rep.score)]")),
        Case(OPEN.before(RETURN, "http-request set-var(txn.mine) src", "use_backend %[var(txn.mine)]")),
        Case(
            OPEN,
            found=(
                "haproxy.cfg:14: warning: if the agent fails, requests pass this rule: add"
                " 'http-request deny if { var(txn.rep.error) -m found }' [fail-open]"
            ),
        ),
        Case(
            OPEN.without("option set-on-error error"),
            found=(
                "haproxy.cfg:14: warning: if the agent fails, requests pass this rule: add 'option set-on-error"
                " error' and 'http-request deny if { var(txn.rep.error) -m found }' [fail-open]"
            ),
        ),
        Case(
            OPEN.replaced("http-request deny if {", "tcp-request content reject if {"),
            found=(
                "haproxy.cfg:14: warning: if the agent fails, requests pass this rule: add"
                " 'tcp-request content reject if { var(txn.rep.error) -m found }' [fail-open]"
            ),
        ),
        Case(OPEN.replaced("http-request deny if {", "http-request return status 403 if {")),
        Case(OPEN.after("filter spoe engine rep config spoe.conf", "log-format %[var(txn.rep.error)]")),
        Case(
            OPEN.after(
                "filter spoe engine rep config spoe.conf", "http-request lua.ban if { var(txn.rep.bad) -m bool }"
            )
        ),
    ],
    "error-unread": [
        Case(OPEN, found=("spoe.conf:5: warning: ")),
        Case(GOOD.without(ERROR_RULE), found=("spoe.conf:5: info: ")),
        Case(GOOD.without(ERROR_RULE).without(UNLESS), found=("spoe.conf:5: info: ")),
    ],
}

LUA = "global\n    lua-load x.lua\n"

#: A condition that the checks do not understand.
UNKNOWN = '.if streq("$UNKNOWN",x) bad\n.endif\n'

SILENT: dict[str, list[Case]] = {
    "wrong-proxy": [
        Case(
            GOOD.plus(
                haproxy=OTHER.replace("http-request", "filter spoe engine rep config spoe.conf\n    http-request", 1)
            )
        ),
        # The variables of all engines with the prefix.
        Case(
            GOOD.plus(
                spoe=SECOND,
                haproxy=OTHER.replace(
                    "    http-request", "    filter spoe engine other config spoe.conf\n    http-request"
                ),
            )
        ),
        Case(GOOD.plus(haproxy=OTHER.replace("txn.rep", "txn.user"))),
        Case(GOOD.plus(haproxy=OTHER.replace("txn.rep", "proc.rep"))),
        Case(GOOD.plus(haproxy=OTHER + "    http-request set-var(txn.rep.allowed) bool(true)\n")),
        Case(GOOD.plus(haproxy="frontend other\n    log-format %[var(txn.rep.allowed)]\n")),
        # The frontend may use the backend.
        Case(GOOD.plus(haproxy=OTHER + "    default_backend www\n").replaced("frontend www", "listen www")),
        Case(GOOD.plus(haproxy=OTHER + "    use_backend %[hdr(host)]\n").replaced("frontend www", "listen www")),
        # A rule of the defaults is not written for each of its frontends.
        Case(GOOD.plus(haproxy="frontend other\n").after("timeout server 5s", UNLESS)),
        Case(GOOD.plus(haproxy=OTHER + LUA)),
        Case(GOOD.plus(haproxy=OTHER).replaced("engine rep config", "engine typo config")),
    ],
    "variable-unset": [
        # Lua, or what is not known, may set it.
        Case(rules("http-request lua.x", "http-request deny if { var(txn.rep.score) -m bool }"), sets()),
        Case(rules("http-request deny if { var(txn.rep.score) -m bool }").plus(haproxy=UNKNOWN), sets()),
        Case(rules("http-request deny if { var(txn.rep.score) -m int ge 5 }"), sets(txn_score=int)),
        Case(rules("http-request deny if { var(txn.rep.score) -m int ge 5 }")),
        Case(rules("http-request deny if { var(txn.rep.score) -m int ge 5 }"), handlers(setting(None))),
        Case(rules("http-request deny if { var(txn.rep.score) -m int ge 5 }"), handlers()),
        Case(
            rules("http-request deny if { var(txn.rep.score) -m int ge 5 }"),
            handlers(default=setting(ALLOWS | {"txn.score": int})),
        ),
        Case(
            rules("http-request deny if { var(txn.rep.score) -m int ge 5 }"),
            handlers(setting(ALLOWS, on_error=["txn.score"])),
        ),
        Case(rules("http-request set-var(txn.rep.x) src", "http-request set-header x %[var(txn.rep.x)]"), sets()),
        Case(rules("http-request set-header y %[src,set-var(txn.rep.x)]%[var(txn.rep.x)]"), sets()),
        Case(
            rules(
                "http-request do-resolve(txn.rep.x,dns) hdr(host)", "http-request set-header x %[var(txn.rep.x)]"
            ).plus(haproxy="resolvers dns\n"),
            sets(),
        ),
        Case(
            GOOD.after("log stderr format raw local0 info", "set-var proc.rep.x int(1)").before(
                ERROR_RULE, "http-request set-header x %[var(proc.rep.x)]"
            ),
            sets(),
        ),
        Case(
            rules("http-request set-header x %[var(txn.rep.total)]").after("log global", "option set-total-time total"),
            sets(),
        ),
        # Another engine of the same prefix, whose handler is not known.
        Case(
            rules("filter spoe engine other config spoe.conf", "http-request deny if { var(txn.rep.x) -m bool }").plus(
                spoe=SECOND
            ),
            sets(),
        ),
        Case(rules("http-request deny if { var(txn.rep.score) -m int ge 5 }").plus(haproxy=LUA), sets()),
        Case(rules("filter opentracing config ot.cfg", "http-request deny if { var(txn.rep.score) -m bool }"), sets()),
        Case(
            rules("filter spoe engine gone config gone.conf", "http-request deny if { var(txn.rep.score) -m bool }"),
            sets(),
        ),
        Case(
            rules("filter spoe engine typo config spoe.conf", "http-request deny if { var(txn.rep.score) -m bool }"),
            sets(),
        ),
        Case(rules("filter compression", "filter", "http-request deny if { var(txn.mine) -m bool }"), sets()),
        # Variables of a name that no agent has.
        Case(rules("http-request deny if { var(txn.mine.score) -m bool } || { var(txn.user) -m found }"), sets()),
        Case(rules("http-request deny if { var(check.rep.score) -m bool }"), sets()),
        # One prefix begins with the other one.
        Case(
            rules(
                "filter spoe engine other config spoe.conf", "http-request deny if { var(txn.rep.two.x) -m bool }"
            ).plus(spoe=SECOND.replace("var-prefix rep", "var-prefix rep.two")),
            sets(),
        ),
        Case(GOOD.alone(), sets()),
    ],
    "error-never-set": [
        Case(GOOD, sets()),
        Case(GOOD.without("option set-on-error error"), sets(txn_error=int)),
        # The agent may set it. If the agent fails, another rule refuses.
        Case(GOOD.without("option set-on-error error")),
        # The agent may set it.
        Case(GOOD.without("option set-on-error error").replaced("503 if {", "503 if ! {")),
        Case(
            GOOD.without("option set-on-error error").replaced(
                "{ var(txn.rep.error) -m found", "{ var(txn.rep.error) -m str x"
            )
        ),
        Case(
            GOOD.without("option set-on-error error").replaced(
                "http-request deny deny_status 503 if", "http-request set-header x y if"
            )
        ),
        Case(GOOD.without("option set-on-error error").replaced("txn.rep.error", "txn.rep.login_error")),
        Case(
            GOOD.without("option set-on-error error").replaced(
                "deny deny_status 503 if { var(txn.rep.error) -m found }", "set-header x %[var(txn.rep.error)]"
            )
        ),
        Case(rules("http-request return status 500 if { var(txn.rep.login_error) -m found }")),
        Case(GOOD.replaced("txn.rep.error", "txn.mine.error").without("option set-on-error error")),
        Case(rules("http-request deny if { var(txn.mine.error) -m found }")),
        Case(rules("http-request deny if { var(check.error) -m found }")),
    ],
    "variable-lost": [
        Case(GOOD, handlers(setting({"score": int, "other.score": int}))),
        # A message and a group that the agent does not have, a section of a message that it does not list, and a scope
        # without an agent.
        Case(
            GOOD.replaced("    messages lookup\n", "    messages lookup gone\n    groups gone\n").plus(
                spoe="\nspoe-group g\n    messages other\nspoe-message other\n[empty]\nspoe-message other\n",
                haproxy="frontend empty\n    filter spoe engine empty config spoe.conf\n",
            ),
            sets(req_score=int),
        ),
        Case(GOOD.replaced(EVENT, "event on-http-response"), sets(res_score=int)),
        Case(GOOD, sets(req_score=int)),
        Case(GOOD),
        Case(GOOD, handlers(setting(None))),
        # A response sends another group, and the group of another engine.
        Case(
            GROUP.before(
                UNLESS,
                "http-request send-spoe-group rep g",
                "http-response send-spoe-group rep h",
                "http-response send-spoe-group other g",
            ),
            sets(req_score=int),
        ),
        # The group is sent in requests, too.
        Case(
            GROUP.before(UNLESS, "http-response send-spoe-group rep g", "http-request send-spoe-group rep g"),
            sets(req_score=int, res_score=int),
        ),
        Case(GROUP.alone(), sets(req_score=int, res_score=int)),
    ],
    "variable-gone": [
        Case(rules("http-response set-header x %[var(txn.rep.user)]")),
        Case(rules("http-response set-header x %[var(res.rep.user)]")),
        Case(rules("http-request set-header x %[var(req.rep.user)]")),
        Case(rules("http-response set-header x %[var(req.mine.user)]")),
        Case(rules("http-request set-var(req.rep.user) src", "http-response set-header x %[var(req.rep.user)]")),
        Case(rules("unique-id-format %[var(req.rep.user)]")),
    ],
    "variable-too-long": [
        Case(GOOD, handlers(setting(ALLOWS | {f"txn.{LONG}": int}))),
        Case(rules(f"http-request deny if {{ var(txn.rep.{LONG}) -m bool }}")),
        # Rules may set longer names.
        Case(rules(f"http-request deny if {{ var(txn.{LONG}yyyyyyyyyy) -m bool }}")),
        Case(
            rules(
                f"http-request set-var(txn.rep.{LONG}y) src", f"http-request deny if {{ var(txn.rep.{LONG}y) -m bool }}"
            )
        ),
    ],
    "variable-type": [
        Case(rules("http-request deny if { var(txn.rep.bad) -m str 1 }"), sets(txn_bad=bool)),
        Case(rules("http-request deny if { var(txn.rep.bad) -m str -f values }"), sets(txn_bad=bool)),
        Case(rules("http-request deny if { var(txn.rep.bad),lower -m str true }"), sets(txn_bad=bool)),
        Case(rules("http-request deny if { var(txn.rep.bad,true) -m str true }"), sets(txn_bad=bool)),
        Case(rules("http-request deny if { var(txn.rep.bad) -m bool }"), sets(txn_bad=bool)),
        Case(rules("http-request deny if { var(txn.rep.bad) -m bool }"), sets(txn_bad=int)),
        Case(rules("http-request deny if { var(txn.rep.bad) -m int 1 }"), sets(txn_bad=str)),
        Case(rules("http-request deny if { var(txn.rep.bad) -m str 7 }"), sets(txn_bad=int)),
        Case(rules("http-request deny if { var(txn.rep.bad) -m str true }"), sets(txn_bad=str | bool)),
        Case(rules("http-request deny if { var(txn.rep.bad) -m str true }"), sets(txn_bad=None)),
        Case(rules("http-request deny if { var(txn.rep.bad) -m str true }"), sets(txn_bad=float)),
        Case(rules("http-request deny if { var(txn.rep.bad) -m str true }")),
        Case(rules("http-request deny if { var(txn.rep.bad) -m str true }").plus(haproxy=LUA), sets(txn_bad=bool)),
        Case(
            rules(
                "http-request set-var(txn.rep.bad) str(true)", "http-request deny if { var(txn.rep.bad) -m str true }"
            ),
            sets(txn_bad=bool),
        ),
        Case(
            rules("http-request deny if { var(txn.rep.bad) -m str true }"),
            handlers(setting(ALLOWS), setting({"txn.bad": bool}, message="m2")),
        ),
    ],
    "found-on-bool": [
        Case(rules("http-request deny if { var(txn.rep.bad) -m found }"), sets(txn_bad=str)),
        Case(rules("http-request deny if { var(txn.rep.bad) -m found }"), sets(txn_bad=bool | None)),
        Case(rules("http-request deny if ! { var(txn.rep.bad) -m found }"), sets(txn_bad=bool)),
        Case(rules("http-request deny unless { var(txn.rep.bad) -m found }"), sets(txn_bad=bool)),
        Case(
            rules("http-request deny if { var(txn.rep.ok) -m found } ! { var(txn.rep.ok) -m bool }"), sets(txn_ok=bool)
        ),
        Case(
            rules("http-request set-header x %[var(txn.rep.bad)] if { var(txn.rep.bad) -m found }"), sets(txn_bad=bool)
        ),
        Case(rules("http-request deny if { var(txn.rep.bad) -m bool }"), sets(txn_bad=bool)),
        Case(rules("http-request deny if { var(txn.rep.error) -m found }"), handlers(setting({"txn.error": bool}))),
    ],
    "proc-unregistered": [
        Case(GOOD.after("log global", "register-var-names hits"), sets(proc_hits=int)),
        Case(GOOD.after("log global", "option force-set-var"), sets(proc_hits=int)),
        Case(rules("http-request set-header x %[var(proc.rep.hits)]"), sets(proc_hits=int)),
        Case(GOOD.replaced("args ip=src", "args ip=src hits=var(proc.rep.hits)"), sets(proc_hits=int)),
        Case(GOOD, sets(sess_hits=int)),
        Case(GOOD),
        Case(GOOD.alone(), sets(proc_hits=int)),
    ],
    "sess-sticks": [
        Case(rules(SESS_RULE).replaced(EVENT, "event on-client-session"), SESS_SET),
        Case(rules(SESS_RULE).replaced(EVENT, f"{EVENT} unless {{ var(sess.rep.denied) -m found }}"), SESS_SET),
        Case(rules(SESS_RULE).replaced("args ip=src", "args ip=src denied=var(sess.rep.denied)"), SESS_SET),
        Case(rules(SESS_RULE, "http-request unset-var(sess.rep.denied)"), SESS_SET),
        Case(rules(SESS_RULE, "http-request set-var(sess.rep.denied) bool(false)"), SESS_SET),
        Case(rules(SESS_RULE).plus(haproxy=LUA), SESS_SET),
        Case(rules("http-request deny if { var(sess.mine) -m bool }"), SESS_SET),
        Case(rules("http-request deny if { var(txn.rep.allowed) -m bool }"), SESS_SET),
        Case(rules(SESS_RULE), sets()),
        # A message that is never sent.
        Case(rules(SESS_RULE).without(EVENT), SESS_SET),
        Case(GOOD, SESS_SET),
        Case(GOOD.alone(), SESS_SET),
    ],
    "spoofable-header": [
        Case(rules("http-request add-header X-User %[var(txn.rep.user)] if { var(txn.rep.user) -m found }")),
        Case(rules("http-request set-header X-User %[var(txn.rep.user)] if ! { var(txn.rep.user) -m str admin }")),
        Case(rules("http-request lua.refuse unless { var(txn.rep.user) -m found }", USER_HEADER)),
        Case(rules("http-request del-header X-User", USER_HEADER)),
        Case(rules("http-request del-header x- -m beg", USER_HEADER)),
        Case(rules(USER_HEADER, "http-request set-header x-user nobody unless { var(txn.rep.user) -m found }")),
        Case(rules("http-request deny if { req.hdr(X-User) -m found }", USER_HEADER)),
        Case(rules("http-request deny unless { var(txn.rep.user) -m found }", USER_HEADER)),
        Case(rules("http-request set-header X-User %[var(txn.rep.user)]")),
        Case(rules("http-request set-header X-User nobody unless { var(txn.rep.user) -m found }")),
        Case(rules("http-request set-header X-User nobody if { var(txn.rep.user) -m found }")),
        Case(rules("http-request set-header X-User %[var(txn.mine)] if { var(txn.mine) -m found }")),
        Case(rules("http-request set-header X-%[src] %[var(txn.rep.user)] if { var(txn.rep.user) -m found }")),
        Case(rules("http-response set-header X-User %[var(txn.rep.user)] if { var(txn.rep.user) -m found }")),
    ],
    "fail-open": [
        Case(OPEN.before(RETURN, "http-request set-header x %[src,set-var(txn.rep.bad)]")),
        Case(
            OPEN.replaced("set-on-error error", "set-on-error lost").before(
                RETURN, "http-request deny if { var(txn.rep.lost) -m found }"
            )
        ),
        Case(
            OPEN.before(
                RETURN,
                "http-request allow if { var(txn.rep.ok) -m bool }",
                "http-request deny if { method POST }",
            )
        ),
        Case(GOOD),
        Case(OPEN.after("log global", "").before(RETURN, ERROR_RULE)),
        Case(OPEN.before(RETURN, UNLESS)),
        Case(
            OPEN.before(
                RETURN,
                "acl ok var(txn.rep.ok) -m bool",
                "http-request redirect location /login if !ok",
            )
        ),
        Case(OPEN.before(RETURN, "acl ok var(txn.rep.ok) -m bool", "use_backend login unless ok")),
        Case(OPEN.before(RETURN, "redirect location /login unless { var(txn.rep.ok) -m bool }")),
        Case(OPEN.before(RETURN, "http-request lua.refuse unless { var(txn.rep.ok) -m bool }")),
        Case(OPEN.before(RETURN, "http-request lua.decide")),
        Case(OPEN.replaced(RETURN, "http-request deny")),
        Case(OPEN.before(RETURN, "acl ok var(txn.rep.ok) -m bool", "http-request deny if { acl(!ok) }")),
        Case(OPEN.before(RETURN, "http-request use-service lua.decide if { path /a }")),
        Case(
            OPEN.before(
                RETURN,
                "http-request allow if { var(txn.rep.ok) -m bool }",
                "http-request deny",
            )
        ),
        Case(OPEN.before(RETURN, "use_backend app if { var(txn.rep.ok) -m bool }")),
        Case(OPEN.before(RETURN, "http-request deny deny_status 503 if { nbsrv(rep-agents) lt 1 }")),
        Case(OPEN.before(RETURN, "acl up srv_is_up(rep-agents/agent1)", "http-request deny unless up")),
        Case(OPEN.before(RETURN, "use_backend %[var(txn.rep.backend)]")),
        Case(
            OPEN.before(
                RETURN,
                "http-request set-var(txn.closed) bool(true) if ! { var(txn.rep.ok) -m bool }",
            )
        ),
        Case(OPEN.before(RETURN, "http-request set-var(txn.failed) var(txn.rep.error)")),
        Case(OPEN.before(RETURN, "http-request deny if { var(txn.rep.score,100) -m int gt 50 }")),
        Case(OPEN.before(RETURN, "http-request set-var(txn.rep.bad) bool(true)")),
        # A wrong name is found by error-never-set.
        Case(OPEN.before(RETURN, "http-request deny if { var(txn.rep.err) -m found }")),
        # An agent that refuses nothing.
        Case(OPEN.replaced("http-request deny if {", "http-request set-header x y if {")),
        Case(OPEN.replaced("http-request deny if {", "http-request return status 200 if {")),
        Case(OPEN.replaced("http-request deny if {", "http-request return if {")),
        Case(OPEN.replaced("var(txn.rep.bad)", "var(txn.mine)")),
        Case(OPEN.alone()),
        Case(OPEN.plus(haproxy=UNKNOWN)),
    ],
    "error-unread": [
        Case(GOOD),
        Case(OPEN.after("filter spoe engine rep config spoe.conf", "log-format %[var(txn.rep.error)]")),
        Case(OPEN.before(RETURN, "http-request set-header x %[int(1),add(txn.rep.error)]")),
        Case(OPEN.without("option set-on-error error")),
        Case(OPEN.plus(haproxy=LUA)),
        Case(OPEN.alone()),
    ],
}


#: Characters of a finding's text, without the place and the id.
MAX_TEXT = 150


def found(case: Case, id_: str) -> list[str]:
    lines = case.files.found(variables, answers=case.answers)
    return [line for line in lines if line.endswith(f"[{id_}]")]


@pytest.mark.parametrize("id_", SPEAKS)
def test_speaks(id_: str) -> None:
    for case in SPEAKS[id_]:
        lines = found(case, id_)
        assert len(lines) == 1, (case.files, case.files.found(variables, answers=case.answers))
        assert lines[0].startswith(case.found)
        text = lines[0].split(": ", 2)[2].replace(LONG, "")
        assert len(text.removesuffix(f" [{id_}]")) <= MAX_TEXT


@pytest.mark.parametrize("id_", SILENT)
def test_silent(id_: str) -> None:
    assert [(line, case) for case in SILENT[id_] for line in found(case, id_)] == []


def test_each_id_has_both() -> None:
    assert {check.id for check in variables.CHECKS} == SPEAKS.keys() == SILENT.keys()
    assert all(SPEAKS.values())
    assert all(SILENT.values())


@pytest.mark.parametrize(
    ("name", "other", "similar"),
    [
        ("iprep", "iprep", False),
        ("IpRep", "iprep", True),
        ("ip_rep", "iprep", True),
        ("iprepp", "iprep", True),
        # The ratio of difflib is 0.8: four of five letters.
        ("iprap", "iprep", True),
        ("iprxx", "iprep", False),
        # Short names are similar by chance.
        ("rap", "rep", False),
        ("reps", "rep", False),
        ("a.b", "ab", True),
        ("mine", "rep", False),
    ],
)
def test_misspelt_names(name: str, other: str, similar: bool) -> None:
    assert is_similar(name, other) is similar


@pytest.mark.parametrize("answers", [None, sets(), handlers(setting(None))], ids=["unknown", "known", "any"])
def test_good(answers: Answers | None) -> None:
    """The family finds nothing in the good configuration, for old and new HAProxy, with and without handlers."""
    for version in (OLD, NEW):
        assert GOOD.found(variables, version=version, answers=answers) == []
