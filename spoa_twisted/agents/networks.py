"""Networks of IPv4 and IPv6 from text files, and the look-up of an address in them."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from codecs import BOM_UTF8
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final, final

#: The largest file, in bytes: about two million networks. A larger file is surely no list.
MAX_SIZE: Final = 64 * 2**20

# The comment of a line, to its end. Public lists write both signs.
_COMMENT: Final = re.compile("[#;].*")

# The first of the addresses ::ffff:0:0/96, which stand for IPv4 addresses in IPv6.
_MAPPED: Final = 0xFFFF << 32

Address = IPv4Address | IPv6Address
#: The first and the last address of a network, as numbers.
Range = tuple[int, int]


class BadList(ValueError):
    """A file of networks is wrong. The text names the file, and the line if there is one."""


@final
class Networks:
    """Networks of IPv4 and of IPv6. An address is found in about a microsecond, however many networks there are.

    :param ipv4: the ranges of the networks, in any order. They may overlap.
    :param ipv6: the same.
    """

    def __init__(self, ipv4: Iterable[Range] = (), ipv6: Iterable[Range] = ()) -> None:
        # For each version, the first and the last addresses of ranges that are sorted and do not touch.
        self._first4, self._last4 = _joined(ipv4)
        self._first6, self._last6 = _joined(ipv6)

    def __contains__(self, address: Address) -> bool:
        """Return whether ``address`` is in one of the networks.

        An IPv6 address in ::ffff:0:0/96 is looked up as the IPv4 address that it stands for: HAProxy has such addresses
        for clients with IPv4 at a ``bind`` for both versions.
        """
        number = int(address)
        if address.version == 4 or number >> 32 == 0xFFFF:
            number &= 0xFFFFFFFF
            first, last = self._first4, self._last4
        else:
            first, last = self._first6, self._last6
        index = bisect_right(first, number)
        return index > 0 and number <= last[index - 1]


@final
class Reading:
    """Reads files of networks, one or more of them into one :class:`Networks`."""

    def __init__(self) -> None:
        #: How many networks were read.
        self.count = 0
        self._ipv4: list[Range] = []
        self._ipv6: list[Range] = []

    def networks(self) -> Networks:
        """Return all networks that were read."""
        return Networks(self._ipv4, self._ipv6)

    def read(self, path: Path, *, may_be_empty: bool = False) -> None:
        """Read a file. Each line has a network or an address; a comment begins with ``#`` or ``;``.

        :param may_be_empty: whether the file may have no network.
        :raises BadList: if the file cannot be read, changes meanwhile, has a line that is no network, or has none.
        """
        try:
            with path.open("rb") as file:
                before = os.fstat(file.fileno())
                content = file.read(MAX_SIZE + 1)
                after = os.fstat(file.fileno())
        except OSError as error:
            raise BadList(f"cannot read {path}: {error.strerror}") from error
        if len(content) > MAX_SIZE:
            raise BadList(f"{path} is larger than {MAX_SIZE:,} bytes: is it a list of networks?")
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise BadList(f"{path} has changed while it was read; write a new file, and rename it to this name")
        count = self.count
        # Not in UTF-8: a comment may have any bytes. Some editors write a byte order mark.
        lines = content.removeprefix(BOM_UTF8).decode("latin-1").split("\n")
        for number, line in enumerate(lines, 1):
            text = _COMMENT.sub("", line).strip()
            if text:
                self._add(path, number, text)
        if self.count == count and not may_be_empty:
            raise BadList(f"{path} has no network; if it may be empty, set may_be_empty = true")

    def _add(self, path: Path, line: int, text: str) -> None:
        try:
            bits, first, last = _range_of(text)
        except (OSError, ValueError):
            # Not "from error": an OSError as the cause would say that the file cannot be read.
            raise BadList(f"{path}, line {line}: {_problem(text)}") from None
        if bits == 32:
            self._ipv4.append((first, last))
        elif first >> 32 == 0xFFFF and last >> 32 == 0xFFFF:
            self._ipv4.append((first - _MAPPED, last - _MAPPED))
        else:
            self._ipv6.append((first, last))
        self.count += 1


def _range_of(text: str) -> tuple[int, int, int]:
    """Return how many bits an address has, and the first and the last address of a network or an address.

    ``ipaddress.ip_network`` takes four times as long.

    :raises OSError: :raises ValueError: for a text that is no network.
    """
    address, slash, length = text.partition("/")
    family, bits = (AF_INET6, 128) if ":" in address else (AF_INET, 32)
    first = int.from_bytes(inet_pton(family, address), "big")
    if not slash:
        return bits, first, first
    if not (length.isascii() and length.isdigit() and int(length) <= bits):
        raise ValueError(f"{length!r} is no length of a prefix")
    others = (1 << bits - int(length)) - 1
    if first & others:
        raise ValueError("bits behind the prefix")
    return bits, first, first | others


def _problem(text: str) -> str:
    """Return what is wrong with the text of a line, which :func:`_range_of` refuses."""
    shown = ascii(text[:60]) + ("..." if len(text) > 60 else "")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return f"{shown} is no network and no address; write one to a line, such as 192.0.2.0/24 or 2001:db8::1"
    return f"{shown} has bits behind the prefix, or another form; write {network}"


def _joined(ranges: Iterable[Range]) -> tuple[Sequence[int], Sequence[int]]:
    """Return the first and the last numbers of the fewest ranges that have all numbers of ``ranges``, sorted."""
    firsts: list[int] = []
    lasts: list[int] = []
    for first, last in sorted(ranges):
        if lasts and first <= lasts[-1] + 1:
            lasts[-1] = max(lasts[-1], last)
        else:
            firsts.append(first)
            lasts.append(last)
    return firsts, lasts
