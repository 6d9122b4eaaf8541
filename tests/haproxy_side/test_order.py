"""The order of events and rules, as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from spoa_twisted.haproxy.configuration import Configuration, Proxy
from spoa_twisted.haproxy.order import (
    EVENTS,
    RULESETS,
    Stage,
    event_in,
    is_before,
    runs_before,
    stage_of_event,
    stage_of_reading,
    stage_of_rule,
)
from spoa_twisted.haproxy.reading import read

SECTION = """
    tcp-request connection reject
    tcp-request session reject
    tcp-request content reject
    http-request deny
    http-request allow
    redirect location /
    use_backend b if TRUE
    use-server s if TRUE
    stick on src
    stick store-response src
    tcp-response content reject
    http-response deny
    http-after-response allow
"""


@pytest.fixture
def proxies(tmp_path: Path) -> dict[str, Proxy]:
    """A frontend, a backend and a listen with rules of all kinds."""
    path = tmp_path / "haproxy.cfg"
    path.write_text(f"frontend f{SECTION}backend b{SECTION}listen l{SECTION}")
    return {proxy.name: proxy for proxy in read([], [path], version=(3, 0), environment={}).proxies}


def test_stages_of_rules(proxies: dict[str, Proxy]) -> None:
    """The stage of a rule depends on its ruleset, and on the kind of its proxy."""
    frontend, backend, listen = (
        [stage_of_rule(rule, proxy) for rule in proxy.rules] for proxy in (proxies["f"], proxies["b"], proxies["l"])
    )
    assert frontend == listen
    assert frontend == [
        *(Stage.TCP_REQUEST_CONNECTION, Stage.TCP_REQUEST_SESSION, Stage.FRONTEND_TCP_REQUEST_CONTENT),
        *(Stage.FRONTEND_HTTP_REQUEST, Stage.FRONTEND_HTTP_REQUEST, Stage.FRONTEND_REDIRECT, Stage.USE_BACKEND),
        *(Stage.SERVER, Stage.SERVER, None, Stage.TCP_RESPONSE_CONTENT, Stage.FRONTEND_HTTP_RESPONSE),
        Stage.FRONTEND_HTTP_AFTER_RESPONSE,
    ]
    assert backend == [
        *(None, None, Stage.BACKEND_TCP_REQUEST_CONTENT, Stage.BACKEND_HTTP_REQUEST, Stage.BACKEND_HTTP_REQUEST),
        *(Stage.BACKEND_REDIRECT, None, Stage.SERVER, Stage.SERVER, None, Stage.TCP_RESPONSE_CONTENT),
        *(Stage.BACKEND_HTTP_RESPONSE, Stage.BACKEND_HTTP_AFTER_RESPONSE),
    ]


def test_events(proxies: dict[str, Proxy]) -> None:
    """In a ``listen`` an event of the backend is one of the frontend. A backend's filter sees no earlier events."""
    assert event_in("on-backend-http-request", proxies["l"]) == "on-frontend-http-request"
    assert event_in("on-backend-http-request", proxies["f"]) == "on-backend-http-request"
    assert stage_of_event("on-backend-tcp-request", proxies["l"]) == Stage.ON_FRONTEND_TCP_REQUEST
    assert [stage_of_event(event, proxies["f"]) for event in EVENTS] == list(EVENTS.values())
    assert [stage_of_event(event, proxies["b"]) for event in EVENTS] == [None] * 3 + list(EVENTS.values())[3:]
    assert stage_of_event("on-nothing", proxies["f"]) is None


def test_the_order_of_one_request() -> None:
    """Events stand between the rules as HAProxy runs them."""
    assert Stage.TCP_REQUEST_SESSION < Stage.ON_CLIENT_SESSION < Stage.ON_FRONTEND_TCP_REQUEST
    assert Stage.ON_FRONTEND_TCP_REQUEST < Stage.FRONTEND_TCP_REQUEST_CONTENT < Stage.ON_FRONTEND_HTTP_REQUEST
    assert Stage.ON_HTTP_RESPONSE < Stage.BACKEND_HTTP_RESPONSE < Stage.FRONTEND_HTTP_RESPONSE < Stage.LOG
    assert [stage for stage in Stage if stage.is_response] == list(Stage)[list(Stage).index(Stage.ON_TCP_RESPONSE) : -1]
    assert {stage for pair in RULESETS.values() for stage in pair} | {*EVENTS.values(), Stage.LOG} == {None, *Stage}


def test_is_before(proxies: dict[str, Proxy]) -> None:
    """Rules are compared with events, and with each other."""
    frontend, backend = proxies["f"], proxies["b"]
    session, content, deny, allow = frontend.rules[1:5]
    assert is_before(session, frontend, "on-client-session", frontend) is True
    assert is_before(content, frontend, "on-frontend-tcp-request", frontend) is False
    assert is_before(deny, frontend, "on-backend-http-request", backend) is True
    assert is_before(deny, frontend, "on-client-session", backend) is None
    assert is_before(frontend.rules[9], frontend, "on-client-session", frontend) is None
    assert runs_before(deny, frontend, allow, frontend) is True
    assert runs_before(allow, frontend, deny, frontend) is False
    assert runs_before(content, frontend, deny, frontend) is True
    assert runs_before(backend.rules[3], backend, deny, frontend) is False
    assert runs_before(backend.rules[0], backend, deny, frontend) is None
    assert runs_before(frontend.rules[7], frontend, backend.rules[7], backend) is None


ENGINE = """\
spoe-agent a
    messages m n
spoe-message m
    args a=var(txn.m)
    event on-frontend-http-request
spoe-message n
    args a=var(txn.n)
"""
READINGS = """\
frontend f
    filter spoe config spoe.conf
    log-format %[var(txn.log)]
    unique-id-format %[var(txn.id)]
    http-request deny if { var(txn.rule) -m bool }
backend b
    balance hash var(txn.balance)
"""


def test_readings(tmp_path: Path) -> None:
    """A variable is read at the stage of a rule, of a setting or of a message's event."""
    (tmp_path / "spoe.conf").write_text(ENGINE)
    (tmp_path / "haproxy.cfg").write_text(READINGS)
    found: Configuration = read([], [tmp_path / "haproxy.cfg"], version=(3, 0), environment={})
    assert {reading.variable: stage_of_reading(reading) for reading in found.readings} == {
        "txn.log": Stage.LOG,
        "txn.id": None,
        "txn.rule": Stage.FRONTEND_HTTP_REQUEST,
        "txn.balance": Stage.SERVER,
        "txn.m": Stage.ON_FRONTEND_HTTP_REQUEST,
        "txn.n": None,
    }
