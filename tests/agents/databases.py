"""Small databases in MaxMind's format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.examples.example import require

COUNTRY = "GeoLite2-Country"
ASN = "GeoLite2-ASN"


def write(path: Path, kind: str, records: Mapping[str, Any], version: int = 6) -> None:
    """Write a database.

    :param kind: its type.
    :param records: the record of each network.
    :param version: 4 for a database of IPv4 addresses only.
    """
    require("maxminddb", "mmdb_writer")
    from mmdb_writer import MMDBWriter
    from netaddr import IPSet

    writer = MMDBWriter(ip_version=version, ipv4_compatible=version == 6, database_type=kind)
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    # As geoipupdate does it: a reader sees the old file or the new one.
    new = path.with_suffix(".new")
    writer.to_db_file(str(new))
    new.replace(path)


def country(code: str) -> dict[str, Any]:
    """Return the record of a network in a country."""
    return {"country": {"iso_code": code}}


def network(number: int, name: str) -> dict[str, Any]:
    """Return the record of a network (ASN)."""
    return {"autonomous_system_number": number, "autonomous_system_organization": name}
