"""Allows a request by the network that the client's address is in.

twistd -n spoa --handlers examples/ip_reputation/handlers.py
"""

from ipaddress import IPv4Address, IPv6Address, ip_network

from spoa_twisted import Handlers, Variables

# How bad each network is known to be, from 0 to 100. An agent in earnest has a database for this.
NETWORKS = {
    ip_network("127.0.0.64/26"): 80,
    ip_network("192.0.2.0/24"): 30,
    ip_network("192.0.2.128/25"): 95,
    ip_network("2001:db8::/32"): 60,
}

# From this score on, a network is refused.
TOO_BAD = 50

# HAProxy's rules answer 503 when txn.error is set.
handlers = Handlers(on_error={"txn.error": "handler"})


@handlers.message("get-ip-reputation")
def get_ip_reputation(ip: IPv4Address | IPv6Address) -> Variables:
    """Allow the address unless it is in a network that is too bad; the worst of its networks counts."""
    worst = max([score for network, score in NETWORKS.items() if ip in network], default=0)
    return {"txn.allowed": worst < TOO_BAD}
