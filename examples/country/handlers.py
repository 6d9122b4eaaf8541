"""Allows or refuses a request by the country of the client's address. Also tells the country and the network (ASN).

Run it with: ALLOW=DE,FR twistd -n spoa --handlers handlers.py
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final

import maxminddb
from twisted.logger import Logger

from spoa_twisted import Handlers, Variables

# How often the agent looks for new database files, in seconds.
INTERVAL: Final = 60

log = Logger()

# The agent sets txn.error when the handler fails. The rules in haproxy.cfg then answer 503.
handlers = Handlers(on_error={"txn.error": "handler"})


class Database:
    """A database of MaxMind in memory. It is read again when its file has changed.

    The file is read, not mapped into memory (mmap): if somebody overwrites a mapped file in place, the next lookup can
    end the process with SIGBUS. GeoLite2-Country and GeoLite2-ASN need about 10 MB each.

    :param setting: the environment variable with the path of the file.
    :param default: the path without that variable.
    :param types: the database must be of one of these types.
    """

    def __init__(self, setting: str, default: str, *types: str) -> None:
        self._setting = setting
        self._path = os.environ.get(setting, default)
        self._types = types
        self._reader: maxminddb.Reader | None = None
        # By these numbers of the file that was read last, we notice a new one.
        self._version: tuple[int, ...] = ()

    def open(self) -> None:
        """Read the file for the first time. If this raises, the agent does not start."""
        try:
            self._read()
        except Exception as error:  # A damaged file can raise nearly any exception.
            raise ValueError(f"{self._setting}: cannot use {self._path}: {error}") from error

    def refresh(self) -> None:
        """Read the file if it has changed. If it is damaged, the old content stays in use."""
        try:
            if self._read():
                log.info("{path}: the new database is in use", path=self._path)
        except Exception as error:
            log.error("{path}: {error}; the old database stays in use", path=self._path, error=error)

    def get(self, ip: IPv4Address | IPv6Address) -> dict[str, Any]:
        """Return the record of an address; an empty one if the database does not know it."""
        assert self._reader is not None
        if ip.version > self._reader.metadata().ip_version:
            return {}  # An IPv6 address, and a database of IPv4 addresses only.
        record = self._reader.get(ip)
        return record if isinstance(record, dict) else {}

    def _read(self) -> bool:
        with open(self._path, "rb") as file:
            status = os.fstat(file.fileno())
            version = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
            if version == self._version:
                return False
            # Set it first: a damaged file is tried, and reported, once.
            self._version = version
            # The mode FD reads the whole file, and this one: if the path were opened again, it might be another file.
            reader = maxminddb.open_database(file, maxminddb.MODE_FD)
        found = reader.metadata().database_type
        if not any(name in found for name in self._types):
            raise ValueError(f"it is of the type {found!r}, but needed is one of {', '.join(self._types)}")
        # One address of each IPv4 network /8: a lookup raises an exception if it reaches a damaged part.
        for number in range(256):
            reader.get(IPv4Address(number << 24))
        self._reader = reader
        return True


countries = Database("COUNTRIES", "GeoLite2-Country.mmdb", "Country", "City", "Enterprise")
networks = Database("NETWORKS", "GeoLite2-ASN.mmdb", "ASN", "ISP", "Enterprise")


@dataclass(frozen=True)
class Policy:
    """Which countries are allowed.

    :param listed: country codes.
    :param allow_listed: whether these are the allowed countries, or the refused ones.
    :param allow_unknown: whether an address without a country is allowed.
    """

    listed: frozenset[str]
    allow_listed: bool
    allow_unknown: bool

    def allows(self, country: str | None) -> bool:
        if country is None:
            return self.allow_unknown
        return (country in self.listed) is self.allow_listed


# read_settings sets it before the agent listens.
policy: Policy


def codes(setting: str) -> frozenset[str]:
    """Return the country codes in an environment variable, such as ``DE,FR``."""
    words = os.environ.get(setting, "").replace(",", " ").split()
    for word in words:
        if not re.fullmatch("[A-Z]{2}", word):
            raise ValueError(f"{setting}: {word!r} is no country code; write two capital letters: {setting}=DE,FR")
    return frozenset(words)


@handlers.startup
def read_settings() -> None:
    # Here and not at import: "spoactl config" imports this file without the settings.
    global policy
    allowed, refused = codes("ALLOW"), codes("REFUSE")
    if bool(allowed) == bool(refused):
        raise ValueError("set either ALLOW or REFUSE to country codes: ALLOW=DE,FR")
    unknown = os.environ.get("UNKNOWN", "refuse" if allowed else "allow")
    if unknown not in ("allow", "refuse"):
        raise ValueError(f"UNKNOWN is {unknown!r}; it must be allow or refuse")
    policy = Policy(allowed or refused, allow_listed=bool(allowed), allow_unknown=unknown == "allow")


@handlers.startup
def open_databases() -> None:
    countries.open()
    networks.open()


# In a thread: to read and check the files takes long enough to delay requests.
@handlers.every(INTERVAL, blocking=True)
def refresh_databases() -> None:
    countries.refresh()
    networks.refresh()


@handlers.message(
    "check-country",
    args={"ip": "src"},
    event="on-frontend-http-request",
    sets={"txn.allowed": bool, "txn.country": str | None, "txn.asn": int | None, "txn.network": str | None},
)
def check_country(ip: IPv4Address | IPv6Address) -> Variables:
    """Look the address up in both databases. ``None`` unsets a variable: the database does not know the value."""
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped  # A client with IPv4 at a bind with "v4v6".
    # Where the address is used. Some records have only the country where the network is registered: not known here.
    country = countries.get(ip).get("country", {}).get("iso_code")
    network = networks.get(ip)
    return {
        "txn.allowed": policy.allows(country),
        "txn.country": country,
        "txn.asn": network.get("autonomous_system_number"),
        "txn.network": network.get("autonomous_system_organization"),
    }
