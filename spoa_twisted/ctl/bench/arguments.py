"""The command line of ``spoactl bench``, and its help."""

from __future__ import annotations

import argparse
from typing import Final

from spoa_twisted.ctl.arguments import (
    Collect,
    add_agent,
    add_expect,
    add_message,
    add_timeout,
    exit_status,
    new_parser,
    positive,
    seconds,
)
from spoa_twisted.ctl.bench.notes import BUSY
from spoa_twisted.ctl.bench.shapes import SHAPES
from spoa_twisted.ctl.load.plan import MAX_IN_FLIGHT

DESCRIPTION = """\
Loads an agent as HAProxy does, with a constant number of NOTIFYs in flight on each connection, and checks every ACK.
Prints the rate and the latency of the ACKs, the errors, and how much CPU the agent used for each NOTIFY.
"""

EPILOG = f"""\
Without MESSAGE, --shape selects the message. Each shape has a message name of its own:
  small  {SHAPES["small"].name}: ip, an IPv4 address
  http   {SHAPES["http"].name}: method, path, host, user_agent, eight headers, src, src_port, dst, dst_port
  body   {SHAPES["body"].name}: body, 8 KiB
Write MESSAGE and its arguments as for "spoactl send".

The latency of a NOTIFY is the time from its write to the read of its ACK, with an error below 1 %. The memory of the
load does not grow with the duration. Each process of the load needs 4352 counters for the latencies, up to 4 MiB for
NOTIFYs (or twice as many NOTIFYs as are in flight on a connection), and up to 32 MiB for ACKs that were checked before.
While an agent stands still, bench sends it nothing new. So a standstill shows in max, but hardly in the percentiles:
only the few NOTIFYs in flight have a long latency. With --rate, NOTIFYs are due at equal distances, whatever the agent
does, and the latency counts from when a NOTIFY was due. So the percentiles are those that the clients of a site notice.
A NOTIFY that is due waits while each connection has --in-flight of them; after the end, those that wait are still sent.

Errors are counted from the first NOTIFY to the last ACK, warm-up included:
  connection lost    the agent closed a connection without AGENT-DISCONNECT
  DISCONNECT n       the agent closed a connection with AGENT-DISCONNECT and status code n
  no connection      a connection that ended could not be replaced
  broken frame       the bytes received are not a frame, or the frame is not allowed; bench closes the connection
  unknown ids        an ACK for a NOTIFY that was not sent
  repeated ids       an ACK for a NOTIFY that already had its ACK
  undecodable ACK    the actions of an ACK cannot be decoded
  aborted NOTIFY     an ACK has the flag ABORT
  other variables    an ACK sets other variables, values or types than the first ACK, or than --expect says
  unanswered NOTIFY  no ACK came before the connection ended, or before --timeout after the duration

The agent's CPU is the CPU time of all threads of the processes that --pid names, without their child processes. The
load's CPU shows whether the load was the bottleneck: it was, if it used {BUSY:.0%} of a core or more and the agent used
less. Use --processes then. If the load and the agent share one core, only the CPU per NOTIFY describes the agent.

--json prints an object with these keys:
  endpoint, message, connections, processes, warm_up, duration  as on the command line
  in_flight             NOTIFYs in flight on each connection: 1 if the agent does not announce pipelining
  rate                  what --rate says; null without it
  seconds               the time measured
  interrupted           whether Ctrl-C ended the measurement
  notify_size           bytes of a NOTIFY
  agent                 version, max_frame_size and capabilities of the AGENT-HELLO
  variables             what the first ACK sets, as "spoactl send" shows it; null for a variable unset or set to NULL
  expected              what each ACK must set: what --expect says, or what the first ACK sets; null with --varying
  other_variables       what the first ACK sets that does not set the expected variables; null if there is none
  notifys               good ACKs in the time measured
  notifys_per_second    good ACKs per second
  latency_us            p50, p99, p99.9 and max in microseconds; null if there is no good ACK
  late_us               with --rate, how late the load itself sent, as latency_us; the latencies include it
  errors                the number of errors of each kind, without kinds that did not occur
  agent_cpu             for each --pid: pid; seconds of CPU; busy, the share of a core that these are; and waited, the
                        share of the time that its first thread was ready to run and had no core; null where unknown
  cpu_us_per_notify     microseconds of CPU per NOTIFY, of all processes of --pid; null without --pid
  load_cpu              for each process of the load: busy and waited, as above
  notes                 what to know before believing the figures

{exit_status("each NOTIFY had the expected ACK", "there were errors, or no agent")}
examples:
  spoactl bench --agent tcp:127.0.0.1:12345 --pid "$(cat twistd.pid)"
  spoactl bench check-token token=swordfish --expect txn.known=true
"""

# The largest process id that the system's functions accept: pid_t is a signed integer of 32 bits. A larger number would
# be cut off to another process's id.
_MAX_PID: Final = 2**31 - 1

# In NOTIFYs a second. No agent answers so many, and below the least one, a measurement would take hours.
_MAX_RATE: Final = 1e6
_MIN_RATE: Final = 0.1


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = new_parser("bench", DESCRIPTION, EPILOG)
    add_message(parser, optional=True)
    parser.add_argument("--shape", choices=SHAPES, help="the message to send without MESSAGE (default: small)")
    parser.add_argument(
        "--pid", metavar="PID", type=_pid, action=Collect, default={}, help="a process of the agent; repeatable"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_agent(parser)
    _add_load(parser.add_argument_group("load"))
    checks = parser.add_argument_group("answers")
    variables = checks.add_mutually_exclusive_group()
    add_expect(
        variables,
        "a variable that every ACK must set, in this type; null for an unset one; repeatable. An ACK that sets any"
        " other variable is an error",
    )
    variables.add_argument("--varying", action="store_true", help="allow each ACK to set other variables")
    add_timeout(checks, "a connection, its AGENT-HELLO, and the last ACKs")
    return parser


def _add_load(group: argparse._ArgumentGroup) -> None:
    """Add the options that say how many NOTIFYs are sent, and for how long."""
    group.add_argument(
        "--connections", metavar="N", type=positive, default=8, help="the number of connections (default: 8)"
    )
    group.add_argument(
        "--in-flight",
        metavar="N",
        type=_in_flight,
        default=16,
        help="the NOTIFYs in flight on each connection, with --rate at most (default: 16)",
    )
    group.add_argument(
        "--rate",
        metavar="N",
        type=_rate,
        help="send N NOTIFYs a second, whether the agent answers or not; a latency counts from when its NOTIFY was due",
    )
    group.add_argument(
        "--duration", metavar="SECONDS", type=seconds, default=10.0, help="seconds to measure (default: 10)"
    )
    group.add_argument(
        "--warm-up",
        metavar="SECONDS",
        type=_seconds_or_none,
        default=1.0,
        help="seconds of load before the measurement (default: 1)",
    )
    group.add_argument(
        "--processes", metavar="N", type=positive, default=1, help="the number of processes that load (default: 1)"
    )
    group.add_argument("--no-async", action="store_true", help="do not announce async, as HAProxy >= 3.1 does not")


# argparse puts the text of an ArgumentTypeError behind the name of the option.


def _in_flight(text: str) -> int:
    """Return a number of NOTIFYs for which the load has enough ids."""
    number = positive(text)
    if number > MAX_IN_FLIGHT:
        raise argparse.ArgumentTypeError(f"{text!r} is above {MAX_IN_FLIGHT}")
    return number


def _rate(text: str) -> float:
    """Return a number of NOTIFYs a second."""
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not _MIN_RATE <= rate <= _MAX_RATE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {_MIN_RATE:g} to {_MAX_RATE:g}")
    return rate


def _seconds_or_none(text: str) -> float:
    """Return a number of seconds, which may be 0: a warm-up may be left out, a duration may not."""
    return 0.0 if text in ("0", "0.0") else seconds(text)


def _pid(text: str) -> dict[int, None]:
    """Return a process id as the key of a dictionary, for :class:`Collect`."""
    pid = positive(text)
    if pid > _MAX_PID:
        raise argparse.ArgumentTypeError(f"{text!r} is not a process id")
    return {pid: None}
