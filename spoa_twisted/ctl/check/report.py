"""How a finding is printed."""

from __future__ import annotations

import json

from spoa_twisted.haproxy.joined import Joined
from spoa_twisted.shown import show_text


def as_text(item: Joined) -> str:
    """Return ``spoe.conf:13: error: text [id]``."""
    finding = item.finding
    only = f" ({item.only})" if item.only else ""
    where = f"{finding.place.file}:{finding.place.line}"
    return show_text(f"{where}: {finding.severity.value}: {finding.text}{only} [{finding.id}]")


def as_json(item: Joined) -> str:
    """Return the finding as an object of JSON."""
    finding = item.finding
    return json.dumps(
        {
            "file": _whole(finding.place.file),
            "line": finding.place.line,
            "column": finding.place.column,
            "severity": finding.severity.value,
            "text": _whole(finding.text),
            "id": finding.id,
            "versions": [".".join(map(str, version)) for version in item.versions],
        }
    )


def _whole(text: str) -> str:
    """Return a text without lone surrogates, which stand for bytes that are not UTF-8: many parsers refuse these."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
