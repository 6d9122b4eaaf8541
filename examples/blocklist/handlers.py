"""Refuses the addresses and networks in a file.

Run it with: BLOCKLIST=list.txt twistd -n spoa --handlers handlers.py
"""

import os
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from spoa_twisted import Handlers, Variables

# The folder may change after the import: twistd's --rundir does that.
FILE = os.path.abspath(os.environ.get("BLOCKLIST", "list.txt"))

# How often the file is read again, in seconds.
INTERVAL = 10

# The agent sets txn.error when the handler fails. The rules in haproxy.cfg then answer 503.
handlers = Handlers(on_error={"txn.error": "handler"})

networks: list[IPv4Network | IPv6Network] = []


# Before the agent listens: if the file is missing or wrong, the agent does not start. Then every 10 seconds: if it is
# wrong, the log says so, and the networks of before stay in use. In a thread, because to read a file takes time.
@handlers.startup(blocking=True)
@handlers.every(INTERVAL, blocking=True)
def read_file() -> None:
    global networks
    with open(FILE, encoding="utf-8") as file:
        texts = [line.partition("#")[0].strip() for line in file]
    found = [ip_network(text) for text in texts if text]
    if not found:
        raise ValueError(f"{FILE} has no network")  # Perhaps another program is just writing it.
    # In one step: handlers run meanwhile.
    networks = found


@handlers.message("check-blocklist", args={"ip": "src"}, event="on-frontend-http-request", sets={"txn.allowed": bool})
def check_blocklist(ip: IPv4Address | IPv6Address) -> Variables:
    """Allow the address unless a network has it."""
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped  # A client with IPv4 at a bind with "v4v6".
    return {"txn.allowed": not any(ip in network for network in networks)}
