"""Scores a client's address by the network that it comes from.

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

handlers = Handlers()


@handlers.message("get-ip-reputation")
def get_ip_reputation(ip: IPv4Address | IPv6Address) -> Variables:
    """Answer with the worst score of the networks that the address is in; 0 when it is in none."""
    return {"sess.score": max([score for network, score in NETWORKS.items() if ip in network], default=0)}
