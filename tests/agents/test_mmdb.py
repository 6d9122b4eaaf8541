"""``Database``: a MaxMind database in memory."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from tests.agents.databases import COUNTRY, country, write
from tests.conftest import Logged
from tests.examples.example import require

if TYPE_CHECKING:
    from spoa_twisted.agents.mmdb import Database

ONE = ip_address("127.0.0.1")


def database(path: Path) -> Database:
    require("maxminddb")
    from spoa_twisted.agents.mmdb import Database

    return Database(str(path), ["Country", "City"])


def test_records(tmp_path: Path) -> None:
    """Of IPv4 and IPv6. The record of an unknown address is empty."""
    write(tmp_path / "a.mmdb", COUNTRY, {"127.0.0.0/24": country("DE"), "2001:db8::/32": country("FR")})
    opened = database(tmp_path / "a.mmdb")
    opened.open()

    assert opened.get(ONE) == country("DE")
    assert opened.get(ip_address("2001:db8::1")) == country("FR")
    assert opened.get(ip_address("127.0.1.1")) == {}


def test_only_ipv4(tmp_path: Path) -> None:
    """A database of IPv4 addresses knows no IPv6 address."""
    write(tmp_path / "a.mmdb", COUNTRY, {"127.0.0.0/24": country("DE")}, version=4)
    opened = database(tmp_path / "a.mmdb")
    opened.open()

    assert opened.get(ONE) == country("DE")
    assert opened.get(ip_address("2001:db8::1")) == {}


def test_a_record_that_is_no_map(tmp_path: Path) -> None:
    """It is an error, and not an unknown address."""
    write(tmp_path / "a.mmdb", COUNTRY, {"127.0.0.0/24": "DE"})
    opened = database(tmp_path / "a.mmdb")
    opened.open()

    with pytest.raises(ValueError, match=r"a\.mmdb: the record of 127\.0\.0\.1 is no map"):
        opened.get(ONE)


def test_it_cannot_be_opened(tmp_path: Path) -> None:
    """The error names the file, and says why."""
    path = tmp_path / "a.mmdb"
    with pytest.raises(ValueError, match=r"cannot use .*/a\.mmdb: No such file or directory"):
        database(path).open()

    write(path, "GeoLite2-ASN", {"127.0.0.0/24": {}})
    with pytest.raises(ValueError, match=r"it is of the type 'GeoLite2-ASN'; the type must have Country or City in"):
        database(path).open()

    write(path, COUNTRY, {f"{number}.0.0.0/8": country("DE") for number in range(1, 255)})
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[:-100], whole[300:], whole[:100] + bytes(400) + whole[500:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cannot use .*/a\.mmdb: ."):
            database(path).open()


def test_refresh(tmp_path: Path, logged: Logged) -> None:
    """A new file is read when two looks in succession find it the same."""
    path = tmp_path / "a.mmdb"
    write(path, COUNTRY, {"127.0.0.0/24": country("DE")})
    opened = database(path)
    opened.open()
    write(path, COUNTRY, {"127.0.0.0/24": country("FR"), "127.0.1.0/24": country("DE")})

    opened.refresh()
    assert opened.get(ONE) == country("DE")
    opened.refresh()
    assert opened.get(ONE) == country("FR")


@pytest.mark.parametrize("broken", ["missing", "damaged"])
def test_refresh_of_a_broken_file(tmp_path: Path, logged: Logged, broken: str) -> None:
    """The old content stays in use. The log says so once. The next good file is read."""
    path = tmp_path / "a.mmdb"
    write(path, COUNTRY, {"127.0.0.0/24": country("DE")})
    opened = database(path)
    opened.open()
    if broken == "missing":
        path.unlink()
    else:
        # In place: a file that is mapped into memory would be shorter now.
        path.write_bytes(path.read_bytes()[:50])

    for _ in range(4):
        opened.refresh()
        assert opened.get(ONE) == country("DE")
    (line,) = logged.take()
    assert f"cannot use {path}: " in line
    assert line.endswith("; the old database stays in use")

    write(path, COUNTRY, {"127.0.0.0/24": country("FR")})
    opened.refresh()
    opened.refresh()
    assert opened.get(ONE) == country("FR")


def test_a_file_that_cannot_be_read_for_a_moment(
    tmp_path: Path, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, because too many files are open. A later look reads the file although it is the same."""
    path = tmp_path / "a.mmdb"
    write(path, COUNTRY, {"127.0.0.0/24": country("DE")})
    opened = database(path)
    opened.open()
    write(path, COUNTRY, {"127.0.0.0/24": country("FR")})

    def fail(*args: object) -> NoReturn:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", fail)
        for _ in range(3):
            opened.refresh()
    assert logged.take() == [f"error: country: cannot use {path}: Too many open files; the old database stays in use"]
    opened.refresh()
    assert opened.get(ONE) == country("FR")
