"""Allows or refuses a request by the network of the client's address.

Run it with: twistd -n spoa --handlers examples/ip_reputation/handlers.py
"""

from ipaddress import IPv4Address, IPv6Address, ip_network

from spoa_twisted import Handlers, Variables

# The score of each network, from 0 (good) to 100 (bad). In production, take it from a database.
NETWORKS = {
    ip_network("127.0.0.64/26"): 80,
    ip_network("192.0.2.0/24"): 30,
    ip_network("192.0.2.128/25"): 95,
    ip_network("2001:db8::/32"): 60,
}

# Clients in a network with this score or more are refused.
TOO_BAD = 50

# The agent sets txn.error when the handler fails. The rules in haproxy.cfg then answer 503.
handlers = Handlers(on_error={"txn.error": "handler"})


@handlers.message("get-ip-reputation", args={"ip": "src"}, event="on-frontend-http-request", sets={"txn.allowed": bool})
def get_ip_reputation(ip: IPv4Address | IPv6Address) -> Variables:
    """Allow the address unless its network is too bad. If it is in several networks, the worst score counts."""
    worst = max([score for network, score in NETWORKS.items() if ip in network], default=0)
    return {"txn.allowed": worst < TOO_BAD}
