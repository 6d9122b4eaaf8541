"""A MaxMind database in memory, read again when its file has changed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Final, final

import maxminddb
from twisted.logger import Logger

_log: Final = Logger()


@final
class Database:
    """A MaxMind database.

    The whole file is read. A file that is mapped into memory (mmap) needs less memory, but if somebody overwrites it in
    place, the next lookup can end the process with SIGBUS.

    :param path: the path of the file.
    :param types: parts of the names of types. The type of the database must have one of them.
    """

    def __init__(self, path: str, types: Sequence[str]) -> None:
        self._path = path
        self._types = types
        self._reader: maxminddb.Reader | None = None
        # Device, inode, size and time of the file that was read last, and of the file as it was last seen.
        self._read: tuple[int, ...] = ()
        self._seen: tuple[int, ...] = ()
        # The text of the last error in the log.
        self._fault = ""

    def open(self) -> None:
        """Read the file.

        :raises ValueError: if there is no such file, or it is no database of one of the types. The text says why.
        """
        try:
            with open(self._path, "rb") as file:
                self._seen = self._read = _version_of(file.fileno())
                # MODE_FD reads the whole file, too. With a path, the file might be another one than the one above.
                self._take(maxminddb.open_database(file, maxminddb.MODE_FD))
        except Exception as error:  # A damaged file can raise nearly any exception.
            reason = error.strerror if isinstance(error, OSError) else error
            raise ValueError(f"cannot use {self._path}: {reason or type(error).__name__}") from error

    def refresh(self) -> None:
        """Read the file again, if it has changed and is no longer being written.

        If it cannot be used, the old content stays in use, and the log says why, once for each reason.
        """
        try:
            version = _version_of(self._path)
        except OSError:
            version = ()
        # A file that has changed since the last call may still be written. Wait until the next call.
        changed, self._seen = version != self._seen, version
        if changed or version == self._read:
            return
        self._read = version
        try:
            self.open()
        except ValueError as error:
            if isinstance(error.__cause__, OSError):
                # The next call tries the same file again: for a moment, too many files may be open.
                self._read = ()
            if str(error) != self._fault:
                self._fault = str(error)
                _log.error("country: {error}; the old database stays in use", error=self._fault)
        else:
            self._fault = ""
            _log.info("country: {path}: the new database is in use", path=self._path)

    def get(self, ip: IPv4Address | IPv6Address) -> dict[str, Any]:
        """Return the record of an address. It is empty if the database does not know the address.

        :raises maxminddb.InvalidDatabaseError: if this part of the file is damaged. It may raise other exceptions, too.
        """
        assert self._reader is not None
        if ip.version > self._reader.metadata().ip_version:
            # An IPv6 address, and a database of IPv4 addresses only.
            return {}
        record = self._reader.get(ip)
        if record is None:
            return {}
        if not isinstance(record, dict):
            raise ValueError(f"{self._path}: the record of {ip} is no map")
        return record

    def _take(self, reader: maxminddb.Reader) -> None:
        """Use ``reader`` from now on, if it is of the right type and seems whole."""
        found = reader.metadata().database_type
        if not any(name in found for name in self._types):
            raise ValueError(f"it is of the type {found!r}; the type must have {' or '.join(self._types)} in its name")
        # One address of each IPv4 network /8: a lookup raises an exception if it reaches a damaged part.
        for number in range(256):
            reader.get(IPv4Address(number << 24))
        self._reader = reader


def _version_of(file: str | int) -> tuple[int, ...]:
    status = os.stat(file)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
