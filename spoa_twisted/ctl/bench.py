"""``spoactl bench``: loads an agent, and says how much it answers, how fast, how rightly, and for how much CPU."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, Final

from twisted.internet.defer import Deferred

from spoa_twisted.ctl.endpoint import DEFAULT_AGENT, agent, seconds
from spoa_twisted.ctl.files import OTHER_FILES, allow_files
from spoa_twisted.ctl.latency import Latencies
from spoa_twisted.ctl.load import (
    MAX_IN_FLIGHT,
    OTHER_VARIABLES,
    Greeting,
    Load,
    Outcome,
    Plan,
    RemoteLoad,
    Window,
    all_of,
    canonical,
    waited,
)
from spoa_twisted.ctl.send import argument
from spoa_twisted.ctl.values import show_text, show_value
from spoa_twisted.spop.actions import decode_actions, encode_actions
from spoa_twisted.spop.messages import Message, encode_messages
from spoa_twisted.spop.typeddata import Value, decode_typed_data

#: What is sent unless the command line names a message.
SHAPES: Final = {
    "small": Message("get-ip-reputation", [("ip", IPv4Address("192.0.2.1"))]),
    "http": Message(
        "check-request",
        [
            ("method", "GET"),
            ("path", "/articles/2024/05/how-to-measure?page=2"),
            ("host", "www.example.com"),
            ("user_agent", "Mozilla/5.0 (X11; Linux x86_64; rv:126.0) Gecko/20100101 Firefox/126.0"),
            ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
            ("accept_encoding", "gzip, deflate, br"),
            ("accept_language", "en-GB,en;q=0.7,de;q=0.3"),
            ("cache_control", "no-cache"),
            ("content_type", None),
            ("cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
            ("referer", "https://www.example.com/articles/"),
            ("x_forwarded_for", "198.51.100.7"),
            ("src", IPv4Address("192.0.2.1")),
            ("src_port", 40312),
            ("dst", IPv4Address("192.0.2.80")),
            ("dst_port", 443),
        ],
    ),
    "body": Message("check-body", [("body", bytes(range(256)) * 32)]),
}

#: From this share of a core on, the load side may have been what was measured.
BUSY: Final = 0.9

#: From this share of the time on that a process waits for a core, others take too much of the machine.
WAITED: Final = 0.1

#: From this share of the time measured on, the longest latency was a standstill.
STANDSTILL: Final = 0.05

# The longest list of variables in the text; JSON has them whole.
_LONGEST_LIST: Final = 500

_LARGEST_PID: Final = 2**31 - 1

DESCRIPTION = """\
Loads an agent as HAProxy would, with a constant number of NOTIFYs in flight on each connection, and checks every ACK.
Prints how many NOTIFYs were answered, how fast, what was wrong, and how much CPU each cost the agent.
"""

EPILOG = f"""\
Without a MESSAGE the shape says what is sent, each with a message name of its own:
  small  {SHAPES["small"].name}: an IPv4 address, ip
  http   {SHAPES["http"].name}: method, path, host, user_agent, eight headers, src, src_port, dst, dst_port
  body   {SHAPES["body"].name}: 8 KiB, body
A MESSAGE and its arguments are written as for "spoactl send".

Latency is from the write of a NOTIFY to the read of its ACK, to within 1 %. The memory needed does not grow with the
duration: a histogram of 4352 counters, up to 4 MiB of NOTIFYs, or two for each in flight on a connection, and up to
32 MiB of ACKs that were judged, in each process of the load. An agent that stands still is sent nothing new meanwhile:
the standstill shows in max, but as no more NOTIFYs than were in flight, and so hardly in the percentiles.

Errors count from the first NOTIFY to the last ACK, the warm-up included. With any the exit status is 1. They are:
  connection lost    the agent closed a connection without a word
  DISCONNECT n       it closed one with this status code
  no connection      a connection in place of such a one failed
  broken frame       what came was no frame, or no legal one; that connection is ended
  unknown ids        an ACK for a NOTIFY that was not sent
  repeated ids       an ACK for a NOTIFY that has had its ACK
  undecodable ACK    its actions cannot be read
  aborted NOTIFY     the ACK has the flag ABORT
  other variables    it sets others than the first ACK did, or than --expect says, or in other types
  unanswered NOTIFY  no ACK before its connection ended, or until --timeout after the duration

The agent's CPU is that of all threads of the processes named by --pid; their child processes are not counted. The load
side's CPU says whether it was the bottleneck: from {BUSY:.0%} of a core on, while the agent has some left, it was. Then
give it --processes. Where both share one core, neither figure but the CPU per NOTIFY tells anything about the agent.

With --json it prints an object with these keys:
  endpoint, message, connections, processes, warm_up, duration  what was asked
  in_flight             NOTIFYs on each connection, as the agent allows
  seconds               how long it was measured
  interrupted           whether Ctrl-C ended it
  notify_size           bytes of a NOTIFY
  agent                 version, max_frame_size and capabilities of its HELLO
  variables             what the first ACK set, as "spoactl send" shows it; null for a variable unset or set to NULL
  expected              what each was to set: what --expect says, or what the first one set; null with --varying
  other_variables       what the first one set that set others; null without one
  notifys               good ACKs in the time measured
  notifys_per_second    their rate
  latency_us            p50, p99, p99.9 and max in microseconds; null without a good ACK
  errors                how many of each kind, none left out that occurred
  agent_cpu             for each --pid: pid, seconds of CPU, busy, the share of a core that these are, and waited, the
                        share of the time that its first thread was ready and had no core; null where unknown
  cpu_us_per_notify     microseconds of CPU per NOTIFY of all those processes; null without --pid
  load_cpu              for each process of the load: busy and waited, as above
  notes                 what to know before the figures are believed

  spoactl bench tcp:127.0.0.1:12345 --pid "$(cat twistd.pid)"
  spoactl bench unix:/run/agent.sock check-token token=swordfish --expect txn.known=true --expect req.user=alice
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = argparse.ArgumentParser(
        prog="spoactl bench",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "agent",
        metavar="ENDPOINT",
        nargs="?",
        type=agent,
        default=DEFAULT_AGENT,
        help=f"the agent's Twisted client endpoint (default: {DEFAULT_AGENT})",
    )
    parser.add_argument("message", metavar="MESSAGE", nargs="?", help="the name of a message of your own")
    parser.add_argument("arguments", metavar="NAME=VALUE", nargs="*", type=argument, help="an argument of the message")
    parser.add_argument("--shape", choices=SHAPES, help="what to send instead (default: small)")
    parser.add_argument("--connections", metavar="N", type=_number, default=8, help="how many (default: 8)")
    parser.add_argument(
        "--in-flight", metavar="N", type=_in_flight, default=16, help="NOTIFYs on each connection (default: 16)"
    )
    parser.add_argument("--duration", metavar="SECONDS", type=seconds, default=10.0, help="to measure (default: 10)")
    parser.add_argument(
        "--warm-up", metavar="SECONDS", type=_seconds_or_none, default=1.0, help="not measured, before (default: 1)"
    )
    parser.add_argument(
        "--pid", metavar="PID", type=_process, action=_Once, default={}, help="a process of the agent; repeatable"
    )
    variables = parser.add_mutually_exclusive_group()
    variables.add_argument(
        "--expect",
        metavar="NAME=VALUE",
        type=_variable,
        action=_Once,
        help="a variable that every ACK sets, and no others; null for one unset; its type counts; repeatable",
    )
    variables.add_argument("--varying", action="store_true", help="allow each ACK to set other variables")
    parser.add_argument("--processes", metavar="N", type=_number, default=1, help="of the load side (default: 1)")
    parser.add_argument("--no-async", action="store_true", help="do not announce async, as HAProxy >= 3.1")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=5.0,
        help="for a connection, its HELLO, and the last ACKs (default: 5)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _number(text: str) -> int:
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is below 1")
    return number


def _in_flight(text: str) -> int:
    number = _number(text)
    if number > MAX_IN_FLIGHT:
        raise argparse.ArgumentTypeError(f"{text!r} is above {MAX_IN_FLIGHT}")
    return number


def _seconds_or_none(text: str) -> float:
    return 0.0 if text in ("0", "0.0") else seconds(text)


def _process(text: str) -> dict[int, None]:
    pid = _number(text)
    if pid > _LARGEST_PID:
        raise argparse.ArgumentTypeError(f"{text!r} is no process id")
    return {pid: None}


def _variable(text: str) -> dict[str, Value]:
    try:
        # As it arrives: "score" is proc.score.
        return decode_actions(encode_actions(dict([argument(text)])))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class _Once(argparse.Action):
    """Takes an option's values together, each with a name of its own."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        before: Mapping[Any, Any] = getattr(namespace, self.dest) or {}
        again = before.keys() & values.keys()
        if again:
            raise argparse.ArgumentError(self, f"{again.pop()} is given twice")
        setattr(namespace, self.dest, {**before, **values})


class ProcessCPU:
    """The CPU time of a process: of all its threads, those that ended included, in nanoseconds."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        clock = ctypes.c_int()
        failed = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
        if failed:
            raise ProcessLookupError(f"--pid {pid}: {os.strerror(failed)}")
        self._clock = clock.value
        self._began = self._time()
        self._began_at = 0.0
        self._had_waited: int | None = None
        #: How long it was measured.
        self.measured = 0.0
        #: Seconds in the time measured; ``None`` when the process did not live to its end.
        self.seconds: float | None = None
        #: The seconds that it was ready to run in that time and had no core; ``None`` when the system does not say.
        self.waited: float | None = None

    def begin(self) -> None:
        """The time measured begins."""
        self._began, self._began_at, self._had_waited = self._time(), time.perf_counter(), waited(self.pid)

    def end(self) -> None:
        """It ends."""
        now, now_at, has_waited = self._time(), time.perf_counter(), waited(self.pid)
        self.measured = now_at - self._began_at
        if now is not None and self._began is not None:
            self.seconds = (now - self._began) / 1e9
        if has_waited is not None and self._had_waited is not None:
            self.waited = (has_waited - self._had_waited) / 1e9

    def _time(self) -> int | None:
        try:
            return time.clock_gettime_ns(self._clock)
        except OSError:
            return None


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Load the agent, print what came of it."""
    if options.message and options.shape:
        raise ValueError("--shape says what to send in place of a MESSAGE")
    message = Message(options.message, options.arguments) if options.message else SHAPES[options.shape or "small"]
    processes = min(options.processes, options.connections)
    # Each process of the load has its share of the connections; the one that starts them has two pipes to each.
    allow_files(-(-options.connections // processes) + 2 * processes + OTHER_FILES)
    plan = Plan(
        endpoint=options.agent,
        messages=encode_messages([message]).hex(),
        connections=options.connections,
        in_flight=options.in_flight,
        timeout=options.timeout,
        async_=not options.no_async,
        expected=None if options.expect is None else canonical(options.expect),
        varying=options.varying,
    )
    cpus = [ProcessCPU(pid) for pid in options.pid]
    greeting, outcomes, window = await _load(reactor, plan, processes, (options.warm_up, options.duration), cpus)
    report = {
        "endpoint": options.agent,
        "message": message.name,
        "connections": options.connections,
        "in_flight": greeting.in_flight,
        "processes": processes,
        "warm_up": options.warm_up,
        "duration": options.duration,
        "seconds": max(outcome.seconds for outcome in outcomes),
        "interrupted": window.interrupted,
        "notify_size": greeting.notify_size,
        "agent": {
            "version": greeting.version,
            "max_frame_size": greeting.max_frame_size,
            "capabilities": greeting.capabilities,
        },
        **_merged(outcomes, plan),
    }
    report |= _cpu(cpus, outcomes, report["notifys_per_second"])
    report["notes"] = _notes(report, options)
    print(json.dumps(report, indent=2) if options.json else _text(report))
    if report["errors"]:
        raise SystemExit(1)


async def _load(
    reactor: Any, plan: Plan, processes: int, time_asked: tuple[float, float], cpus: list[ProcessCPU]
) -> tuple[Greeting, list[Outcome], Window]:
    if processes == 1:
        loads: list[Load | RemoteLoad] = [Load(reactor, plan)]
    else:
        shares = [plan.connections * (i + 1) // processes - plan.connections * i // processes for i in range(processes)]
        loads = [RemoteLoad(reactor, replace(plan, connections=share)) for share in shares]
    try:
        greetings = await all_of([Deferred.fromCoroutine(load.connect()) for load in loads])
        window = Window(reactor, *time_asked)
        for cpu in cpus:
            window.watch(cpu.begin, cpu.end)
        # Ctrl-C once prints what there is; twice ends as ever.
        ends_as_ever = signal.getsignal(signal.SIGINT)

        def interrupt(*_: object) -> None:
            signal.signal(signal.SIGINT, ends_as_ever)
            reactor.callFromThread(window.interrupt)

        signal.signal(signal.SIGINT, interrupt)
        try:
            outcomes = await all_of([Deferred.fromCoroutine(load.run(window)) for load in loads])
            # Other processes have windows of their own, which may have ended first.
            window.end()
        finally:
            signal.signal(signal.SIGINT, ends_as_ever)
    finally:
        for load in loads:
            if isinstance(load, RemoteLoad):
                load.abort()
    greeting = replace(greetings[0], in_flight=min(greeting.in_flight for greeting in greetings))
    return greeting, outcomes, window


def _merged(outcomes: list[Outcome], plan: Plan) -> dict[str, Any]:
    """Return what all processes of the load counted."""
    latencies = Latencies()
    errors: Counter[str] = Counter()
    for outcome in outcomes:
        latencies.merge(outcome.latencies)
        errors.update(outcome.errors)
    seen = [
        variables
        for outcome in outcomes
        for variables in (outcome.variables, outcome.other_variables)
        if variables is not None
    ]
    first = seen[0] if seen else None
    expected, others = None, None
    if not plan.varying:
        expected = first if plan.expected is None else plan.expected
        others = next((variables for variables in seen if variables != expected), None)
    if others is not None:
        # Each process compared with its own first ACK only.
        errors[OTHER_VARIABLES] = max(1, errors[OTHER_VARIABLES])
    return {
        "variables": _shown(first),
        "expected": _shown(expected),
        "other_variables": _shown(others),
        "notifys": sum(outcome.notifys for outcome in outcomes),
        "notifys_per_second": sum(outcome.notifys / outcome.seconds for outcome in outcomes if outcome.seconds),
        "latency_us": {
            "p50": latencies.percentile(50) / 1e3,
            "p99": latencies.percentile(99) / 1e3,
            "p99.9": latencies.percentile(99.9) / 1e3,
            "max": latencies.longest / 1e3,
        }
        if latencies.total
        else None,
        "errors": dict(sorted(errors.items())),
    }


def _shown(variables: dict[str, str] | None) -> dict[str, str | None] | None:
    if variables is None:
        return None
    shown: dict[str, str | None] = {}
    for name, encoded in variables.items():
        value, _ = decode_typed_data(bytes.fromhex(encoded), 0)
        shown[show_text(name)] = None if value is None else show_value(value)
    return shown


def _cpu(cpus: list[ProcessCPU], outcomes: list[Outcome], rate: float) -> dict[str, Any]:
    """Return what the processes of the agent and of the load used."""
    # By rates: the processes do not begin and end to measure at the same instant.
    busy = [cpu.seconds / cpu.measured for cpu in cpus if cpu.seconds is not None and cpu.measured]
    return {
        "agent_cpu": [
            {
                "pid": cpu.pid,
                "seconds": cpu.seconds,
                "busy": _share(cpu.seconds, cpu.measured),
                "waited": _share(cpu.waited, cpu.measured),
            }
            for cpu in cpus
        ],
        "cpu_us_per_notify": sum(busy) / rate * 1e6 if busy and len(busy) == len(cpus) and rate else None,
        "load_cpu": [
            {"busy": _share(outcome.cpu, outcome.seconds), "waited": _share(outcome.waited, outcome.seconds)}
            for outcome in outcomes
        ],
    }


def _share(part: float | None, whole: float) -> float | None:
    return part / whole if part is not None and whole else None


def _cpu_notes(report: dict[str, Any]) -> list[str]:
    notes = []
    load = max(cpu["busy"] or 0.0 for cpu in report["load_cpu"])
    agents = [cpu["busy"] for cpu in report["agent_cpu"]]
    if load >= BUSY and not agents:
        notes.append(f"the load side used {load:.0%} of a core: it may have been the bottleneck; --pid would tell")
    elif load >= BUSY and not any(busy is not None and busy >= BUSY for busy in agents):
        more = report["processes"] + 1
        notes.append(f"the load side used {load:.0%} of a core: it was the bottleneck; try --processes {more}")
    for cpu in report["agent_cpu"]:
        if cpu["seconds"] is None:
            notes.append(f"the process {cpu['pid']} did not live to the end")
        elif not cpu["seconds"]:
            notes.append(f"the process {cpu['pid']} used no CPU: is it the agent?")
    idle = max(cpu["waited"] or 0.0 for cpu in [*report["load_cpu"], *report["agent_cpu"]])
    if idle >= WAITED:
        notes.append(f"{idle:.0%} of the time a process waited for a core: rate and latency suffer from what else runs")
    return notes


def _latency_notes(report: dict[str, Any]) -> list[str]:
    latency = report["latency_us"]
    share = latency["max"] / 1e6 / report["seconds"] if latency is not None and report["seconds"] else 0.0
    if share < STANDSTILL:
        return []
    return [f"max is {share:.0%} of the time measured: what would have been sent meanwhile is in no percentile"]


def _notes(report: dict[str, Any], options: argparse.Namespace) -> list[str]:
    notes = _latency_notes(report) + _cpu_notes(report)
    if report["in_flight"] < options.in_flight:
        notes.append("the agent does not list pipelining: one NOTIFY is in flight on each connection")
    if report["variables"] == {} and not options.expect:
        notes.append(f"the agent set no variables: has it a handler for {show_text(report['message'])}?")
    if report["processes"] < options.processes:
        notes.append("the load side has no more processes than connections")
    if report["interrupted"]:
        notes.append(f"interrupted: measured for {report['seconds']:.1f} of {report['duration']:g} s")
    return notes


def _text(report: dict[str, Any]) -> str:
    hello, latency = report["agent"], report["latency_us"]
    of_a_core = [f"{cpu['busy']:.0%}" for cpu in report["agent_cpu"] if cpu["busy"] is not None]
    per_notify = report["cpu_us_per_notify"]
    rows = [
        ("agent", f"{report['endpoint']}, SPOP {hello['version']}, {', '.join(hello['capabilities']) or 'plain'}"),
        ("load", f"{report['connections']} connections, {report['in_flight']} in flight on each, {report['message']}"),
        ("NOTIFY", f"{report['notify_size']} bytes"),
        ("measured", f"{report['seconds']:.1f} s, after {report['warm_up']:g} s of warm-up"),
        ("answered", f"{report['notifys']}, {report['notifys_per_second']:.0f} a second"),
    ]
    if latency is not None:
        rows.append(("latency", ", ".join(f"{name} {_duration(latency[name])}" for name in latency)))
    if report["agent_cpu"]:
        cost = "unknown" if per_notify is None else f"{per_notify:.2f} µs a NOTIFY"
        rows.append(("agent CPU", f"{cost}, {' + '.join(of_a_core) or 'none'} of a core (without child processes)"))
    busy = " + ".join([f"{cpu['busy'] or 0:.0%}" for cpu in report["load_cpu"]])
    rows.append(("load CPU", f"{busy} of a core"))
    rows.append(("errors", ", ".join([f"{kind}: {number}" for kind, number in report["errors"].items()]) or "none"))
    if report["other_variables"] is not None:
        rows += [("expected", _list(report["expected"])), ("came", _list(report["other_variables"]))]
    rows += [("note", note) for note in report["notes"]]
    return "\n".join([f"{name:<9}  {show_text(text)}" for name, text in rows])


def _list(variables: dict[str, str | None]) -> str:
    text = ", ".join([f"{name}={'null' if value is None else value}" for name, value in variables.items()])
    return (text if len(text) <= _LONGEST_LIST else f"{text[:_LONGEST_LIST]}...") or "no variables"


def _duration(microseconds: float) -> str:
    for factor, unit in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= factor:
            return f"{microseconds / factor:.3g} {unit}"
    return f"{microseconds:.3g} µs"
