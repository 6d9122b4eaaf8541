"""The backend of the agents: its mode, its place, its servers, their checks and its timeouts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks.check import Check
from spoa_twisted.haproxy.configuration import Configuration, Engine, Proxy
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.grammar.lines import Place, Word
from spoa_twisted.haproxy.grammar.sections import Setting
from spoa_twisted.haproxy.times import seconds

# Options of a server that this module looks at. "no-NAME" undoes the option NAME of a default-server line.
_FLAGS: Final = frozenset(
    {
        *("check", "agent-check", "track", "addr", "port", "healthcheck"),
        *("send-proxy", "send-proxy-v2", "send-proxy-v2-ssl", "send-proxy-v2-ssl-cn", "check-send-proxy"),
    }
)

# Options of a server that put a PROXY header in front of SPOP's first frame.
_PROXY_HEADERS: Final = ("send-proxy", "send-proxy-v2", "send-proxy-v2-ssl", "send-proxy-v2-ssl-cn")

#: HAProxy 3.4.7 sends no PROXY header to agents; 3.2.26 does.
_NO_PROXY_HEADER: Final = (3, 4)

# Options of a server whose value could look like a flag.
_FREE_VALUES: Final = frozenset({"cookie", "id", "namespace", "pool-conn-name", "set-proxy-v2-tlv-fmt", "sni"})

# With one of these options, the check of the backend does not go to the server's own port.
_CHECKED_ELSEWHERE: Final = ("track", "addr", "port", "healthcheck")

# The options of a backend that choose a kind of check. HAProxy uses the last one.
_KINDS: Final = frozenset(
    {
        *("spop-check", "httpchk", "tcp-check", "external-check", "ssl-hello-chk", "ldap-check", "mysql-check"),
        *("pgsql-check", "redis-check", "smtpchk"),
    }
)

# These kinds may do anything: their rules or their program say what.
_ANYTHING: Final = frozenset({"tcp-check", "external-check"})

# Words of a backend with which its servers are not in its own lines.
_OTHER_SERVERS: Final = ("server-template", "dispatch", "use-server")


@dataclass(frozen=True)
class _Server:
    name: str
    setting: Setting
    #: The flags that count, with the word that sets each: on its own line or on a default-server line.
    flags: dict[str, Word]

    @property
    def address(self) -> str:
        return self.setting.texts[2]

    def first(self, *flags: str) -> Word | None:
        """Return the word of the first of ``flags`` that the server has."""
        return next((self.flags[flag] for flag in flags if flag in self.flags), None)


def _backends(configuration: Configuration) -> dict[Place, tuple[Proxy, list[Engine]]]:
    """Return the backends of agents, with the engines that use each, by the place of the backend."""
    backends: dict[Place, tuple[Proxy, list[Engine]]] = {}
    for engine in configuration.engines:
        if engine.backend is not None:
            backends.setdefault(engine.backend.place, (engine.backend, []))[1].append(engine)
    return backends


def _servers(backend: Proxy) -> list[_Server]:
    servers: list[_Server] = []
    defaults: list[Word] = []
    for setting in backend.settings:
        if setting.starts("default-server"):
            defaults += setting.words[1:]
        elif setting.starts("server") and len(setting.words) > 2:
            servers.append(_Server(setting.texts[1], setting, _flags([*defaults, *setting.words[3:]])))
    return servers


def _flags(words: Sequence[Word]) -> dict[str, Word]:
    flags: dict[str, Word] = {}
    before = ""
    for word in words:
        if before not in _FREE_VALUES:
            if word.text in _FLAGS:
                flags.setdefault(word.text, word)
            elif word.text.startswith("no-"):
                flags.pop(word.text[3:], None)
        before = word.text
    return flags


def _timeout(backend: Proxy, name: str) -> tuple[float, Setting] | None:
    """Return the seconds of a timeout that counts, and its line. ``None`` if there is none, or its value is unknown."""
    setting = backend.last("timeout", name)
    if setting is None or len(setting.words) < 3:
        return None
    time = seconds(setting.texts[2])
    return (time, setting) if time else None


def check_place(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find a backend that HAProxy checks before it knows that agents are in it: it never reuses a connection then."""
    if not configuration.rewritten:
        return
    position = {proxy.place: number for number, proxy in enumerate(configuration.proxies)}
    for backend, engines in _backends(configuration).values():
        first = min((engine.proxy for engine in engines), key=lambda proxy: position[proxy.place])
        if backend.mode == "tcp" and position[backend.place] < position[first.place]:
            yield Finding(
                "backend-above",
                Severity.WARNING,
                backend.place,
                f"HAProxy opens a connection for each NOTIFY: write 'mode spop', or move this backend below"
                f" the {first.kind} {first.name!r}",
            )


def check_servers(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find a backend without a server."""
    for backend, _ in _backends(configuration).values():
        others = [setting for setting in backend.settings if setting.texts[0] in _OTHER_SERVERS]
        if not _servers(backend) and not others:
            text = f"the backend {backend.name!r} of the agents has no server: no message is ever answered"
            yield Finding("no-server", Severity.ERROR, backend.place, text)


def check_proxy_headers(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find a server that gets a PROXY header before SPOP's first frame."""
    for backend, _ in _backends(configuration).values():
        for server in _servers(backend):
            word = server.first(*_PROXY_HEADERS)
            if word is not None and configuration.version < _NO_PROXY_HEADER:
                text = f"SPOP does not work behind a PROXY header: write no-{word} for the server {server.name!r}"
                yield Finding("proxy-protocol", Severity.ERROR, word.place, text)
            word = server.first("check-send-proxy")
            if word is not None and server.first("check") and not server.first(*_CHECKED_ELSEWHERE):
                text = f"a check with a PROXY header marks the agent {server.name!r} down: write no-{word}"
                yield Finding("proxy-protocol", Severity.ERROR, word.place, text)


def check_health_checks(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find servers that are not checked, or not as agents."""
    for backend, _ in _backends(configuration).values():
        servers = _servers(backend)
        if servers:
            yield from _unchecked(backend, servers)
            yield from _wrongly_checked(backend, servers)


def _check_kind(backend: Proxy) -> Setting | None:
    """Return the line that chooses the kind of check."""
    kinds = [option for option in backend.all("option") if len(option.words) > 1 and option.texts[1] in _KINDS]
    return kinds[-1] if kinds else None


def _unchecked(backend: Proxy, servers: list[_Server]) -> Iterator[Finding]:
    if any(server.first("check", "agent-check", "track") for server in servers):
        return
    # One server without a check may be meant: a connection that fails is noticed, and there is no other server to take.
    meant = backend.section.last("option", "spop-check")
    severity = Severity.WARNING if meant or len({server.address for server in servers}) > 1 else Severity.INFO
    setting = servers[0].setting
    text = f"no server of {backend.name!r} has 'check': HAProxy does not notice that an agent has gone or hangs"
    yield Finding("no-check", severity, setting.place, text)


def _wrongly_checked(backend: Proxy, servers: list[_Server]) -> Iterator[Finding]:
    checked = [server for server in servers if server.first("check") and not server.first(*_CHECKED_ELSEWHERE)]
    if not checked:
        return
    option = _check_kind(backend)
    kind = None if option is None else option.texts[1]
    if kind is None or (kind == "tcp-check" and not backend.all("tcp-check")):
        word = checked[0].flags["check"]
        text = f"this check only connects: add 'option spop-check' to {backend.name!r}, so that the agent must answer"
        yield Finding("check-without-spop", Severity.WARNING, word.place, text)
    elif option is not None and kind != "spop-check" and kind not in _ANYTHING:
        text = (
            f"this check marks the agents of {backend.name!r} down, because they speak SPOP: end the backend's options"
            " with 'option spop-check'"
        )
        yield Finding("check-of-another-kind", Severity.ERROR, option.place, text)


def check_timeouts(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find timeouts that end a connection before the agent's answer must be there."""
    for engine in configuration.engines:
        agent = engine.agent
        if agent is None:
            continue
        processing, idle = agent.timeouts.get("processing"), agent.timeouts.get("idle")
        idle_setting = agent.section.last("timeout", "idle")
        if not configuration.rewritten and processing and idle and idle_setting and idle <= processing:
            yield Finding(
                "idle-short",
                Severity.ERROR,
                idle_setting.place,
                f"'timeout idle' ({idle:g} s) must be longer than 'timeout processing' ({processing:g} s): it also ends"
                " connections that wait for the agent",
            )
        server = None if engine.backend is None else _timeout(engine.backend, "server")
        if server is None:
            continue
        time, setting = server
        if processing and time <= processing:
            yield Finding(
                "server-timeout-short",
                Severity.ERROR,
                setting.place,
                f"'timeout server' ({time:g} s) must be longer than 'timeout processing' ({processing:g} s): it"
                " ends the connection, error 257",
            )
        elif not configuration.rewritten and idle and time <= idle:
            yield Finding(
                "server-timeout-idle",
                Severity.INFO,
                setting.place,
                f"'timeout server' ({time:g} s) ends idle connections before 'timeout idle' ({idle:g} s), with"
                " DISCONNECT 1",
            )


#: The checks of this family.
CHECKS: Final[tuple[Check, ...]] = (
    Check("no-server", Severity.ERROR, "the agents' backend has no server", check_servers),
    Check("proxy-protocol", Severity.ERROR, "a PROXY header is sent to the agents", check_proxy_headers),
    Check(
        "check-of-another-kind", Severity.ERROR, "the check of another protocol marks agents down", check_health_checks
    ),
    Check("check-without-spop", Severity.WARNING, "the check of an agent only connects", check_health_checks),
    Check("no-check", Severity.WARNING, "no agent is checked", check_health_checks),
    Check("server-timeout-short", Severity.ERROR, "timeout server ends what the agent still works on", check_timeouts),
    Check("idle-short", Severity.ERROR, "timeout idle ends what the agent still works on", check_timeouts),
    Check("server-timeout-idle", Severity.INFO, "timeout server ends idle connections, as an error", check_timeouts),
    Check("backend-above", Severity.WARNING, "HAProxy opens a connection for each NOTIFY", check_place),
)
