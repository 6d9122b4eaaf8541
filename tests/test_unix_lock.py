"""The lock and the Unix socket that a killed agent has left behind."""

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
from spoa_twisted.unix_lock import remove_stale_lock


def factory(clock: Any = None) -> SPOAFactory:
    return SPOAFactory(Handlers({"m": lambda: {"sess.a": 1}}), reactor=clock or Clock())


class TestLocks:
    """Of Unix sockets, which Twisted makes: each names a process."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """Where an agent listened until it was killed, which had the number of this process."""
        path = tmp_path / "agent"
        with socket.socket(socket.AF_UNIX) as killed:
            killed.bind(str(path))
        (tmp_path / "agent.lock").symlink_to(str(os.getpid()))
        return path

    @pytest_twisted.ensureDeferred
    async def test_one_that_a_killed_agent_left_is_removed(self, path: Path) -> None:
        """Though the number is that of a process which lives: in a container, all agents have the same."""
        service = SPOAService(factory(clock=reactor), f"unix:{path}")
        service.startService()
        client = SPOEClient(f"unix:{path}")
        assert await client.notify("m") == {"sess.a": 1}
        await client.disconnect()
        await service.stopService()
        assert list(path.parent.iterdir()) == []

    @pytest_twisted.ensureDeferred
    async def test_one_that_this_process_holds_stays(self, tmp_path: Path) -> None:
        """And serves who came first."""
        path = tmp_path / "agent"
        first = SPOAService(factory(clock=reactor), f"unix:{path}")
        first.startService()
        with pytest.raises(CannotListenError, match=re.escape(f"process {os.getpid()} holds its lock, {path}.lock")):
            SPOAService(factory(), f"unix:{path}").startService()
        client = SPOEClient(f"unix:{path}")
        assert await client.notify("m") == {"sess.a": 1}
        await client.disconnect()
        await first.stopService()

    def test_one_that_another_process_holds_is_named(self, path: Path) -> None:
        """Whatever process that is: who reads it can look whether that one listens at all."""
        lock = path.with_name("agent.lock")
        lock.unlink()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
            lock.symlink_to(str(other.pid))
            with pytest.raises(CannotListenError, match=re.escape(f"process {other.pid} holds its lock, {lock}")):
                SPOAService(factory(), f"unix:{path}").startService()
            other.communicate(b"\n")
        assert path.is_socket()

    def test_one_that_has_gone_meanwhile(self, path: Path) -> None:
        """Is no reason not to try again."""
        path.with_name("agent.lock").unlink()
        remove_stale_lock(CannotListenError(None, os.fsencode(path), "Cannot acquire lock."))

    # Twisted leaves the socket that it could not bind to the garbage collector.
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_what_is_no_socket_stays(self, path: Path) -> None:
        """A path may be mistyped."""
        path.unlink()
        path.write_text("precious")
        with pytest.raises(CannotListenError, match="in use"):
            SPOAService(factory(), f"unix:{path}").startService()
        assert path.read_text() == "precious"
