"""``spoactl ping``: make the health check that HAProxy's ``option spop-check`` makes."""

from __future__ import annotations

import argparse
from typing import Any

from spoa_twisted.client import SPOEClient
from spoa_twisted.ctl.arguments import add_agent, add_timeout, exit_status, new_parser, no_argument
from spoa_twisted.shown import show_text

SUMMARY = "make a health check"

DESCRIPTION = """\
Makes a health check, as HAProxy does, and prints what the agent announces in its AGENT-HELLO.
"""

EPILOG = f"""\
{exit_status("the agent has answered the check", "it has not")}
examples:
  spoactl ping
  spoactl ping --agent unix:/run/spoa/agent.sock
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = new_parser("ping", DESCRIPTION, EPILOG)
    add_agent(parser)
    add_timeout(parser, "each answer")
    # Only for the error text: a user may write the endpoint without --agent.
    parser.add_argument("endpoint", metavar="ENDPOINT", nargs="?", type=no_argument, help=argparse.SUPPRESS)
    return parser


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Make the check; print the version, the frame size and the capabilities of the AGENT-HELLO."""
    hello = await SPOEClient(options.agent, timeout=options.timeout, reactor=reactor).ping()
    capabilities = show_text(", ".join(sorted(hello.capabilities))) or "none"
    print(f"SPOP {hello.version}, frames up to {hello.max_frame_size} bytes, capabilities: {capabilities}")
