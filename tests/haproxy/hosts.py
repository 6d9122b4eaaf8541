"""Hosts for HAProxy and for agents: network namespaces on this machine, with links between them.

A process on one host cannot see the sockets of another host. So the agent's kernel cannot tell what HAProxy has read,
as at most sites. On one machine it can; see :mod:`spoa_twisted.agent.receipt`.

The namespaces have no names, and this machine's own network is not changed. When the last process in a namespace has
ended, the kernel removes it with its links, also if the tests were killed. The addresses may be the same in each test.

Web clients need no host: HAProxy inherits the sockets for them, and a socket stays in the namespace in which it was
created. HAProxy on a host cannot connect to its own ``origin`` for the same reason, so its rules must answer.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

#: Bytes: the longest IP packet on a link, as on an Ethernet.
MTU = 1500

#: The device for links over which a program carries the packets.
TUN = "/dev/net/tun"

#: Seconds for a program that sets up the network, to end one that hangs.
_LIMIT = 20


class Host:
    """A network namespace. As a context manager, it ends the process that keeps the namespace.

    :param number: 0 is HAProxy's host, the others are hosts of agents.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        #: The address of the agent on this host.
        self.address = f"10.0.{number}.2"
        # cat reads until this process closes the pipe, also by its end. No other process inherits the pipe.
        command = ["unshare", "--net", "sh", "-c", "echo; exec cat"]
        self._keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._keeper.stdout is not None
        # When sh writes this line, it is in the namespace.
        self._keeper.stdout.readline()
        self.pid = self._keeper.pid
        #: A command on this machine, with this in front of it, runs on the host. The process id stays the same.
        self.inside = ["nsenter", f"--net=/proc/{self.pid}/ns/net"]
        self._interfaces: list[str] = []

    def __enter__(self) -> Host:
        return self

    def __exit__(self, *exception: object) -> None:
        self._keeper.communicate(timeout=_LIMIT)

    def endpoint(self, port: str = "0") -> str:
        """Return the endpoint on which an agent listens on this host."""
        return f"tcp:{port}:interface={self.address}"

    def set_up(self, interface: str, address: str) -> None:
        """Give an interface of this host its address."""
        self._interfaces.append(interface)
        self.ip(f"addr add {address}/24 dev {interface}", f"link set {interface} up")

    def fail(self) -> None:
        """Lose all packets from and to this host. To other hosts, its machine has failed; its processes go on."""
        self.ip(*[f"link set {interface} down" for interface in self._interfaces])

    def recover(self) -> None:
        """Undo :meth:`fail`."""
        self.ip(*[f"link set {interface} up" for interface in self._interfaces])

    def ip(self, *commands: str) -> None:
        """Run commands of the program ``ip`` on this host."""
        batch = "\n".join(commands)
        subprocess.run([*self.inside, "ip", "-batch", "-"], input=batch, text=True, check=True, timeout=_LIMIT)


@dataclass(frozen=True)
class Hosts:
    """A host for HAProxy, and hosts for two agents. An agent's host is connected with HAProxy's host only."""

    haproxy: Host
    agents: tuple[Host, Host]

    def connect(self, agent: Host) -> None:
        """Connect an agent's host with HAProxy's host by a pair of Ethernet interfaces."""
        # By default, the kernel gives these interfaces packets of 64 KiB, because no cable limits the size.
        ethernet = f"mtu {MTU} gso_max_segs 1"
        near, far = self.names(agent)
        self.haproxy.ip(f"link add {near} {ethernet} type veth peer {far} {ethernet} netns {agent.pid}")
        self.set_up(agent)

    def names(self, agent: Host) -> tuple[str, str]:
        """Return the names of the interfaces of the link to an agent's host: on HAProxy's host, and on the other."""
        return f"agent{agent.number}", "haproxy"

    def set_up(self, agent: Host) -> None:
        """Give the interfaces of the link to an agent's host their addresses."""
        near, far = self.names(agent)
        self.haproxy.set_up(near, f"10.0.{agent.number}.1")
        agent.set_up(far, agent.address)


@contextmanager
def separate_hosts() -> Iterator[Hosts]:
    """Make hosts, without links between them."""
    with ExitStack() as stack:
        haproxy, first, second = [stack.enter_context(Host(number)) for number in range(3)]
        yield Hosts(haproxy, (first, second))


@functools.cache
def missing(tun: bool = False) -> str | None:
    """Return why this machine cannot have such hosts, and how to change that, or ``None`` if it can.

    :param tun: whether a program is to carry the packets of a link.
    """
    for program, package in (("unshare", "util-linux"), ("nsenter", "util-linux"), ("ip", "iproute2")):
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {package}"
    command = ["unshare", "--net", "ip", "link", "add", "type", "veth"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT)
    if run.returncode:
        needs = "network namespaces need root, in a container with CAP_SYS_ADMIN and CAP_NET_ADMIN"
        return f"{needs}: {run.stderr.strip()}"
    if tun:
        try:
            open(TUN, "r+b", buffering=0).close()
        except OSError as error:
            return f"TUN devices need root, in a container with --device={TUN}: {error}"
    return None
