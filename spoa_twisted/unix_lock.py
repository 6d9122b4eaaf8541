"""Removes the lock of a Unix socket that a killed agent has left behind.

When Twisted listens on a Unix socket ``agent.sock``, it makes the lock ``agent.sock.lock``: a symlink whose target is
the number of the process. A process that is killed cannot remove its lock. Twisted removes the lock later if no process
has that number. But in a container, the new agent often has the same number as the killed agent. Twisted then keeps the
lock, and the new agent could not listen.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from twisted.internet.error import CannotListenError


def remove_stale_lock(error: CannotListenError) -> None:
    """Remove the lock that made an endpoint fail, and its Unix socket, if a killed agent has left them.

    A killed agent has left them if the lock names this process, and no process listens on the socket. When this
    function returns, the endpoint can be tried again.

    :param error: the error of the endpoint.
    :raises CannotListenError: ``error`` itself, if it is not about the lock of a Unix socket. If a process holds the
        lock, an error that names the lock and the process.
    """
    # For a Unix socket, error.port is the path as bytes. If the lock made the endpoint fail, socketError is a text. If
    # the system refused the path, socketError is an OSError.
    if not isinstance(error.port, bytes) or isinstance(error.socketError, OSError):
        raise error
    path = Path(os.fsdecode(error.port))
    lock = Path(f"{path}.lock")
    try:
        process = os.readlink(lock)
    except FileNotFoundError:
        # The process that held the lock has removed it since the endpoint failed.
        return
    if process != str(os.getpid()) or _is_listened_on(path):
        raise CannotListenError(None, error.port, f"process {process} holds its lock, {lock}")
    lock.unlink(missing_ok=True)
    # An ordinary file stays: the user may have mistyped the path.
    if path.is_socket():
        path.unlink(missing_ok=True)


def _is_listened_on(path: Path) -> bool:
    """Return whether a process accepts connections on the Unix socket at ``path``."""
    with socket.socket(socket.AF_UNIX) as client:
        # connect() must not wait: with a full backlog it returns EAGAIN, which also means that a process listens.
        client.setblocking(False)
        return client.connect_ex(str(path)) not in (errno.ECONNREFUSED, errno.ENOENT)
