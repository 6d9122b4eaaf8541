"""Each expression that reads a variable is found, wherever it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from spoa_twisted.haproxy.configuration import Reading
from spoa_twisted.haproxy.grammar.samples import parse_expression
from spoa_twisted.haproxy.reading import read
from spoa_twisted.haproxy.readings import variables_in


def readings(folder: Path, haproxy: str, engine: str = "") -> tuple[Reading, ...]:
    """Return the readings of a configuration."""
    (folder / "haproxy.cfg").write_text(haproxy)
    (folder / "spoe.conf").write_text(engine)
    return read([folder / "spoe.conf"], [folder / "haproxy.cfg"], version=(3, 0), environment={}).readings


@pytest.mark.parametrize(
    ("line", "variables"),
    [
        ("http-request deny if { var(txn.a) -m bool } or !{ var(txn.b) -m found }", ["txn.a", "txn.b"]),
        ("http-request deny unless bad { src 10.0.0.1 }", ["txn.bad"]),
        ("http-request set-header X %[var(txn.a),lower]:%[var(txn.b)]", ["txn.a", "txn.b"]),
        ("http-request set-var(txn.x) var(txn.a),concat(-,txn.b,x)", ["txn.a", "txn.b"]),
        ("http-request set-map(m,%[var(txn.a)]) b %[var(txn.c)]", ["txn.a", "txn.c"]),
        ("http-request return status 200 lf-string %[var(txn.a)] if { var(txn.b) -m found }", ["txn.a", "txn.b"]),
        ("http-request return status 200 string %[var(txn.a)]", []),
        ("http-request set-header X %[acl(bad,!good)]", ["txn.bad", "txn.good"]),
        ("http-request deny if { acl(bad) }", ["txn.bad"]),
        ("http-response set-header X %[var(txn.a)]", ["txn.a"]),
        ("tcp-request content track-sc0 var(txn.a)", ["txn.a"]),
        ("use_backend %[var(txn.a)] if bad", ["txn.a", "txn.bad"]),
        ("balance hash var(txn.a)", ["txn.a"]),
        ("stick on var(txn.a) table t", ["txn.a"]),
        ('log-format "%ci %{+Q}[var(txn.a)]"', ["txn.a"]),
        ("server s 127.0.0.1:1 sni var(txn.a)", ["txn.a"]),
        ("monitor fail if { var(txn.a) -m found }", ["txn.a"]),
        ("acl unused var(txn.a) -m bool", []),
        ("description %[var(txn.a)]", []),
        ("http-request deny if unknown", []),
        ("http-request deny if circle", ["txn.c"]),
        ("http-request deny if { src( }", []),
    ],
)
def test_readings(line: str, variables: list[str], tmp_path: Path) -> None:
    """Conditions, named ACLs, log formats and arguments of actions are read."""
    acls = "acl bad var(txn.bad) -m bool\n acl good var(txn.good)\n acl circle acl(circle)\n acl circle var(txn.c)\n"
    found = readings(tmp_path, f"listen l\n {acls} {line}\n")
    assert [reading.variable for reading in found] == variables
    assert {reading.setting.place.line for reading in found} <= {6}


def test_a_reading(tmp_path: Path) -> None:
    """A reading knows its rule, its expression, and the term with the named ACL."""
    (reading,) = readings(tmp_path, "frontend f\n acl bad var(txn.a),lower -m str x\n http-request deny if !bad\n")
    assert reading.proxy.name == "f"
    assert (reading.rule, reading.setting) == (reading.proxy.rules[0], reading.proxy.rules[0].setting)
    assert (reading.expression.text, reading.word.place.line, reading.message) == ("var(txn.a),lower", 2, None)
    assert reading.acl is not None
    assert (reading.acl.text, reading.acl.place.line) == ("!bad", 3)
    assert reading.term is not None
    assert (reading.term.negated, reading.term.flags, reading.term.patterns) == (True, ("-m", "str"), ("x",))


def test_other_settings(tmp_path: Path) -> None:
    """The reading of a log format has no rule and no term."""
    (reading,) = readings(tmp_path, "frontend f\n log-format %[var(txn.a)]\n")
    assert (reading.rule, reading.term, reading.acl, reading.setting.texts[0]) == (None, None, None, "log-format")


def test_defaults(tmp_path: Path) -> None:
    """Each proxy has the readings of its defaults; the defaults themselves have none."""
    text = "defaults d\n acl bad var(txn.a)\n http-request deny if bad\nfrontend f from d\nbackend b from d\n"
    assert [(reading.proxy.name, reading.variable) for reading in readings(tmp_path, text)] == [
        ("f", "txn.a"),
        ("b", "txn.a"),
    ]


ENGINE = """\
spoe-agent a
    messages m
spoe-message m
    args a=var(txn.a) b=src c=src(
    args d=var(txn.d)
    acl bad var(txn.bad)
    event on-frontend-http-request if bad
spoe-message n
"""


def test_messages(tmp_path: Path) -> None:
    """A message's arguments and the condition of its event are readings of the proxy with the filter."""
    found = readings(tmp_path, "frontend f\n filter spoe config spoe.conf\n", ENGINE)
    assert [
        (each.variable, each.setting.place.line, each.proxy.name, each.message and each.message.name) for each in found
    ] == [
        ("txn.a", 4, "f", "m"),
        ("txn.d", 5, "f", "m"),
        ("txn.bad", 7, "f", "m"),
    ]


def test_no_scope(tmp_path: Path) -> None:
    """A filter whose scope does not exist has no readings."""
    assert readings(tmp_path, "frontend f\n filter spoe engine e config spoe.conf\n", ENGINE) == ()


def test_many_acls(tmp_path: Path) -> None:
    """A long chain of ACLs is no error."""
    acls = "".join(f" acl a{number} acl(a{number + 1})\n" for number in range(1000))
    assert readings(tmp_path, f"listen l\n{acls} http-request deny if a0\n") == ()


@pytest.mark.parametrize(
    ("text", "variables"),
    [
        ("var(txn.a)", ["txn.a"]),
        ("int(1),add(txn.a),mul(2)", ["txn.a"]),
        ("str(a),concat(txn.x,txn.a)", ["txn.a"]),
        ("str(a),concat(a,b,txn.c)", []),
        ("src,add()", []),
        ("req.body,aes_gcm_dec(128,txn.nonce,txn.key,txn.tag)", ["txn.nonce", "txn.key", "txn.tag"]),
    ],
)
def test_converters(text: str, variables: list[str]) -> None:
    """Some converters read variables."""
    expression = parse_expression(text)
    assert expression is not None
    assert list(variables_in(expression)) == variables
