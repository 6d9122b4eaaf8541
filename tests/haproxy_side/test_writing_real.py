"""HAProxy accepts each configuration that is written, and it works at once with the agent."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spoa_twisted import Handlers
from spoa_twisted.handlers.declaration import REQUEST_EVENTS, RESPONSE_EVENTS
from spoa_twisted.haproxy.answers import answers
from spoa_twisted.haproxy.writing.haproxy_cfg import parts, whole
from spoa_twisted.haproxy.writing.plan import Options, Plan, plan
from spoa_twisted.haproxy.writing.required import Required
from spoa_twisted.haproxy.writing.spoe_conf import spoe_conf
from tests.haproxy.branches import Branch
from tests.programs import ENVIRONMENT, LIMIT, SPOACTL, TWISTD, Program

#: An agent that says which messages it gets.
RECORDER = '''\
import sys

from spoa_twisted import Handlers

handlers = Handlers()


def add(name, args={"ip": "src"}, scope="txn", **when):
    variable = f"{scope}.{name.replace('-', '_')}"

    def handler(message):
        values = {key: str(value) for key, value in message}
        print("asked", name, values, file=sys.stderr, flush=True)
        return {variable: True}

    handlers.message(name, args=args, sets={variable: bool}, **when)(handler)


for event in EVENTS:
    add(f"by-{event}", event=event)
add("process", scope="proc", event="on-frontend-http-request")
add("body", {"body": "req.body", "id": "unique-id"}, event="on-frontend-http-request if { method POST }")
add("not-sent", event="""on-frontend-http-request if { path -m str '/it is # "odd" $x' }""")
add("tcp-rule", rule="tcp-request content if { src 127.0.0.0/8 }")
add("http-rule", {"body": "req.body,lower"}, rule="http-request if { method POST }")
add("http-rule-2", {"a text": "str(it has # $x)"}, rule="http-request if { method POST }")
add("answer", {"body": "res.body", **{f"ip{i}": "src" for i in range(70)}}, rule="http-response unless { status 404 }")
'''.replace("EVENTS", repr([*REQUEST_EVENTS, *RESPONSE_EVENTS]))
WITH_LISTEN = 'add("tcp-answer", rule="tcp-response content")\n'


def check(branch: Branch, folder: Path, made: Plan) -> None:
    """``haproxy -c`` accepts both forms of the configuration, and warns of nothing."""
    folder.mkdir(exist_ok=True)
    (folder / "spoe.conf").write_text(spoe_conf(made), "utf-8")
    (folder / "haproxy.cfg").write_text(whole(made, "twistd"), "utf-8")
    command = [str(branch.executable), "-c", "-f", str(folder / "haproxy.cfg")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    output = ended.stdout + ended.stderr
    assert (ended.returncode, output.replace("Configuration file is valid\n", "")) == (0, ""), (
        f"{output}\n{spoe_conf(made)}\n{whole(made, 'twistd')}"
    )
    # The rest of a whole configuration is the same in all.
    for line in parts(made).splitlines():
        assert line.startswith(("    # ", "# ")) or f"{line}\n" in whole(made, "twistd")


# Names that HAProxy accepts for messages, and expressions for requests and for responses.
NAMES = st.text("abzABZ019_.:-", min_size=1, max_size=30)
ARGUMENT_NAMES = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="=", exclude_categories=["C", "Z"])
    | st.just(" "),
    min_size=1,
    max_size=20,
)
TEXTS = st.text("ab #$\\\"'{}[]~!|%&;<>`^*?/:@", min_size=1, max_size=12)
ANYWHERE = st.sampled_from(
    ["src", "src_port", "dst", "fe_name", "unique-id", "rand(100)", "var(txn.a)", "date()", "uuid", "int(5),add(1)"]
) | st.sampled_from(["str(a b)", "str(#)", "str('$x')", 'str("a,b")', "str(\\\\)", "env(HOME)", "str(')')", "str(ü)"])
REQUEST = ANYWHERE | st.sampled_from(
    [
        *("req.hdr(host)", "req.fhdr(user-agent),lower", "path", "url", "method", "req.hdrs", "url_param(a b)"),
        *("req.cook(a)", "base32+src", "req.body", "req.body_len", "path,field(1,'.')", "url,regsub(a\\.b,'x y',g)"),
    ]
)
RESPONSE = ANYWHERE | st.sampled_from(["status", "res.hdr(x-a)", "res.hdrs", "res.fhdr_cnt(x)", "res.ver"])
HTTP_RESPONSE_RULE = RESPONSE | st.sampled_from(["res.body", "res.body_len"])
CONDITIONS = st.sampled_from(
    [
        "",
        "if { src 10.0.0.0/8 }",
        "unless { src 127.0.0.1 } or { src_port 5 } !{ dst 10.0.0.1 }",
        "if { src_port ge 1024 } || { always_true }",
        "if { str('a b') -m str 'a b' }",
        'if { str(x) -m str "a \\"b\\" # c" }',
        "if { str(x) -m str a\\ b\\#c }",
        "if { str(x) -m reg \\.php$ }",
        "if { str(x) -m str " + "x " * 50 + "}",
    ]
)
SERVERS = st.sampled_from(["127.0.0.1:12345", "[::1]:5", "/run/spoa", "unix@/run/s", "abns@s"])
TYPES = st.sampled_from([bool, int, str, bytes, str | None, int | None, bool | None])


@st.composite
def options_of_messages(draw: st.DrawFn) -> dict[str, Any]:
    """Return what a handler declares."""
    place, scopes, expressions = draw(
        st.sampled_from(
            [
                *[(("event", event), "proc sess txn", ANYWHERE) for event in REQUEST_EVENTS if "http" not in event],
                (("rule", "tcp-request content"), "proc sess txn", ANYWHERE | st.just("req.ssl_sni")),
                *[(("event", event), "proc sess txn req", REQUEST) for event in REQUEST_EVENTS if "http" in event],
                *[(("event", event), "proc sess txn", ANYWHERE) for event in RESPONSE_EVENTS if "http" not in event],
                (("event", "on-http-response"), "proc sess txn res", RESPONSE),
                (("rule", "http-request"), "proc sess txn req", REQUEST),
                (("rule", "http-response"), "proc sess txn res", HTTP_RESPONSE_RULE),
                (("rule", "tcp-request content"), "proc sess txn req", ANYWHERE),
                (("rule", "tcp-response content"), "proc sess txn res", ANYWHERE),
            ]
        )
    )
    option, name = place
    args = draw(st.dictionaries(ARGUMENT_NAMES, expressions, max_size=5))
    args |= {f"more{number}": "src" for number in range(draw(st.sampled_from([0, 0, 0, 55, 60, 61, 130])))}
    variables = st.builds("{}.{}".format, st.sampled_from(scopes.split()), st.text("abAB09_.", min_size=1, max_size=20))
    return {
        option: f"{name} {draw(CONDITIONS)}",
        "args": args,
        "sets": draw(st.dictionaries(variables.filter(lambda name: name != "txn.error"), TYPES, max_size=4)),
    }


@pytest.mark.soak  # 40 processes of HAProxy for each branch
def test_haproxy_accepts_what_is_written(branch: Branch, tmp_path: Path) -> None:
    """Whatever the handlers declare, HAProxy accepts the configuration without a warning."""

    # A function within the test: pytest-twisted wraps the function of a test with @given once for each branch.
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(
        messages=st.dictionaries(NAMES, options_of_messages(), min_size=1, max_size=8),
        engine=st.text("abzAZ09_.:-", min_size=1, max_size=20),
        servers=st.lists(SERVERS, min_size=1),
        fail_open=st.booleans(),
        body=st.none() | st.integers(1, 2**22),
        status=st.sampled_from([None, 401, 429, 503]),
    )
    def accepts(
        messages: dict[str, Any], engine: str, servers: list[str], fail_open: bool, body: int | None, status: int | None
    ) -> None:
        handlers = Handlers()
        for name, options in messages.items():
            # Two arguments may be one parameter.
            with contextlib.suppress(ValueError):
                handlers.message(name, **options)(takes_message)
        if list(handlers):
            options = Options(engine, prefix="p", servers=servers, fail_open=fail_open, body=body)
            made = plan(answers(handlers, 1), options)
            check(branch, tmp_path, made)
            types = [item for message in made.messages for item in message.sets.items()]
            # A name may be declared twice, with other types.
            names = {name for name, _ in types if all(kind is bool for other, kind in types if other == name)}
            required = [Required(name, status if made.is_http else None) for name in sorted(names)]
            check(branch, tmp_path, plan(answers(handlers, 1), replace(options, required=required)))

    accepts()


def takes_message(message: object) -> None:
    return None


#: Numbers for the addresses of sites.
NUMBERS = itertools.count()


class Site:
    """A folder with a whole configuration, as ``spoactl config`` writes it, at an address that no other test has.

    A free port that is searched for first may be taken by another test before HAProxy or the agent listens on it.

    :param handlers: the text of the module.
    """

    def __init__(self, folder: Path, handlers: str) -> None:
        self.folder = folder
        # From 127.128.0.1 on.
        self.host = str(IPv4Address(0x7F800001 + (os.getpid() % 0x7FFF << 8) + next(NUMBERS) % 200))
        agent = f"{self.host}:12345"
        (folder / "iprep.py").write_text(handlers)
        command = [*SPOACTL, "config", "--handlers", "iprep", "--whole", "--output", "new", "--server", agent]
        subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
        path = folder / "new" / "haproxy.cfg"
        text = path.read_text()
        path.write_text(text.replace("127.0.0.1:808", f"{self.host}:808"))
        self.command = next(line for line in text.splitlines() if line.startswith("# Start the agent:")).split()[5:]

    @contextlib.contextmanager
    def haproxy(self, branch: Branch) -> Iterator[None]:
        """Run HAProxy with the configuration, and wait until it listens."""
        with Program([str(branch.executable), "-db", "-f", "new/haproxy.cfg"], cwd=self.folder) as program:
            deadline = time.monotonic() + LIMIT
            while True:
                try:
                    socket.create_connection((self.host, 8080), LIMIT).close()
                except ConnectionRefusedError:
                    assert program.status is None, program.describe()
                    assert time.monotonic() < deadline, program.describe()
                else:
                    break
            yield

    @contextlib.contextmanager
    def agent_running(self) -> Iterator[Program]:
        """Run the command that haproxy.cfg names."""
        with Program([*TWISTD, *self.command], cwd=self.folder, environment=ENVIRONMENT) as program:
            program.said("SPOA listening on ")
            yield program

    def post(self) -> int:
        """Send a request with a body; return the status."""
        with contextlib.closing(http.client.HTTPConnection(self.host, 8080, timeout=LIMIT)) as connection:
            connection.request("POST", "/", b"The Body", {"Content-Type": "text/plain"})
            return connection.getresponse().status


@pytest.mark.soak  # an agent and HAProxy twice, in 4 seconds
@pytest.mark.parametrize("listen", ["", WITH_LISTEN], ids=["frontend", "listen"])
def test_each_message_is_sent(branch: Branch, tmp_path: Path, listen: str) -> None:
    """With the agent up, each event and each rule sends its message, and the request passes. Down, it gets 503."""
    site = Site(tmp_path, RECORDER + listen)
    with site.agent_running() as agent, site.haproxy(branch):
        assert site.post() == 200
        expected = [
            *[f"by-{event}" for event in (*REQUEST_EVENTS, *RESPONSE_EVENTS)],
            *("process", "body", "tcp-rule", "http-rule", "http-rule-2", "answer"),
            *(["tcp-answer"] if listen else []),
        ]
        asked = {name: agent.said(rf"asked {name} (.*)\n")[1] for name in expected}
        assert "asked not-sent" not in agent.output
        assert "'body': \"b'The Body'\"" in asked["body"]
        assert "b'the body'" in asked["http-rule"] or "'the body'" in asked["http-rule"]
        assert "it has # $x" in asked["http-rule-2"]
        assert "'ip69': '127.0.0.1'" in asked["answer"]
        assert "Hello." in asked["answer"]
    with site.haproxy(branch):
        assert site.post() == 503


#: A handler of each event, which sets a variable of each scope of a stream.
SCOPES = """\
from spoa_twisted import Handlers

handlers = Handlers()


def add(event):
    name = event.replace("-", "_")
    handlers.message(event, args={}, event=event)(lambda: {f"{scope}.{name}": True for scope in ("req", "res", "txn")})


for event in EVENTS:
    add(event)
""".replace("EVENTS", repr([*REQUEST_EVENTS, *RESPONSE_EVENTS]))


@pytest.mark.soak  # an agent and HAProxy, in 3 seconds
def test_scopes(branch: Branch, tmp_path: Path) -> None:
    """HAProxy drops ``res.`` variables at request events, and ``req.`` variables at response events."""
    site = Site(tmp_path, SCOPES)
    requests = responses = ""
    for event in (*REQUEST_EVENTS, *RESPONSE_EVENTS):
        name = event.replace("-", "_")
        for scope in ("req", "res", "txn"):
            test = f"if {{ var({scope}.iprep.{name}) -m found }}"
            # Before the response, req. variables are gone, so this is seen in the backend.
            requests += f"    http-request set-var(txn.seen_{scope}_{name}) bool(true) {test}\n"
            responses += f"    http-response set-header {scope}-{event} yes {test}\n"
            seen_before = f"if {{ var(txn.seen_{scope}_{name}) -m found }}"
            responses += f"    http-response set-header {scope}-{event} yes {seen_before}\n"
    path = tmp_path / "new" / "haproxy.cfg"
    text = path.read_text()
    text = text.replace("backend app\n", f"backend app\n{requests}")
    path.write_text(text.replace("    default_backend app\n", f"{responses}    default_backend app\n"))
    with site.agent_running(), site.haproxy(branch):
        connection = http.client.HTTPConnection(site.host, 8080, timeout=LIMIT)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            response = connection.getresponse()
            for event in (*REQUEST_EVENTS, *RESPONSE_EVENTS):
                seen = {scope for scope in ("req", "res", "txn") if response.getheader(f"{scope}-{event}")}
                assert seen == {"txn", "req" if event in REQUEST_EVENTS else "res"}, event
