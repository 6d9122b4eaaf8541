"""The verdict about an agent: whether it is well, in one sentence, and the list of its problems, the worst first.

An operator has ten seconds. So the verdict is ``critical`` only if requests fail or wait now, and ``warning`` only if
they soon may, or if somebody has to do something. A problem that is over, or that few requests had, is listed as a
``note``, and changes no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, final

from spoa_twisted.escaping import cut, in_one_line
from spoa_twisted.observer import Outcome
from spoa_twisted.status.figures import ago, counted, duration, rate, share, span, times
from spoa_twisted.status.quantiles import longer_than, observations, within
from spoa_twisted.status.report import BOUNDS, DEFAULT, MAX_ENDINGS, NONE, Ending, Problem, Process, Status

#: How many requests must fail in the last minute to change the verdict. Now and then a request has an argument that no
#: handler expects, and at night that may be one of two. A handler that always fails reaches this number with a request
#: every ten seconds.
ENOUGH: Final = 5

#: The share of requests from which a failure is critical, and the share from which it is worth a warning.
CRITICAL_SHARE: Final = 0.1
WARNING_SHARE: Final = 0.01

#: Seconds since a process has shown that it works. After more than that it stands still: the reactor's timer comes four
#: times a second, and the handlers' default timeout is one second.
STANDSTILL: Final = 1.0

#: The share of the last minute that the agent may stand still before that is critical, and no warning any more.
STANDSTILL_SHARE: Final = 0.1

#: Seconds. The default of ``--handler-timeout``. A handler is slow if it often takes longer than half of the timeout.
HANDLER_TIMEOUT: Final = 1.0

#: The share of requests that may take longer than half of the timeout before the handler is slow.
SLOW_SHARE: Final = 0.1

#: Seconds. HAProxy gets this time after the start of the agent to connect. HAProxy's health checks come every two
#: seconds by default.
GRACE: Final = 60.0

#: Seconds. A problem that happened within this time still happens.
RECENT: Final = 60.0

#: How many times workers must crash within :data:`CRASH_SPAN` seconds before that is critical. One crash loses the
#: requests of one worker only. A reload is no crash, and neither is a worker that SIGTERM stops.
CRASHES: Final = 3
CRASH_SPAN: Final = 300.0

#: Seconds. Workers that crash within this time count once: somebody has killed all of them with one command.
SAME_CRASH: Final = 1.0

# Characters. A longer text is cut in a sentence.
_MAX_TEXT: Final = 200

# What to do about a process that stands still.
_BLOCKING: Final = (
    "While a handler blocks, its process answers no other request. Register the handler with blocking=True."
)

# The kinds of problems whose text is about one hold-up, while others may have been longer.
_HOLD_UPS: Final = ("HandlerBlocked", "Standstill")

# The kinds of problems that are reported once, although they last.
_LASTING: Final = frozenset({"LifeCycleIgnored"})


class Level(Enum):
    """How bad a problem is. The verdict is as bad as the worst problem; a note does not count."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def severity(self) -> int:
        """A number that is larger for a worse level."""
        return list(Level).index(self)


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """A problem, in words."""

    level: Level
    #: One sentence without a period: ``The handler of 'check-token' fails: 62 % of its calls in the last minute``.
    what: str
    #: The text of the last failure, as in the log; often empty.
    text: str = ""
    #: How often it happened; 0 for a state, which cannot be counted.
    count: int = 0
    #: The Unix times of the first and of the last time; 0 if they are not known.
    first: float = 0.0
    last: float = 0.0
    #: More about the problem, and what to do, in one or two sentences with a period; often empty.
    hint: str = ""
    #: True for what is reported once and then lasts, as a reload that has failed: it need not happen again.
    lasts: bool = False


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """How an agent is: ``ok``, ``warning`` or ``critical``, one sentence, and all problems."""

    level: Level
    #: One sentence without a period, which names the worst problem, or says that there is none.
    sentence: str
    #: The worst problem first.
    problems: list[Finding]


def assess(status: Status) -> Verdict:
    """Return the verdict about ``status``."""
    listed = _Listed(status["problems"])
    found = [
        *_states(status),
        *_failures(status, listed),
        *_standstills(status, listed),
        *_slow_handlers(status),
        *_connections(status, listed),
        *_reloads(status),
        *_crashes(status),
        *_restarts(status),
    ]
    found += _others(status, listed)
    # The sort is stable: problems of the same level stay in the order of the functions above.
    found.sort(key=lambda finding: -finding.level.severity)
    if found and found[0].level in (Level.WARNING, Level.CRITICAL):
        return Verdict(found[0].level, found[0].what, found)
    return Verdict(Level.OK, _all_is_well(status), found)


@final
class _Listed:
    """The problems of a status. A problem that a function has put into words is taken away, so that it comes once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        #: The problems that are not taken yet.
        self.left = list(problems)

    def take(self, kinds: Iterable[str], belongs: Callable[[str], bool] = lambda subject: True) -> Problem | None:
        """Take away the latest problem of one of ``kinds``, and return it; ``None`` if there is none.

        :param belongs: returns whether a problem with this subject may be taken.
        """
        found = [each for each in self.left if each["kind"] in kinds and belongs(each["subject"])]
        latest = max(found, key=lambda each: each["last"], default=None)
        if latest is not None:
            self.left.remove(latest)
        return latest


def _finding(level: Level, what: str, problem: Problem | None, count: int = 0, hint: str = "") -> Finding:
    """Return a finding with the text and the times of ``problem``; with ``count`` only, if it is ``None``."""
    if problem is None:
        return Finding(level, what, count=count, hint=hint)
    text = in_one_line(problem["text"])
    if text and problem["count"] > 1 and problem["kind"] in _HOLD_UPS:
        text = f"the last one: {text}"
    lasts = problem["kind"] in _LASTING
    return Finding(level, what, text, problem["count"], problem["first"], problem["last"], hint, lasts)


def _brief(text: str) -> str:
    """Return ``text``, escaped and short enough for a sentence."""
    text = in_one_line(text)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."


def _states(status: Status) -> Iterator[Finding]:
    """Find processes that stand still, that have ended, or that are not ready yet."""
    processes = status["processes"]
    still = [each for each in processes if stands_still(each)]
    for each in sorted(still, key=lambda each: -each["age"]):
        place = f" in {_brief(each['detail'])}" if each["detail"] else ""
        what = f"{_name(each)} stands still for {duration(each['age'])}{place}"
        hint = f"{counted(each['in_flight'], 'NOTIFY')} in flight. {_BLOCKING}"
        yield Finding(Level.CRITICAL, what, hint=hint)
    if status["state"] == "draining":
        flying = sum(each["in_flight"] for each in processes)
        connections = sum(each["connections"] for each in processes)
        what = f"Draining: {counted(flying, 'NOTIFY')} in flight on {counted(connections, 'connection')}"
        yield Finding(Level.WARNING, what, hint="The agent was told to end, and takes no new connections.")
        return
    ready, workers = count_ready(processes)
    lost = [each for each in processes if each["state"] == "lost"]
    if not ready and not still:
        yield _none_ready(status, lost)
    for each in lost:
        how = f": {_brief(each['detail'])}" if each["detail"] else ""
        then = ", a new one is starting" if each["worker"] in _starting(processes) else " and is not replaced yet"
        what = f"{_name(each)} has ended{then}{how}"
        hint = f"{ready} of {counted(workers, 'worker')} ready. The log says more."
        yield Finding(Level.WARNING, what, hint=hint)


def _none_ready(status: Status, lost: list[Process]) -> Finding:
    """Return that no process answers requests. At the start of the agent, that is no fault."""
    since = status["time"] - status["started"]
    if since < GRACE and not lost:
        return Finding(Level.WARNING, f"Starting for {duration(max(0.0, since))}: no process is ready yet")
    reason = next((f": {_brief(each['detail'])}" for each in lost if each["detail"]), "")
    what = f"No process is ready, requests wait{reason}"
    new = "New workers are starting." if _starting(status["processes"]) else "New workers start after a pause."
    return Finding(Level.CRITICAL, what, hint=f"The log says why. {new}")


def _starting(processes: Iterable[Process]) -> set[int]:
    """Return the numbers of the workers that have a process that is not ready yet."""
    return {each["worker"] for each in processes if each["state"] == "starting"}


def count_ready(processes: Iterable[Process]) -> tuple[int, int]:
    """Return how many workers are ready, and how many there are.

    During a reload, the old process of a worker drains, and the new one is ready: that is one worker.
    """
    works = [each for each in processes if each["state"] in ("ready", "silent") and not stands_still(each)]
    return len({each["worker"] for each in works}), len({each["worker"] for each in processes})


def stands_still(process: Process) -> bool:
    """Return whether a process has shown no sign of life for too long."""
    return process["state"] in ("ready", "silent", "draining") and process["age"] > STANDSTILL


def _name(process: Process) -> str:
    return f"Worker {process['worker']}" if process["worker"] else "The agent"


class _Failure(NamedTuple):
    """A result of a message that is not ``ok``."""

    #: What is wrong, with {0} for the name of the message in quotes.
    what: str
    #: The kinds of the problems that tell more.
    kinds: tuple[str, ...]
    #: What to do.
    hint: str


_FAILURES: Final = {
    Outcome.ERROR: _Failure(
        "The handler of {0} fails",
        ("HandlerFailed", "ArgumentMissing"),
        "HAProxy gets the variables of on_error.",
    ),
    Outcome.TIMEOUT: _Failure(
        "The handler of {0} times out",
        ("HandlerTimedOut",),
        "HAProxy gets the variables of on_error. Find out what the handler waits for.",
    ),
    Outcome.UNSENDABLE: _Failure(
        "The handler of {0} returns what SPOP cannot send",
        ("ResultUnsendable",),
        "HAProxy gets the variables of on_error. The log names the value.",
    ),
    Outcome.TOO_BIG: _Failure(
        "The answers to {0} do not fit in the ACK",
        ("ResultTooBig",),
        "HAProxy gets the variables of on_error. Set shorter values, or raise HAProxy's tune.bufsize.",
    ),
    Outcome.UNHANDLED: _Failure(
        "HAProxy sends messages that have no handler",
        ("MessageUnhandled",),
        "Compare the names in spoe.conf with those of the handlers.",
    ),
    Outcome.CANCELLED: _Failure(
        "HAProxy closes connections before {0} is answered",
        (),
        "HAProxy was restarted, or its timeouts are shorter than the handler takes.",
    ),
}

# Results that are no fault of a running handler: they are never critical.
_MILD: Final = frozenset({Outcome.UNHANDLED, Outcome.CANCELLED})


def _failures(status: Status, listed: _Listed) -> Iterator[Finding]:
    """Find messages with enough failures in the last minute. The message with most failures comes first."""
    minute = span(status["recent_seconds"])
    # The subject of a problem is the name that was sent. The totals of all names without a handler are together.
    named = {in_one_line(cut(name)) for name in status["messages"]}
    found: list[tuple[int, Finding]] = []
    for name, message in status["recent"]["messages"].items():
        total = sum(message["results"].values())
        for outcome, failure in _FAILURES.items():
            failed = message["results"].get(outcome.value, 0)
            level = _level(failed, total, mild=outcome in _MILD)
            if level is None:
                continue
            problem = listed.take(failure.kinds, _belongs_to(name, named))
            example = f" ({quoted(problem['subject'])})" if name == NONE and problem and problem["subject"] else ""
            # Each message without a handler is such a failure, so a share would say nothing.
            often = f"{failed:,} in the last {minute}" if name == NONE else _of_its_calls(failed, total, minute)
            what = f"{failure.what.format(quoted(name))}{example}: {often}"
            ever = status["totals"]["messages"].get(name, message)["results"].get(outcome.value, failed)
            hint = failure.hint
            if outcome is Outcome.ERROR:
                # A call that lacks an argument has no traceback.
                raised = problem is not None and problem["kind"] == "HandlerFailed"
                hint += " The log has the traceback." if raised else " The log says more."
            found.append((failed, _finding(level, what, problem, ever, hint)))
    found.sort(key=lambda each: -each[0])
    return (finding for _, finding in found)


def _belongs_to(name: str, named: Container[str]) -> Callable[[str], bool]:
    """Return a function that tells whether a problem with a subject is one of the message ``name``."""
    if name in (DEFAULT, NONE):
        return lambda subject: subject not in named
    return in_one_line(cut(name)).__eq__


def _level(failed: int, total: int, *, mild: bool) -> Level | None:
    """Return the level of ``failed`` of ``total`` requests; ``None`` if there are not enough failures."""
    if failed < ENOUGH or failed < WARNING_SHARE * total:
        return None
    return Level.CRITICAL if failed >= CRITICAL_SHARE * total and not mild else Level.WARNING


def _of_its_calls(part: int, whole: int, minute: str) -> str:
    """Return ``62 % of its calls in the last minute``, or ``6 of its 9 calls in the last minute``."""
    text = share(part, whole)
    calls = f"{text} of its calls" if text.endswith("%") else f"{part:,} of its {whole:,} calls"
    return f"{calls} in the last {minute}"


def quoted(name: str) -> str:
    """Return a message's name in quotes; ``(default)`` stands for other messages and is put into words."""
    return "all other messages" if name == DEFAULT else f"'{in_one_line(name)}'"


def _standstills(status: Status, listed: _Listed) -> Iterator[Finding]:
    """Find out whether the agent stood still in the last minute."""
    recent = status["recent"]
    if not recent["stalls"]:
        return
    level = Level.WARNING
    if recent["stall_seconds"] >= STANDSTILL_SHARE * status["recent_seconds"]:
        level = Level.CRITICAL
    who = "Workers" if status["workers"] else "The agent"
    what = f"{who} stood still for {duration(recent['stall_seconds'])} of the last {span(status['recent_seconds'])}"
    problem = listed.take(_HOLD_UPS)
    if problem is not None and problem["kind"] == "HandlerBlocked":
        what += f", in the handler of {quoted(problem['subject'])}"
    yield _finding(level, what, problem, recent["stalls"], _BLOCKING)


def _slow_handlers(status: Status) -> Iterator[Finding]:
    """Find handlers that often take longer than half of the timeout. _failures() has found those that time out."""
    bound = _slow(status)
    for name, message in status["recent"]["messages"].items():
        total = observations(message["duration"])
        slow = longer_than(message["duration"], bound)
        results = message["results"]
        timeouts = results.get(Outcome.TIMEOUT.value, 0)
        if slow < max(ENOUGH, SLOW_SHARE * total) or _level(timeouts, sum(results.values()), mild=False):
            continue
        longest = status["longest"].get(name, float("inf"))
        percentile = within(message["duration"], 0.99, longest)
        minute = span(status["recent_seconds"])
        what = (
            f"The handler of {quoted(name)} is slow: {_of_its_calls(slow, total, minute)} took over {duration(bound)}"
        )
        hint = f"99 % took at most {duration(percentile)}." if percentile < float("inf") else ""
        yield Finding(Level.WARNING, what, hint=f"{hint} Find out what the handler waits for.".lstrip())


def results_level(results: Mapping[str, int]) -> Level:
    """Return how bad the results of the last minute are: ``note`` if there are failures, but not enough."""
    total = sum(results.values())
    levels = [
        _level(results.get(outcome.value, 0), total, mild=outcome in _MILD) or Level.NOTE
        for outcome in _FAILURES
        if results.get(outcome.value, 0)
    ]
    return max(levels, key=lambda level: level.severity, default=Level.OK)


def _slow(status: Status) -> float:
    """Return the bound, in seconds, above which a handler is slow: half of ``--handler-timeout``."""
    try:
        timeout = float(status["options"].get("handler-timeout", HANDLER_TIMEOUT))
    except ValueError:
        timeout = HANDLER_TIMEOUT
    # 0 is no timeout. Only the bounds of buckets can be compared with.
    return max(bound for bound in BOUNDS if bound <= max(0.1, (timeout or HANDLER_TIMEOUT) / 2))


def _connections(status: Status, listed: _Listed) -> Iterator[Finding]:
    """Find connections that were refused or dropped, and the lack of any connection."""
    recent, minute = status["recent"], span(status["recent_seconds"])
    if recent["refused"]:
        what = f"Connections are refused: {recent['refused']:,} in the last {minute}"
        hint = "As many connections are open as --max-connections allows."
        yield Finding(Level.WARNING, what, count=status["totals"]["refused"], hint=hint)
    refused = recent["dropped"].get("payload", 0)
    if refused >= ENOUGH:
        what = f"NOTIFYs that exceed a limit are refused: {refused:,} in the last {minute}"
        yield _finding(Level.WARNING, what, listed.take(("PayloadRefused",)), refused)
    unread = recent["dropped"].get("unread", 0)
    if unread >= ENOUGH:
        what = f"HAProxy does not read its ACKs: {unread:,} connections dropped in the last {minute}"
        yield _finding(Level.WARNING, what, listed.take(("PeerDropped",)), unread)
    connections = sum(each["connections"] for each in status["processes"])
    seen = connections or status["engines"] or recent["connections"] or recent["health_checks"]
    if status["state"] != "ready" or seen or status["time"] - status["started"] < GRACE:
        return
    where = _brief(", ".join(status["listen"])) or "ports of the application"
    if status["totals"]["connections"]:
        what = f"No HAProxy is connected, and none has tried for a {minute}"
        hint = (
            f"The agent listens on {where}. A HAProxy without health checks has no connection when it is idle, either."
        )
    else:
        what = f"No HAProxy has connected for {duration(status['time'] - status['started'])}, since the start"
        hint = f"The agent listens on {where}: compare the server line in haproxy.cfg."
    yield Finding(Level.WARNING, what, hint=hint)


def _reloads(status: Status) -> Iterator[Finding]:
    """Find out whether the last reload failed."""
    reloads = status["reloads"]
    if status["workers"] and not reloads["last_ok"]:
        reason = _brief(reloads["reason"])
        what = f"The reload failed, the old code still runs: {reason}"
        failed = reloads["results"].get("failed", 1)
        hint = (
            "The old code answers the requests. A restart of the agent would probably fail for the same reason."
            " Correct what the reason names, and reload again."
        )
        yield Finding(Level.WARNING, what, count=failed, last=reloads["last_time"], hint=hint, lasts=True)


def _crashes(status: Status) -> Iterator[Finding]:
    """Find out whether workers crash again and again. Each is replaced at once, so they may all seem to be well."""
    crashes = [each for each in status["endings"] if each["crashed"] and status["time"] - each["time"] <= CRASH_SPAN]
    separate: list[Ending] = []
    for each in crashes:
        if not separate or each["time"] - separate[-1]["time"] > SAME_CRASH:
            separate.append(each)
    if len(separate) < CRASHES:
        return
    last = crashes[-1]
    often = f"{'at least ' * (len(crashes) >= MAX_ENDINGS)}{times(len(crashes))} in {duration(CRASH_SPAN)}"
    what = f"Workers crash again and again, {often}: {_brief(last['reason'])}"
    hint = f"The last one was worker {last['worker']}. A crash loses the NOTIFYs in flight. The log says more."
    yield Finding(Level.CRITICAL, what, "", len(crashes), crashes[0]["time"], last["time"], hint)


# How a worker ended, by the reason in Status["restarts"]. One worker needs another form than several.
_ENDED: Final = {
    "exit": ("exited", "exited"),
    "signal": ("was ended by a signal", "were ended by a signal"),
    "stall": ("stood still and was killed", "stood still and were killed"),
    "reload": ("was replaced in a reload", "were replaced in a reload"),
}


def ended(restarts: Mapping[str, int]) -> str:
    """Return how workers ended: ``2 were ended by a signal, 1 exited``. It is empty if none has ended."""
    parts = []
    for reason, count in restarts.items():
        # An agent of a newer version may have other reasons.
        one, several = _ENDED.get(reason, (f"ended: {in_one_line(reason)}",) * 2)
        if count:
            parts.append(f"{count:,} {one if count == 1 else several}")
    return ", ".join(parts)


def _restarts(status: Status) -> Iterator[Finding]:
    """Find out whether workers have ended. A worker is replaced at once, so nothing else may show that."""
    counts = {reason: count for reason, count in status["restarts"].items() if reason != "reload" and count}
    if counts:
        what = f"Workers have ended and were replaced: {ended(counts)}"
        text, time = "", 0.0
        if status["endings"]:
            last = status["endings"][-1]
            text, time = f"the last one: {_brief(last['reason'])}", last["time"]
        hint = "The log says how each of them ended."
        yield Finding(Level.NOTE, what, text, sum(counts.values()), last=time, hint=hint)


# What each kind of problem is, with {0} for its subject. The log has the same words.
_KINDS: Final[dict[str, str]] = {
    "ArgumentMissing": "The handler of {0} was not called: an argument is missing",
    "CancelFailed": "The Deferred of a handler failed to be cancelled",
    "ConnectionRefused": "Connections were refused",
    "DisconnectReceived": "HAProxy ended a connection with an error: {0}",
    "DrainTimedOut": "Connections were closed at the end of the drain, despite NOTIFYs in flight",
    "HandlerBlocked": "The handler of {0} held the agent up",
    "HandlerFailed": "The handler of {0} failed",
    "HandlerTimedOut": "The handler of {0} timed out",
    "HelloTimedOut": "A peer sent no HAPROXY-HELLO in time: {0}",
    "LifeCycleFailed": "The function {0} failed",
    "LifeCycleIgnored": "The handlers' startup, every and shutdown functions never run",
    "MessageUnhandled": "No handler for the message {0}",
    "PayloadRefused": "A NOTIFY was refused: its fragments exceed a limit",
    "PeerDropped": "A connection was dropped, because the peer did not read: {0}",
    "ProtocolError": "A peer broke the protocol: {0}",
    "RespondFailed": "The handlers failed to respond",
    "ResponseUnsendable": "The response of the handlers could not be sent",
    "ResultNotAsDeclared": "The handler of {0} set another variable, or another type, than its sets declares",
    "ResultTooBig": "The answer to {0} did not fit in the ACK",
    "ResultUnsendable": "The handler of {0} returned what SPOP cannot send",
    "ShutdownTimedOut": "The shutdown function {0} did not finish in time",
    "Standstill": "The agent stood still",
    "ThreadAwaited": "The handler of {0} waited long for a thread",
    "VariableNameLong": "The name of the variable {0} may be too long for HAProxy",
    "VariableWithoutScope": "The variable {0} has no scope, so all clients share it",
}

# Kinds of problems that need somebody, and that no number of the last minute shows.
_SERIOUS: Final = frozenset({"LifeCycleFailed", "RespondFailed", "ResponseUnsendable"})


def _others(status: Status, listed: _Listed) -> Iterator[Finding]:
    """Put the other problems into words. The latest comes first."""
    for each in sorted(listed.left, key=lambda each: -each["last"]):
        recent = status["time"] - each["last"] < RECENT
        level = Level.WARNING if recent and each["kind"] in _SERIOUS else Level.NOTE
        # A kind that this version does not know has its name shown.
        text = _KINDS.get(each["kind"], in_one_line(each["kind"]) + (": {0}" if each["subject"] else ""))
        # Not format(): the name of a kind that is not known may have braces.
        yield _finding(level, text.replace("{0}", f"'{in_one_line(each['subject'])}'"), each)


def _all_is_well(status: Status) -> str:
    """Return the sentence of an agent without problems."""
    notifys = observations(status["recent"]["notify"])
    in_the_last_minute = f"in the last {span(status['recent_seconds'])}"
    connected = any(each["connections"] for each in status["processes"])
    # That is no fault: HAProxy closes idle connections after "timeout idle". But the reader must not think that the
    # NOTIFYs of the last minute still come.
    well = "All is well" if connected else "All is well, but no HAProxy is connected now"
    if notifys:
        often = rate(notifys, status["recent_seconds"]).replace("/", " NOTIFYs/")
        return f"{well}: {often}" if connected else f"{well}: {often} {in_the_last_minute}"
    if not status["totals"]["connections"]:
        return f"Started {ago(status['time'] - status['started'])}; no HAProxy has connected yet"
    if status["recent"]["health_checks"]:
        return f"All is well: health checks, but no NOTIFYs {in_the_last_minute}"
    return f"{well}: no NOTIFYs {in_the_last_minute}"
