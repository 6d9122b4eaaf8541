"""Which fetch reads a whole header: ``req.hdr`` and ``res.hdr`` split each header at its commas."""

from __future__ import annotations

from typing import Final

from spoa_twisted.haproxy.grammar.expressions import Expression

#: The fetches that read one value of a header, with the fetch that reads the whole header.
_WHOLE: Final = {"req.hdr": "req.fhdr", "hdr": "req.fhdr", "res.hdr": "res.fhdr", "shdr": "res.fhdr"}

#: Headers that are no lists, and may have commas: in dates, texts, URLs and credentials.
_WITH_COMMAS: Final = frozenset(
    {
        *("authorization", "cookie", "date", "expires", "if-modified-since", "if-unmodified-since", "last-modified"),
        *("location", "proxy-authorization", "referer", "set-cookie", "user-agent", "www-authenticate"),
    }
)


def whole_header(expression: Expression) -> str | None:
    """Return the fetch that reads the whole header, as ``req.fhdr(user-agent)``, if ``expression`` reads a part of it.

    :return: ``None`` for another fetch, and for a header that is a list or has no commas.
    """
    fetch = expression.fetch
    name = fetch.arguments[0].strip() if fetch.arguments else ""
    if fetch.name in _WHOLE and may_have_commas(name):
        return f"{_WHOLE[fetch.name]}({','.join((name, *fetch.arguments[1:]))})"
    return None


def may_have_commas(name: str) -> bool:
    """Return whether a header is no list, and may have commas."""
    return name.lower() in _WITH_COMMAS
