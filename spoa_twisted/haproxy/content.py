"""The bytes of a file that should be a configuration. Other files are refused, before they take time or memory."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

#: Bytes. The largest configurations that are known have thousands of backends, and some megabytes.
MAX_SIZE: Final = 2**24


def load(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file.

    :raises OSError: if it cannot be read, or is a folder.
    :raises ValueError: if it is not a regular file, or is too large.
    """
    # Without O_NONBLOCK, a fifo would wait until another program opens it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise ValueError("it is not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_SIZE + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_SIZE:
        raise ValueError(f"it has more than {MAX_SIZE // 2**20} MiB")
    return data
