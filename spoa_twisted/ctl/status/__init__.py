"""``spoactl status``: show what the status page of agents shows, on a terminal, once or again and again.

:mod:`fetching` reads the status of an agent, :mod:`checking` checks that it is one, and :mod:`text` writes it as lines.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterable
from typing import Any, Final, NoReturn

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from spoa_twisted.ctl.arguments import (
    add_no_argument,
    add_timeout,
    new_parser,
    seconds,
)
from spoa_twisted.ctl.endpoint import DEFAULT_STATUS, endpoint
from spoa_twisted.ctl.status.text import Answer, Style, as_lines, clear, wants_colours

__all__ = ["SUMMARY", "parser", "run"]

SUMMARY = "show the state of agents, once or every second"

#: Seconds between two looks with ``--watch``.
INTERVAL: Final = 1.0

# The exit status for the worst level, as monitoring plugins have it.
_EXIT: Final = {"ok": 0, "warning": 1, "critical": 2}
_WRONG_COMMAND_LINE: Final = 3

# For terminals whose encoding lacks these signs.
_SUBSTITUTES: Final = {"≤": "<=", "·": ","}

DESCRIPTION = """\
Shows the state of an agent: the verdict, its problems, messages, processes and HAProxys, and its options. The agent
must run with "twistd spoa --status ENDPOINT". Of several agents, it shows the verdicts, the figures and the problems.
"""

EPILOG = f"""\
With --json, each agent is a line: an object with "agent", "level" (ok, warning, critical), "verdict", "problems", and
with "status", the content of the agent's /status.json; null if there is no answer.

Colours are used on a terminal only, and not if the environment variable NO_COLOR is set. With --watch, Ctrl-C ends it.

The exit status is that of monitoring plugins. Of several agents, the worst one counts.

exit status:
  {_EXIT["ok"]}  all is well
  {_EXIT["warning"]}  warning: somebody has to look
  {_EXIT["critical"]}  critical: requests fail or wait, or there is no answer
  {_WRONG_COMMAND_LINE}  the command line is wrong

examples:
  spoactl status
  spoactl status --status unix:/run/spoa/status --watch
  spoactl status --status tcp:192.0.2.10:8404 --status tcp:192.0.2.11:8404
  spoactl status --watch 5
  spoactl status --json | jq .verdict
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors have the exit status that monitoring takes for "unknown"; 2 would be "critical"."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and ``message`` on stderr, and exit."""
        self.print_usage(sys.stderr)
        self.exit(_WRONG_COMMAND_LINE, f"{self.prog}: error: {message}\n")


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = new_parser("status", DESCRIPTION, EPILOG, _Parser)
    parser.add_argument(
        "--status",
        metavar="ENDPOINT",
        type=endpoint,
        action="append",
        help=f"the client endpoint of an agent's --status; repeatable (default: {DEFAULT_STATUS})",
    )
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        type=seconds,
        nargs="?",
        const=INTERVAL,
        help=f"look again and again, every SECONDS (default: {INTERVAL:g})",
    )
    parser.add_argument("--json", action="store_true", help="print each agent as a line of JSON")
    add_timeout(parser, "each answer")
    add_no_argument(parser)
    return parser


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Ask the agents, and print their status; with ``--watch`` until the process is ended.

    :raises SystemExit: with 1 or 2, when not all is well.
    """
    agents = options.status or [DEFAULT_STATUS]
    while True:
        answers = await _look(reactor, agents, options.timeout)
        _show(answers, options)
        if options.watch is None:
            break
        await deferLater(reactor, options.watch)
    status = max(_EXIT[answer.level] for answer in answers)
    if status:
        raise SystemExit(status)


async def _look(reactor: Any, agents: Iterable[str], timeout: float) -> list[Answer]:
    """Ask all agents at the same time."""
    # twisted.web is imported only for this command: it takes longer than a whole "spoactl ping".
    from spoa_twisted.ctl.status.fetching import fetch

    looks = [Deferred.fromCoroutine(fetch(reactor, agent, timeout)) for agent in agents]
    answers: list[Answer] = await gatherResults(looks, consumeErrors=True)
    return answers


def _show(answers: list[Answer], options: argparse.Namespace) -> None:
    """Print the answers. On a terminal, ``--watch`` shows them in place of the last ones."""
    if options.json:
        _print("\n".join([json.dumps(answer.to_json()) for answer in answers]) + "\n")
        return
    size = shutil.get_terminal_size()
    lines = as_lines(answers, Style(size.columns, wants_colours(sys.stdout)))
    if options.watch is None:
        _print("\n".join(lines) + "\n")
    elif sys.stdout.isatty():
        # One line less than the terminal has: the last newline would scroll.
        _print(clear(lines[: max(1, size.lines - 1)]))
    else:
        _print("\n".join(lines) + "\n\n")


def _print(text: str) -> None:
    """Write ``text`` to stdout at once."""
    encoding = sys.stdout.encoding
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        for sign, substitute in _SUBSTITUTES.items():
            text = text.replace(sign, substitute)
        text = text.encode(encoding, "backslashreplace").decode(encoding)
    print(text, end="", flush=True)
