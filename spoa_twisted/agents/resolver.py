"""Asks DNS servers for IPv4 addresses, by one UDP socket for each server.

``twisted.names.client`` is not used: it makes a socket for each query, and Twisted logs two lines for each socket. It
also shares a query between callers, and when one of them is cancelled, the others fail.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, final

from twisted.internet import defer
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.names import client, dns

#: The IP address and the port of a server.
Address = tuple[str, int]

#: At most this many servers are asked for one name.
_MOST_SERVERS: Final = 3


class NoAnswer(Exception):
    """No DNS server has answered the query. The text says why."""


@final
class Resolver:
    """Asks DNS servers.

    A query goes to the first server, and then to the others. If there is only one, it gets a second query: a datagram
    can be lost.

    :param servers: the servers, at least one.
    :param timeout: the seconds for a query, with all servers.
    :param reactor: the reactor. It needs UDP and TCP.
    """

    def __init__(self, servers: Sequence[Address], timeout: float, reactor: Any) -> None:
        self._timeout = timeout
        self._reactor = reactor
        self._servers = [_DNSClient(address, reactor) for address in servers[:_MOST_SERVERS]]

    def query(self, name: str) -> defer.Deferred[dns.Message]:
        """Return a Deferred of the answer to a query for the IPv4 addresses of ``name``, in lower case.

        The code of the answer is OK or ENAME (NXDOMAIN), and the answer is complete. The Deferred fails with
        :class:`NoAnswer`, and may be cancelled.
        """
        query = defer.Deferred.fromCoroutine(self._query(name))
        return query.addTimeout(self._timeout, self._reactor).addErrback(_on_timeout)

    async def _query(self, name: str) -> dns.Message:
        attempts = self._servers if len(self._servers) > 1 else self._servers * 2
        seconds = self._timeout / len(attempts)
        problem = ""
        for server in attempts:
            try:
                answer = await server.query(server.address, [dns.Query(name.encode(), dns.A, dns.IN)], seconds)
                if answer.trunc:
                    answer = await self._by_tcp(server.address, name)
            except dns.DNSQueryTimeoutError:
                problem = "no answer in time"
                continue
            except OSError as error:
                # There is no way to this server.
                problem = str(error)
                continue
            # A late answer to an earlier query can have the number of this query.
            if [query.name.name.lower() for query in answer.queries] != [name.encode()]:
                problem = "the answer is one to another query"
            elif answer.trunc:
                problem = "the answer is truncated, also by TCP"
            elif answer.rCode in (dns.OK, dns.ENAME):
                return answer
            else:
                problem = f"the DNS server answers with the error code {answer.rCode}"
        raise NoAnswer(problem)

    async def _by_tcp(self, address: Address, name: str) -> Any:
        factory = client.DNSClientFactory(_Controller())
        factory.noisy = False
        try:
            connection: Any = await HostnameEndpoint(self._reactor, *address, timeout=self._timeout).connect(factory)
        except Exception as error:
            raise NoAnswer(f"the answer is truncated, and there is no connection by TCP: {error}") from error
        try:
            return await connection.query([dns.Query(name.encode(), dns.A, dns.IN)], self._timeout)
        finally:
            connection.transport.loseConnection()

    async def close(self) -> None:
        """Close the sockets."""
        for server in self._servers:
            await server.close()


class _Controller:
    """What the protocols of twisted.names call."""

    def connectionMade(self, protocol: object) -> None:
        """Nothing waits for it."""

    def connectionLost(self, protocol: object) -> None:
        """The query ends by its timeout."""

    def messageReceived(self, *answer: object) -> None:
        """Drop an answer that comes too late."""


@final
class _DNSClient(dns.DNSDatagramProtocol):
    """The UDP socket for one server.

    The socket is not connected: Twisted's epoll reactor closes a connected one when nothing listens at the other end.
    """

    noisy = False

    def __init__(self, address: Address, reactor: Any) -> None:
        super().__init__(_Controller(), reactor)  # type: ignore[no-untyped-call]
        self.address = address
        interface = "::" if ":" in address[0] else ""
        self._port: IListeningPort = reactor.listenUDP(0, self, interface=interface)

    def datagramReceived(self, data: bytes, addr: Address) -> None:
        # Twisted 22.4 does not compare the addresses itself.
        if addr == self.address:
            super().datagramReceived(data, addr)

    def close(self) -> Any:
        return self._port.stopListening()


def read_address(text: str) -> Address:
    """Return the address and the port of ``127.0.0.1:53``, ``[::1]:53``, ``127.0.0.1`` or ``::1``.

    :raises ValueError: for another text.
    """
    found = re.fullmatch(r"([0-9.]+|\[[0-9a-f:.]+\]):([0-9]{1,5})", text, re.IGNORECASE)
    host, port = (found[1].strip("[]"), int(found[2])) if found else (text, dns.PORT)
    try:
        address = str(ip_address(host))
    except ValueError:
        address = ""
    if not address or not 0 < port < 65536:
        raise ValueError('a DNS server is an IP address, or one with a port, such as "127.0.0.1:53" or "[::1]:53"')
    return address, port


def system_servers(path: Path = Path("/etc/resolv.conf")) -> list[Address]:
    """Return the DNS servers of this machine. Without any, it is the one on this machine, as for the C library.

    :raises OSError: if the file cannot be read.
    """
    words = [line.split() for line in path.read_text(errors="replace").splitlines()]
    servers = [word[1] for word in words if len(word) > 1 and word[0] == "nameserver"]
    return [(server, dns.PORT) for server in servers] or [("127.0.0.1", dns.PORT)]


def _on_timeout(failure: Any) -> Any:
    if failure.check(defer.TimeoutError):
        raise NoAnswer("no answer in time")
    return failure
