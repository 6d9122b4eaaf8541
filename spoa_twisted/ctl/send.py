"""``spoactl send``: one message to an agent, and the variables that it sets."""

from __future__ import annotations

import argparse
from typing import Any

from spoa_twisted.client import SPOEClient
from spoa_twisted.ctl.endpoint import DEFAULT_AGENT, agent, seconds
from spoa_twisted.ctl.values import parse_value, show_text, show_value
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.typeddata import Value

DESCRIPTION = """\
Sends one message to an agent, as HAProxy does, and prints the variables that the agent sets: a line each, as
scope.name=type:value, or "unset scope.name".
"""

EPILOG = """\
An argument is name=type:value, or name=value with a guessed type; without a name, =value. The types are null, bool,
int32, uint32, int64, uint64, ipv4, ipv6, str and bin (in hexadecimal). What looks like an integer, an address, true
or false is guessed to be one; all else is a string.

  spoactl send get-ip-reputation ip=192.0.2.1
  spoactl send check-body length=int64:3 body=bin:616263 note=str:42
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = argparse.ArgumentParser(
        prog="spoactl send",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--agent",
        metavar="ENDPOINT",
        type=agent,
        default=DEFAULT_AGENT,
        help=f"the agent's Twisted client endpoint (default: {DEFAULT_AGENT})",
    )
    parser.add_argument("--timeout", type=seconds, default=5.0, help="seconds to wait for each answer (default: 5)")
    parser.add_argument("message", metavar="MESSAGE", help="the name of the message")
    parser.add_argument("arguments", metavar="NAME=VALUE", nargs="*", type=argument, help="an argument of the message")
    return parser


def argument(text: str) -> tuple[str, Value]:
    """Return the name and the value that ``name=value`` stands for.

    :raises argparse.ArgumentTypeError: when it stands for none.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, parse_value(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Send the message, print the variables."""
    client = SPOEClient(options.agent, timeout=options.timeout, reactor=reactor)
    variables = await client.send(Message(options.message, options.arguments))
    for name, value in variables.items():
        name = show_text(name)
        print(f"unset {name}" if value is None else f"{name}={show_value(value)}")
    await client.disconnect()
