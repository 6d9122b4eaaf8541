"""The proxies of haproxy.cfg, with what they have from their ``defaults`` sections."""

from __future__ import annotations

from collections.abc import Iterable

from spoa_twisted.haproxy.configuration import Proxy
from spoa_twisted.haproxy.grammar.sections import Section
from spoa_twisted.haproxy.inheritance import combined, inherited
from spoa_twisted.haproxy.rules import parse_rule
from spoa_twisted.haproxy.scopes import acls

PROXY_KINDS = frozenset({"backend", "defaults", "frontend", "listen"})


def proxies(sections: Iterable[Section]) -> tuple[Proxy, ...]:
    """Return the proxies of all files, in order."""
    found: list[Proxy] = []
    last: Proxy | None = None
    for section in sections:
        if section.kind not in PROXY_KINDS:
            continue
        proxy = _proxy(section, _parent(section, found, last))
        found.append(proxy)
        if section.kind == "defaults":
            last = proxy
    return tuple(found)


def _parent(section: Section, found: list[Proxy], last: Proxy | None) -> Proxy | None:
    """Return the defaults of a section: those behind ``from``, otherwise the last ones above it."""
    texts = section.head.texts
    if "from" in texts[1:-1]:
        name = texts[texts.index("from", 1) + 1]
        named = [proxy for proxy in found if proxy.kind == "defaults" and proxy.name == name]
        return next(iter(named[::-1]), None)
    # A defaults section without "from" begins with nothing.
    return None if section.kind == "defaults" else last


def _proxy(section: Section, parent: Proxy | None) -> Proxy:
    settings = combined(inherited(parent.settings, section.kind) if parent else (), section.settings)
    modes = [setting.texts[1] for setting in settings if setting.starts("mode") and len(setting.words) > 1]
    rules = tuple(rule for setting in settings if (rule := parse_rule(setting)) is not None)
    return Proxy(
        section,
        mode=modes[-1] if modes else "tcp",
        settings=settings,
        rules=rules,
        acls={**(parent.acls if parent else {}), **acls(section)},
    )
