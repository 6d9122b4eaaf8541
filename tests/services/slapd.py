"""OpenLDAP's server with a few users, on free ports of 127.0.0.1."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path

from tests.certificates import self_signed
from tests.programs import LIMIT, Program, find_program

from .frozen import Stoppable

BASE = "dc=example,dc=org"

CONF = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
database mdb
suffix "{base}"
directory {folder}/data
access to attrs=userPassword by anonymous auth by * none
access to * by self read by * none
"""

#: The entries above the users.
TOP = {
    BASE: {"objectClass": ["dcObject", "organization"], "dc": ["example"], "o": ["Example"]},
    f"ou=people,{BASE}": {"objectClass": ["organizationalUnit"], "ou": ["people"]},
    f"ou=guests,ou=people,{BASE}": {"objectClass": ["organizationalUnit"], "ou": ["guests"]},
}


class Slapd(Stoppable):
    """A server. Its data and its log are in ``folder``.

    :param folder: an empty folder.
    :param stack: ends the server.
    :param users: names, and the password of each. The name ``NAME,ou=guests`` is a user in another place.
    :param kinds: the ``employeeType`` of users; by default ``staff``.
    :raises NotInstalled: if slapd is missing.
    """

    def __init__(
        self, folder: Path, stack: contextlib.ExitStack, users: dict[str, str], kinds: dict[str, str] | None = None
    ) -> None:
        self._executable = find_program("slapd", "slapd", "/usr/sbin")
        self.folder = folder
        self._stack = stack
        (folder / "data").mkdir(parents=True)
        #: The certificate of the TLS port, and of StartTLS, for 127.0.0.1. It has no host name.
        self.certificate, key = self_signed(folder, "127.0.0.1")
        conf = folder / "slapd.conf"
        conf.write_text(CONF.format(folder=folder, base=BASE, certificate=self.certificate, key=key))
        entries: dict[str, dict[str, list[str]]] = dict(TOP)
        for name, password in users.items():
            uid, _, place = name.partition(",ou=")
            dn = f"ou=people,{BASE}" if not place else f"ou={place},ou=people,{BASE}"
            escaped = uid.replace(",", "\\,")
            entries[f"uid={escaped},{dn}"] = {
                "objectClass": ["inetOrgPerson"],
                "uid": [uid],
                "sn": [uid],
                "cn": [uid],
                "employeeType": [(kinds or {}).get(name, "staff")],
                "userPassword": [password],
            }
        # slapd is slapadd too.
        subprocess.run(
            [self._executable, "-T", "add", "-f", conf], input=ldif(entries), text=True, check=True, capture_output=True
        )
        held = [stack.enter_context(socket.socket()) for _ in range(2)]
        for place_holder in held:
            # Bound and not listening: nobody else gets the port, and slapd can listen there.
            place_holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place_holder.bind(("127.0.0.1", 0))
        self._ports = plain, tls = [place_holder.getsockname()[1] for place_holder in held]
        self.url = f"ldap://127.0.0.1:{plain}"
        self.tls_url = f"ldaps://127.0.0.1:{tls}"
        self.start()

    def start(self) -> None:
        """Start the server, for the first time or again, and wait until it listens."""
        # With -d it stays in the foreground. 256: it prints operations, with the DN of each bind.
        urls = f"{self.url}/ {self.tls_url}/"
        command = [self._executable, "-f", str(self.folder / "slapd.conf"), "-h", urls, "-d", "256"]
        self.program = self._stack.enter_context(Program(command, cwd=self.folder))
        # It listens a moment after this line.
        self.program.said("slapd starting")
        deadline = time.monotonic() + LIMIT
        for port in self._ports:
            while not answers(port):
                assert time.monotonic() < deadline, self.program.describe()
                os.sched_yield()

    def binds(self) -> list[str]:
        """Return the DNs of all binds that the server has seen, in order."""
        # An answer may arrive here before the line that the server has printed. The line of this connection comes last.
        with socket.create_connection(("127.0.0.1", self._ports[0])) as client:
            self.program.said(rf"ACCEPT from IP=127\.0\.0\.1:{client.getsockname()[1]} ")
        lines = [line for line in self.program.output.splitlines() if " BIND dn=" in line and "method=128" in line]
        return [line.partition('BIND dn="')[2].partition('" method')[0] for line in lines]


def answers(port: int) -> bool:
    """Return whether a port of 127.0.0.1 is open."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def ldif(entries: dict[str, dict[str, list[str]]]) -> str:
    """Return entries, by DN, as slapadd reads them. All values are in base64, because LDIF is ASCII."""

    def line(attribute: str, value: str) -> str:
        return f"{attribute}:: {base64.b64encode(value.encode()).decode()}\n"

    return "\n".join(
        line("dn", dn) + "".join(line(key, value) for key, values in entry.items() for value in values)
        for dn, entry in entries.items()
    )
