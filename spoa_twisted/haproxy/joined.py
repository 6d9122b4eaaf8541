"""Findings for several versions of HAProxy, joined: what is found for all of them is said once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from spoa_twisted.haproxy.finding import Finding

Version: TypeAlias = tuple[int, int]

#: One version for each of the two SPOEs of HAProxy. HAProxy 3.1 has the second one.
GENERATIONS: Final[tuple[Version, Version]] = ((2, 8), (3, 2))
_REWRITTEN: Final[Version] = (3, 1)


def with_other_generation(version: Version) -> tuple[Version, Version]:
    """Return ``version``, and one of the other SPOE: a configuration has to survive an upgrade."""
    old, new = GENERATIONS
    return (old, version) if version >= _REWRITTEN else (version, new)


@dataclass(frozen=True)
class Joined:
    """A finding, and the versions of HAProxy for which it was found."""

    finding: Finding
    versions: tuple[Version, ...]
    #: A text for the reader if it does not hold for all versions that were checked: ``HAProxy 3.1 and later``.
    only: str


def join(found: Mapping[Version, Iterable[Finding]]) -> list[Joined]:
    """Return the findings of several versions, each one once, sorted by file and line."""
    versions: dict[Finding, list[Version]] = {}
    for version, findings in found.items():
        # A check may find the same thing twice, for example for two frontends with the same defaults.
        for finding in dict.fromkeys(findings):
            versions.setdefault(finding, []).append(version)
    joined = [Joined(finding, tuple(of), _only(of, found)) for finding, of in versions.items()]
    return sorted(joined, key=lambda item: (item.finding.place, item.finding.id, item.finding.text))


def _only(versions: Collection[Version], checked: Collection[Version]) -> str:
    if len(versions) == len(checked):
        return ""
    return "HAProxy 3.1 and later" if min(versions) >= _REWRITTEN else "HAProxy 3.0 and earlier"
