"""The arguments that several subcommands have in common: the agent, the message, and the timeout."""

from __future__ import annotations

import argparse
from typing import Any, Final

from twisted.internet.endpoints import clientFromString
from twisted.internet.task import Clock

from spoa_twisted.ctl.values import parse_value
from spoa_twisted.spop.typeddata import Value

#: The endpoint of an agent that was started without ``--listen``.
DEFAULT_AGENT: Final = "tcp:127.0.0.1:12345"

#: In seconds.
DEFAULT_TIMEOUT: Final = 5.0


def add_agent(parser: argparse.ArgumentParser) -> None:
    """Add the agent's endpoint as an optional positional argument."""
    parser.add_argument("agent", nargs="?", **_agent())


def add_agent_option(parser: argparse.ArgumentParser) -> None:
    """Add the agent's endpoint as the option ``--agent``: for a command whose first positional argument is required."""
    parser.add_argument("--agent", **_agent())


def _agent() -> dict[str, Any]:
    return {
        "metavar": "ENDPOINT",
        "type": endpoint,
        "default": DEFAULT_AGENT,
        "help": f"the agent's Twisted client endpoint (default: {DEFAULT_AGENT})",
    }


def add_message(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add the name of a message, and its arguments.

    :param optional: whether the command has a message of its own, which it sends when the user names none.
    """
    parser.add_argument("message", metavar="MESSAGE", nargs="?" if optional else None, help="the name of the message")
    parser.add_argument(
        "arguments", metavar="NAME=VALUE", nargs="*", type=name_and_value, help="an argument of the message"
    )


def add_timeout(parser: argparse.ArgumentParser, awaited: str) -> None:
    """Add ``--timeout``.

    :param awaited: what the timeout applies to, for the help text.
    """
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=DEFAULT_TIMEOUT,
        help=f"seconds to wait for {awaited} (default: {DEFAULT_TIMEOUT:g})",
    )


def endpoint(text: str) -> str:
    """Return ``text`` if it describes a Twisted client endpoint.

    :raises argparse.ArgumentTypeError: when it does not.
    """
    try:
        # The endpoint is not used. Only the parser of endpoint descriptions knows whether the text is a description.
        clientFromString(Clock(), text)
    except Exception as error:
        # The parser of each kind of endpoint raises exceptions of its own.
        raise argparse.ArgumentTypeError(f"{text!r} is not a Twisted client endpoint: {error}") from error
    return text


def seconds(text: str) -> float:
    """Return ``text`` as a number of seconds above 0.

    :raises argparse.ArgumentTypeError: when it is not a number, not finite, or not above 0.
    """
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    # Also false for "nan".
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return number


def name_and_value(text: str) -> tuple[str, Value]:
    """Return the name and the value of ``name=value``. The name may be empty: SPOP has arguments without a name.

    :raises argparse.ArgumentTypeError: when there is no "=", or the value is not one of its type.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, parse_value(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
