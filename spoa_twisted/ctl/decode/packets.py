"""Take the bytes of TCP out of packets, as tcpdump -X and Wireshark dump them: with the headers of IP and Ethernet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

_ETHERNET_HEADER: Final = 14
_COOKED_HEADER: Final = 16  # Linux "any" interface
_LOOPBACK_HEADER: Final = 4  # BSD and macOS
_IPV6_HEADER: Final = 40
_TCP: Final = 6
_ETHERTYPES: Final = {b"\x08\x00": 4, b"\x86\xdd": 6}


@final
@dataclass(frozen=True, slots=True)
class Segment:
    """The TCP part of one packet."""

    #: Addresses and ports: the same for all segments of one direction of a connection.
    flow: bytes
    sequence: int
    data: bytes


def streams(packets: Iterable[bytes]) -> list[bytes]:
    """Return the bytes of ``packets``; those of each direction of a TCP connection are joined.

    A packet without IP and TCP is returned unchanged. A segment that was sent again is left out.
    """
    result: list[bytearray] = []
    flows: dict[bytes, tuple[bytearray, int]] = {}
    for packet in packets:
        segment = find_segment(packet)
        if segment is None:
            result.append(bytearray(packet))
        elif segment.data:
            stream, expected = flows.get(segment.flow, (None, segment.sequence))
            if stream is None:
                stream = bytearray()
                result.append(stream)
            # The distance modulo 2^32, from -2^31 on.
            known = (expected - segment.sequence + 2**31) % 2**32 - 2**31
            new = segment.data[known:] if known > 0 else segment.data
            stream += new
            if new:
                flows[segment.flow] = stream, (segment.sequence + len(segment.data)) % 2**32
    return [bytes(stream) for stream in result]


def find_segment(packet: bytes) -> Segment | None:
    """Return the TCP segment of ``packet``; ``None`` if it is no packet of IP with TCP."""
    for start in _ip_headers(packet):
        segment = _read_ip(packet[start:])
        if segment is not None:
            return segment
    return None


def _ip_headers(packet: bytes) -> Iterable[int]:
    """Return where an IP header may begin. No SPOP frame looks so: its first byte is 0, or a type of frame."""
    if packet[_ETHERNET_HEADER - 2 : _ETHERNET_HEADER] in _ETHERTYPES:
        yield _ETHERNET_HEADER
    if packet[_COOKED_HEADER - 2 : _COOKED_HEADER] in _ETHERTYPES:
        yield _COOKED_HEADER
    if packet[:_LOOPBACK_HEADER] in (b"\x02\0\0\0", b"\x1e\0\0\0", b"\x00\0\0\x02"):
        yield _LOOPBACK_HEADER
    yield 0


def _read_ip(packet: bytes) -> Segment | None:
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= 20 and packet[9] == _TCP:
        header = (packet[0] & 0x0F) * 4
        # The frame of Ethernet may have padding behind the packet. With segmentation offload, the size may be 0.
        size = int.from_bytes(packet[2:4], "big") or len(packet)
        return _read_tcp(packet[header:size], packet[12:20]) if header >= 20 else None
    if version == 6 and len(packet) >= _IPV6_HEADER and packet[6] == _TCP:
        size = int.from_bytes(packet[4:6], "big") or len(packet)
        return _read_tcp(packet[_IPV6_HEADER : _IPV6_HEADER + size], packet[8:_IPV6_HEADER])
    return None


def _read_tcp(segment: bytes, addresses: bytes) -> Segment | None:
    header = (segment[12] >> 4) * 4 if len(segment) >= 20 else 0
    if header < 20:
        return None
    return Segment(addresses + segment[:4], int.from_bytes(segment[4:8], "big"), segment[header:])
