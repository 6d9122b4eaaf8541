"""What HAProxy does with the agent's variables. Each test shows why ``spoactl check`` calls a configuration wrong."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from spoa_twisted import Handlers, Message, Value, Variables
from tests.conftest import Logged

from .conftest import Serve, StartHAProxy
from .harness import bounded

# Each test starts HAProxy, and the default run has enough tests that do.
pytestmark = pytest.mark.soak

#: The values that the agent sets, by the name of the variable.
VALUES: dict[str, Value] = {
    "yes": True,
    "no": False,
    "word": "true",
    "digit": "1",
    "octets": b"1",
    "seven": 7,
}

#: For each kind of match: the variables for which it is true.
MATCHES = {
    "-m found": {*VALUES},
    "-m bool": {"yes", "digit", "seven"},
    "-m int 1": {"yes", "digit"},
    "-m int gt 0": {"yes", "digit", "seven"},
    "-m str true": {"word"},
    "-m str 1": {"yes", "digit", "octets"},
    "-m str 0": {"no"},
    "-m str 7": {"seven"},
}

#: The events at which only ``req`` exists, and those at which only ``res`` does, by the name of the message.
EVENTS_OF_REQUESTS = {
    "client": "on-client-session",
    "frontend": "on-frontend-tcp-request",
    "request": "on-frontend-http-request",
    "backend": "on-backend-tcp-request",
    "origin": "on-backend-http-request",
}
EVENTS_OF_RESPONSES = {"server": "on-server-session", "tcp": "on-tcp-response", "response": "on-http-response"}
EVENTS = EVENTS_OF_REQUESTS | EVENTS_OF_RESPONSES

#: A message for each event, and one for a group in requests and one in responses.
MESSAGES_OF_EVENTS = f"""\
    messages {" ".join(EVENTS)}
    groups asked answered

spoe-group asked
    messages asked

spoe-group answered
    messages answered

spoe-message asked

spoe-message answered
""" + "".join(f"\nspoe-message {name}\n    event {event}\n" for name, event in EVENTS.items())

REQUEST = """\
    messages request

spoe-message request
    args path=path
    event on-frontend-http-request
"""


@bounded
async def test_types_and_kinds_of_match(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """A bool is never the text "true", "true" is not a true bool, and bytes are no number. False is found, too."""
    handlers = Handlers()

    @handlers.message("request")
    def set_values(path: str) -> Variables:
        return {f"txn.{name}": value for name, value in VALUES.items()}

    rules = [
        f"    http-after-response set-header {name}{number} matches if {{ var(txn.spoa.{name}) {kind} }}\n"
        for name in VALUES
        for number, kind in enumerate(MATCHES)
    ]
    haproxy = start_haproxy(serve(handlers), spoe=REQUEST, web="".join(rules) + "    http-request return status 200\n")
    response = await haproxy.get()
    matching = {kind: {name for name in VALUES if response[f"{name}{n}"]} for n, kind in enumerate(MATCHES)}
    assert matching == MATCHES


@bounded
async def test_scopes_of_requests_and_responses(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """An event sets only the scope of its side. ``req.`` is gone in responses and in the log."""
    handlers = Handlers()

    @handlers.default
    def set_both(message: Message) -> Variables:
        return {f"req.{message.name}": "set", f"res.{message.name}": "set", f"txn.{message.name}": "set"}

    requests, responses = [*EVENTS_OF_REQUESTS, "asked"], [*EVENTS_OF_RESPONSES, "answered"]
    messages = [*requests, *responses]
    # A list as "req.spoa.client=set,req.spoa.frontend=,..."
    values = ",".join(f"{s}.spoa.{m}=%[var({s}.spoa.{m})]" for s in ("req", "res", "txn") for m in messages)
    haproxy = start_haproxy(
        serve(handlers),
        spoe=MESSAGES_OF_EVENTS,
        web=f"""\
    log stdout format raw daemon
    log-format "LOG {values} END"
    http-request send-spoe-group test asked
    http-response send-spoe-group test answered
    http-response set-header seen {values}
    http-after-response set-header after %[var(req.spoa.request)]%[var(txn.spoa.request)]
    use_backend show if {{ path /show }}
    default_backend origin

# Its own response comes after all events of requests, and before those of responses.
backend show
    http-request return status 200 hdr seen {values}
""",
    )

    def are_set(listed: str | None) -> set[str]:
        pairs = (pair.split("=") for pair in (listed or "").split(","))
        return {name for name, value in pairs if value == "set"}

    own, response = await haproxy.get("/show"), await haproxy.get()
    assert are_set(own["seen"]) == {f"{scope}.spoa.{message}" for scope in ("req", "txn") for message in requests}
    left = {f"res.spoa.{message}" for message in responses} | {f"txn.spoa.{message}" for message in messages}
    assert are_set(response["seen"]) == left
    # After HAProxy's own response, too, only txn. is left.
    assert (response["after"], own["after"]) == ("set", "set")
    assert are_set((await haproxy.says(r"LOG (\S+) END"))[1]) == {f"txn.spoa.{message}" for message in requests}
    assert are_set((await haproxy.says(r"LOG (\S+) END"))[1]) == left


@bounded
async def test_longest_name(serve: Serve, start_haproxy: StartHAProxy, logged: Logged) -> None:
    """HAProxy drops a variable if scope, prefix and name have more than 63 characters together."""
    longest = "x" * (63 - len("txn.spoa."))
    handlers = Handlers()

    @handlers.message("request")
    def set_long_names(path: str) -> Variables:
        return {f"txn.{longest}": 1, f"txn.{longest}y": 1}

    haproxy = start_haproxy(
        serve(handlers),
        spoe=REQUEST,
        web=f"    http-request return status 200 hdr longest %[var(txn.spoa.{longest})]"
        f" hdr longer %[var(txn.spoa.{longest}y)]\n",
    )
    response = await haproxy.get()
    assert (response["longest"], response["longer"]) == ("1", None)
    warnings = logged.take()
    assert len(warnings) == 2
    assert all("may be too long" in text for text in warnings)


@bounded
@pytest.mark.parametrize("option", ["", "    option force-set-var\n"], ids=["", "force-set-var"])
async def test_variables_of_the_process(serve: Serve, start_haproxy: StartHAProxy, tmp_path: Path, option: str) -> None:
    """A ``proc.`` variable is dropped unless a rule reads it, or ``register-var-names`` has its name without scope."""
    names = ["read", "registered", "scoped", "nowhere"]
    handlers = Handlers()

    @handlers.message("request")
    def set_names(path: str) -> Variables:
        return {f"proc.{name}": 1 for name in names}

    path = tmp_path / "cli"
    haproxy = start_haproxy(
        serve(handlers),
        spoe=f"    register-var-names registered proc.scoped\n{option}{REQUEST}",
        web="    http-request return status 200 hdr read %[var(proc.spoa.read)]\n",
        process=f"stats socket {path} level admin",
    )
    await haproxy.get()
    answers = {name: get_variable(path, f"proc.spoa.{name}") for name in names}
    expected = names if option else ["read", "registered"]
    assert [name for name in names if "value=<1>" in answers[name]] == expected


def get_variable(path: Path, name: str) -> str:
    """Return the answer of HAProxy's command line to ``get var``. No rule can name the variable: that registers it."""
    with socket.socket(socket.AF_UNIX) as cli:
        cli.settimeout(10)
        cli.connect(str(path))
        cli.sendall(f"experimental-mode on; get var {name}\n".encode())
        with cli.makefile() as answer:
            return answer.read()


@bounded
async def test_variables_of_a_connection(serve: Serve, start_haproxy: StartHAProxy) -> None:
    """``sess.`` keeps its value for the next request, which sends no message; no other name or frontend has it."""
    handlers = Handlers()

    @handlers.message("request")
    def deny(path: str) -> Variables:
        return {"sess.denied": True, "txn.denied": True}

    haproxy = start_haproxy(
        serve(handlers),
        spoe=REQUEST.replace("http-request\n", "http-request if { path /login }\n"),
        web="""\
    http-after-response set-header sess denied if { var(sess.spoa.denied) -m bool }
    http-after-response set-header txn denied if { var(txn.spoa.denied) -m bool }
    http-after-response set-header other-scope denied if { var(req.spoa.denied) -m bool }
    http-after-response set-header other-prefix denied if { var(sess.test.denied) -m bool }
    default_backend origin
""",
        origin="    http-request return status 200 hdr other-frontend denied if { var(sess.spoa.denied) -m bool }\n"
        "    http-request return status 200 hdr other-frontend nothing\n",
    )
    async with haproxy.client() as client:
        first, second = await client.get("/login"), await client.get("/")
    assert (first["sess"], first["txn"]) == ("denied", "denied")
    assert (second["sess"], second["txn"]) == ("denied", None)
    for response in (first, second):
        assert (response["other-scope"], response["other-prefix"], response["other-frontend"]) == (
            None,
            None,
            "nothing",
        )


@bounded
async def test_agent_down(start_haproxy: StartHAProxy) -> None:
    """Without an agent, a request passes a rule that needs a variable, and the client's own header passes, too.

    ``set-on-error`` sets exactly the variable that its name and the prefix make.
    """
    haproxy = start_haproxy(
        {},
        spoe=REQUEST,
        web="""\
    http-request deny deny_status 403 if { var(txn.spoa.denied) -m bool }
    http-request deny deny_status 401 if { path /negated } ! { var(txn.spoa.allowed) -m bool }
    http-request deny deny_status 503 if { path /error } { var(txn.spoa.error) -m found }
    http-request deny deny_status 504 if { var(sess.spoa.error) -m found } || { var(txn.test.error) -m found }
    http-request deny deny_status 504 if { var(txn.spoa.err) -m found }
    http-request del-header x-user if { path /del }
    http-request set-header x-user %[var(txn.spoa.user)] if { var(txn.spoa.user) -m found }
    http-request return status 200 hdr passed %[req.hdr(x-user)]
""",
    )
    async with haproxy.client() as client:
        response = await client.get(**{"x-user": "root"})
        assert (response.status, response["passed"]) == (200, "root")
        assert response.error is not None
        assert (await client.get("/del", **{"x-user": "root"}))["passed"] is None
    assert (await haproxy.get("/negated")).status == 401
    assert (await haproxy.get("/error")).status == 503
