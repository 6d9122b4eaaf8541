"""The order in which HAProxy runs rules, and sends the messages of events, for one request."""

from __future__ import annotations

from enum import IntEnum, auto

from spoa_twisted.haproxy.configuration import Proxy, Rule


class Stage(IntEnum):
    """A step of a request's way through HAProxy. A smaller stage comes first."""

    QUIC_INITIAL = auto()
    TCP_REQUEST_CONNECTION = auto()
    TCP_REQUEST_SESSION = auto()
    ON_CLIENT_SESSION = auto()
    ON_FRONTEND_TCP_REQUEST = auto()
    FRONTEND_TCP_REQUEST_CONTENT = auto()
    ON_FRONTEND_HTTP_REQUEST = auto()
    FRONTEND_HTTP_REQUEST = auto()
    FRONTEND_REDIRECT = auto()
    USE_BACKEND = auto()
    ON_BACKEND_TCP_REQUEST = auto()
    BACKEND_TCP_REQUEST_CONTENT = auto()
    ON_BACKEND_HTTP_REQUEST = auto()
    BACKEND_HTTP_REQUEST = auto()
    BACKEND_REDIRECT = auto()
    #: The choice of a server: use-server, stick on and stick match.
    SERVER = auto()
    ON_SERVER_SESSION = auto()
    ON_TCP_RESPONSE = auto()
    TCP_RESPONSE_CONTENT = auto()
    ON_HTTP_RESPONSE = auto()
    BACKEND_HTTP_RESPONSE = auto()
    FRONTEND_HTTP_RESPONSE = auto()
    BACKEND_HTTP_AFTER_RESPONSE = auto()
    FRONTEND_HTTP_AFTER_RESPONSE = auto()


#: The events of an engine. HAProxy knows no others.
EVENTS = {
    "on-client-session": Stage.ON_CLIENT_SESSION,
    "on-frontend-tcp-request": Stage.ON_FRONTEND_TCP_REQUEST,
    "on-frontend-http-request": Stage.ON_FRONTEND_HTTP_REQUEST,
    "on-backend-tcp-request": Stage.ON_BACKEND_TCP_REQUEST,
    "on-backend-http-request": Stage.ON_BACKEND_HTTP_REQUEST,
    "on-server-session": Stage.ON_SERVER_SESSION,
    "on-tcp-response": Stage.ON_TCP_RESPONSE,
    "on-http-response": Stage.ON_HTTP_RESPONSE,
}

#: The stage of a ruleset in a frontend and in a listen, and its stage in a backend.
RULESETS = {
    "quic-initial": (Stage.QUIC_INITIAL, None),
    "tcp-request connection": (Stage.TCP_REQUEST_CONNECTION, None),
    "tcp-request session": (Stage.TCP_REQUEST_SESSION, None),
    "tcp-request content": (Stage.FRONTEND_TCP_REQUEST_CONTENT, Stage.BACKEND_TCP_REQUEST_CONTENT),
    "http-request": (Stage.FRONTEND_HTTP_REQUEST, Stage.BACKEND_HTTP_REQUEST),
    "redirect": (Stage.FRONTEND_REDIRECT, Stage.BACKEND_REDIRECT),
    "use_backend": (Stage.USE_BACKEND, None),
    "use-server": (Stage.SERVER, Stage.SERVER),
    "tcp-response content": (Stage.TCP_RESPONSE_CONTENT, Stage.TCP_RESPONSE_CONTENT),
    "http-response": (Stage.FRONTEND_HTTP_RESPONSE, Stage.BACKEND_HTTP_RESPONSE),
    "http-after-response": (Stage.FRONTEND_HTTP_AFTER_RESPONSE, Stage.BACKEND_HTTP_AFTER_RESPONSE),
}


def event_in(event: str, proxy: Proxy) -> str:
    """Return the event as the proxy has it: in a ``listen``, ``on-backend-...`` is ``on-frontend-...``."""
    return event.replace("on-backend-", "on-frontend-") if proxy.kind == "listen" else event


def stage_of_event(event: str, proxy: Proxy) -> Stage | None:
    """Return the stage of an event whose engine's filter stands in ``proxy``. ``None`` if the event never comes.

    The filter of a backend sees nothing of what comes before HAProxy chooses the backend.
    """
    stage = EVENTS.get(event_in(event, proxy))
    if stage is not None and proxy.kind == "backend" and stage < Stage.USE_BACKEND:
        return None
    return stage


def stage_of_rule(rule: Rule, proxy: Proxy) -> Stage | None:
    """Return the stage of a rule that stands in ``proxy``, or that ``proxy`` inherits. ``None`` if it is not known."""
    if rule.ruleset == "stick" and rule.action in ("on", "match"):
        return Stage.SERVER
    in_frontend, in_backend = RULESETS.get(rule.ruleset, (None, None))
    return in_backend if proxy.kind == "backend" else in_frontend
