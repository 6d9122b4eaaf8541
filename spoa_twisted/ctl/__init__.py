"""``spoactl``: speaks to agents from the command line. One module a subcommand."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import react

from spoa_twisted.ctl import bench, ping, send
from spoa_twisted.ctl.values import show_text
from spoa_twisted.version import version

#: The modules of the commands.
COMMANDS = {"send": send, "ping": ping, "bench": bench}

Run = Callable[[Any, argparse.Namespace], Coroutine[Deferred[Any], Any, None]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``spoactl``. Raises ``SystemExit``: 0 for success, 1 for an agent that fails, 2 for a wrong command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="spoactl",
        usage="%(prog)s COMMAND ...",
        description="Speaks SPOP to an agent, as HAProxy does.",
        epilog="commands:\n  send   send a message, print the variables set\n  ping   make a health check\n"
        "  bench  load the agent, measure it, check its answers\n\n"
        "spoactl COMMAND --help tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version())
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help=argparse.SUPPRESS)
    command = COMMANDS[parser.parse_args(arguments[:1]).command]
    # Each command has a parser of its own: only so may options stand between its other words.
    options = command.parser().parse_intermixed_args(arguments[1:])
    react(_run, (command.run, options))


def _run(reactor: Any, run: Run, options: argparse.Namespace) -> Deferred[None]:
    return Deferred.fromCoroutine(_report(reactor, run, options))


async def _report(reactor: Any, run: Run, options: argparse.Namespace) -> None:
    try:
        await run(reactor, options)
    except ConnectionDone:
        _fail("the agent closed the connection without an answer")
    except Exception as error:  # whatever an agent, or the want of one, can do to a command
        _fail(show_text(str(error)) or type(error).__name__)


def _fail(text: str) -> NoReturn:
    print(f"spoactl: {text}", file=sys.stderr)
    raise SystemExit(1)
