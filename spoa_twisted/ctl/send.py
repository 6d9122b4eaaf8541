"""``spoactl send``: send one message to an agent, and print the variables that it sets."""

from __future__ import annotations

import argparse
from typing import Any

from spoa_twisted.client import SPOEClient
from spoa_twisted.ctl.arguments import add_agent_option, add_message, add_timeout
from spoa_twisted.ctl.values import show_text, show_value
from spoa_twisted.spop.messages import Message

SUMMARY = "send a message, print the variables that the agent sets"

DESCRIPTION = """\
Sends one message to an agent, as HAProxy does, and prints the variables that the agent sets. Each variable is one
line: scope.name=type:value, or "unset scope.name".
"""

EPILOG = """\
Write an argument as name=type:value, or as name=value to have its type guessed. Write an argument without a name as
=value. The types are null, bool, int32, uint32, int64, uint64, ipv4, ipv6, str and bin (in hexadecimal). A value that
looks like an integer, an address, true or false is guessed to be one; every other value is a string.

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
    add_agent_option(parser)
    add_timeout(parser, "each answer")
    add_message(parser)
    return parser


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Send the message; print the variables, and close the connection with HAPROXY-DISCONNECT."""
    client = SPOEClient(options.agent, timeout=options.timeout, reactor=reactor)
    variables = await client.send(Message(options.message, options.arguments))
    for name, value in variables.items():
        name = show_text(name)
        print(f"unset {name}" if value is None else f"{name}={show_value(value)}")
    await client.disconnect()
