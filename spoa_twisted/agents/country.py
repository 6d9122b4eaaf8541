"""Allows or refuses a request by the country of the client's address, which MaxMind's databases tell.

It also tells the country, the number and the name of the network (ASN). Run it with a table ``[country]``::

    twistd -n spoa --handlers spoa_twisted.agents.country --settings agents.toml
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Final, final

from spoa_twisted.agents.settings import ADDRESS, NUMBER, PATH, TEXT, TEXTS, Key, Table
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.spop.actions import Variables

if TYPE_CHECKING:
    from spoa_twisted.agents.mmdb import Database

_ALLOW: Final = "allow"
_REFUSE: Final = "refuse"

# Parts of the names of types of databases.
_COUNTRY_TYPES: Final = ("Country", "City", "Enterprise")
_NETWORK_TYPES: Final = ("ASN", "ISP", "Enterprise")


def _check_code(code: str) -> None:
    if not re.fullmatch("[A-Z]{2}", code):
        raise ValueError('a country is two capital letters of ISO 3166, such as "DE"')


#: The keys of the table.
KEYS: Final = (
    Key("countries", PATH, "The database of countries, such as GeoLite2-Country.mmdb."),
    Key("networks", PATH, "The database of networks, such as GeoLite2-ASN.mmdb.", default=None),
    Key("allow", TEXTS, "The countries that are allowed. All others are refused.", default=(), check=_check_code),
    Key("refuse", TEXTS, "In place of allow: the countries that are refused.", default=(), check=_check_code),
    Key(
        "unknown",
        TEXT,
        "What happens to an address whose country is not known. By default it is refused with allow, and allowed with"
        " refuse.",
        default=None,
        choices=(_ALLOW, _REFUSE),
    ),
    Key("interval", NUMBER, "Seconds between two looks for new database files.", 60, 0.1, 86400),
    ADDRESS,
)


def handlers(settings: Table) -> Handlers:
    """Return the handlers for a table of settings.

    :raises SettingsError: if the table is wrong.
    """
    values = settings.read(KEYS)
    if bool(values["allow"]) == bool(values["refuse"]):
        wrong = "cannot stand together with country.allow" if values["allow"] else "is missing, and so is country.allow"
        raise settings.error("refuse", f'{wrong}; write one of them: allow = ["DE", "FR"]')
    try:
        from spoa_twisted.agents.mmdb import Database
    except ImportError as error:
        problem = f'needs the package {error.name}: pip install "spoa_twisted[agents]"'
        raise settings.error("countries", problem) from error
    countries = Database(str(values["countries"]), _COUNTRY_TYPES)
    networks = None if values["networks"] is None else Database(str(values["networks"]), _NETWORK_TYPES)
    return _Countries(settings, values, countries, networks).handlers(values)


@final
class _Countries:
    def __init__(self, settings: Table, values: dict[str, Any], countries: Database, networks: Database | None) -> None:
        self._settings = settings
        self._allowed = bool(values["allow"])
        self._listed = frozenset(values["allow"] or values["refuse"])
        self._allow_unknown = (values["unknown"] or (_REFUSE if self._allowed else _ALLOW)) == _ALLOW
        self._countries = countries
        self._networks = networks

    def handlers(self, values: dict[str, Any]) -> Handlers:
        # The value says which of several agents in one process has failed.
        handlers = Handlers(on_error={"txn.error": "country"})
        handlers.startup(self.open_databases)
        # In a thread: to read and check the files takes long enough to delay requests.
        handlers.every(values["interval"], blocking=True)(self.refresh_databases)
        types: dict[str, Any] = {"txn.country_allowed": bool, "txn.country": str | None}
        if self._networks is not None:
            types |= {"txn.asn": int | None, "txn.network": str | None}
        register = handlers.message(
            "check-country", args={"ip": values["address"]}, event="on-frontend-http-request", sets=types
        )
        register(self.check_country)
        return handlers

    def open_databases(self) -> None:
        for key, database in (("countries", self._countries), ("networks", self._networks)):
            if database is not None:
                try:
                    database.open()
                except ValueError as error:
                    raise self._settings.error(key, f"names a file that is wrong: {error}") from error

    def refresh_databases(self) -> None:
        self._countries.refresh()
        if self._networks is not None:
            self._networks.refresh()

    def check_country(self, ip: IPv4Address | IPv6Address) -> Variables:
        """Look the address up. ``None`` unsets a variable: the database does not know the value."""
        if not isinstance(ip, (IPv4Address, IPv6Address)):
            raise TypeError(f"the argument ip is {type(ip).__name__}, not an address: use src or req.hdr_ip(...)")
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
            # A client with IPv4 at a bind with "v4v6".
            ip = ip.ipv4_mapped
        # A record may have only the country where the network is registered. That is not the country of the client.
        country = self._countries.get(ip).get("country", {}).get("iso_code")
        allowed = self._allow_unknown if country is None else (country in self._listed) is self._allowed
        variables: dict[str, Any] = {"txn.country_allowed": allowed, "txn.country": country}
        if self._networks is not None:
            network = self._networks.get(ip)
            variables["txn.asn"] = network.get("autonomous_system_number")
            variables["txn.network"] = network.get("autonomous_system_organization")
        return variables
