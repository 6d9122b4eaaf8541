"""The command ``spoactl``: send SPOP frames to an agent from the command line, as HAProxy does, and look after agents.

Each subcommand is one module or package: :mod:`send`, :mod:`ping`, :mod:`bench`, :mod:`proxy`, :mod:`decode`,
:mod:`watch`, :mod:`status`, :mod:`reload`, :mod:`config`, :mod:`check`, :mod:`explain` and :mod:`completion`. To add a
subcommand, write a module with the names that :class:`Command` lists, and add it to :data:`TASKS`. Then run ``python -m
tests.program_pages``, which writes the manual pages and the completion of shells.

The other modules are for several subcommands. :mod:`arguments` has the arguments that they share, :mod:`endpoint` reads
the agent's endpoint, :mod:`values` reads values from text, and :mod:`variables` shows and compares variables.
:mod:`http` asks the endpoint of an agent's ``--status``, and :mod:`traffic` shows the frames of
other programs. :mod:`load`, :mod:`latency`, :mod:`cpu` and :mod:`files` are the parts of a load test.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, NoReturn, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone
from twisted.internet.task import react

from spoa_twisted.client import AgentDisconnected
from spoa_twisted.ctl import bench, check, completion, config, decode, explain, ping, proxy, reload, send, status, watch
from spoa_twisted.ctl.arguments import HelpFormatter
from spoa_twisted.handlers.names import did_you_mean, nearest
from spoa_twisted.haproxy.explanations.disconnects import explain_code
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.shown import show_text
from spoa_twisted.spop.errors import StatusCode
from spoa_twisted.version import version


class Command(Protocol):
    """The names that the module of a subcommand must have."""

    #: What the subcommand does, in one line for the list in ``spoactl --help``.
    SUMMARY: str

    def parser(self) -> argparse.ArgumentParser:
        """Return the parser of the arguments that follow the name of the subcommand."""

    def run(self, reactor: Any, options: argparse.Namespace) -> Coroutine[Deferred[Any], Any, None]:
        """Do the work and print the result. An exception becomes one line on stderr and exit status 1."""


#: The modules of the subcommands by what a user wants to do. ``spoactl --help`` lists them in this order.
TASKS: Final[Mapping[str, Mapping[str, Command]]] = {
    "try an agent": {"send": send, "ping": ping, "bench": bench},
    "configure HAProxy": {"config": config, "check": check},
    "look at frames and errors": {"watch": watch, "proxy": proxy, "decode": decode, "explain": explain},
    "operate agents": {"status": status, "reload": reload},
    "set up the shell": {"completion": completion},
}

#: The module of each subcommand.
COMMANDS: Final[Mapping[str, Command]] = {name: command for task in TASKS.values() for name, command in task.items()}

DESCRIPTION: Final = """\
Tries and measures an agent as HAProxy uses it, shows the state of agents, reloads them, and writes and checks HAProxy's
configuration. The agent is started with "twistd spoa".
"""

EPILOG: Final = """\
exit status:
  0  the command has done its work, and what it has found is as expected
  1  there is no answer, an error, or something that is not as expected
  2  the command line is wrong

"spoactl status" has those of monitoring plugins: 0 ok, 1 warning, 2 critical, 3 the command line is wrong.

examples:
  twistd -n spoa --handlers iprep
  spoactl send get-ip-reputation ip=192.0.2.1
  spoactl config --handlers iprep --whole --output .

"spoactl COMMAND --help" describes a command.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``spoactl``.

    :param arguments: the words after ``spoactl``; those of the process unless given.
    :raises SystemExit: always. The status is 0 for success, 1 for a failure, and 2 for a wrong command line;
        ``spoactl status`` has statuses of its own.
    """
    try:
        try:
            _run_command(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _stop_printing()


def _run_command(arguments: Sequence[str]) -> None:
    if not arguments:
        # A newcomer tries this first.
        parser().print_help(sys.stderr)
        raise SystemExit(2)
    command = COMMANDS[parser().parse_args(arguments[:1]).command]
    # Each subcommand has a parser of its own. With argparse's subparsers, parse_intermixed_args would not work, and
    # options could not stand between positional arguments.
    options = command.parser().parse_intermixed_args(arguments[1:])
    react(_start, (command, options))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the first word, which is the name of a subcommand."""
    width = max(map(len, COMMANDS))
    lists = [
        f"{task}:\n" + "".join([f"  {name:<{width}}  {command.SUMMARY}\n" for name, command in commands.items()])
        for task, commands in TASKS.items()
    ]
    parser = argparse.ArgumentParser(
        prog="spoactl",
        usage="%(prog)s COMMAND ...",
        description=DESCRIPTION,
        epilog="\n".join([*lists, EPILOG]),
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version(), help="show the versions and exit")
    # The epilog lists the commands with their summaries. argparse's own line would repeat the names only.
    parser.add_argument("command", metavar="COMMAND", type=_command, help=argparse.SUPPRESS)
    return parser


def _command(text: str) -> str:
    """Return ``text`` if it is the name of a subcommand.

    :raises argparse.ArgumentTypeError: when it is not. The text names similar ones, or all.
    """
    if text not in COMMANDS:
        similar = did_you_mean(nearest(text, COMMANDS)) or f"; the commands are {', '.join(COMMANDS)}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a command{similar}")
    return text


def _start(reactor: Any, command: Command, options: argparse.Namespace) -> Deferred[None]:
    return Deferred.fromCoroutine(_run(reactor, command, options))


async def _run(reactor: Any, command: Command, options: argparse.Namespace) -> None:
    """Run a subcommand; turn its exception into one line on stderr and exit status 1."""
    try:
        await command.run(reactor, options)
    except BrokenPipeError:
        _stop_printing()
    except CannotStart as error:
        _exit_with_error(show_text(error.reason))
    except ConnectionDone:
        # Twisted's own text, "Connection was closed cleanly.", does not sound like a failure.
        _exit_with_error("the agent closed the connection without an answer")
    except ConnectError as error:
        # Twisted's own text, "Connection was refused by other side: ...", does not say where.
        _exit_with_error(f"{show_text(str(error)).rstrip('.')}; does an agent listen on {options.agent}?")
    except AgentDisconnected as error:
        # These two codes say nothing about the cause.
        is_vague = error.status_code in {StatusCode.NORMAL, StatusCode.UNKNOWN}
        meaning = "" if is_vague else f": {explain_code(error.status_code).first_sentence}"
        _exit_with_error(show_text(str(error)) + meaning)
    except Exception as error:
        # Endpoints, name resolution, TLS, the protocol and the agent each raise exceptions of their own.
        _exit_with_error(show_text(str(error)) or type(error).__name__)


def _stop_printing() -> NoReturn:
    """End, because the program that reads stdout has ended, such as ``head``. That needs no text."""
    # Python writes what is left in its buffer when the process ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(1)


def _exit_with_error(text: str) -> NoReturn:
    print(f"spoactl: {text}", file=sys.stderr)
    raise SystemExit(1)
