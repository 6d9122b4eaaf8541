"""Tests of ``examples/ldap``: logins are checked by a real slapd, and by servers that answer wrong things."""

from __future__ import annotations

import base64
import contextlib
import http.client
import shlex
import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.haproxy.branches import Branch
from tests.machine import Agent
from tests.services.slapd import Slapd

from .conftest import OpenExample
from .example import Example, require, require_program, required

pytestmark = pytest.mark.each_spoe

USERS = {
    "alice": "wonderland",
    "bob": "pass:word",
    "zoë": "ünïcode",
    "o'neil, jr": "comma",
    "eve,ou=guests": "apple",
    "mallory": "outside",
}


@pytest.fixture
def example(open_example: OpenExample) -> Example:
    require("ldaptor")
    return open_example("ldap")


@pytest.fixture
def slapd(tmp_path: Path, example: Example) -> Iterator[Slapd]:
    """A server with :data:`USERS`. The agent gets its address by the setting ``LDAP_URL``."""
    with contextlib.ExitStack() as stack:
        with required():
            server = Slapd(tmp_path / "slapd", stack, USERS, kinds={"mallory": "guest"})
        example.environment["LDAP_URL"] = server.url
        yield server


def basic(login: str | bytes) -> dict[str, str]:
    """Return the header for "name:password"."""
    login = login.encode() if isinstance(login, str) else login
    return {"Authorization": f"Basic {base64.b64encode(login).decode()}"}


def send(example: Example, agent: Agent, login: str = "alice:wonderland") -> str:
    """Ask an agent about a login, and return the variables."""
    argument = shlex.quote(f"authorization={basic(login)['Authorization']}")
    return example.run(f"spoactl send --agent tcp:127.0.0.1:{agent.port} check-login {argument}")


ALICE = basic("alice:wonderland")
KNOWN = (200, "user: alice")


# With new versions of pyparsing, ldaptor uses old names when it is imported. The agent does not show such warnings.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_configuration(example: Example) -> None:
    example.check_generated("--engine ldap")
    example.check_problems()


def test_the_readme(example: Example) -> None:
    commands = example.commands()
    assert "LDAP_URL=ldap://127.0.0.1:3389 twistd -n spoa --handlers handlers.py" in commands
    assert "spoactl config --handlers handlers.py --engine ldap --whole --output ." in commands
    assert "pip install -r requirements.txt" in commands
    # The server of the README reads its files.
    require_program("slapd", "slapd", "/usr/sbin")
    for command in ("mkdir data", "/usr/sbin/slapd -T add -f slapd.conf -l users.ldif"):
        assert command in commands
        example.run(command)
    assert "dn: uid=alice,ou=people,dc=example,dc=org" in example.run("/usr/sbin/slapd -T cat -f slapd.conf")


def test_logins(example: Example, slapd: Slapd, branch: Branch) -> None:
    """Right logins pass. The application gets the name that the server has, and never the client's own X-User."""
    agent = example.agent()
    request = example.site(branch, agent)

    assert request(**ALICE) == KNOWN
    assert request(**ALICE, **{"X-User": "admin"}) == KNOWN
    assert request(**ALICE, X_User="admin") == KNOWN
    assert request(**basic("bob:pass:word")) == (200, "user: bob")
    # LDAP compares names without regard to case and to spaces around them.
    assert request(**basic("ALICE:wonderland")) == KNOWN
    assert request(**basic(" alice :wonderland")) == KNOWN
    assert request(Authorization=f"bAsIc  {base64.b64encode(b'alice:wonderland').decode()}") == KNOWN
    # Letters in UTF-8, and characters that mean something in a DN.
    assert request(**basic("o'neil, jr:comma")) == (200, "user: o'neil, jr")
    assert request(**basic("zoë:ünïcode"))[0] == 200

    # The answer asks for a login.
    connection = http.client.HTTPConnection(*example.website, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.status == 401
        assert response.headers["WWW-Authenticate"].startswith('Basic realm="Members"')
    assert request(**{"X-User": "alice"})[0] == 401
    assert request(**basic("alice:wrong"))[0] == 401
    assert request(**basic("nobody:wonderland"))[0] == 401
    assert request(**basic(b"alice:wonder\xff"))[0] == 401
    output = agent.stop()
    assert "Warning" not in output
    assert "Traceback" not in output
    # A password is nowhere in the log.
    assert "wonderland" not in output


#: Logins that look right, but must not be tried: a bind with an empty password is anonymous, and succeeds.
UNTRIED = {
    "empty password": basic("alice:"),
    "NUL as password": basic("alice:\0"),
    "line feed": basic("alice:wonderland\n"),
    "no name": basic(":wonderland"),
    "NUL in name": basic("alice\0:wonderland"),
    "name is not UTF-8": basic(b"al\xffice:wonderland"),
    "only a colon": basic(":"),
    "no colon": basic("alice"),
    "no login": {"Authorization": "Basic"},
    "empty login": {"Authorization": "Basic "},
    "no base64": {"Authorization": "Basic !!!!"},
    "half a base64": {"Authorization": ALICE["Authorization"][:-3]},
    "no ASCII": {"Authorization": "Basic \xff"},
    "empty": {"Authorization": ""},
    "another scheme": {"Authorization": ALICE["Authorization"].replace("Basic", "Bearer")},
}


def test_logins_that_are_not_tried(example: Example, slapd: Slapd, branch: Branch) -> None:
    """They are refused, and the server is not even asked."""
    agent = example.agent()
    request = example.site(branch, agent)

    assert {case: request(**header)[0] for case, header in UNTRIED.items()} == dict.fromkeys(UNTRIED, 401)
    assert "Traceback" not in agent.stop()
    assert slapd.binds() == []


def test_names_that_are_more_than_a_name(example: Example, slapd: Slapd, branch: Branch) -> None:
    """Whatever the name contains, it stays one value in the DN of the template."""
    request = example.site(branch, example.agent())

    # Without escaping, this is the DN of a user in another place, with the right password.
    assert request(**basic("eve,ou=guests:apple"))[0] == 401
    names = "*)(uid=*", "*", "alice)(|(uid=*)", "alice+cn=alice", 'a"lice', "alice\\", "#616c696365", "alice;x=y", "{}"
    for name in names:
        assert request(**basic(f"{name}:wonderland"))[0] == 401
    assert len(slapd.binds()) == 1 + len(names)
    # With a backslash before the comma, it belongs to the name.
    assert "uid=eve\\2Cou\\3Dguests,ou=people,dc=example,dc=org" in [dn.replace("\\5C", "\\") for dn in slapd.binds()]


def test_the_filter(example: Example, slapd: Slapd) -> None:
    """A user whose entry does not match the filter is refused."""
    agent = example.agent(LDAP_FILTER="(employeeType=staff)")

    assert "txn.known=bool:true" in send(example, agent)
    assert "txn.known=bool:false" in send(example, agent, "mallory:outside")
    agent.program.said("uid=mallory,ou=people,dc=example,dc=org does not match LDAP_FILTER")


def test_right_logins_are_remembered(example: Example, slapd: Slapd, branch: Branch) -> None:
    """A right login is asked once, a wrong one each time."""
    request = example.site(branch, example.agent())

    for _ in range(3):
        assert request(**ALICE) == KNOWN
    assert len(slapd.binds()) == 1
    for _ in range(3):
        assert request(**basic("alice:wrong"))[0] == 401
    assert len(slapd.binds()) == 4
    slapd.stop()
    assert request(**ALICE) == KNOWN
    assert request(**basic("bob:pass:word"))[0] == 503


def test_the_server_is_down(example: Example, slapd: Slapd, branch: Branch) -> None:
    """Without a server all logins get 503, at the start and later; when it is back, they pass."""
    slapd.stop()
    agent = example.agent(LDAP_CACHE="0")
    request = example.site(branch, agent)

    assert request(**ALICE)[0] == 503
    agent.program.said("ConnectionRefusedError")
    slapd.start()
    assert request(**ALICE) == KNOWN
    slapd.stop()
    assert request(**ALICE)[0] == 503
    slapd.start()
    assert request(**ALICE) == KNOWN


def test_the_server_is_slow(example: Example, slapd: Slapd, branch: Branch) -> None:
    """Its late answers reach nobody: the next users get their own answers, and no connection is left."""
    example.edit("handlers.py", "timeout=2,", "timeout=0.5,")
    # As many connections as are allowed: they must be free again.
    example.edit("handlers.py", "MAX_CONNECTIONS = 32", "MAX_CONNECTIONS = 2")
    request = example.site(branch, example.agent(LDAP_CACHE="0"))
    logins = [ALICE, basic("bob:pass:word"), basic("alice:wrong"), basic("bob:wrong")]

    slapd.freeze()
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lambda login: request(**login)[0], logins)) == [503] * 4
    slapd.thaw()
    # On a busy machine, a login may take longer than half a second: 503 is right then, and another user is not.
    for login, answer in zip(logins, [KNOWN, (200, "user: bob"), 401, 401], strict=True):
        found = request(**login)
        assert (found if found[0] == 200 else found[0]) in (answer, 503)
    while request(**ALICE) != KNOWN:
        pass


@pytest.mark.parametrize("way", ["ldaps", "StartTLS"])
def test_tls(example: Example, slapd: Slapd, way: str) -> None:
    settings = {"LDAP_URL": slapd.tls_url} if way == "ldaps" else {"LDAP_STARTTLS": "yes"}
    agent = example.agent(LDAP_CA=str(slapd.certificate), **settings)

    assert "req.user=str:alice" in send(example, agent)
    slapd.program.said("TLS established")


@pytest.mark.parametrize(("way", "wrong"), [("ldaps", "authority"), ("StartTLS", "authority"), ("StartTLS", "host")])
def test_a_certificate_that_is_wrong(example: Example, slapd: Slapd, way: str, wrong: str) -> None:
    """Nobody gets a password who has a certificate of another authority, or for another host."""
    url = slapd.tls_url if way == "ldaps" else slapd.url
    settings = {"LDAP_CA": str(slapd.certificate), "LDAP_URL": url.replace("127.0.0.1", "localhost")}
    if wrong == "authority":
        settings = {"LDAP_URL": url}
    agent = example.agent(LDAP_STARTTLS="no" if way == "ldaps" else "yes", **settings)

    assert send(example, agent) == "txn.error=str:handler\n"
    assert slapd.binds() == []


def response(number: int, kind: int, code: int) -> bytes:
    """Return an LDAP response: its message id, its kind, and its result code."""
    return bytes([0x30, 12, 2, 1, number, kind, 7, 10, 1, code, 4, 0, 4, 0])


# Kinds of responses. An entry is followed by SEARCH_DONE.
BIND, SEARCH_DONE, EXTENDED = 0x61, 0x65, 0x78
ENTRY = b"\x30\x1e\x02\x01%c\x64\x19\x04\x06uid=me\x30\x0f\x30\x0d\x04\x03uid\x31\x06\x04\x04%b"


def entry(number: int, name: bytes) -> bytes:
    """Return the response to a search with one entry, whose uid has four letters."""
    return ENTRY % (number, name) + response(number, SEARCH_DONE, 0)


class WrongServer(socketserver.ThreadingTCPServer):
    """Answers each request by the function ``answer`` of the request's message id; closes if it returns nothing."""

    daemon_threads = True
    answer: Callable[[int], bytes]

    def __init__(self) -> None:
        server = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                # A reset is no fault: the agent does not read what is wrong to its end.
                with contextlib.suppress(OSError):
                    while request := self.request.recv(4096):
                        # A short message: 0x30, its length, and 2, 1 and the id.
                        answer = server.answer(request[4])
                        if not answer:
                            return
                        self.request.sendall(answer)

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"ldap://127.0.0.1:{self.server_address[1]}"


@pytest.fixture
def wrong_server() -> Iterator[WrongServer]:
    with WrongServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


#: Answers of a server, each by the message id of the request. All of them are wrong.
WRONG: dict[str, Callable[[int], bytes]] = {
    "closes": lambda number: b"",
    "no LDAP": lambda number: b"\xff" * 100,
    "another protocol": lambda number: b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "to another request": lambda number: response(number + 50, BIND, 0),
    "to a search": lambda number: response(number, SEARCH_DONE, 0),
    "half a response": lambda number: response(number, BIND, 0)[:-3],
    "busy": lambda number: response(number, BIND, 51),
    "wants TLS": lambda number: response(number, BIND, 13),
    "says twice yes": lambda number: response(number, BIND, 0) * 2,
    "name with a line feed": lambda number: response(number, BIND, 0) + entry(number + 1, b"me\r\n"),
}


def test_a_server_that_is_wrong(example: Example, wrong_server: WrongServer, branch: Branch) -> None:
    """All its answers end in 503, and the next right answer passes."""
    example.edit("handlers.py", "timeout=2,", "timeout=0.5,")
    request = example.site(branch, example.agent(LDAP_URL=wrong_server.url, LDAP_CACHE="0"))

    statuses = {}
    for case, answer in WRONG.items():
        wrong_server.answer = answer
        statuses[case] = request(**ALICE)[0]
    assert statuses == dict.fromkeys(WRONG, 503)

    def right(number: int) -> bytes:
        bound.append(number)
        return response(number, BIND, 0) if len(bound) == 1 else entry(number, b"four")

    bound: list[int] = []
    wrong_server.answer = right
    assert request(**ALICE) == (200, "user: four")


def test_answers_before_tls(example: Example, wrong_server: WrongServer) -> None:
    """Somebody between agent and server sends all that a login needs, in plain bytes behind the answer to StartTLS."""

    def answer(number: int) -> bytes:
        return response(number, EXTENDED, 0) + response(number + 1, BIND, 0) + entry(number + 2, b"evil")

    wrong_server.answer = answer
    agent = example.agent(LDAP_URL=wrong_server.url, LDAP_STARTTLS="yes")
    assert send(example, agent) == "txn.error=str:handler\n"
    agent.program.said("plain bytes behind the answer to StartTLS")


#: Settings, and the error for each.
ERRORS = {
    "LDAP_URL=127.0.0.1:389": "LDAP_URL must be ldap://HOST:PORT or ldaps://HOST:PORT: '127.0.0.1:389'",
    "LDAP_URL=ldap://127.0.0.1:99999": "LDAP_URL: Port out of range 0-65535",
    "LDAP_STARTTLS=maybe": "LDAP_STARTTLS must be yes or no, and no for ldaps: 'maybe'",
    "LDAP_USER_DN=uid=alice": "LDAP_USER_DN must have {} once, for the name: 'uid=alice'",
    "LDAP_FILTER='(uid='": "LDAP_FILTER: Invalid LDAP filter",
    "LDAP_CACHE=-1": "LDAP_CACHE must be whole seconds: '-1'",
    "LDAP_URL=ldap://ldap.example.org LDAP_CA=nowhere": "'nowhere'",
}


def test_settings_that_are_wrong(example: Example) -> None:
    """One line says what is wrong, and the agent does not start."""

    def start(setting: str) -> str:
        return example.run(f"{setting} twistd --pidfile= -n spoa --handlers handlers.py; test $? -eq 1")

    with ThreadPoolExecutor() as pool:
        for output, error in zip(pool.map(start, ERRORS), ERRORS.values(), strict=True):
            assert error in output
            assert len(output.splitlines()) == 1


def test_a_reload(example: Example, slapd: Slapd) -> None:
    status = f"unix:{example.folder}/status"
    agent = example.agent(f"twistd -n spoa --handlers handlers.py --workers 1 --status {status}")

    assert "req.user=str:alice" in send(example, agent)
    example.run(f"spoactl reload --status {status}")
    assert "req.user=str:alice" in send(example, agent)
    # The new worker has an empty cache.
    assert len(slapd.binds()) == 2
