"""The Unix socket and its lock that a killed agent has left behind.

Twisted makes a lock beside each Unix socket on which it listens: ``agent.sock.lock``, a symlink whose target is the
number of the process. Twisted itself removes a lock if no process has that number. In a container, the new agent often
has the same number as the killed one, so Twisted keeps the lock.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from twisted.internet.error import CannotListenError


def remove_stale_lock(error: CannotListenError) -> None:
    """Remove the lock and the socket that made an endpoint fail, if a killed agent has left them.

    They are stale if the lock has the number of this process, and nothing listens on the socket.

    :param error: the error of the endpoint. After this function has returned, the endpoint can be tried again.
    :raises CannotListenError: ``error`` itself if it is not about the lock of a Unix socket, and an error that names
        the lock and its process if the lock is not stale.
    """
    # For a Unix socket, the port is a path as bytes. If the system refused the path, socketError is an OSError; for a
    # lock, it is a text.
    if not isinstance(error.port, bytes) or isinstance(error.socketError, OSError):
        raise error
    path = Path(os.fsdecode(error.port))
    lock = Path(f"{path}.lock")
    try:
        process = os.readlink(lock)
    except FileNotFoundError:
        # The other process has removed its lock since the endpoint failed.
        return
    if process != str(os.getpid()) or _is_listened_on(path):
        raise CannotListenError(None, error.port, f"process {process} holds its lock, {lock}")
    lock.unlink(missing_ok=True)
    # An ordinary file stays: the user may have mistyped the path.
    if path.is_socket():
        path.unlink(missing_ok=True)


def _is_listened_on(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        # Without blocking: a full backlog returns EAGAIN, which also means that a process listens.
        client.setblocking(False)
        return client.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)
