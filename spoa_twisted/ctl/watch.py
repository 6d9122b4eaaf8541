"""``spoactl watch``: see the next NOTIFYs of a running agent, and its answers."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from spoa_twisted.ctl.arguments import (
    add_status,
    exit_status,
    new_parser,
    positive,
    seconds,
)
from spoa_twisted.shown import show_text

SUMMARY = "see the next NOTIFYs of a running agent"

DEFAULT_COUNT: Final = 10
DEFAULT_SECONDS: Final = 60.0

# Bytes of a line. The agent cuts names and values, and limits their number.
_MAX_LINE: Final = 2**20
# Bytes of an error's text. A longer one is not from an agent.
_MAX_ERROR: Final = 1000

DESCRIPTION = """\
Prints the next NOTIFYs of a running agent with their answers: messages, arguments, variables, and the time that the
answer took. The agent must have been started with --status and --watch types, on this machine.
"""

EPILOG = f"""\
A line is
  TIME after DURATION: MESSAGE(ARGUMENTS), ... -> VARIABLES
TIME is in seconds since the first NOTIFY. Arguments and variables are shown by type, as ip=ipv4. --values shows the
values, if the agent was started with --watch values; the agent cuts long ones.

An agent with --workers shows the NOTIFYs of all workers, also of those that a reload starts meanwhile. A line is then
  TIME after DURATION by worker NUMBER: MESSAGE(ARGUMENTS), ... -> VARIABLES
and lines of different workers may be some milliseconds out of order. NOTIFYs that are answered first are shown first.

--json prints each NOTIFY as a line of JSON: {{"time", "seconds", "messages", "actions"}}; "time" is seconds since 1970.
With --workers, there is also "worker".

{exit_status("as many NOTIFYs were printed, or the time is over", "there was an error, or no agent")}
examples:
  spoactl watch
  spoactl watch --status unix:/run/spoa/status --count 100 --json
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = new_parser("watch", DESCRIPTION, EPILOG)
    parser.add_argument(
        "--count",
        metavar="N",
        type=positive,
        default=DEFAULT_COUNT,
        help=f"end after N NOTIFYs (default: {DEFAULT_COUNT})",
    )
    parser.add_argument(
        "--seconds",
        metavar="SECONDS",
        type=seconds,
        default=DEFAULT_SECONDS,
        help=f"end after this time, whatever has come (default: {DEFAULT_SECONDS:g})",
    )
    parser.add_argument("--values", action="store_true", help="show the values of arguments and variables")
    parser.add_argument("--json", action="store_true", help="print each NOTIFY as a line of JSON")
    add_status(parser)
    return parser


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Print the NOTIFYs.

    :raises ValueError: when the agent refuses it, or no agent answers.
    """
    # Imported only for this command: twisted.web takes longer than a whole "spoactl ping".
    from twisted.web.client import ResponseFailed

    from spoa_twisted.ctl.http import get, read_body

    path = f"/watch?count={options.count}&seconds={options.seconds:g}&values={int(options.values)}"
    try:
        response = await get(reactor, options.status, path)
        if response.code != 200:
            text = (await read_body(response, _MAX_ERROR)).decode("utf-8", "replace").strip()
            missing = "; was the agent started with --watch types?" if response.code == 404 else ""
            raise ValueError(f"{options.status} answers {response.code}: {text}{missing}")
    except ConnectError as error:
        reason = show_text(str(error)).rstrip(".")
        raise ValueError(f"{options.status}: {reason}; does an agent run with --status there?") from error
    except ResponseFailed as error:
        raise ValueError(f"{options.status} has closed the connection without an answer") from error
    print(f"spoactl: watching the agent at {options.status}; Ctrl-C ends it", file=sys.stderr, flush=True)
    lines = Lines(as_json=options.json)
    response.deliverBody(lines)
    try:
        await lines.ended
    except ResponseFailed as error:
        raise ValueError(f"{options.status} has closed the connection before the end") from error
    print(f"spoactl: {lines.count} NOTIFYs", file=sys.stderr)


class Lines(LineOnlyReceiver):
    """Prints the lines of the answer as they come."""

    delimiter = b"\n"
    MAX_LENGTH = _MAX_LINE

    def __init__(self, *, as_json: bool) -> None:
        #: How many NOTIFYs were printed.
        self.count = 0
        #: Fires at the end of the answer, or fails if there is none.
        self.ended: Deferred[None] = Deferred()
        self._as_json = as_json
        self._first: float | None = None

    def lineReceived(self, line: bytes) -> None:
        """Print a NOTIFY."""
        seen = json.loads(line)
        self.count += "messages" in seen
        if self._as_json:
            print(json.dumps(seen), flush=True)
            return
        if self._first is None:
            self._first = seen.get("time")
        print(show_seen(seen, self._first or 0.0), flush=True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End."""
        # Imported here for the reason in run().
        from twisted.web.client import ResponseDone

        if reason.check(ResponseDone):
            self.ended.callback(None)
        else:
            self.ended.errback(reason)


def show_seen(seen: dict[str, Any], first: float) -> str:
    """Return the line for a NOTIFY.

    :param seen: the JSON object from the agent.
    :param first: the time of the first NOTIFY.
    """
    worker = f" by worker {seen['worker']}" if "worker" in seen else ""
    if "dropped" in seen:
        return f"... {seen['dropped']} NOTIFYs were dropped{worker}: the output is slower than the traffic"
    if "refused" in seen:
        return show_text(f"a NOTIFY that is too long was refused{worker}: {', '.join(seen['refused'])}")
    messages = [_message(message) for message in seen.get("messages", [])]
    if "more_messages" in seen:
        messages.append(f"and {seen['more_messages']} more")
    if "error" in seen:
        answer = f"error: {seen['error']}"
    elif "unanswered" in seen:
        answer = "no answer: the connection has ended, or the handlers have failed"
    else:
        answer = " ".join([_action(action) for action in seen.get("actions", [])]) or "no variables"
        if "more_actions" in seen:
            answer += f" and {seen['more_actions']} more"
    head = f"{seen.get('time', first) - first:10.6f} after {seen.get('seconds', 0.0) * 1000:.3g} ms{worker}"
    return show_text(f"{head}: {', '.join(messages) or 'no messages'} -> {answer}")


def _message(message: dict[str, Any]) -> str:
    arguments = [f"{argument['name']}={_value(argument)}" for argument in message["arguments"]]
    if "more_arguments" in message:
        arguments.append(f"and {message['more_arguments']} more")
    return f"{message['name']}({' '.join(arguments)})"


def _action(action: dict[str, Any]) -> str:
    return f"unset {action['unset']}" if "unset" in action else f"{action['set']}={_value(action)}"


def _value(typed: dict[str, Any]) -> str:
    """Return a value as :func:`~spoa_twisted.shown.show_value` shows it; its type, if the agent sends no value."""
    size = f"({typed['size']})" if "size" in typed else ""
    if typed["type"] == "null" or "value" not in typed:
        return f"{typed['type']}{size}"
    value = str(typed["value"]).lower() if typed["type"] == "bool" else typed["value"]
    return f"{typed['type']}:{value}" + (f"...{size}" if typed.get("cut") else "")
