"""How many files, and so connections, a process may open."""

from __future__ import annotations

import resource
from typing import Final

#: So many may be open besides connections: standard streams, the reactor's own, those in which a host's name is found.
OTHER_FILES: Final = 32


def allow_files(needed: int) -> None:
    """Let this process, and those that it starts, open so many files: raise the soft limit if it is lower.

    :raises OSError: when the hard limit is lower, too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _below(soft, needed):
        if _below(hard, needed):
            raise OSError(f"{needed} files are needed, and the hard limit is {hard}: see ulimit -Hn")
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _below(limit: int, needed: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < needed
