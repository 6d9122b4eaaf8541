"""How many files this process may open. Each connection needs one."""

from __future__ import annotations

import resource
from typing import Final

#: Files that a process needs besides its connections: the standard streams, the reactor's own, and those that are open
#: while the system resolves the name of a host.
OTHER_FILES: Final = 32


def allow_files(needed: int) -> None:
    """Allow this process, and the processes that it starts, to open ``needed`` files.

    This raises the soft limit to the hard limit if the soft limit is too low.

    :raises OSError: when the hard limit is too low as well.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_below(soft, needed):
        if _is_below(hard, needed):
            raise OSError(f"{needed} open files are needed, but the hard limit is {hard}: see ulimit -Hn")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _is_below(limit: int, needed: int) -> bool:
    # RLIM_INFINITY is -1 on Linux, so a comparison alone would be wrong.
    return limit != resource.RLIM_INFINITY and limit < needed
