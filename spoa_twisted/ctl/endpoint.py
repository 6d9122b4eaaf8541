"""What the subcommands take to find an agent."""

from __future__ import annotations

import argparse
from typing import Final

from twisted.internet.endpoints import clientFromString
from twisted.internet.task import Clock

#: Where an agent that was told nothing else listens.
DEFAULT_AGENT: Final = "tcp:127.0.0.1:12345"


def agent(text: str) -> str:
    """Return ``text`` if it describes a Twisted client endpoint.

    :raises argparse.ArgumentTypeError: when it does not.
    """
    try:
        clientFromString(Clock(), text)
    except Exception as error:  # each endpoint parser fails in its own way
        raise argparse.ArgumentTypeError(f"{text!r} is no client endpoint: {error}") from error
    return text


def seconds(text: str) -> float:
    """Return ``text`` as a number of seconds above zero.

    :raises argparse.ArgumentTypeError: when it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above zero")
    return number
