"""A ready-made agent that refuses the addresses and networks in text files.

Run it with: twistd -n spoa --handlers spoa_twisted.agents.blocklist --settings agents.toml
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final, final

from twisted.logger import Logger

from spoa_twisted.agents.networks import Address, BadList, Networks, Reading
from spoa_twisted.agents.settings import ADDRESS, FLAG, NUMBER, PATHS, TEXT, Key, Table
from spoa_twisted.handlers.declaring import ERROR_VARIABLE
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.spop.actions import Variables, encode_actions


def _check_message(name: str) -> None:
    # It raises a ValueError for a name that HAProxy does not allow, and registers nothing yet.
    Handlers().message(name)


def _check_variable(name: str) -> None:
    encode_actions({name: None})
    if "." not in name:
        raise ValueError(f'it has no scope; write "txn.{name}"')
    if name == ERROR_VARIABLE:
        raise ValueError("HAProxy sets this variable when the agent fails; write another name")


#: The keys of the table ``[blocklist]``.
KEYS: Final = (
    Key("file", PATHS, "Files with the addresses and networks to refuse."),
    Key("allow_file", PATHS, "Files with addresses and networks that are allowed although a file lists them.", ()),
    Key("may_be_empty", FLAG, "Whether a file of ``file`` may have no network, and so refuse nothing.", False),
    Key("interval", NUMBER, "Seconds between two looks at the files. A changed file is read again.", 10, 0.1, 86400),
    ADDRESS,
    Key("message", TEXT, "The name of the message, as in ``spoe.conf``.", "check-blocklist", check=_check_message),
    Key(
        "variable",
        TEXT,
        "The variable that is true for an address that is allowed.",
        "txn.blocklist_allowed",
        check=_check_variable,
    ),
)

# By these numbers of all files, we notice a new version of one. Of a file that does not exist, there are none.
_Version = tuple[tuple[int, ...], ...]


def handlers(settings: Table) -> Handlers:
    """Return the handlers of this agent. They read the files at startup.

    :param settings: the table ``[blocklist]``.
    :raises SettingsError: if the table is wrong.
    """
    values = settings.read(KEYS)
    blocklist = Blocklist(values["file"], values["allow_file"], may_be_empty=values["may_be_empty"])
    allowed = values["variable"]
    # HAProxy's configuration sets the same variable if the agent does not answer. The value says which agent of several
    # in one process has failed.
    made = Handlers(on_error={ERROR_VARIABLE: "blocklist"})

    # In threads: to read 100,000 lines takes a second, and the other handlers of this process have to answer meanwhile.
    made.startup(blocking=True)(blocklist.open)
    made.every(values["interval"], blocking=True)(blocklist.refresh)

    def check_blocklist(ip: IPv4Address | IPv6Address) -> Variables:
        return {allowed: blocklist.allows(ip)}

    register = made.message(
        values["message"], args={"ip": values["address"]}, event="on-frontend-http-request", sets={allowed: bool}
    )
    register(check_blocklist)
    return made


@final
class Blocklist:
    """The networks of the files. A file that becomes wrong changes nothing: the networks of before stay in use.

    :param files: the files with the networks to refuse.
    :param allow_files: the files with the networks that are allowed although a file of ``files`` lists them.
    :param may_be_empty: whether files of ``files`` may have no network.
    """

    _log = Logger()

    def __init__(self, files: Sequence[Path], allow_files: Sequence[Path] = (), *, may_be_empty: bool = False) -> None:
        self._files = files
        self._allow_files = allow_files
        self._may_be_empty = may_be_empty
        # Both in one attribute: a thread replaces them while requests are answered.
        self._networks: tuple[Networks, Networks] | None = None
        self._version: _Version = ()
        self._fault = ""

    def allows(self, address: Address) -> bool:
        """Return whether ``address`` is allowed.

        :raises TypeError: if it is not an address.
        """
        if not isinstance(address, (IPv4Address, IPv6Address)):
            raise TypeError(f"the argument ip is {type(address).__name__}, not an address: use src or req.hdr_ip(...)")
        assert self._networks is not None
        refused, allowed = self._networks
        return address not in refused or address in allowed

    def open(self) -> None:
        """Read the files for the first time.

        :raises BadList: if one is wrong. The agent then does not start.
        """
        self._version = self._version_now()
        self._read()

    def refresh(self) -> None:
        """Read the files again if one of them has changed."""
        version = self._version_now()
        if version == self._version:
            return
        # If a file cannot be read, or memory is short, the next run tries again.
        self._version = ()
        try:
            self._read()
        except BadList as error:
            if not isinstance(error.__cause__, OSError):
                # Until the file changes, it has the same fault.
                self._version = version
            # Reported once, also if the file is written again with the same fault.
            if str(error) != self._fault:
                self._fault = str(error)
                self._log.error("blocklist: {error}; the networks of before stay in use", error=self._fault)
        else:
            self._version = version
            self._fault = ""

    def _read(self) -> None:
        started = time.monotonic()
        refused, allowed = Reading(), Reading()
        for file in self._files:
            refused.read(file, may_be_empty=self._may_be_empty)
        for file in self._allow_files:
            # Without a network, it allows less.
            allowed.read(file, may_be_empty=True)
        self._networks = refused.networks(), allowed.networks()
        self._log.info(
            "blocklist: refused networks: {count:,}, allowed networks: {allowed:,}; read in {seconds:.2f} s",
            count=refused.count,
            allowed=allowed.count,
            seconds=time.monotonic() - started,
        )

    def _version_now(self) -> _Version:
        return tuple([_version_of(file) for file in (*self._files, *self._allow_files)])


def _version_of(file: Path) -> tuple[int, ...]:
    try:
        status = os.stat(file)
    except OSError:
        return ()
    # The time of the last change of the inode, too: a file whose rights were wrong may be readable now.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
