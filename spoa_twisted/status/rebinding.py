"""Against DNS rebinding: the owner of a web page lets its name resolve to an address of the visitor's machine.

The visitor's browser then takes the agent at this address for the server of the page, so the page can read the agent's
answers. But the browser sends the name of the site in the Host header.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any


def is_loopback(host: str) -> bool:
    """Return whether ``host`` is an IP address of the loopback."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def names_a_site(request: Any) -> bool:
    """Return whether the Host header may be the name of a web page: it is no IP address, and not ``localhost``.

    :param request: an ``IRequest``.
    """
    name: str = request.getRequestHostname().decode("ascii", "replace").strip("[]").lower()
    try:
        ip_address(name)
    except ValueError:
        return name != "localhost"
    return False


def may_be_rebound(request: Any) -> bool:
    """Return whether a web page may have sent ``request`` to an address of the loopback."""
    return is_loopback(getattr(request.getHost(), "host", "")) and names_a_site(request)
