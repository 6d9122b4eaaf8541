"""What a handler declares for HAProxy's configuration, and the errors of declarations that cannot work."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from ipaddress import IPv4Address
from types import NoneType
from typing import Any, Optional

import pytest

from spoa_twisted import Declaration, Handlers, Int64, Message
from spoa_twisted.handlers.declaration import REQUEST_EVENTS, RESPONSE_EVENTS, split_condition
from spoa_twisted.handlers.declaring import words_of
from spoa_twisted.handlers.variable_types import joined, members_of, show_type
from tests.conftest import Logged
from tests.handlers.answers import respond


def register(function: Callable[..., Any], **options: Any) -> Declaration:
    """Register ``function`` with ``options``; return what it declares."""
    handlers = Handlers()
    assert handlers.message("m", **options)(function) is function
    return handlers.declarations["m"]


def takes_ip(ip: object) -> None:
    return None


def takes_nothing() -> None:
    return None


def test_a_declaration_is_kept() -> None:
    """It is frozen, and later changes of the dicts do not change it."""
    args = {"ip": "src"}
    sets: dict[str, Any] = {"sess.score": int, "req.user": str | None}
    declaration = register(takes_ip, args=args, event=" on-frontend-http-request ", sets=sets)
    args.clear()
    sets.clear()
    assert declaration == Declaration(
        args={"ip": "src"}, event="on-frontend-http-request", sets={"sess.score": int, "req.user": str | None}
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        declaration.event = None  # type: ignore[misc]
    with pytest.raises(TypeError):
        declaration.args["ip"] = "dst"  # type: ignore[index]


def test_nothing_is_declared() -> None:
    """All options may be left out. The default handler declares nothing."""
    assert register(takes_ip) == Declaration()
    assert Declaration().when is None
    handlers = Handlers(default=takes_ip)
    assert handlers.declarations == {}
    assert [handler.declaration for _, handler in handlers.registered()] == [Declaration()]


def test_merged_keeps_declarations() -> None:
    one, two = Handlers(), Handlers()
    one.message("a", event="on-client-session")(takes_nothing)
    two.message("b", rule="http-request")(takes_nothing)
    assert Handlers.merged(one, two).declarations == {
        "a": Declaration(event="on-client-session"),
        "b": Declaration(rule="http-request"),
    }


@pytest.mark.parametrize("event", [*REQUEST_EVENTS, *RESPONSE_EVENTS])
def test_events(event: str) -> None:
    """Each event is known, with a condition or without."""
    assert register(takes_nothing, event=event).when == (event, "")
    assert register(takes_nothing, event=f"{event} unless { {'x'} }").when == (event, "unless {'x'}")


@pytest.mark.parametrize(
    ("text", "name", "condition"),
    [
        ("http-request", "http-request", ""),
        ("http-request if { method POST PUT }", "http-request", "if { method POST PUT }"),
        ("tcp-request  content  unless { src 10.0.0.0/8 }", "tcp-request content", "unless { src 10.0.0.0/8 }"),
        ("http-request iffy", "http-request iffy", ""),
        ("http-request if", "http-request", "if"),
    ],
)
def test_a_name_and_a_condition(text: str, name: str, condition: str) -> None:
    assert split_condition(text) == (name, condition)


def test_words_of_a_condition() -> None:
    """Words are cut as HAProxy cuts them; quotes stay."""
    text = r"""if { path -m str 'a b' "c \" d" e\ f\#  '#' \\ $x } or x"""
    assert list(words_of(text)) == [
        *("if", "{", "path", "-m", "str", "'a b'", r'"c \" d"', r"e\ f\#", "'#'", "\\\\", "$x", "}", "or", "x")
    ]


def test_arguments_and_parameters() -> None:
    """``-`` and ``.`` match ``_``. ``**others`` and ``message`` take each argument; a default needs none."""

    def named(x_forwarded_for: str, ip: str = "", /, *, user_agent: str) -> None:
        return None

    register(named, args={"x-forwarded.for": "req.hdr(x-forwarded-for)", "user-agent": "req.fhdr(user-agent)"})
    register(lambda **others: None, args={"any": "src"})
    register(lambda message: None, args={"any": "src"})
    register(takes_nothing, args={})


@pytest.mark.parametrize(
    ("function", "options", "error", "text"),
    [
        (takes_ip, {"args": "src"}, TypeError, """args is a str, not a dict; write args={"ip": "src"}"""),
        (takes_ip, {"args": {5: "src"}}, TypeError, "a name in args is an int, not a str"),
        (takes_ip, {"args": {"ip": 5}}, TypeError, "the argument 'ip' is an int, not a str: write a sample expression"),
        (takes_ip, {"event": 5}, TypeError, "event is an int, not a str"),
        (takes_ip, {"rule": b"http-request"}, TypeError, "rule is a bytes, not a str"),
        (
            takes_ip,
            {"event": "on-frontend-http-request\nglobal"},
            ValueError,
            "HAProxy reads one line, so leave out line ends",
        ),
        (takes_ip, {"sets": ["txn.a"]}, TypeError, """sets is a list, not a dict; write sets={"txn.denied": bool}"""),
        (
            takes_ip,
            {"event": "on-client-session", "rule": "http-request"},
            ValueError,
            "both event and rule are given, so HAProxy would ask twice: leave one of them out",
        ),
        (
            takes_ip,
            {"event": "on-frontend-http-requests"},
            ValueError,
            "'on-frontend-http-requests', which HAProxy does not have; did you mean 'on-frontend-http-request'",
        ),
        (takes_ip, {"rule": "log"}, ValueError, "use one of http-request, tcp-request content, http-response"),
        (
            takes_ip,
            {"rule": "http-request deny"},
            ValueError,
            "rule begins with 'http-request deny', which HAProxy does not have; did you mean 'http-request'",
        ),
        (takes_ip, {"rule": ""}, ValueError, "rule begins with ''"),
        (
            takes_ip,
            {"rule": "http-request if"},
            ValueError,
            "rule ends with 'if' without a condition: write one behind it",
        ),
        (takes_ip, {"rule": "http-request if { path /#a }"}, ValueError, "'#' begins a comment: write it in quotes"),
        (takes_ip, {"rule": "http-request if { path 'a }"}, ValueError, "' has no end: write it in quotes, or end it"),
        (takes_ip, {"rule": 'http-request if { path "a\\" }'}, ValueError, '" has no end'),
        (takes_ip, {"rule": "http-request if { path \\"}, ValueError, "\\ has no end"),
        (
            takes_ip,
            {"rule": f"http-request if {{ path {'x ' * 60}}}"},
            ValueError,
            "the condition of rule has 64 words, and a line of HAProxy has at most 64",
        ),
        (takes_ip, {"args": {"ip=": "src"}}, ValueError, "HAProxy ends it at the first '='"),
        (takes_ip, {"args": {"": "src"}}, ValueError, "the argument '' cannot have this name"),
        (takes_ip, {"args": {"ip\n": "src"}}, ValueError, "the argument 'ip\\n' cannot have this name"),
        (takes_ip, {"args": {"ip": " "}}, ValueError, "write a sample expression on one line, such as 'src'"),
        (takes_ip, {"args": {"ip": "src\n"}}, ValueError, "write a sample expression on one line, such as 'src'"),
        (
            takes_ip,
            {"args": {}},
            ValueError,
            "args has no 'ip', which the handler needs: add it, or give the parameter a default",
        ),
        (
            takes_ip,
            {"args": {"ip": "src", "ipp": "src"}},
            ValueError,
            "no parameter of the handler takes the argument 'ipp'; did you mean 'ip'?",
        ),
        (
            takes_ip,
            {"args": {"ip": "src", "port": "src_port"}},
            ValueError,
            "no parameter of the handler takes the argument 'port'",
        ),
        (
            lambda **others: None,
            {"args": {"a-b": "src", "a.b": "dst"}},
            ValueError,
            "the arguments 'a-b' and 'a.b' are one parameter, 'a_b': rename one of them",
        ),
        (
            takes_ip,
            {"args": {"ip": "req.body,lower"}, "event": "on-frontend-tcp-request if { src 10.0.0.1 }"},
            ValueError,
            "the argument 'ip' reads req.body, but at on-frontend-tcp-request HAProxy has not read an HTTP request",
        ),
        (
            takes_ip,
            {"args": {"ip": "req.body"}, "rule": "tcp-request content"},
            ValueError,
            "write rule='http-request'",
        ),
        (
            takes_ip,
            {"args": {"ip": "res.body"}, "event": "on-http-response"},
            ValueError,
            "reads res.body, but at on-http-response the body has not arrived: write rule='http-response'",
        ),
        (
            takes_ip,
            {"sets": {"sess.a": 5}},
            TypeError,
            "sets: variable 'sess.a': 5 is an int, not a type; write a type, such as bool, int or str | None",
        ),
        (takes_ip, {"sets": {"sess.a": float}}, TypeError, "SPOP has no type for float; use bool, int, str, bytes"),
        (takes_ip, {"sets": {"sess.a": list[str]}}, TypeError, "not a type"),
        (takes_ip, {"sets": {"score": int}}, ValueError, "variable 'score' has no scope: write 'txn.score'"),
        (
            takes_ip,
            {"sets": {"tx.score": int}},
            ValueError,
            "sets: variable 'tx.score': 'tx' is not a scope; use one of proc, sess, txn, req, res",
        ),
        (takes_ip, {"sets": {"txn.a-b": int}}, ValueError, "HAProxy drops names with characters other than"),
        (
            takes_ip,
            {"sets": {"txn." + "x" * 58: int}},
            ValueError,
            "is too long: with the agent's prefix HAProxy allows 63 characters, and drops longer names",
        ),
        (
            takes_ip,
            {"sets": {"req.a": int}, "event": "on-http-response"},
            ValueError,
            "variable 'req.a': at on-http-response HAProxy drops req. variables: use res. or txn.",
        ),
        (
            takes_ip,
            {"sets": {"req.a": int}, "event": "on-server-session"},
            ValueError,
            "variable 'req.a': at on-server-session HAProxy drops req. variables: use res. or txn.",
        ),
        (
            takes_ip,
            {"sets": {"req.a": int}, "rule": "tcp-response content if { always_true }"},
            ValueError,
            "at tcp-response content HAProxy drops req. variables",
        ),
        (
            takes_ip,
            {"sets": {"res.a": int}, "event": "on-frontend-http-request"},
            ValueError,
            "variable 'res.a': at on-frontend-http-request HAProxy drops res. variables: use req. or txn.",
        ),
        (takes_ip, {"sets": {"res.a": int}, "rule": "http-request"}, ValueError, "at http-request HAProxy drops res."),
        (
            takes_ip,
            {"sets": {"txn.a": int}, "on_error": {"txn.b": 1}},
            ValueError,
            "on_error sets 'txn.b', which sets does not declare: add it to sets, or set 'txn.error'",
        ),
        (
            takes_ip,
            {"sets": {"txn.a": bool}, "on_error": {"txn.a": 1}},
            TypeError,
            "on_error sets 'txn.a' to an int, but sets declares bool",
        ),
        (
            takes_ip,
            {"sets": {"txn.a": bool}, "on_error": {"txn.a": None}},
            TypeError,
            "on_error sets 'txn.a' to a NoneType, but sets declares bool",
        ),
    ],
)
def test_errors(function: Callable[..., Any], options: dict[str, Any], error: type[Exception], text: str) -> None:
    """The text names the message, says what is wrong and what to do. The handler is not registered."""
    handlers = Handlers()
    with pytest.raises(error, match=re.escape(text)) as raised:
        handlers.message("m", **options)(function)
    assert type(raised.value) is error
    assert str(raised.value).startswith("the message 'm': ")
    assert "m" not in handlers


def test_what_is_allowed_near_these_errors() -> None:
    """Near the errors, declarations are accepted."""
    register(takes_ip, args={"ip": "req.body"}, event="on-frontend-http-request")
    register(takes_ip, args={"ip": "res.body"}, rule="http-response")
    register(takes_ip, args={"ip": "req.body_size"}, event="on-backend-http-request")
    register(takes_nothing, sets={"req.a": int}, event="on-frontend-tcp-request")
    register(takes_nothing, sets={"res.a": int}, event="on-http-response")
    register(takes_nothing, sets={"res.a": int}, event="on-server-session")
    register(takes_nothing, sets={"txn." + "x" * 57: int})
    register(takes_nothing, sets={"txn.a": bool}, on_error={"txn.error": "handler", "txn.a": False})
    register(takes_nothing, sets={"txn.a": str | None}, on_error={"txn.a": None})
    register(takes_nothing, rule=f"http-request if {{ path {'x ' * 54}}}")


def test_on_error_of_all_handlers() -> None:
    """A handler that declares ``sets`` declares the variables of the common ``on_error``, too, or has its own."""
    handlers = Handlers(on_error={"txn.denied": True})
    with pytest.raises(ValueError, match=r"on_error sets 'txn\.denied'"):
        handlers.message("a", sets={"txn.score": int})(takes_nothing)
    handlers.message("a", sets={"txn.score": int}, on_error={})(takes_nothing)
    handlers.message("b", sets={"txn.denied": bool})(takes_nothing)


def test_types() -> None:
    """Types are those that arrive: a subclass arrives as its base, Int64 as int, bytearray as bytes."""

    class Name(str):
        __slots__ = ()

    assert members_of(Optional[Name]) == (str, NoneType)  # noqa: UP045
    assert members_of(Int64 | None) == (int, NoneType)
    assert members_of(None) == (NoneType,)
    assert members_of(bytearray | IPv4Address) == (bytes, IPv4Address)
    assert show_type(str | None) == "str | None"
    assert joined([str, NoneType, str]) == str | None
    assert joined([bool]) is bool


def test_the_agent_only_warns(logged: Logged) -> None:
    """A handler may get other arguments, and set other variables, than it declares."""
    handlers = Handlers()
    handlers.message("m", args={"ip": "src"}, sets={"txn.a": bool})(lambda ip: {"txn.b": ip})
    assert respond(handlers, Message("m", [("ip", 5)])) == {"txn.b": 5}
    assert logged.take() == [
        "warn: the handler of the message 'm' set 'txn.b', which its sets does not declare; did you mean 'txn.a'?"
    ]
