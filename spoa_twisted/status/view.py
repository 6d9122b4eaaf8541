"""What an operator sees of a status: figures, tables and facts as text. The page and ``spoactl status`` show the same.

Each text from outside is escaped here, so that neither has to: all characters are printable.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Final, final

from spoa_twisted.escaping import in_one_line
from spoa_twisted.observer import Outcome
from spoa_twisted.spop.errors import STATUS_WORDS
from spoa_twisted.status.figures import ago, clock, counted, duration, rate, share, size, span, times
from spoa_twisted.status.quantiles import observations, within
from spoa_twisted.status.report import BOUNDS, DEFAULT, NONE, Engine, Histogram, MessageTotals, Process, Status
from spoa_twisted.status.verdict import (
    RECENT,
    Finding,
    Level,
    Verdict,
    assess,
    count_ready,
    ended,
    results_level,
    stands_still,
)

#: Stands in a cell for a number that there is not.
NOTHING: Final = "-"

#: How many problems are shown. The worst ones come first; ``/status.json`` has all.
MAX_PROBLEMS: Final = 20

#: Explains the times below the table of messages.
BOUNDS_NOTE: Final = (
    "failed: the share of the message's calls with another result than ok. p50, p99: half of the calls, or 99 % of"
    " them, took at most this time, the upper bound of a bucket of a histogram, or max."
)

# The words of each status code of a DISCONNECT, by the code as a text.
_WORDS: Final = {str(int(code)): words for code, words in STATUS_WORDS.items()}


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table. A cell with the level ``note`` is less important than others."""

    text: str
    level: Level = Level.OK


@final
@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    #: True for numbers, which stand below each other at the right.
    is_number: bool = True


@final
@dataclass(frozen=True, slots=True)
class Table:
    """A table with a title."""

    title: str
    columns: list[Column]
    rows: list[list[Cell]]
    #: The text in place of a table without rows.
    empty: str
    #: A sentence that explains the columns; empty if none is needed.
    note: str = ""


@final
@dataclass(frozen=True, slots=True)
class Figure:
    """A number that an operator looks for first."""

    title: str
    text: str
    level: Level = Level.OK


@final
@dataclass(frozen=True, slots=True)
class View:
    """All that is shown of a status."""

    verdict: Verdict
    #: The time of the status, as text.
    time: str
    #: Where the agent listens.
    listen: str
    figures: list[Figure]
    #: Each problem with the text about how often and when it happened; :data:`MAX_PROBLEMS` at most.
    problems: list[tuple[Finding, str]]
    #: How many problems there are besides.
    more_problems: int
    messages: Table
    processes: Table
    engines: Table
    facts: list[tuple[str, str]]

    @property
    def tables(self) -> list[Table]:
        """The tables, the one that an operator needs first at the beginning."""
        return [self.messages, self.processes, self.engines]


def view(status: Status) -> View:
    """Return what is shown of ``status``."""
    verdict = assess(status)
    return View(
        verdict,
        clock(status["time"]),
        in_one_line(", ".join(status["listen"])),
        _figures(status, verdict.level),
        [(finding, _how_often(finding, status["time"])) for finding in verdict.problems[:MAX_PROBLEMS]],
        max(0, len(verdict.problems) - MAX_PROBLEMS),
        _messages(status),
        _processes(status),
        _engines(status),
        _facts(status),
    )


def _how_often(finding: Finding, now: float) -> str:
    """Return whether a problem still happens, how often and when: ``Still happens: 41,230 times, the last now``."""
    parts = []
    if finding.count:
        parts.append(times(finding.count))
    if finding.first and finding.count > 1:
        parts.append(f"the first {ago(now - finding.first)}")
    if finding.last:
        last = ago(now - finding.last)
        parts.append(f"the last {last}" if finding.count > 1 else last)
    text = ", ".join(parts)
    if not finding.last or finding.lasts:
        return text
    if now - finding.last >= RECENT:
        return f"Not in the last minute: {text}"
    return f"Still happens: {text}" if finding.count > 1 else text


def _figures(status: Status, level: Level) -> list[Figure]:
    """Return the figures. Workers that are not ready are as bad as the verdict, which knows the reason."""
    recent, processes = status["recent"], status["processes"]
    results: Counter[str] = Counter()
    for message in recent["messages"].values():
        results.update(message["results"])
    handled = sum(results.values())
    failed = handled - results[Outcome.OK.value]
    ready, workers = count_ready(processes)
    longest = status["longest_notify"] or inf
    # The titles say of what a number is: the table of messages and the verdict have those of one message.
    figures = [
        Figure("NOTIFYs", rate(observations(recent["notify"]), status["recent_seconds"])),
        Figure("messages failed", share(failed, handled) if handled else NOTHING, results_level(results)),
        Figure("NOTIFY p50", _bound(recent["notify"], 0.5, longest)),
        Figure("NOTIFY p99", _bound(recent["notify"], 0.99, longest)),
        Figure("in flight", f"{sum(each['in_flight'] for each in processes):,}"),
        Figure("connections", f"{sum(each['connections'] for each in processes):,}"),
        Figure("HAProxys", f"{len(status['engines']):,}"),
    ]
    if status["workers"]:
        figures.append(Figure("workers", f"{ready} of {workers}", level if ready < workers else Level.OK))
    return figures


def _bound(histogram: Histogram, part: float, longest: float = inf) -> str:
    """Return the time that ``part`` of the observations did not exceed, as text."""
    if not observations(histogram):
        return NOTHING
    bound = within(histogram, part, longest)
    return f"> {duration(BOUNDS[-1])}" if bound == inf else f"≤ {duration(bound)}"


def _handled(message: MessageTotals) -> int:
    return sum(message["results"].values())


def _failed(message: MessageTotals) -> int:
    return _handled(message) - message["results"].get(Outcome.OK.value, 0)


def _messages(status: Status) -> Table:
    """Return the table of messages: those with most failures first, then those with most requests."""
    recent = status["recent"]["messages"]
    columns = ["rate", "failed", "p50", "p99", "max"]
    # A message that has a handler and was not sent has a row too.
    names = sorted(
        {*recent, *status["messages"]},
        key=lambda name: (-_failed(recent[name]), -_handled(recent[name]), name) if name in recent else (0, 0, name),
    )
    rows = [_message(status, name) for name in names]
    return Table(
        f"Messages of the last {span(status['recent_seconds'])}",
        [Column("message", is_number=False), *map(Column, columns), Column("results", is_number=False)],
        rows,
        "The agent has no handlers.",
        BOUNDS_NOTE if any(row[3].text != NOTHING for row in rows) else "",
    )


def _message(status: Status, name: str) -> list[Cell]:
    """Return the row of the message ``name``."""
    title = {DEFAULT: "other messages", NONE: "without a handler"}.get(name, in_one_line(name))
    message = status["recent"]["messages"].get(name)
    handled = _handled(message) if message else 0
    if message is None or not handled:
        return [Cell(title, Level.NOTE), *[Cell(NOTHING, Level.NOTE)] * 5, Cell("not sent", Level.NOTE)]
    failed = _failed(message)
    longest = status["longest"].get(name, inf)
    results = message["results"]
    return [
        Cell(title),
        Cell(rate(handled, status["recent_seconds"])),
        Cell(share(failed, handled), results_level(results) if failed else Level.NOTE),
        Cell(_bound(message["duration"], 0.5, longest)),
        Cell(_bound(message["duration"], 0.99, longest)),
        Cell(duration(longest) if longest < inf else NOTHING),
        # In the order of Outcome. An agent of a newer version may have other results too.
        Cell(_counts({outcome.value: results.get(outcome.value, 0) for outcome in Outcome} | results)),
    ]


def _counts(counts: Mapping[str, int], separator: str = " · ") -> str:
    """Return the names with a count, and their counts: ``ok 8,229 · error 13,402``."""
    return separator.join(
        [f"{in_one_line(name).replace('_', ' ')} {count:,}" for name, count in counts.items() if count]
    )


def _processes(status: Status) -> Table:
    """Return the table of workers, or of the only process."""
    processes = status["processes"]
    titles = ["pid", "up", "connections", "in flight"]
    # Two columns that are nearly always 0: they are shown only if a process has another number.
    waiting = any(each["blocking_waiting"] for each in processes)
    held_back = any(each["held_back"] for each in processes)
    titles += ["wait for a thread"] * waiting + ["held back"] * held_back + ["timer late", "CPU", "memory"]
    # The CPU time of a worker has that of its processes that were replaced.
    uptime = max(1.0, status["time"] - status["started"])
    rows = []
    for each in processes:
        if each["state"] == "lost":
            numbers = [NOTHING] * len(titles)
        else:
            numbers = [
                str(each["pid"]),
                duration(float(round(max(0.0, status["time"] - each["started"])))),
                f"{each['connections']:,}",
                f"{each['in_flight']:,}",
                *[f"{each['blocking_waiting']:,}"] * waiting,
                *[size(each["held_back"])] * held_back,
                duration(each["lag"]),
                f"{100 * each['cpu_seconds'] / uptime:.0f} %",
                size(each["resident_memory"]) if each["resident_memory"] else NOTHING,
            ]
        name = f"worker {each['worker']}" if each["worker"] else "agent"
        rows.append([Cell(name), _state(each), *map(Cell, numbers)])
    return Table(
        "Workers" if status["workers"] else "Process",
        [Column("process", is_number=False), Column("state", is_number=False), *map(Column, titles)],
        rows,
        "The agent has no process.",
        "timer late: how much later than wanted the reactor called its last timer. CPU: the share of a core since the"
        " start of the agent.",
    )


def _state(process: Process) -> Cell:
    detail = f" in {in_one_line(process['detail'])}" if process["detail"] else ""
    if stands_still(process):
        return Cell(f"stands still for {duration(process['age'])}{detail}", Level.CRITICAL)
    if process["state"] == "lost":
        detail = f": {in_one_line(process['detail'])}" if process["detail"] else ""
        return Cell(f"lost{detail}", Level.WARNING)
    # In a reload, processes start and drain: that is no fault.
    return Cell(in_one_line(process["state"]), Level.OK if process["state"] == "ready" else Level.NOTE)


def _engines(status: Status) -> Table:
    """Return the table of HAProxys: their engines that are connected."""
    columns = [Column("HAProxy", is_number=False), *map(Column, ("connections", "in flight", "frame size"))]
    columns += [Column("capabilities", is_number=False), Column("engine", is_number=False)]
    return Table(
        "HAProxys",
        columns,
        [_engine(engine) for engine in status["engines"]],
        "No engine of a HAProxy is connected.",
    )


def _engine(engine: Engine) -> list[Cell]:
    return [
        Cell(in_one_line(engine["peer"]) or "unknown"),
        Cell(f"{engine['connections']:,}"),
        Cell(f"{engine['in_flight']:,}"),
        Cell(size(engine["max_frame_size"])),
        Cell(in_one_line(", ".join(engine["capabilities"])) or "none"),
        Cell(in_one_line(engine["engine"]) or "without a name", Level.NOTE),
    ]


def _facts(status: Status) -> list[tuple[str, str]]:
    """Return what is true since the start: options, versions, reloads, connections."""
    totals, reloads, now = status["totals"], status["reloads"], status["time"]
    options = [f"--{in_one_line(name)} {in_one_line(value)}".rstrip() for name, value in status["options"].items()]
    facts = [
        ("listens on", in_one_line(", ".join(status["listen"])) or "ports of the application"),
        ("options", "  ".join(options) or "all at their defaults"),
        (
            "version",
            in_one_line(f"spoa_twisted {status['version']}, Python {status['python']}, Twisted {status['twisted']}"),
        ),
        ("started", f"{clock(status['started'])}, {ago(now - status['started'])}"),
    ]
    if status["workers"]:
        last = "none since the start"
        if reloads["last_time"]:
            result = "succeeded" if reloads["last_ok"] else f"failed: {in_one_line(reloads['reason'])}"
            last = f"{clock(reloads['last_time'])}, {ago(now - reloads['last_time'])}, {result}"
        facts.append(("last reload", last))
        facts.append(("workers replaced", ended(status["restarts"]) or "none"))
    connections = [counted(totals["connections"], "connection"), counted(totals["health_checks"], "health check")]
    if totals["refused"]:
        connections.append(f"{totals['refused']:,} refused")
    facts.append(("since the start", ", ".join(connections)))
    if any(totals["disconnects"].values()):
        facts.append(("DISCONNECTs", "; ".join(_disconnects(totals["disconnects"]))))
    if any(totals["dropped"].values()):
        facts.append(("dropped", _counts(totals["dropped"], ", ")))
    if totals["stalls"]:
        facts.append(("stood still", f"{times(totals['stalls'])}, for {duration(totals['stall_seconds'])} in all"))
    return facts


def _disconnects(disconnects: Mapping[str, int]) -> list[str]:
    """Return how often each side sent each status code: ``HAProxy 12 times with status code 0 (normal)``."""
    texts = []
    for key, count in disconnects.items():
        sender, _, code = key.partition(" ")
        name = {"haproxy": "HAProxy", "agent": "the agent"}.get(sender, in_one_line(sender))
        # An agent of another version may have other status codes.
        words = f" ({_WORDS[code]})" if code in _WORDS else ""
        texts.append(f"{name} {times(count)}" + (f" with status code {in_one_line(code)}{words}" if code else ""))
    return texts
