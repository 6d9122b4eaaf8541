"""Proxies have the settings and the rules of their defaults, and their own."""

from __future__ import annotations

import pytest

from spoa_twisted.haproxy.configuration import Proxy
from spoa_twisted.haproxy.grammar.documents import parse_lines
from spoa_twisted.haproxy.grammar.outline import sections
from spoa_twisted.haproxy.proxies import proxies
from spoa_twisted.haproxy.rules import parse_rule


def read(text: str) -> dict[str, Proxy]:
    """Return the proxies of a configuration by name. Unnamed defaults are numbered."""
    found = proxies(sections(parse_lines(text, "haproxy.cfg", {}).lines, (3, 0)))
    return {proxy.name or f"defaults {number}": proxy for number, proxy in enumerate(found)}


def lines(proxy: Proxy) -> list[str]:
    """Return the settings of a proxy."""
    return [" ".join(setting.texts) for setting in proxy.settings]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("http-request deny if a", ("http-request", "deny", [], True)),
        (
            "http-request set-var(txn.a) str(b) unless c",
            ("http-request", "set-var", ["set-var(txn.a)", "str(b)"], True),
        ),
        ("http-request set-header X %[src]", ("http-request", "set-header", ["X", "%[src]"], False)),
        ("http-request", ("http-request", "", [], False)),
        ("http-response deny", ("http-response", "deny", [], False)),
        ("http-after-response del-header X", ("http-after-response", "del-header", ["X"], False)),
        ("tcp-request connection reject", ("tcp-request connection", "reject", [], False)),
        ("tcp-request session accept", ("tcp-request session", "accept", [], False)),
        ("tcp-request content accept if a", ("tcp-request content", "accept", [], True)),
        ("tcp-response content close", ("tcp-response content", "close", [], False)),
        ("quic-initial reject", ("quic-initial", "reject", [], False)),
        ("stick on src table t if a", ("stick", "on", ["src", "table", "t"], True)),
        ("use_backend b if a", ("use_backend", "", ["b"], True)),
        ("use-server s unless a", ("use-server", "", ["s"], True)),
        ("redirect scheme https", ("redirect", "", ["scheme", "https"], False)),
        ("tcp-request inspect-delay 5s", None),
        ("tcp-request", None),
        ("option httplog", None),
    ],
)
def test_rules(text: str, found: tuple[str, str, list[str], bool] | None) -> None:
    """A rule has a ruleset, an action, arguments and a condition."""
    proxy = read(f"frontend f\n  {text}\n")["f"]
    rule = parse_rule(proxy.settings[0])
    assert proxy.rules == (() if rule is None else (rule,))
    if found is None:
        assert rule is None
    else:
        assert rule is not None
        arguments = [word.text for word in rule.arguments]
        assert (rule.ruleset, rule.action, arguments, rule.condition is not None) == found


DEFAULTS = """\
defaults
    mode http
    log global
    timeout client 1s
    timeout server 1s
    option httplog
    option httpchk
    option forwardfor
    default_backend b
    balance leastconn
    errorfile 503 a
defaults named
    acl bad src 10.0.0.1
    acl worse src 10.0.0.2
    tcp-request connection reject if bad
    tcp-request inspect-delay 1s
    http-request deny if bad
    tcp-response content close
defaults child from named
    http-request deny if worse
"""


def test_own_settings_replace() -> None:
    """A proxy's own setting replaces that of its defaults, if a proxy has only one of the kind."""
    found = read(DEFAULTS + "listen l from defaults\nlisten m\n")
    assert lines(found["l"]) == []
    own = "  mode tcp\n  log stdout\n  timeout server 2s\n  option httpchk GET /\n  balance source\n  errorfile 504 b\n"
    start = DEFAULTS[: DEFAULTS.index("defaults named")]
    assert lines(read(f"{start}listen l\n{own}")["l"]) == [
        "log global",
        "timeout client 1s",
        "option httplog",
        "option forwardfor",
        "default_backend b",
        "errorfile 503 a",
        "mode tcp",
        "log stdout",
        "timeout server 2s",
        "option httpchk GET /",
        "balance source",
        "errorfile 504 b",
    ]


def test_a_frontend_and_a_backend_inherit_what_they_use() -> None:
    """A backend has no log format, and a frontend no balance."""
    start = DEFAULTS[: DEFAULTS.index("defaults named")]
    found = read(f"{start}frontend f\nbackend b\n")
    assert lines(found["f"]) == [
        *("mode http", "log global", "timeout client 1s", "option httplog", "option forwardfor", "default_backend b"),
        "errorfile 503 a",
    ]
    assert lines(found["b"]) == [
        *("mode http", "log global", "timeout server 1s", "option httpchk", "option forwardfor", "balance leastconn"),
        "errorfile 503 a",
    ]


def test_no() -> None:
    """A line with ``no`` removes what stands above it, and in the defaults."""
    own = "  option b\n  no option a\n  no log\n  log x\n  no option b\n  no\n"
    assert lines(read(f"defaults\n  option a\n  log global\nlisten l\n{own}")["l"]) == ["log x"]


def test_rules_of_defaults_come_first() -> None:
    """A proxy has the rules of its defaults, and of their defaults, and the ACLs that these rules name."""
    found = read(
        f"{DEFAULTS}frontend f from child\n  acl bad src 10.0.0.3\n  http-request allow if bad\nbackend b from child\n"
    )
    assert [(rule.ruleset, rule.action, rule.setting.place.line) for rule in found["f"].rules] == [
        ("tcp-request connection", "reject", 15),
        ("http-request", "deny", 17),
        ("http-request", "deny", 20),
        ("http-request", "allow", 23),
    ]
    assert [rule.setting.place.line for rule in found["b"].rules] == [17, 18, 20]
    assert {name: [term.patterns for term in terms] for name, terms in found["f"].acls.items()} == {
        "bad": [("10.0.0.3",)],
        "worse": [("10.0.0.2",)],
    }


def test_which_defaults() -> None:
    """Without ``from``, a proxy has the last defaults above it. Unknown defaults are none."""
    text = "listen a\ndefaults\n  mode http\ndefaults n\n  mode log\ndefaults\n"
    found = read(f"{text}listen b\nlisten c from n\nlisten d from x\nuserlist u\n")
    assert {name: proxy.mode for name, proxy in found.items() if proxy.kind == "listen"} == {
        "a": "tcp",
        "b": "tcp",
        "c": "log",
        "d": "tcp",
    }
    assert "u" not in found
    assert (found["c"].place.line, found["c"].last("mode"), found["c"].all("x")) == (8, found["n"].settings[0], [])
    assert found["d"].last("mode") is None


def test_mode_without_a_word() -> None:
    """A line that HAProxy refuses sets no mode."""
    assert read("listen a\n  mode\n")["a"].mode == "tcp"
