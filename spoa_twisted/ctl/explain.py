"""``spoactl explain``: say what a status, a line of HAProxy's log, or the words of a DISCONNECT mean."""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from spoa_twisted.ctl.arguments import exit_status, new_parser
from spoa_twisted.haproxy.explanations.meaning import Generation
from spoa_twisted.haproxy.explanations.search import TIMES, Found, Meaning, search
from spoa_twisted.haproxy.explanations.statuses import show_sum
from spoa_twisted.shown import show_text

SUMMARY = "say what an error in HAProxy's log means"

DESCRIPTION = """\
Says what happened, the usual causes in order, and for each what to look at or change.
"""

EPILOG = f"""\
VALUE is
  - a status: 257, st=257, or the variable of "option set-on-error"
  - a line of HAProxy's log: "SPOE: [agent] <EVENT:...> sid=... st=...", also with a syslog prefix or in JSON, or a line
    about a server of the agents' backend: "Health check for server ... failed", "Server ... is DOWN"
  - a status code or the words of a DISCONNECT: "version value not found", also in a line of an agent's log
  - a result of a health check: L7RSP
With -, or without a VALUE, lines are read from stdin. Lines that have none of these are skipped, and lines that have
the same explanation are explained once.

HAProxy's line about a request, with its termination state ("PR--"), says nothing about SPOE. Add
%[var(txn.PREFIX.error)] to the log-format, where PREFIX is the value of "option var-prefix", and explain the number
that HAProxy then logs.

HAProxy <= 3.0 and >= 3.1 give some numbers different meanings. The shape of a line shows which of them wrote it; for a
number alone, give --version.

{exit_status("a VALUE, or a line of stdin, is explained", "one is not known")}
examples:
  spoactl explain 257
  spoactl explain --version 2.8 st=2
  spoactl explain 'SPOE: [iprep] <EVENT:on-client-session> sid=0 st=1 301 1/1'
  spoactl explain "version value not found"
  spoactl explain --json - < /var/log/haproxy.log
"""

#: What is said of a text in which nothing was found.
UNKNOWN: Final = (
    "give a status such as 257, a line of HAProxy's log that begins with SPOE:, a line about a health check, or the"
    " words of a DISCONNECT; see spoactl explain --help"
)

_WIDTH: Final = 80

# How many names are shown of lines that have the same explanation.
_MAX_NAMES: Final = 5

#: What lines are about, and how many lines are about each.
Names: TypeAlias = Counter[str]

# Bytes. A longer line of stdin is read in pieces, so that no input fills the memory.
_MAX_LINE: Final = 2**16


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = new_parser("explain", DESCRIPTION, EPILOG)
    parser.add_argument("--json", action="store_true", help="print each explanation as a line of JSON")
    parser.add_argument("--version", metavar="X.Y", type=_generation, help="the version of HAProxy, for a number alone")
    parser.add_argument("values", metavar="VALUE", nargs="*", help="what to explain; stdin is read if there is none")
    return parser


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Print the explanations.

    :raises ValueError: when nothing can be explained.
    :raises SystemExit: with 1, when one of the values is not known.
    """
    unknown: list[str] = []
    if options.values and options.values != ["-"]:
        found, unknown = _of_values(options.values, options.version)
    else:
        found = _of_lines(_stdin(), options.version)
    if not found:
        texts = ", ".join([repr(_cut(text)) for text in unknown])
        raise ValueError(f"{texts} is not known: {UNKNOWN}" if unknown else f"nothing to explain: {UNKNOWN}")
    for i, (result, names) in enumerate(found):
        if options.json:
            print(json.dumps(to_json(result, names)))
        else:
            print("\n" * (i > 0) + "\n".join(show(result, names)))
    for text in unknown:
        print(f"spoactl: {_cut(text)!r} is not known", file=sys.stderr)
    if unknown:
        raise SystemExit(1)


def _generation(text: str) -> Generation:
    """Return the generation of HAProxy's version ``text``."""
    match = re.match(r"([0-9]{1,4})\.([0-9]{1,4})(?![0-9])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a version of HAProxy, such as 3.2")
    return Generation.OLD if (int(match[1]), int(match[2])) < (3, 1) else Generation.NEW


def _of_values(values: list[str], generation: Generation | None) -> tuple[list[tuple[Found, Names]], list[str]]:
    """Return what the values mean, and the values that are not known."""
    results = {value: search(value, generation) for value in values}
    unknown = [value for value, found in results.items() if not found]
    if unknown:
        # A line that was not quoted, or the words of a DISCONNECT.
        whole = search(" ".join(values), generation)
        if whole:
            return [(found, Counter([found.name])) for found in whole], []
    return [(found, Counter([found.name])) for value in values for found in results[value]], unknown


def _of_lines(lines: Iterable[str], generation: Generation | None) -> list[tuple[Found, Names]]:
    """Return what the lines mean: the first of those that have the same explanation, and the names of all."""
    first: dict[object, Found] = {}
    names: dict[object, Names] = {}
    before = ""
    for line in lines:
        found = search(line, generation)
        if "SPOE:" in before:
            # The line may be wrapped: its second half has the status.
            found = search(f"{before} {line}", generation)
        before = "" if found else line
        for result in found:
            first.setdefault(result.key, result)
            names.setdefault(result.key, Counter())[result.name] += 1
    # The lines without an error come last.
    results = sorted(first.items(), key=lambda item: item[1].facts.get("status") == 0)
    return [(result, names[key]) for key, result in results]


def _stdin() -> Iterator[str]:
    if sys.stdin.isatty():
        print("spoactl: paste lines of HAProxy's log, and end with Ctrl-D", file=sys.stderr, flush=True)
    while line := sys.stdin.buffer.readline(_MAX_LINE):
        yield line.decode("utf-8", "backslashreplace").rstrip("\n")


def show(found: Found, names: Names) -> Iterator[str]:
    """Yield the lines of an explanation.

    :param names: what the lines are about that it explains.
    """
    if found.facts.keys() != {"status"}:
        # A lone number is repeated by each of its meanings.
        yield from _wrap(show_text(found.text), "", "    ")
    if names.total() > 1:
        most = [f"{show_text(name) or 'others'} {count:,}" for name, count in names.most_common(_MAX_NAMES)]
        more = [f"{len(names) - _MAX_NAMES:,} more names"] if len(names) > _MAX_NAMES else []
        yield from _wrap(f"({names.total():,} lines like this one: {', '.join(most + more)})", "", "    ")
    yield from _show_facts(found.facts)
    for i, meaning in enumerate(found.meanings):
        if i:
            yield ""
        yield from _show_meaning(meaning, found.facts)


def _show_facts(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fields of a line of a NOTIFY, with their units, or a remark on a line about a server."""
    if "server" in facts:
        yield from _wrap(f"(if {show_text(facts['server'])} is an agent)", "  ", "    ")
    times = facts.get("milliseconds")
    if times is None:
        return
    names = [f"{name} {show_text(str(facts[name]))}" for name in ("agent", "event", "group", "stream") if name in facts]
    yield from _wrap(", ".join(names), "  ", "    ")
    for name, time in times.items():
        yield f"  {name:<12}{'-1' if time < 0 else f'{time} ms':<10}{TIMES[name]}"
    if min(times.values()) < 0:
        yield "              (-1: HAProxy did not get to this step)"
    if "connections" in facts:
        connections, notifies = facts["connections"], facts["notifies"]
        yield f"  connections {connections['all']} to the agent, {connections['idle']} of them idle"
        yield f"  NOTIFYs     {notifies['queued']} in the queue, {notifies['waiting']} sent and without ACK"
    total = facts["total"]
    yield f"  total       {total['errors']} of {total['notifies']} NOTIFYs failed since HAProxy started"
    if "connections" not in facts:
        yield "              (HAProxy 3.2.26 and >= 3.3 count good NOTIFYs as failed, too)"


def _show_meaning(meaning: Meaning, facts: Mapping[str, Any]) -> Iterator[str]:
    status: int | None = facts.get("status")
    of = meaning.of
    if status is not None and not of.startswith("status code"):
        total = show_sum(status)
        of = f"status {status}{f' = {total}' if total else ''} ({of})"
    yield from _wrap(f"{show_text(of)}:", "", "    ")
    yield from _wrap(meaning.explanation.text, "  ", "  ")
    for number, cause in enumerate(meaning.explanation.causes, 1):
        # The causes of a line are chosen by its times. Without a line, the user must look at them.
        sign = f"(if {cause.sign.text}) " if cause.sign and "milliseconds" not in facts else ""
        yield from _wrap(f"{sign}{cause.text}", f"  {number}. ", "     ")
        yield from _wrap(cause.advice, "     -> ", "        ")


def to_json(found: Found, names: Names) -> dict[str, Any]:
    """Return an explanation for programs."""
    return {
        "text": found.text,
        "lines": dict(names),
        **found.facts,
        "meanings": [
            {
                "of": meaning.of,
                "text": meaning.explanation.text,
                "causes": [
                    {
                        "text": cause.text,
                        "sign": None if cause.sign is None else cause.sign.text,
                        "advice": cause.advice,
                    }
                    for cause in meaning.explanation.causes
                ],
            }
            for meaning in found.meanings
        ],
    }


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}..."


def _wrap(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False) or [first]
