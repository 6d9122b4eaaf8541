"""``spoactl ping``: a health check, as HAProxy's ``option spop-check`` makes it."""

from __future__ import annotations

import argparse
from typing import Any

from spoa_twisted.client import SPOEClient
from spoa_twisted.ctl.endpoint import DEFAULT_AGENT, agent, seconds
from spoa_twisted.ctl.values import show_text

DESCRIPTION = "Makes a health check, as HAProxy does. The exit status is 0 when the agent is well, else 1."


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = argparse.ArgumentParser(prog="spoactl ping", description=DESCRIPTION)
    parser.add_argument(
        "agent",
        metavar="ENDPOINT",
        nargs="?",
        type=agent,
        default=DEFAULT_AGENT,
        help=f"the agent's Twisted client endpoint (default: {DEFAULT_AGENT})",
    )
    parser.add_argument("--timeout", type=seconds, default=5.0, help="seconds to wait for each answer (default: 5)")
    return parser


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Make the check, say what the agent answered."""
    hello = await SPOEClient(options.agent, timeout=options.timeout, reactor=reactor).ping()
    capabilities = show_text(", ".join(sorted(hello.capabilities))) or "none"
    print(f"SPOP {hello.version}, frames up to {hello.max_frame_size} bytes, capabilities: {capabilities}")
