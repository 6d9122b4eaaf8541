"""The configuration that is written from declarations, as text. test_writing_real.py tries it with HAProxy."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from spoa_twisted import Handlers
from spoa_twisted.haproxy.answers import answers
from spoa_twisted.haproxy.writing.advice import advice
from spoa_twisted.haproxy.writing.haproxy_cfg import parts, whole
from spoa_twisted.haproxy.writing.plan import CannotWrite, Options, Plan, engine_name, plan
from spoa_twisted.haproxy.writing.required import Required
from spoa_twisted.haproxy.writing.spoe_conf import spoe_conf
from spoa_twisted.haproxy.writing.words import quoted, time_of

#: The agents' backend in each configuration of an engine "iprep" with the timeouts that nobody has changed.
AGENTS = """\
# Below all frontends.
backend iprep-agents
.if version_atleast(3.1)
    mode spop
.else
    mode tcp
.endif
    balance roundrobin
    option spop-check
    option redispatch 1
    timeout connect 100ms
    timeout check 500ms
    timeout server 3m
    default-server check inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
    server agent1 127.0.0.1:12345
"""


def takes_message(message: object) -> None:
    return None


async def waits(message: object) -> None:
    return None


def handlers_of(**messages: dict[str, Any]) -> Handlers:
    """Return handlers with these options, by message; ``_`` stands for ``-``. All declare arguments."""
    handlers = Handlers()
    for name, options in messages.items():
        function: Callable[..., Any] = waits if "timeout" in options else takes_message
        handlers.message(name.replace("_", "-"), **{"args": {}, **options})(function)
    return handlers


def planned(handlers: Handlers, **options: Any) -> Plan:
    """Return the plan for ``handlers``, in the order of their registration."""
    seen = answers(handlers, 1)
    by_message = {name: seen.by_message[name] for name in handlers}
    return plan(type(seen)(by_message, seen.default), Options(**{"engine": "iprep", **options}))


def site_lines(made: Plan) -> list[str]:
    """Return the lines before the agents' backend, without their indentation."""
    return [line.strip() for line in parts(made).partition("# Below all frontends.")[0].splitlines() if line.strip()]


def test_the_example() -> None:
    """Two handlers, one with a condition, one with a timeout: this is the whole text, each line of it was tried."""
    handlers = handlers_of(
        get_ip_reputation={"args": {"ip": "src"}, "event": "on-frontend-http-request", "sets": {"sess.score": int}},
        check_token={
            "args": {"token": "req.hdr(x-token)"},
            "event": "on-frontend-http-request if { req.hdr(x-token) -m found }",
            "sets": {"txn.denied": bool, "req.user": str},
            "timeout": 0.2,
        },
    )
    made = planned(handlers)
    assert spoe_conf(made) == textwrap.dedent(
        """\
        [iprep]
        spoe-agent iprep-agent
            messages get-ip-reputation check-token
            option var-prefix iprep
            option set-on-error error
            option dontlog-normal
            timeout hello 2s
            timeout idle 2m
            timeout processing 2s
            use-backend iprep-agents
            log global

        spoe-message get-ip-reputation
            args ip=src
            event on-frontend-http-request

        spoe-message check-token
            args token=req.hdr(x-token)
            event on-frontend-http-request if { req.hdr(x-token) -m found }
        """
    )
    assert parts(made) == (
        """\
    # Into the frontend, before its other rules.
    filter spoe engine iprep config spoe.conf
    # The agent has failed: without this rule such requests pass unchecked.
    http-request deny deny_status 503 if { var(txn.iprep.error) -m found }
    # What the agent sets. Rules that read it may look like these:
    #http-request deny if { var(sess.iprep.score) -m int ge 1 }
    #http-request deny if { var(txn.iprep.denied) -m bool }

"""
        + AGENTS
    )


def test_groups() -> None:
    """Messages with the same rule are a group, which has the name of the first one. Bodies are awaited before."""
    rule = "http-request if { method POST PUT }"
    handlers = handlers_of(
        scan_body={"args": {"body": "req.body"}, "rule": rule, "sets": {"txn.infected": bool, "txn.virus": str | None}},
        find_user={"rule": f" {rule.replace('http-request ', 'http-request   ')}"},
        see_answer={
            "args": {"body": "res.body"},
            "rule": "http-response unless { status 404 }",
            "sets": {"res.a": int},
        },
        see_all={"rule": "http-request"},
    )
    made = planned(handlers, engine="scan")
    text = spoe_conf(made)
    assert "    groups scan-body see-answer see-all\n    option var-prefix scan\n" in text
    assert "    messages scan-body find-user\n" in text
    assert "spoe-group scan-body\n    messages scan-body find-user\n" in text
    assert "event" not in text
    assert "spoe-message see-all\n\nspoe-group" in text
    assert site_lines(made) == [
        "# Into the frontend, before its other rules.",
        "filter spoe engine scan config spoe.conf",
        "http-request wait-for-body time 5s if { method POST PUT }",
        "http-request send-spoe-group scan scan-body if { method POST PUT }",
        "http-request send-spoe-group scan see-all",
        "http-response wait-for-body time 5s unless { status 404 }",
        "http-response send-spoe-group scan see-answer unless { status 404 }",
        "# The agent has failed: without this rule such requests pass unchecked.",
        "http-request deny deny_status 503 if { var(txn.scan.error) -m found }",
        "http-response deny deny_status 503 if { var(txn.scan.error) -m found }",
        "# What the agent sets. Rules that read it may look like these:",
        "#http-request deny if { var(txn.scan.infected) -m bool }",
        "#http-response deny if { var(res.scan.a) -m int ge 1 }",
    ]


def test_bodies_by_event() -> None:
    """An event cannot wait for a body, so the frontend does. ``--body`` writes the buffer that it needs."""
    handlers = handlers_of(m={"args": {"body": "req.body", "id": "unique-id"}, "event": "on-frontend-http-request"})
    made = planned(handlers, body=1_048_576)
    assert site_lines(made)[:5] == [
        "# Into the section global.",
        "tune.bufsize 1114112",
        "# Into the frontend, before its other rules.",
        "filter spoe engine iprep config spoe.conf",
        "option http-buffer-request",
    ]
    assert "unique-id-format %[uuid]" in site_lines(made)
    assert "    tune.bufsize 1114112\n\ndefaults\n" in whole(made, "twistd")
    assert "max-frame-size" not in spoe_conf(made)
    near = planned(handlers_of(m={"args": {"size": "req.body_size"}, "event": "on-frontend-http-request"}))
    assert "option http-buffer-request" not in site_lines(near)


def test_tcp() -> None:
    """Without a message that needs HTTP, the rules work in both modes. Those of responses belong into the backend."""
    made = planned(
        handlers_of(
            a={"event": "on-client-session", "sets": {"sess.denied": bool, "txn.n": int | None, "txn.ip": str}},
            b={"rule": "tcp-request content if { src 10.0.0.0/8 }"},
            c={"event": "on-tcp-response", "sets": {"txn.c": bool}},
        ),
        processing=3,
    )
    assert site_lines(made) == [
        "# Into the frontend, before its other rules.",
        "filter spoe engine iprep config spoe.conf",
        "tcp-request inspect-delay 4s",
        "tcp-request content send-spoe-group iprep b if { src 10.0.0.0/8 }",
        "# The agent has failed: without this rule such requests pass unchecked.",
        "tcp-request content reject if { var(txn.iprep.error) -m found }",
        "# What the agent sets. Rules that read it may look like these:",
        "#tcp-request content reject if { var(sess.iprep.denied) -m bool }",
        "#tcp-request content reject if { var(txn.iprep.n) -m int ge 1 }",
        "# Into each backend that the frontend uses, before its other rules.",
        "# The agent has failed: without this rule such requests pass unchecked.",
        "tcp-response content reject if { var(txn.iprep.error) -m found }",
        "# What the agent sets. Rules that read it may look like these:",
        "#tcp-response content reject if { var(txn.iprep.c) -m bool }",
    ]
    text = whole(made, "twistd")
    assert "frontend www\n    mode tcp\n" in text
    assert "backend app\n    mode tcp\n" in text


def test_events_of_a_backend() -> None:
    """A rule of the frontend would come too early, so the backends have it."""
    made = planned(handlers_of(a={"event": "on-backend-http-request", "sets": {"txn.allowed": bool}}))
    assert site_lines(made) == [
        "# Into the frontend, before its other rules.",
        "filter spoe engine iprep config spoe.conf",
        "# Into each backend that the frontend uses, before its other rules.",
        "# The agent has failed: without this rule such requests pass unchecked.",
        "http-request deny deny_status 503 if { var(txn.iprep.error) -m found }",
        "# What the agent sets. Rules that read it may look like these:",
        "#http-request deny unless { var(txn.iprep.allowed) -m bool }",
    ]
    assert "backend app\n    # The agent has failed" in whole(made, "twistd")


def test_rules_that_a_frontend_does_not_have() -> None:
    """With ``tcp-response content``, the filter and all rules are in a section ``listen``."""
    made = planned(
        handlers_of(a={"rule": "tcp-response content"}, b={"event": "on-backend-http-request"}), processing=0.5
    )
    assert site_lines(made) == [
        "# Into a section listen, with the server lines of the application, before its other rules.",
        "filter spoe engine iprep config spoe.conf",
        "tcp-response inspect-delay 1500ms",
        "tcp-response content send-spoe-group iprep a",
        "# The agent has failed: without this rule such requests pass unchecked.",
        "http-request deny deny_status 503 if { var(txn.iprep.error) -m found }",
        "http-response deny deny_status 503 if { var(txn.iprep.error) -m found }",
    ]
    assert "listen www\n    bind 127.0.0.1:8080\n    filter" in whole(made, "twistd")


def test_fail_open() -> None:
    made = planned(handlers_of(a={"event": "on-frontend-http-request"}), fail_open=True)
    assert site_lines(made)[-2:] == [
        "# The agent has failed: such requests pass unchecked. This rule would refuse them.",
        "#http-request deny deny_status 503 if { var(txn.iprep.error) -m found }",
    ]


ASKED: dict[str, dict[str, Any]] = {
    "check": {
        "event": "on-frontend-http-request",
        "sets": {"txn.allowed": bool, "txn.known": bool | None, "req.user": str},
    }
}


def test_required_variables() -> None:
    """A required variable has an active rule, in the order of the options, and no example any more."""
    made = planned(handlers_of(**ASKED), required=[Required("txn.known", 401), Required("txn.allowed")])
    assert site_lines(made)[-3:] == [
        '# The agent has to allow the request. "unless" also refuses when the variable is absent.',
        "http-request deny deny_status 401 unless { var(txn.iprep.known) -m bool }",
        "http-request deny deny_status 403 unless { var(txn.iprep.allowed) -m bool }",
    ]


def test_required_variables_fail_open() -> None:
    """With ``--fail open``, an absent variable lets the request pass."""
    made = planned(handlers_of(**ASKED), required=[Required("txn.allowed")], fail_open=True)
    assert site_lines(made)[-4:] == [
        "# The agent can refuse the request. When it has failed, the variable is absent, and the request passes.",
        "http-request deny deny_status 403 if { var(txn.iprep.allowed) -m found } !{ var(txn.iprep.allowed) -m bool }",
        "# What the agent sets. Rules that read it may look like these:",
        "#http-request deny unless { var(txn.iprep.known) -m bool }",
    ]


def test_required_variables_of_other_rules() -> None:
    """A response is denied, and a TCP connection is rejected."""
    answered = handlers_of(answer={"event": "on-http-response", "sets": {"res.clean": bool}})
    made = planned(answered, required=[Required("res.clean", 502)])
    assert site_lines(made)[-1] == "http-response deny deny_status 502 unless { var(res.iprep.clean) -m bool }"
    connected = handlers_of(hello={"event": "on-frontend-tcp-request", "sets": {"sess.allowed": bool}})
    made = planned(connected, required=[Required("sess.allowed")])
    assert site_lines(made)[-1] == "tcp-request content reject unless { var(sess.iprep.allowed) -m bool }"


@pytest.mark.parametrize(
    ("event", "required", "text"),
    [
        (
            "on-frontend-http-request",
            "txn.alowed",
            (
                "--require txn.alowed: no handler declares the variable 'txn.alowed' in its sets;"
                " did you mean txn.allowed?"
            ),
        ),
        (
            "on-frontend-http-request",
            "x=401",
            "--require x=401: no handler declares the variable 'x' in its sets; they declare txn.allowed, txn.score",
        ),
        (
            "on-frontend-http-request",
            "txn.score",
            "--require txn.score: txn.score is not declared as bool, so it is never true",
        ),
        (
            "on-frontend-tcp-request",
            "txn.allowed=403",
            (
                "--require txn.allowed=403: without messages of HTTP, HAProxy closes the connection, and there is"
                " no status"
            ),
        ),
    ],
)
def test_variables_that_cannot_be_required(event: str, required: str, text: str) -> None:
    handlers = handlers_of(check={"event": event, "sets": {"txn.allowed": bool, "txn.score": int}})
    with pytest.raises(CannotWrite) as raised:
        planned(handlers, required=[Required.parse(required)])
    assert str(raised.value) == text


@pytest.mark.parametrize("text", ["txn.allowed=", "txn.allowed=200", "txn.allowed=999", "txn.allowed=no"])
def test_statuses_that_refuse_nothing(text: str) -> None:
    with pytest.raises(ValueError, match="is not a status from 400 to 599"):
        Required.parse(text)


def test_names_and_servers() -> None:
    """The name of the engine is that of all sections. A prefix has other characters than a name."""
    made = planned(
        handlers_of(a={"event": "on-client-session", "sets": {"proc.load": int, "txn.a": bool}}),
        engine="my-engine",
        servers=["192.0.2.1:12345", "unix@/run/spoa"],
    )
    assert spoe_conf(made).startswith("[my-engine]\nspoe-agent my-engine-agent\n    messages a\n")
    assert "    option var-prefix my_engine\n    register-var-names load\n    option set-on-error" in spoe_conf(made)
    assert "use-backend my-engine-agents\n" in spoe_conf(made)
    assert "backend my-engine-agents\n" in parts(made)
    assert parts(made).endswith("    server agent1 192.0.2.1:12345\n    server agent2 unix@/run/spoa\n")
    assert "var-prefix short" in spoe_conf(planned(handlers_of(a={"event": "on-client-session"}), prefix="short"))


def test_lines_of_many_words() -> None:
    """HAProxy accepts 64 words a line, and adds up several lines."""
    args = {f"a{number}": "src" for number in range(61)}
    handlers = handlers_of(m={"args": args, "event": "on-client-session"})
    for number in range(60):
        handlers.message(f"m{number}", args={}, event="on-client-session")(takes_message)
    lines = spoe_conf(planned(handlers)).splitlines()
    assert [len(line.split()) for line in lines if line.startswith("    args")] == [61, 2]
    assert [len(line.split()) for line in lines if line.startswith("    messages")] == [61, 2]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("ip=src", "ip=src"),
        ("a=req.hdr(x-a),lower", "a=req.hdr(x-a),lower"),
        ("a=str(b c)", "'a=str(b c)'"),
        ("a=str(#)", "'a=str(#)'"),
        (r"a=str(\n)", r"'a=str(\n)'"),
        ("a=str($HOME)", "'a=str($HOME)'"),
        ('a=str("x")', """'a=str("x")'"""),
        ("a=str(it's)", r"'a=str(it'\''s)'"),
    ],
)
def test_quotes(word: str, text: str) -> None:
    assert quoted(word) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"), [(2000, "2s"), (120_000, "2m"), (5500, "5500ms"), (90_000, "90s"), (700, "700ms")]
)
def test_times(milliseconds: int, text: str) -> None:
    assert time_of(milliseconds) == text


@pytest.mark.parametrize(
    ("timeouts", "options", "lines"),
    [
        ([0.2], {}, ["timeout idle 2m", "timeout processing 2s"]),
        ([0.2, 5], {}, ["timeout processing 5500ms"]),
        ([0], {}, ["timeout processing 2s"]),
        ([200], {}, ["timeout idle 260500ms", "timeout processing 200500ms"]),
        ([5], {"processing": 1}, ["timeout processing 1s"]),
        ([5], {"processing": 0.0001}, ["timeout processing 1ms"]),
    ],
)
def test_timeouts(timeouts: list[float], options: dict[str, Any], lines: list[str]) -> None:
    """HAProxy waits for the slowest handler and half a second more, and at least two seconds."""
    messages: dict[str, Any] = {
        f"m{number}": {"timeout": timeout, "event": "on-client-session"} for number, timeout in enumerate(timeouts)
    }
    text = spoe_conf(planned(handlers_of(**messages), **options)).splitlines()
    for line in lines:
        assert f"    {line}" in text


def test_timeout_of_the_agents_backend() -> None:
    """HAProxy keeps a connection longer than it waits on it."""
    made = planned(handlers_of(m={"timeout": 240, "event": "on-client-session"}))
    assert (made.processing, made.idle, made.server) == (240_500, 300_500, 360_500)


@pytest.mark.parametrize(
    ("handlers", "options", "text"),
    [
        ({"m": {}}, {}, "no handler declares its arguments and when HAProxy asks it"),
        ({"m": {"sets": {"txn.error": str}}}, {}, "declares 'txn.error', which HAProxy sets when the agent fails"),
        ({"m": {"sets": {"txn." + "x" * 54: str}}}, {}, "has more than 63 characters with the prefix 'iprep'"),
        ({"m": {}}, {"prefix": "x" * 60}, "is too long: HAProxy would drop the variables; use a shorter --prefix"),
        ({"m": {}}, {"prefix": "a-b"}, "'a-b' cannot be the prefix of variables"),
        ({"m": {}}, {"engine": "a b"}, "'a b' cannot be the name of an engine"),
        ({"m": {}}, {"servers": ["localhost"]}, "'localhost' is not the address of an agent"),
        ({"m": {}}, {"servers": ["a b:1"]}, "'a b:1' is not the address of an agent"),
        ({"m": {}}, {"servers": ["localhost:"]}, "'localhost:' is not the address of an agent"),
        ({"m": {}}, {"servers": ["localhost:x"]}, "'localhost:x' is not the address of an agent"),
        ({"m": {}}, {"servers": ["localhost:65536"]}, "'localhost:65536' is not the address of an agent"),
        ({"m": {}}, {"servers": ["::1"]}, "'::1' is not the address of an agent"),
        ({"m": {}}, {"servers": [":1"]}, "':1' is not the address of an agent"),
        ({"m": {"timeout": 1e9}}, {}, "HAProxy would wait 1e+09 s for a handler: give it a shorter timeout, or use"),
    ],
)
def test_errors(handlers: dict[str, Any], options: dict[str, Any], text: str) -> None:
    """The text says what is wrong and what to do. A near configuration is written."""
    event = {} if text.startswith("no handler") else {"event": "on-client-session"}
    made = handlers_of(**{name: {**each, **event} for name, each in handlers.items()})
    with pytest.raises(CannotWrite) as raised:
        planned(made, **options)
    assert text in str(raised.value)
    near = handlers_of(m={"event": "on-client-session", "sets": {"txn." + "x" * 53: str, "txn.err": str}})
    planned(near, servers=["localhost:1", "ipv4@localhost:65535", "[::1]:1", "::1:1", "/run/spoa", "unix@spoa"])


FRONTEND = "on-frontend-http-request"


@pytest.mark.parametrize(
    "when",
    [{"event": FRONTEND}, {"event": f"{FRONTEND} if {{ path / }}"}, {"rule": "http-request unless { path / }"}],
)
def test_two_handlers_of_one_notify_set_the_same_variable(when: dict[str, Any]) -> None:
    """The later one would replace what the earlier one has set, so nothing is written."""
    sets = {"sets": {"txn.allowed": bool}}
    with pytest.raises(CannotWrite) as raised:
        planned(handlers_of(other={**when}, check_token={**when, **sets}, check_ip={**when, **sets}))
    assert str(raised.value) == (
        "the handlers of 'check-token' and 'check-ip' both set 'txn.allowed', and HAProxy asks both in one NOTIFY: the"
        " last one wins, so a request that the other one refuses passes; give each a variable of its own, and a"
        " --require of its own"
    )


@pytest.mark.parametrize(
    "other",
    [
        {"event": f"{FRONTEND} if {{ path / }}"},
        {"event": "on-backend-http-request"},
        {"rule": "http-request"},
        {"rule": "http-request if { path / }"},
        {"event": FRONTEND, "sets": {"txn.known": bool}},
    ],
)
def test_two_handlers_of_two_notifys_may_set_the_same_variable(other: dict[str, Any]) -> None:
    sets = {"sets": {"txn.allowed": bool}}
    assert planned(handlers_of(a={"event": FRONTEND, **sets}, b={**sets, **other})).messages


@pytest.mark.parametrize(
    ("module", "engine"),
    [
        ("iprep", "iprep"),
        ("package.handlers", "handlers"),
        ("package.handlers:other", "handlers"),
        ("path/to/ip-rep.py", "ip-rep"),
        ("path/to/my rules.py:other", "my_rules"),
        ("módulo", "m_dulo"),
    ],
)
def test_name_of_a_module(module: str, engine: str) -> None:
    assert engine_name(module) == engine


def set_allowed(ip: object, user_agent: object = None, x_id: object = None) -> Any:
    return {"txn.allowed": ip == user_agent, "txn.name": x_id}


def of_response(status: int) -> Any:
    return {}


def test_advice() -> None:
    """A handler that does not declare enough gets an example, made from its parameters and its source."""
    handlers = Handlers(default=takes_message)
    handlers.message("set-allowed")(set_allowed)
    handlers.message("of-response", sets={"res.slow": bool})(of_response)
    handlers.message("no-args", rule="http-request if { path /'a' }")(set_allowed)
    handlers.message("no-when", args={"message": 'str("a")'})(takes_message)
    handlers.message("no-args-2", event="on-client-session")(set_allowed)
    handlers.message("header", event="on-client-session")(lambda referer, cookies: None)
    handlers.message("complete", args={}, event="on-client-session")(takes_message)
    handlers.message("complete-too", event="on-client-session")(lambda: None)
    where = f"{__name__}."
    text = advice(answers(handlers, 1))
    assert text.count("@handlers.message(\n") == 6
    assert (
        f"the handler {where}set_allowed of the message 'set-allowed' does not declare its arguments (args) and when"
        " HAProxy asks it (event or rule), so it is not written. Add the lines that it lacks, with your values:\n\n"
        "@handlers.message(\n"
        '    "set-allowed",\n'
        '    args={"ip": "src", "user_agent": "req.fhdr(user-agent)", "x_id": "req.hdr(x-id)"},\n'
        '    event="on-frontend-http-request",\n'
        '    sets={"txn.allowed": bool, "txn.name": str},\n'
        ")\n" in text
    )
    assert '    args={"status": "status"},\n    event="on-http-response",\n    sets={"res.slow": bool},\n' in text
    assert """    rule="http-request if { path /'a' }",\n""" in text
    assert """    args={"message": 'str("a")'},\n    event="on-frontend-http-request",\n""" in text
    assert '    event="on-client-session",\n' in text
    assert '    args={"referer": "req.fhdr(referer)", "cookies": "req.fhdr(cookie)"},\n' in text
    assert "complete" not in text
    assert f"the default handler {where}takes_message answers messages whose names are not known here" in text
    assert advice(answers(handlers_of(m={"event": "on-client-session"}), 1)) == ""
