"""The checks of HAProxy's configuration find nothing wrong with the configuration that is written."""

from __future__ import annotations

from typing import Any

import pytest

from spoa_twisted.handlers.declaration import REQUEST_EVENTS, RESPONSE_EVENTS
from spoa_twisted.haproxy import checks
from spoa_twisted.haproxy.answers import answers
from spoa_twisted.haproxy.finding import Severity
from spoa_twisted.haproxy.writing.haproxy_cfg import whole
from spoa_twisted.haproxy.writing.spoe_conf import spoe_conf
from tests.haproxy_side.configurations import Files
from tests.haproxy_side.test_writing import handlers_of, planned

ON_REQUEST = {"event": "on-frontend-http-request"}
RULES = {
    "scan": {"args": {"body": "req.body"}, "rule": "http-request if { method POST }", "sets": {"txn.clean": bool}},
    "user": {"args": {"token": "req.hdr(x-token)"}, "rule": "http-request if { method POST }"},
    "page": {"args": {"body": "res.body"}, "rule": "http-response", "sets": {"res.a": int}},
    "bytes": {"rule": "tcp-request content if { src 10.0.0.0/8 }", "sets": {"sess.a": bool}, "args": {"ip": "src"}},
}


@pytest.mark.parametrize("version", [(2, 6), (3, 0), (3, 2), (3, 4)])
@pytest.mark.parametrize(
    "messages",
    [
        {
            "get-ip-reputation": {**ON_REQUEST, "args": {"ip": "src"}, "sets": {"sess.score": int}},
            "check-token": {**ON_REQUEST, "sets": {"txn.denied": bool, "req.user": str | None}, "timeout": 0.2},
        },
        {"fails": {**ON_REQUEST, "sets": {"txn.a": bool}, "on_error": {"txn.error": "handler"}}},
        {"slow": {**ON_REQUEST, "sets": {"txn.a": bool}, "timeout": 130, "on_error": {"txn.a": False}}},
        {f"m{number}": {"event": event} for number, event in enumerate((*REQUEST_EVENTS, *RESPONSE_EVENTS))},
        {"body": {**ON_REQUEST, "args": {"body": "req.body", "id": "unique-id"}, "sets": {"proc.load": int}}},
        RULES,
        {**RULES, "answer": {"rule": "tcp-response content", "args": {}}},
        {"tcp": {"event": "on-client-session", "args": {"ip": "src"}}},
    ],
)
def test_nothing_is_wrong(messages: dict[str, Any], version: tuple[int, int]) -> None:
    """Whatever is found is good to know only."""
    handlers = handlers_of(**messages)
    made = planned(handlers)
    files = Files(spoe_conf(made), whole(made, "twistd"))
    findings = files.findings(checks, version=version, answers=answers(handlers, 1))
    assert [finding for finding in findings if finding.severity is not Severity.INFO] == []
