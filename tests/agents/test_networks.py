"""The look-up of an address, which agrees with ``ipaddress``, and the files of networks."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spoa_twisted.agents import networks
from spoa_twisted.agents.networks import BadList, Networks, Reading

MAPPED = IPv6Network("::ffff:0:0/96")


def near(bits: int) -> st.SearchStrategy[int]:
    """Numbers of ``bits`` bits, many of them near each other, so that networks overlap and addresses are in them."""
    base = 0x0A000000 if bits == 32 else 0x20010DB8 << 96
    return st.one_of(st.integers(0, 2**bits - 1), st.integers(base, base + 300), st.sampled_from([0, 2**bits - 1]))


V4 = near(32).map(IPv4Address)
V6 = st.one_of(near(128), near(32).map(lambda number: (0xFFFF << 32) + number)).map(IPv6Address)
NETWORKS = st.one_of(
    st.builds(lambda address, length: IPv4Network((address, length), strict=False), V4, st.integers(0, 32)),
    st.builds(lambda address, length: IPv6Network((address, length), strict=False), V6, st.integers(0, 128)),
)


def read(folder: Path, content: bytes) -> Reading:
    """Read a file with ``content``."""
    path = folder / "list.txt"
    path.write_bytes(content)
    reading = Reading()
    reading.read(path)
    return reading


def as_ipv4(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Return a network of mapped addresses as the network of IPv4 that it stands for."""
    if isinstance(network, IPv6Network) and network.subnet_of(MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


@given(st.lists(NETWORKS, max_size=12), st.lists(st.one_of(V4, V6), min_size=1, max_size=12))
def test_it_agrees_with_ipaddress(
    tmp_path_factory: pytest.TempPathFactory,
    listed: list[IPv4Network | IPv6Network],
    addresses: list[IPv4Address | IPv6Address],
) -> None:
    """An address is found if and only if one of the networks has it. A mapped address is one of IPv4."""
    reading = Reading()
    for number, network in enumerate(listed, 1):
        reading._add(Path("list.txt"), number, str(network))
    found = reading.networks()
    edges = [edge for network in listed for edge in (network.network_address, network.broadcast_address)]
    for address in [*addresses, *edges]:
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        meant = address if mapped is None else mapped
        assert (address in found) == any(meant in as_ipv4(network) for network in listed)


def test_nothing_is_in_an_empty_list() -> None:
    """Nor does the look-up fail."""
    assert IPv4Address(0) not in Networks()
    assert IPv6Address(2**128 - 1) not in Networks()


def test_the_forms_of_lines(tmp_path: Path) -> None:
    """Comments with both signs, blank lines, line ends of Windows, a byte order mark, bytes that are not UTF-8."""
    text = (
        b"\xef\xbb\xbf; \xe9\n\n  192.0.2.0/24 ; SBL1\n198.51.100.7#x\r\n\t2001:db8::/32\t# y\n::ffff:203.0.113.0/120"
    )
    reading = read(tmp_path, text)
    found = reading.networks()
    assert reading.count == 4
    for address in ("192.0.2.255", "198.51.100.7", "2001:db8::1", "::ffff:192.0.2.1", "203.0.113.9"):
        assert ip_address(address) in found
    for address in ("192.0.3.0", "198.51.100.8", "2001:db9::1", "::192.0.2.1"):
        assert ip_address(address) not in found


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("192.0.2.1/24", "'192.0.2.1/24' has bits behind the prefix, or another form; write 192.0.2.0/24"),
        ("192.0.2.0/255.255.255.0", "has bits behind the prefix, or another form; write 192.0.2.0/24"),
        ("example.com", "'example.com' is no network and no address; write one to a line, such as"),
        ("192.0.2.0/33", "'192.0.2.0/33' is no network and no address"),
        ("192.0.2.0/-1", "'192.0.2.0/-1' is no network and no address"),
        ("192.0.2.1 192.0.2.2", "is no network and no address; write one to a line"),
        ("192.0.2.0/2\xb2", r"'192.0.2.0/2\xb2' is no network and no address"),
        ("x" * 99, "x" * 60 + "'... is no network"),
    ],
)
def test_a_wrong_line(tmp_path: Path, line: str, problem: str) -> None:
    """The error names the file and the line, and says what to write."""
    with pytest.raises(BadList) as caught:
        read(tmp_path, b"# one\n192.0.2.1\n" + line.encode("latin-1"))
    assert str(caught.value).startswith(f"{tmp_path}/list.txt, line 3: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_without_a_network(tmp_path: Path) -> None:
    """It may be a mistake of the program that writes the list, so it has to be allowed."""
    with pytest.raises(BadList, match=r"list.txt has no network; if it may be empty, set may_be_empty = true$"):
        read(tmp_path, b"# none\n")
    reading = Reading()
    reading.read(tmp_path / "list.txt", may_be_empty=True)
    assert reading.count == 0


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is missing, a folder, and a file that is much too large."""
    with pytest.raises(BadList, match=r"^cannot read .*/missing: No such file or directory$"):
        Reading().read(tmp_path / "missing")
    with pytest.raises(BadList, match=r"^cannot read .*: Is a directory$"):
        Reading().read(tmp_path)
    monkeypatch.setattr(networks, "MAX_SIZE", 20)
    with pytest.raises(BadList, match=r"list.txt is larger than 20 bytes: is it a list of networks\?$"):
        read(tmp_path, b"192.0.2.1\n" * 3)


def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a list is not used."""
    status = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        result = status(descriptor)
        os.utime(descriptor, ns=(0, result.st_mtime_ns + 1_000_000_000))
        return result

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(BadList, match=r"has changed while it was read; write a new file, and rename it to this name$"):
        read(tmp_path, b"192.0.2.1\n")


def test_networks_that_touch_become_one() -> None:
    """A list of many neighbours takes less memory."""
    reading = Reading()
    for text in ("192.0.2.128/25", "192.0.2.0/25", "192.0.2.7", "10.0.0.0/8"):
        reading._add(Path("list.txt"), 1, text)
    whole = ip_network("192.0.2.0/24")
    assert reading.networks()._first4 == [10 << 24, int(whole.network_address)]
