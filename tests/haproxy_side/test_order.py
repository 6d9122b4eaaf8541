"""The order of events and rules, as data."""

from __future__ import annotations

from pathlib import Path

import pytest

from spoa_twisted.haproxy.configuration import Proxy
from spoa_twisted.haproxy.order import (
    EVENTS,
    RULESETS,
    Stage,
    event_in,
    stage_of_event,
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
    assert Stage.ON_HTTP_RESPONSE < Stage.BACKEND_HTTP_RESPONSE < Stage.FRONTEND_HTTP_RESPONSE
    assert {stage for pair in RULESETS.values() for stage in pair} | {*EVENTS.values()} == {None, *Stage}
