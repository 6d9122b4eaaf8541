"""``spoactl check``: find mistakes in HAProxy's configuration that HAProxy accepts."""

from __future__ import annotations

import argparse
import re
import sys
from typing import Any, Final

from spoa_twisted.ctl.arguments import add_settings, new_parser
from spoa_twisted.ctl.check.binary import Binary
from spoa_twisted.ctl.check.binary import check as check_with
from spoa_twisted.ctl.check.binary import find as find_binary
from spoa_twisted.ctl.check.finding import find_in
from spoa_twisted.ctl.check.inputs import Inputs, sort_files
from spoa_twisted.ctl.check.report import as_json, as_text
from spoa_twisted.handlers.names import did_you_mean, nearest
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.haproxy import pages
from spoa_twisted.haproxy.answers import Answers, answers
from spoa_twisted.haproxy.checks import BY_ID
from spoa_twisted.haproxy.finding import Severity
from spoa_twisted.haproxy.joined import GENERATIONS, Version, with_other_generation
from spoa_twisted.limits import Limits
from spoa_twisted.runner.loading import load_all

SUMMARY = "find mistakes in HAProxy's configuration that HAProxy accepts"

DESCRIPTION = """\
Finds mistakes in spoe.conf and haproxy.cfg that HAProxy accepts: an argument that is never sent, a rule that runs
before the agent has answered, a failure of the agent that lets all requests pass.
"""

EPILOG = """\
The files may be given in any order: the sections in a file show whether it is a spoe.conf or a haproxy.cfg. In a
folder, the files *.cfg and *.conf are checked. If only haproxy.cfg is given, the files that its "filter spoe" lines
name are checked too. If only spoe.conf is given, checks that need haproxy.cfg find nothing.

Each finding is a line: FILE:LINE: error, warning or info: text [ID]. --explain ID says what happens, how to see it, and
what to do. --json prints each finding as a line of JSON.

The SPOE of HAProxy 3.1 differs from that of HAProxy 3.0. Without --version, the files are checked for both: for the
version of the HAProxy that is found, and for 2.8 or 3.2. If a finding is about one of them only, its line says so.

If a HAProxy is found (--haproxy, the PATH, or the extra "demo"), "haproxy -c" runs first, and its errors and warnings
are printed too. If --version names another version than that of this HAProxy, "haproxy -c" does not run.

Exit status: 0 if there is no error and no warning; 1 if there is one, or a file cannot be read; 2 if the command line
is wrong.

  spoactl check spoe.conf haproxy.cfg
  spoactl check spoe.conf haproxy.cfg --handlers iprep
  spoactl check -f /etc/haproxy/haproxy.cfg --version 3.2 --ignore no-log
  spoactl check --explain event-twice
"""

_VERSION: Final = re.compile(r"(\d{1,3})\.(\d{1,3})(?:[.-].*)?")


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = new_parser("check", DESCRIPTION, EPILOG)
    parser.add_argument("files", metavar="FILE", nargs="*", help="spoe.conf, haproxy.cfg, or a folder with them")
    parser.add_argument(
        "-f",
        dest="more",
        metavar="FILE",
        action="append",
        default=[],
        help="the same as FILE, for words copied from HAProxy's command line; repeatable",
    )
    parser.add_argument(
        "--handlers",
        metavar="MODULE",
        action="append",
        default=[],
        help="compare with these handlers: package.module, file.py, or either with :attribute; repeatable",
    )
    add_settings(parser)
    parser.add_argument(
        "--handler-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=Limits().handler_timeout,
        help="the agent's --handler-timeout (default: %(default)g)",
    )
    parser.add_argument("--haproxy", metavar="PATH", help="the program haproxy for haproxy -c")
    parser.add_argument("--no-haproxy", action="store_true", help="do not run haproxy -c")
    parser.add_argument("--version", metavar="X.Y", type=_version, help="check for this version of HAProxy only")
    parser.add_argument(
        "--ignore",
        metavar="ID",
        type=_ids,
        action="extend",
        default=[],
        help="leave out the findings of a check; repeatable, or several IDs with commas",
    )
    parser.add_argument("--json", action="store_true", help="print each finding as a line of JSON")
    parser.add_argument("--explain", metavar="ID", type=_id, help="print the page about a check, and nothing else")
    return parser


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Print what is found.

    :raises ValueError: when a file or the handlers cannot be read, or HAProxy cannot be run.
    :raises SystemExit: with 1, when there is an error or a warning; with 2, when no file is named.
    """
    if options.explain is not None:
        print(pages.plain(pages.source(options.explain)), end="")
        return
    paths = [*options.more, *options.files]
    if not paths:
        parser().error("no file: name spoe.conf, haproxy.cfg, or a folder with them")
    inputs = sort_files(paths)
    notes: list[str] = []
    known = _answers(options, notes)
    binary = None if options.no_haproxy else find_binary(options.haproxy)
    lines = _run_haproxy(binary, inputs, options, notes)
    joined, not_checked = find_in(inputs, known, _versions(options.version, binary), ran=lines is not None)
    found = [item for item in joined if item.finding.id not in options.ignore]
    # With --json, stdout has nothing but findings.
    print("".join([f"{line}\n" for line in lines or ()]), end="", file=sys.stderr if options.json else sys.stdout)
    print("".join([f"{as_json(item) if options.json else as_text(item)}\n" for item in found]), end="")
    for note in [*notes, *not_checked]:
        print(f"spoactl: {note}", file=sys.stderr)
    if lines or any(item.finding.severity is not Severity.INFO for item in found):
        raise SystemExit(1)


def _answers(options: argparse.Namespace, notes: list[str]) -> Answers | None:
    if not options.handlers:
        return None
    handlers = load_all(options.handlers, options.settings)
    if not isinstance(handlers, Handlers):
        notes.append("the handlers are not compared: they are no Handlers, so their messages are not known")
        return None
    return answers(handlers, options.handler_timeout)


def _run_haproxy(
    binary: Binary | None, inputs: Inputs, options: argparse.Namespace, notes: list[str]
) -> tuple[str, ...] | None:
    """Return what ``haproxy -c`` says about the text of the files; ``None`` if it did not run."""
    if binary is None or not inputs.haproxy_files:
        return None
    if options.haproxy is None and options.version not in (None, binary.version):
        return None
    verdict = check_with(binary, inputs.haproxy_files)
    if verdict.machine:
        notes.append(f"haproxy -c has not checked everything: on this machine, {verdict.machine[0]}")
    return verdict.lines


def _versions(version: Version | None, binary: Binary | None) -> tuple[Version, ...]:
    """Return the versions to check: the one that the user names, otherwise one of each generation."""
    if version is not None:
        return (version,)
    return GENERATIONS if binary is None else with_other_generation(binary.version)


# argparse puts the text of an ArgumentTypeError behind the name of the option.


def _version(text: str) -> Version:
    match = _VERSION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a version of HAProxy, such as 3.2")
    return int(match[1]), int(match[2])


def _ids(text: str) -> list[str]:
    return [_id(word.strip()) for word in text.split(",")]


def _id(text: str) -> str:
    if text not in BY_ID:
        similar = did_you_mean(nearest(text, BY_ID))
        raise argparse.ArgumentTypeError(f"{text!r} is not the ID of a check{similar or ': see docs/checks.rst'}")
    return text


def _seconds(text: str) -> float:
    try:
        return Limits(handler_timeout=float(text)).handler_timeout
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, or 0 for no limit") from error
