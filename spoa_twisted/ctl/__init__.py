"""``spoactl``: speaks to agents from the command line. One module a subcommand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionClosed, UnknownHostError
from twisted.internet.task import react

from spoa_twisted.client import AgentDisconnected, PayloadRefused
from spoa_twisted.ctl import ping, send
from spoa_twisted.spop.errors import SPOPError

#: What an agent, or the want of one, may do to a command: told in one line.
FAILURES = (
    AgentDisconnected,
    ConnectError,
    ConnectionClosed,
    OSError,
    PayloadRefused,
    SPOPError,
    TimeoutError,
    UnknownHostError,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``spoactl``. Raises ``SystemExit``: 0 for success, 1 for an agent that fails, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(prog="spoactl", description="Speaks SPOP to an agent, as HAProxy does.")
    subcommands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (send, ping):
        command.add_to(subcommands)
    options = parser.parse_args(arguments)
    react(_run, (options,))


def _run(reactor: Any, options: argparse.Namespace) -> Deferred[None]:
    return Deferred.fromCoroutine(_report(reactor, options))


async def _report(reactor: Any, options: argparse.Namespace) -> None:
    try:
        await options.run(reactor, options)
    except FAILURES as error:
        print(f"spoactl: {error or type(error).__name__}", file=sys.stderr)
        raise SystemExit(1) from None
