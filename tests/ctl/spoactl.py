"""Run ``spoactl`` as a program."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.utils import getProcessOutputAndValue

from tests.haproxy.harness import Process
from tests.programs import ENVIRONMENT, SPOACTL

#: The fixture ``start``: it starts a command as a process, which is killed when the test ends.
Start = Callable[[list[str]], Process]


async def spoactl(*arguments: str) -> tuple[str, str, int]:
    """Return what it prints on stdout and on stderr, and its exit status."""
    out, err, status = await getProcessOutputAndValue(SPOACTL[0], [*SPOACTL[1:], *arguments], env=ENVIRONMENT)
    return out.decode(), err.decode(), status
