"""Writes two small databases for a try on one machine: sample-country.mmdb and sample-asn.mmdb.

The countries stand for any: all of 127.0.0.0/8 is this machine. The numbers of networks are those for documentation.
"""

from __future__ import annotations

from mmdb_writer import MMDBWriter
from netaddr import IPSet


def write(path: str, kind: str, records: dict[str, dict[str, object]]) -> None:
    """Write a database of type ``kind`` with a record for each network."""
    # MaxMind's databases have a tree of IPv6 too. The IPv4 addresses are below ::/96 in it.
    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type=kind)
    for network, record in records.items():
        writer.insert_network(IPSet([network]), record)
    writer.to_db_file(path)


if __name__ == "__main__":
    write(
        "sample-country.mmdb",
        "GeoLite2-Country",
        {
            "127.0.0.1/32": {"country": {"iso_code": "DE"}},
            "127.0.0.66/32": {"country": {"iso_code": "US"}},
            "2001:db8::/32": {"country": {"iso_code": "FR"}},
        },
    )
    write(
        "sample-asn.mmdb",
        "GeoLite2-ASN",
        {"127.0.0.0/24": {"autonomous_system_number": 64496, "autonomous_system_organization": "Example Network"}},
    )
