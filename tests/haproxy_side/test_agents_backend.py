"""The checks of the agents' backend: configurations on which each speaks, and near ones on which it is silent."""

from __future__ import annotations

import pytest

from spoa_twisted.haproxy.checks import agents_backend

from .cases import Case, parameters
from .configurations import GOOD, HAPROXY, NEW, OLD, Files

SERVER = "server agent1 127.0.0.1:12345 check"
NO_CHECK = "server agent1 127.0.0.1:12345"

#: The backend, which the configuration has below the frontend.
BACKEND = HAPROXY[HAPROXY.index("backend rep-agents") :]
FRONTEND = "frontend www\n"
TCP_ABOVE = GOOD.replaced(BACKEND, "").replaced(
    FRONTEND,
    f"backend rep-agents\n    mode tcp\n    option spop-check\n    timeout server 3m\n    {SERVER}\n\n{FRONTEND}",
)


def server(line: str) -> Files:
    """Return ``GOOD`` with another line in place of its server."""
    return GOOD.replaced(SERVER, line)


SPEAKS = {
    "no-server": [
        Case(GOOD.without(SERVER), "haproxy.cfg:18: error: the backend 'rep-agents' of the agents has no server"),
    ],
    "proxy-protocol": [
        Case(server(f"{SERVER} send-proxy"), "haproxy.cfg:26: error: SPOP does not work behind a PROXY header"),
        Case(server(f"{SERVER} send-proxy-v2"), "haproxy.cfg:26: error: ", OLD),
        # Inherited: the line is that of the defaults.
        Case(
            GOOD.after("timeout client 5s", "default-server send-proxy"),
            "haproxy.cfg:9: error: SPOP does not work behind a PROXY header: write no-send-proxy for the server ",
        ),
        Case(
            server(f"{SERVER} check-send-proxy"), "haproxy.cfg:26: error: a check with a PROXY header marks the agent"
        ),
    ],
    "check-of-another-kind": [
        Case(
            GOOD.replaced("option spop-check", "option httpchk"), "haproxy.cfg:24: error: this check marks the agents"
        ),
        Case(
            GOOD.after("timeout client 5s", "option httpchk GET /health").without("option spop-check"),
            "haproxy.cfg:9: error: this check marks the agents of 'rep-agents' down",
        ),
        Case(GOOD.after("option spop-check", "option redis-check"), "haproxy.cfg:25: error: ", OLD),
    ],
    "check-without-spop": [
        Case(GOOD.without("option spop-check"), "haproxy.cfg:25: warning: this check only connects"),
        Case(GOOD.replaced("option spop-check", "option tcp-check"), "haproxy.cfg:26: warning: "),
        Case(
            GOOD.without("option spop-check").replaced(SERVER, f"default-server check\n    {NO_CHECK}"),
            "haproxy.cfg:25: warning: ",
        ),
    ],
    "no-check": [
        # "option spop-check" shows that a check is meant.
        Case(server(NO_CHECK), "haproxy.cfg:26: warning: no server of 'rep-agents' has 'check'"),
        Case(GOOD.without("option spop-check").replaced(SERVER, NO_CHECK), "haproxy.cfg:25: info: "),
        Case(
            GOOD.without("option spop-check").replaced(SERVER, f"{NO_CHECK}\n    server agent2 127.0.0.2:12345"),
            "haproxy.cfg:25: warning: ",
        ),
        Case(GOOD.replaced(SERVER, f"default-server check\n    {NO_CHECK} no-check"), "haproxy.cfg:27: warning: "),
    ],
    "server-timeout-short": [
        Case(
            GOOD.replaced("timeout server 3m", "timeout server 200ms"),
            "haproxy.cfg:25: error: 'timeout server' (0.2 s) must be longer than 'timeout processing' (2 s)",
        ),
        Case(GOOD.replaced("timeout server 3m", "timeout server 2s"), "haproxy.cfg:25: error: ", OLD),
        Case(
            GOOD.without("timeout server 3m").replaced("timeout server 5s", "timeout server 1s"),
            "haproxy.cfg:9: error: ",
        ),
    ],
    "idle-short": [
        Case(
            GOOD.replaced("timeout idle 2m", "timeout idle 1s"),
            "spoe.conf:8: error: 'timeout idle' (1 s) must be longer than 'timeout processing' (2 s)",
            OLD,
        ),
        Case(GOOD.replaced("timeout idle 2m", "timeout idle 2s"), "spoe.conf:8: error: ", OLD),
    ],
    "server-timeout-idle": [
        Case(
            GOOD.without("timeout server 3m"), "haproxy.cfg:9: info: 'timeout server' (5 s) ends idle connections", OLD
        ),
    ],
    "backend-above": [
        Case(
            TCP_ABOVE, "haproxy.cfg:11: warning: HAProxy opens a connection for each NOTIFY: write 'mode spop', or move"
        ),
    ],
}

#: On the same thing written as it should be, or on what cannot be known, each check is silent.
SILENT = {
    "no-server": [
        Case(GOOD),
        Case(GOOD.alone()),
        Case(server("server-template agent 3 agents.example:12345 check")),
        # HAProxy itself refuses it.
        Case(GOOD.replaced("use-backend rep-agents", "use-backend nothing")),
    ],
    "proxy-protocol": [
        Case(GOOD),
        Case(server(f"{SERVER} send-proxy"), version=(3, 4)),
        Case(GOOD.after("timeout client 5s", "default-server send-proxy").replaced(SERVER, f"{SERVER} no-send-proxy")),
        # Not for the agents.
        Case(GOOD.plus(haproxy="\nbackend app\n    server app1 127.0.0.1:8081 send-proxy\n")),
        # The value of another option.
        Case(server(f"{SERVER} cookie send-proxy")),
        # No check is sent.
        Case(server(f"{NO_CHECK} check-send-proxy")),
        Case(server(f"{SERVER} check-send-proxy port 9000")),
    ],
    "check-of-another-kind": [
        Case(GOOD),
        # The last one counts.
        Case(GOOD.before("option spop-check", "option httpchk")),
        Case(GOOD.after("timeout client 5s", "option httpchk GET /health")),
        # Nothing is checked, or something else.
        Case(GOOD.replaced("option spop-check", "option httpchk").replaced(SERVER, NO_CHECK)),
        Case(GOOD.replaced("option spop-check", "option httpchk").replaced(SERVER, f"{SERVER} port 9000")),
        Case(GOOD.replaced("option spop-check", "option httpchk").replaced(SERVER, f"{SERVER} healthcheck spop")),
        Case(GOOD.replaced("option spop-check", "option external-check")),
    ],
    "check-without-spop": [
        Case(GOOD),
        Case(GOOD.replaced("option spop-check", "option tcp-check\n    tcp-check send-binary 00")),
        Case(GOOD.without("option spop-check").replaced(SERVER, NO_CHECK)),
        Case(GOOD.without("option spop-check").replaced(SERVER, f"{NO_CHECK} track other/agent1")),
        Case(GOOD.replaced("option spop-check", "option httpchk")),
        Case(GOOD.without("option spop-check").replaced(SERVER, f"default-server check\n    {NO_CHECK} no-check")),
    ],
    "no-check": [
        Case(GOOD),
        Case(GOOD.replaced(SERVER, f"default-server check\n    {NO_CHECK}")),
        Case(server(f"{SERVER}\n    server agent2 127.0.0.2:12345 backup")),
        Case(server(f"{NO_CHECK} track other/agent1")),
    ],
    "server-timeout-short": [
        Case(GOOD),
        Case(GOOD.without("timeout server 3m")),
        Case(GOOD.replaced("timeout server 3m", "timeout server 2001")),
        Case(GOOD.without("timeout processing 2s").replaced("timeout server 3m", "timeout server 1s")),
        Case(GOOD.without("timeout server 3m").without("timeout server 5s")),
        Case(GOOD.replaced("timeout server 3m", "timeout server")),
        Case(GOOD.replaced("timeout server 3m", "timeout server soon")),
        Case(GOOD.replaced("[rep]", "[other]")),
    ],
    "idle-short": [
        Case(GOOD, version=OLD),
        Case(GOOD.replaced("timeout idle 2m", "timeout idle 1s"), version=NEW),
        Case(GOOD.without("timeout idle 2m"), version=OLD),
    ],
    "server-timeout-idle": [
        Case(GOOD, version=OLD),
        Case(GOOD.without("timeout server 3m"), version=NEW),
        # An error of its own.
        Case(GOOD.replaced("timeout server 3m", "timeout server 1s"), version=OLD),
    ],
    "backend-above": [
        Case(GOOD),
        Case(GOOD.replaced(".if version_atleast(3.1)\n    mode spop\n.else\n    mode tcp\n.endif", "    mode tcp")),
        Case(TCP_ABOVE.replaced("mode tcp", "mode spop")),
        Case(TCP_ABOVE, version=OLD),
    ],
}


@pytest.mark.parametrize(("id_", "case"), parameters(SPEAKS))
def test_it_speaks(id_: str, case: Case) -> None:
    """It finds the line, once."""
    (line,) = case.lines(agents_backend, id_)
    assert line.startswith(case.found)


@pytest.mark.parametrize(("id_", "case"), parameters(SILENT))
def test_it_is_silent(id_: str, case: Case) -> None:
    assert case.lines(agents_backend, id_) == []


@pytest.mark.parametrize("version", [(2, 6), (2, 8), (3, 0), (3, 2), (3, 4)])
def test_the_good_configuration_has_no_finding(version: tuple[int, int]) -> None:
    assert GOOD.found(agents_backend, version=version) == []
