"""``spoactl proxy``: stand between HAProxy and any agent, and print each frame."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any, Final

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.task import deferLater

from spoa_twisted.ctl.arguments import (
    add_agent,
    exit_status,
    new_parser,
    no_argument,
    positive,
    seconds,
)
from spoa_twisted.ctl.endpoint import listening_endpoint
from spoa_twisted.ctl.proxy.output import Output
from spoa_twisted.ctl.proxy.relay import Relay
from spoa_twisted.ctl.proxy.report import Report
from spoa_twisted.endpoints import cannot_listen, server_endpoint

SUMMARY = "stand between HAProxy and any agent, and print each frame"

#: Where it listens unless told otherwise: the port above the default port of an agent.
DEFAULT_LISTEN: Final = "tcp:12346:interface=127.0.0.1"

#: Seconds that pending NOTIFYs have for their ACK when the proxy ends.
DRAIN_SECONDS: Final = 2.0

#: Seconds in which the last lines must be written. A terminal may have been stopped with Ctrl-S.
CLOSE_SECONDS: Final = 2.0

DESCRIPTION = """\
Stands between HAProxy and an agent, in whatever language the agent is written, and prints each frame of both. Let the
"server" line of HAProxy's backend name the endpoint of --listen.
"""

EPILOG = f"""\
A line is
  TIME #CONNECTION > or < TYPE STREAM-ID:FRAME-ID FLAGS, LENGTH, FACTS: CONTENT
TIME is in seconds from the start, ">" is from HAProxy to the agent, "<" from the agent to HAProxy. "after" is the time
between a NOTIFY, or its last fragment, and its ACK. Arguments and variables are shown by type, as ip=ipv4; the type str
and bin have their number of bytes. --values shows the values; a long one is cut.

A line with "!" says what is wrong with the frame above it, at which byte, and which section of HAProxy's doc/SPOE.txt
has the rule. Byte 0 is the first byte of the length. The next such line has the bytes around it, in hexadecimal; the
payload of a NOTIFY or ACK only with --values.

The bytes pass unchanged, at once, and before they are printed; those that cannot be decoded too. If one side does not
read, the other one is not read either. A frame of more than 2 MiB is not decoded.
If the lines come faster than the terminal takes them, spoactl drops lines, and prints how many; it never slows the
traffic down. Write them into a file to lose none.

Ctrl-C, --count, --seconds and the end of a pipe's reader end it: it stops to listen and to read from HAProxy, waits at
most 2 s for pending ACKs, and closes. A NOTIFY that HAProxy sends in this moment fails.

With HAProxy >= 3.1, the agent cannot see through the proxy what HAProxy has read, because the proxy reads at once. An
agent of spoa_twisted that sends long answers paces them by that. So with answers of more than 800 bytes, HAProxy may
stop reading and time out where it would not without the proxy.

--json prints a JSON object for each frame, and for each connection that begins or ends:
  {{"time": 0.002, "connection": 1, "from": "haproxy", "frame": "NOTIFY",
   "length": 40, "stream_id": 1, "frame_id": 1, "flags": ["FIN"],
   "messages": [{{"name": "check",
                 "arguments": [{{"name": "ip", "type": "ipv4"}}]}}]}}
HELLOs and DISCONNECTs have "items", an ACK "actions", and "seconds" if its NOTIFY is known. "faults" has a list of
{{"text", "offset", "section"}}. "frame" is null for bytes that are no frame.

{exit_status("it has ended as described", "it cannot listen")}
examples:
  spoactl proxy
  spoactl proxy --listen unix:/run/spoa/proxy.sock --agent tcp:192.0.2.10:12345
  spoactl proxy --values --count 20
  spoactl proxy --json --seconds 60 | jq 'select(.faults)'
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = new_parser("proxy", DESCRIPTION, EPILOG)
    parser.add_argument(
        "--listen",
        metavar="ENDPOINT",
        type=listening_endpoint,
        default=DEFAULT_LISTEN,
        help=f"the Twisted server endpoint for HAProxy (default: {DEFAULT_LISTEN})",
    )
    add_agent(parser)
    parser.add_argument("--values", action="store_true", help="show the values of arguments and variables")
    parser.add_argument("--json", action="store_true", help="print JSON objects, one a line")
    parser.add_argument("--count", metavar="N", type=positive, help="end after N frames")
    parser.add_argument("--seconds", metavar="SECONDS", type=seconds, help="end after this time; without it, at Ctrl-C")
    # Only for the error text: a user may write the endpoint without --agent.
    parser.add_argument("endpoint", metavar="ENDPOINT", nargs="?", type=no_argument, help=argparse.SUPPRESS)
    return parser


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Relay, and print frames, until something ends it.

    :raises ValueError: when it cannot listen.
    """
    ended: Deferred[None] = Deferred()

    def end() -> None:
        if not ended.called:
            ended.callback(None)

    output = Output(sys.stdout.fileno(), _dropped_line(options.json), lambda: reactor.callFromThread(end))
    report = Report(
        output.write, time.monotonic, values=options.values, as_json=options.json, count=options.count, on_count=end
    )
    relay = Relay(clientFromString(reactor, options.agent), report.connected)
    try:
        port = await server_endpoint(reactor, options.listen).listen(relay)
    except Exception as error:
        raise ValueError(cannot_listen(options.listen, error)) from error
    _print_note(f"listening on {options.listen}; frames go to {options.agent}; Ctrl-C ends it")
    closed: Deferred[None] = Deferred()
    # Ctrl-C stops the reactor. It waits for the Deferred.
    reactor.addSystemEventTrigger("before", "shutdown", _end_and_wait, end, closed)
    delayed = None if options.seconds is None else reactor.callLater(options.seconds, end)
    await ended
    if delayed is not None and delayed.active():
        delayed.cancel()
    await maybeDeferred(port.stopListening)
    await _drain(reactor, relay, report)
    output.close(CLOSE_SECONDS)
    _print_note(f"{report.frames} frames on {report.connections} connections, {report.faults} faults")
    closed.callback(None)


def _end_and_wait(end: Any, closed: Deferred[None]) -> Deferred[None]:
    end()
    return closed


async def _drain(reactor: Any, relay: Relay, report: Report) -> None:
    """Wait for the ACKs of pending NOTIFYs, then close all connections."""
    for relayed in relay.connections:
        relayed.pause()
    deadline = reactor.seconds() + DRAIN_SECONDS
    while report.pending and reactor.seconds() < deadline:
        await deferLater(reactor, 0.01)
    closing = list(relay.connections)
    for relayed in closing:
        relayed.close()
    # The transports write their buffers, unless the peer does not read.
    deadline = reactor.seconds() + DRAIN_SECONDS
    while not all(relayed.is_closed for relayed in closing) and reactor.seconds() < deadline:
        await deferLater(reactor, 0.01)
    for relayed in closing:
        relayed.abort()


def _dropped_line(as_json: bool) -> Any:
    """Return the function that makes the line for dropped lines."""
    if as_json:
        return lambda lines: json.dumps({"event": "dropped", "lines": lines})
    return lambda lines: f"... {lines} lines were dropped: the output is slower than the traffic"


def _print_note(text: str) -> None:
    print(f"spoactl: {text}", file=sys.stderr, flush=True)
