"""The settings that a proxy has from its ``defaults`` section."""

from __future__ import annotations

from collections.abc import Sequence

from spoa_twisted.haproxy.grammar.sections import Setting

#: Settings of which a proxy has one: the last one counts, and a proxy's own one replaces that of its defaults.
_SINGLE = frozenset(
    {"backlog", "balance", "cookie", "default_backend", "description", "error-log-format", "fullconn", "hash-type"}
    | {"http-reuse", "id", "log-format", "log-format-sd", "log-tag", "maxconn", "mode", "monitor-uri", "retries"}
    | {"retry-on", "source", "unique-id-format", "unique-id-header"}
)
#: Settings of which a proxy has one for each second word.
_SINGLE_OF_TWO = frozenset({"errorfile", "option", "timeout"})
_INSPECT_DELAYS = (("tcp-request", "inspect-delay"), ("tcp-response", "inspect-delay"))

#: Settings of its defaults that a backend ignores.
_FOR_FRONTENDS = frozenset(
    [(name,) for name in ("default_backend", "error-log-format", "log-format", "log-format-sd", "monitor-uri")]
    + [(name,) for name in ("unique-id-format", "unique-id-header")]
    + [("option", name) for name in ("dontlog-normal", "dontlognull", "httplog", "httpslog", "logasap", "tcplog")]
    + [("timeout", name) for name in ("client", "client-fin", "client-hs")]
    + [("tcp-request", name) for name in ("connection", "session")]
)
#: Settings of its defaults that a frontend ignores.
_FOR_BACKENDS = frozenset(
    [(name,) for name in ("balance", "cookie", "default-server", "fullconn", "hash-type", "http-check", "http-reuse")]
    + [(name,) for name in ("retries", "retry-on", "source", "tcp-check", "tcp-response")]
    + [("option", name) for name in ("allbackups", "httpchk", "ldap-check", "log-health-checks", "mysql-check")]
    + [("option", name) for name in ("persist", "pgsql-check", "redis-check", "redispatch", "smtpchk", "spop-check")]
    + [("option", name) for name in ("ssl-hello-chk", "tcp-check")]
    + [("timeout", name) for name in ("check", "connect", "queue", "server", "server-fin", "tunnel")]
)


def inherited(settings: Sequence[Setting], kind: str) -> list[Setting]:
    """Return the settings of a defaults section that mean something for a ``frontend``, ``backend`` and so on."""
    ignored = {"frontend": _FOR_BACKENDS, "backend": _FOR_FRONTENDS}.get(kind, frozenset())
    return [item for item in settings if item.texts[:1] not in ignored and item.texts[:2] not in ignored]


def combined(defaults: Sequence[Setting], own: Sequence[Setting]) -> tuple[Setting, ...]:
    """Return the settings of a proxy: those of its defaults, if its own do not replace them, and its own."""
    result = list(defaults)
    replaced = {_key(setting.texts) for setting in own} - {None}
    result = [setting for setting in result if _key(setting.texts) not in replaced]
    for setting in own:
        texts = setting.texts
        if texts[0] != "no":
            result.append(setting)
        elif texts[1:]:
            result = [earlier for earlier in result if not _is_cleared(earlier.texts, texts[1:])]
    return tuple(result)


def _key(texts: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the first words of the settings that a setting replaces; ``None`` if it adds to others of its kind."""
    if texts[0] in _SINGLE:
        return texts[:1]
    if texts[0] in _SINGLE_OF_TWO or texts[:2] in _INSPECT_DELAYS:
        return texts[:2]
    return None


def _is_cleared(texts: tuple[str, ...], cleared: tuple[str, ...]) -> bool:
    """Return whether ``no option httpchk`` or ``no log`` removes a setting."""
    count = 2 if cleared[0] == "option" else 1
    return texts[:count] == cleared[:count]
