"""What HAProxy sends for an expression, compared with the annotation of the parameter that takes it."""

from __future__ import annotations

from typing import Final

from spoa_twisted.haproxy.grammar.expressions import Call, Expression

# What arrives for each fetch: names of classes. Only fetches that are common in "args" lines, and whose type is sure.
_ADDRESS: Final = frozenset({"IPv4Address", "IPv6Address"})
_ARRIVES: Final = {
    **dict.fromkeys(("src", "dst", "fc_src", "fc_dst", "hdr_ip", "bc_src", "bc_dst"), _ADDRESS),
    **dict.fromkeys(("hdr", "fhdr", "cook", "hdrs", "method", "path", "pathq", "query", "ver"), frozenset({"str"})),
    **dict.fromkeys(("url", "base", "url_param", "urlp", "ssl_fc_sni", "ssl_sni"), frozenset({"str"})),
    **dict.fromkeys(("body", "payload", "hdrs_bin"), frozenset({"bytes"})),
    **dict.fromkeys(("body_len", "body_size", "src_port", "dst_port", "status", "fe_id", "be_id"), frozenset({"int"})),
    **dict.fromkeys(("ssl_fc", "ssl_c_used"), frozenset({"bool"})),
}

# A fetch of these has no value if the request or the response does not have it: HAProxy sends NULL.
_OPTIONAL: Final = frozenset(
    {"hdr", "fhdr", "cook", "hdr_ip", "url_param", "urlp", "body_param", "query", "ssl_fc_sni", "ssl_sni", "var"}
)

# Converters from STRING to STRING. With any other converter, the type is not checked.
_OF_STRINGS: Final = frozenset({"lower", "upper", "url_dec", "ltrim", "rtrim", "word", "field", "regsub"})

# Classes whose names may stand in an annotation. Of an annotation with any other name, nothing is known.
_KNOWN: Final = _ADDRESS | {"str", "bytes", "int", "bool", "None"}

# What is found if the header is found: it has a number, a length and so on.
_ALSO_OF_HEADERS: Final = {"fhdr": "hdr", "hdr_cnt": "hdr", "fhdr_cnt": "hdr", "hdr_val": "hdr", "hdr_ip": "hdr"}


def mismatch(annotation: str, expression: Expression, *, present: bool) -> str | None:
    """Return the end of a sentence about an annotation that leaves out what HAProxy sends.

    :param present: whether the message is sent only if the expression has a value.
    :return: ``None`` if the annotation fits, or if this is not known.
    """
    allowed = {name.strip().strip("'\"").removeprefix("ipaddress.") for name in annotation.split("|")}
    if not allowed <= _KNOWN:
        return None
    fetch = _plain_name(expression.fetch.name)
    arrives = _ARRIVES.get(fetch)
    if arrives is not None and _keeps_type(expression, arrives) and not _fits(allowed, arrives):
        return f"annotated {annotation}, but {expression.text} arrives as {' or '.join(sorted(arrives))}"
    if fetch in _OPTIONAL and not present and "None" not in allowed:
        return f"annotated {annotation}, but arrives as None when absent: write {annotation} | None, or give a default"
    return None


def _fits(allowed: set[str], arrives: frozenset[str]) -> bool:
    # A bool is an int.
    return bool(allowed & arrives) or (arrives == {"bool"} and "int" in allowed)


def _keeps_type(expression: Expression, arrives: frozenset[str]) -> bool:
    names = {converter.name for converter in expression.converters}
    return not names or (arrives == {"str"} and names <= _OF_STRINGS)


def _plain_name(name: str) -> str:
    """Return the name of a fetch without ``req.`` or ``res.``, and without ``s`` or ``req_`` of the old names."""
    for prefix in ("req.", "res.", "req_", "res_"):
        name = name.removeprefix(prefix)
    return {"shdr": "hdr", "scook": "cook"}.get(name, name)


def source(fetch: Call) -> tuple[str, tuple[str, ...]]:
    """Return what a fetch reads. Two fetches with the same source have a value, or have none, at the same time."""
    name = _plain_name(fetch.name)
    name = _ALSO_OF_HEADERS.get(name, name)
    arguments = fetch.arguments[:1] if name == "hdr" else fetch.arguments
    return name, tuple(text.lower() if name == "hdr" else text for text in arguments)
