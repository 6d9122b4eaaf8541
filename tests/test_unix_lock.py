"""``remove_stale_lock``: the Unix socket and the lock that a killed agent has left behind."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock

from spoa_twisted import Handlers, SPOAFactory, SPOAService, SPOEClient
from spoa_twisted.status.service import StatusService
from spoa_twisted.unix_lock import remove_stale_lock


def factory(clock: Any = None) -> SPOAFactory:
    return SPOAFactory(Handlers({"m": lambda: {"sess.a": 1}}), reactor=clock or Clock())


class TestLocks:
    """The lock file that Twisted makes beside a Unix socket. It is a symlink to the number of a process."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """The Unix socket and the lock of a killed agent, which had the same process number as this process."""
        path = tmp_path / "agent"
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(path))
        (tmp_path / "agent.lock").symlink_to(str(os.getpid()))
        return path

    @pytest_twisted.ensureDeferred
    async def test_the_lock_of_a_killed_agent_is_removed(self, path: Path) -> None:
        """The agent listens despite the lock, although it names a live process.

        In a container, each agent has the same process number as the one before.
        """
        service = SPOAService(factory(clock=reactor), f"unix:{path}")
        service.startService()
        client = SPOEClient(f"unix:{path}")
        assert await client.notify("m") == {"sess.a": 1}
        await client.disconnect()
        await service.stopService()
        assert list(path.parent.iterdir()) == []

    @pytest_twisted.ensureDeferred
    async def test_the_status_takes_over_too(self, path: Path) -> None:
        """Its endpoint may be a Unix socket as well."""
        status = StatusService(factory(), f"unix:{path}", reactor=reactor)
        status.startService()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        await status.stopService()
        assert list(path.parent.iterdir()) == []

    @pytest_twisted.ensureDeferred
    async def test_a_lock_of_this_process_is_kept(self, tmp_path: Path) -> None:
        """A second service of this process cannot take the socket of the first one, which still serves it."""
        path = tmp_path / "agent"
        first = SPOAService(factory(clock=reactor), f"unix:{path}")
        first.startService()
        with pytest.raises(CannotListenError, match=re.escape(f"process {os.getpid()} holds its lock, {path}.lock")):
            SPOAService(factory(), f"unix:{path}").startService()
        client = SPOEClient(f"unix:{path}")
        assert await client.notify("m") == {"sess.a": 1}
        await client.disconnect()
        await first.stopService()

    def test_the_error_names_the_process_with_the_lock(self, path: Path) -> None:
        """The error names the process and the lock, so that the user can see whether that process is an agent."""
        lock = path.with_name("agent.lock")
        lock.unlink()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            lock.symlink_to(str(other.pid))
            with pytest.raises(CannotListenError, match=re.escape(f"process {other.pid} holds its lock, {lock}")):
                SPOAService(factory(), f"unix:{path}").startService()
            other.communicate(b"\n")
        assert path.is_socket()

    def test_a_lock_that_was_removed_meanwhile(self, path: Path) -> None:
        """If the lock is gone, ``remove_stale_lock`` raises nothing, and the service listens again."""
        path.with_name("agent.lock").unlink()
        remove_stale_lock(CannotListenError(None, os.fsencode(path), "Cannot acquire lock."))

    # Twisted does not close a socket that it could not bind, so the garbage collector warns about it.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_a_file_at_the_path_is_kept(self, path: Path) -> None:
        """An ordinary file at the path is not removed: the user may have mistyped the path."""
        path.unlink()
        path.write_text("precious")
        with pytest.raises(CannotListenError, match="in use"):
            SPOAService(factory(), f"unix:{path}").startService()
        assert path.read_text() == "precious"
