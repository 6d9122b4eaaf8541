"""docs/reference/arguments_and_events.rst: HAProxy sends what the tables say, when they say it."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import Any

import pytest

from spoa_twisted.handlers.declaration import (
    REQUEST_EVENTS,
    REQUEST_RULESETS,
    RESPONSE_EVENTS,
    RESPONSE_RULESETS,
)
from tests.certificates import self_signed
from tests.examples.example import require_program
from tests.haproxy.branches import Branch
from tests.machine import Machine, on_any_port
from tests.programs import Program

from .pages import Page

PAGE = Page("reference/arguments_and_events")

ARGUMENTS = PAGE.table("What to write in args")
EVENTS = PAGE.table("When HAProxy sends a message")
RULES = PAGE.table("When a rule sends a message")

#: Each handler writes its arguments to a file, and sets a variable of its name in each scope.
SEEN = """\
import json

from spoa_twisted import Handlers

handlers = Handlers()


def add(name, args, **when):
    def see(message):
        with open("seen.json", "a") as file:
            values = {key: [type(value).__name__, str(value)] for key, value in message}
            file.write(json.dumps([name, values]) + "\\n")
        return {f"{scope}.{name}": True for scope in ("sess", "txn", "req", "res")}

    handlers.message(name, args=args, **when)(see)


"""

#: What each word of the column "It can read" allows.
CAN_READ = {
    "the connection": {"src"},
    "the request": {"src", "ssl_fc_sni", "method", "req.fhdr(name)", "req.body"},
    "the response": {"src", "ssl_fc_sni", "method", "status", "res.fhdr(name)"},
}

#: ``haproxy -c`` says whether an argument fits an event.
SPOE_CONF = """\
[e]
spoe-agent agent
    messages m
    use-backend agents
    timeout hello 1s
    timeout idle 1m
    timeout processing 1s

spoe-message m
    args a={argument}
    event {event}
"""
HAPROXY_CFG = """\
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s

listen www
    bind 127.0.0.1:8080
    filter spoe engine e config spoe.conf
    option http-buffer-request
    server app 127.0.0.1:1

backend agents
    mode tcp
    server agent 127.0.0.1:1
"""


class Site:
    """An agent with the handlers of :data:`SEEN`, and the configuration that ``spoactl`` writes for them."""

    def __init__(self, machine: Machine, adds: str) -> None:
        self.machine = machine
        machine.write(seen_py=f"{SEEN}{adds}")
        self.agent = machine.start(on_any_port("twistd -n spoa --handlers seen"))
        machine.run(f"spoactl config --handlers seen --whole --output . --server 127.0.0.1:{self.agent.port}")
        written = (machine.folder / "haproxy.cfg").read_text().partition("\n# It stands for your application")[0]
        written = written.replace("timeout check 500ms", "timeout check 5s")
        self.haproxy_cfg = written.replace("127.0.0.1:8081", f"127.0.0.1:{machine.app()}")

    @property
    def seen(self) -> list[tuple[str, dict[str, Any]]]:
        """The messages that came, each with the type and the text of its arguments."""
        return [json.loads(line) for line in (self.machine.folder / "seen.json").read_text().splitlines()]


def test_the_arguments(machine: Machine, branch: Branch) -> None:
    """Each arrives in the type and with the value of its row. What a request does not have is None."""
    require_program("curl", "curl")
    expressions = [row[0] for row in ARGUMENTS]
    requests = {f"a{number}": text for number, text in enumerate(expressions) if text.partition(".")[0] != "res"}
    del requests[f"a{expressions.index('status')}"]
    responses = {f"a{number}": text for number, text in enumerate(expressions) if f"a{number}" not in requests}
    # The web server sends no header "Name".
    responses = {name: text.replace("(name)", "(content-length)") for name, text in responses.items()}
    site = Site(
        machine,
        f"add('request', {requests!r}, event='on-frontend-http-request')\n"
        f"add('response', {responses!r}, event='on-http-response')\n",
    )
    certificate, key = self_signed(machine.folder)
    (machine.folder / "both.pem").write_text(certificate.read_text() + key.read_text())
    tls = f"    bind unix@{machine.folder}/tls ssl crt {machine.folder}/both.pem\n"
    text = site.haproxy_cfg.replace("    bind 127.0.0.1:8080\n", f"    bind 127.0.0.1:8080\n{tls}")
    request = machine.haproxy(branch, haproxy_cfg=text)

    sent = {"Name": "one, two", "Cookie": "name=value"}
    assert request(path="/a/b?x=1", method="POST", body=b"body", **sent)[0] == 200
    assert request(path="/a/b")[0] == 200
    machine.run("curl -sS --insecure --unix-socket tls --resolve shop.example:443:127.0.0.1 https://shop.example/")

    first, second, tls_only = (
        {**dict(before), **dict(after)} for (_, before), (_, after) in zip(site.seen[::2], site.seen[1::2], strict=True)
    )
    absent = {"query", "req.fhdr(name)", "req.hdr(name)", "req.cook(name)", "ssl_fc_sni"}
    for number, (expression, _, kind, example) in enumerate(ARGUMENTS):
        values = tls_only if expression == "ssl_fc_sni" else first
        assert values[f"a{number}"][0] == kind, expression
        if example:
            assert values[f"a{number}"][1] in (example, repr(example.encode())), expression
        assert (second[f"a{number}"][0] == "NoneType") == (expression in absent), expression
    assert second[f"a{expressions.index('req.body')}"] == ["bytes", "b''"]
    ids = [seen[f"a{expressions.index('unique-id')}"][1] for seen in (first, second, tls_only)]
    assert len(set(ids)) == 3
    site.agent.stop()


def test_the_lists() -> None:
    """The tables have each event and each ruleset, and no other."""
    assert sorted(row[0] for row in EVENTS) == sorted((*REQUEST_EVENTS, *RESPONSE_EVENTS))
    assert sorted(row[0] for row in RULES) == sorted((*REQUEST_RULESETS, *RESPONSE_RULESETS))


@pytest.mark.each_spoe
def test_which_arguments_fit(machine: Machine, branch: Branch) -> None:
    """HAProxy starts with those of the column, and with no others. It says what the page says."""
    machine.write(haproxy_cfg=HAPROXY_CFG)
    command = [str(branch.executable), "-c", "-f", "haproxy.cfg"]
    for event, _, reads, _ in EVENTS:
        for argument in set().union(*CAN_READ.values()):
            machine.write(spoe_conf=SPOE_CONF.format(argument=argument, event=event))
            with Program(command, cwd=machine.folder) as program:
                fits = program.ended() == 0
            assert fits == (argument in CAN_READ[reads]), (event, argument)
            assert fits or "Ignore SPOE message" in program.output


def test_the_events(machine: Machine, branch: Branch) -> None:
    """Each event sends its message, with what it can read. Its variables are those of the column."""
    rows = {row[0].replace("-", "_").replace(" ", "_"): row for row in (*EVENTS, *RULES)}
    adds = ""
    for name, row in rows.items():
        args = {"src": "src"}
        if row[2] != "the connection":
            args["method"] = "method"
        if row[2] == "the response":
            args["status"] = "status"
        adds += f"add({name!r}, {args!r}, {'event' if row in EVENTS else 'rule'}={row[0]!r})\n"
    site = Site(machine, adds)
    rules = ""
    for name in rows:
        for scope in ("sess", "txn", "req", "res"):
            # The rules of the request see those that were set before it went on, and keep them for the response.
            found = f"if {{ var({scope}.seen.{name}) -m found }}"
            kept = f"txn.{scope}_{name}"
            rules += f"    http-request set-var({kept}) bool(true) {found}\n"
            rules += f"    http-after-response set-var({kept}) bool(true) {found}\n"
            rules += f"    http-after-response set-header {scope}-{name} 1 if {{ var({kept}) -m found }}\n"
    machine.haproxy(branch, haproxy_cfg=site.haproxy_cfg.replace("    server app1 ", f"{rules}    server app1 "))

    with contextlib.closing(http.client.HTTPConnection(*machine.website, timeout=30)) as connection:
        connection.request("GET", "/")
        response = connection.getresponse()
        response.read()

    assert response.status == 200
    seen = dict(site.seen)
    assert set(seen) == set(rows)
    for name, (_, _, reads, scopes) in rows.items():
        assert seen[name].get("method", ["str", "GET"]) == ["str", "GET"]
        if reads == "the response" and name.startswith(("on_http", "http")):
            assert seen[name]["status"] == ["int", "200"]
        assert [s for s in ("sess", "txn", "req", "res") if response.getheader(f"{s}-{name}")] == scopes.split(", ")
    site.agent.stop()
