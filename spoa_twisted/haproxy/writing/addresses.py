"""The address of an agent: as a word of a ``server`` line, and as a Twisted endpoint."""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import Final

_WORD: Final = re.compile(r"""[^\s#\\$"']+\Z""")
_MAX_PORT: Final = 65_535


def is_address(text: str) -> bool:
    """Return whether HAProxy can read ``text`` as the address of a server with a port, or as that of a socket."""
    if not _WORD.match(text):
        return False
    return text.startswith(("/", "unix@", "abns@")) or _host_and_port(text) is not None


def endpoint_of(address: str) -> str | None:
    """Return the endpoint for ``twistd spoa --listen``. ``None`` if Twisted cannot listen on this kind of address."""
    if address.startswith(("unix@", "/")):
        return f"unix:{address.removeprefix('unix@')}"
    found = _host_and_port(address)
    if found is None:
        return None
    host, port = found
    # A colon without a backslash ends a value in the text of an endpoint.
    escaped = host.replace(":", r"\:")
    return f"tcp:{port}:interface={escaped}"


def _host_and_port(text: str) -> tuple[str, int] | None:
    """Return the host, without the brackets of an IPv6 address, and the port. ``None`` if one of them is missing."""
    host, _, port = re.sub(r"\Aipv[46]@", "", text).rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= _MAX_PORT:
        return None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if ":" in host and not _is_ipv6(host):
        return None
    return (host, int(port)) if host else None


def _is_ipv6(host: str) -> bool:
    try:
        IPv6Address(host)
    except ValueError:
        return False
    return True
