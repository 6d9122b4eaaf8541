"""The bytes of a file that should be a configuration. Other files are refused, before they take time or memory."""

from __future__ import annotations

import os
import stat
from typing import Final

#: Bytes. The largest configurations that are known have thousands of backends, and some megabytes.
MAX_SIZE: Final = 2**24


def load(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file.

    :raises OSError: if it cannot be read.
    :raises ValueError: if it is not a regular file, or is too large.
    """
    # Without O_NONBLOCK, a fifo would wait until another program opens it.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise ValueError("it is a folder")
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise ValueError(f"it has more than {MAX_SIZE // 2**20} MiB")
    return data
