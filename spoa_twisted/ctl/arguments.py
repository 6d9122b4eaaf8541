"""The arguments that several subcommands have in common: the agent, the message, the timeout, expected variables."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from spoa_twisted.ctl.endpoint import DEFAULT_AGENT, DEFAULT_STATUS, endpoint, is_endpoint
from spoa_twisted.ctl.values import parse_value
from spoa_twisted.spop.actions import decode_actions, encode_actions
from spoa_twisted.spop.typeddata import Value

#: In seconds.
DEFAULT_TIMEOUT: Final = 5.0


def new_parser(
    command: str, description: str, epilog: str, kind: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """Return the parser of a subcommand. ``description`` and ``epilog`` keep their line breaks."""
    return kind(
        prog=f"spoactl {command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_agent(parser: argparse.ArgumentParser) -> None:
    """Add ``--agent``: an option, so that it can stand anywhere between the arguments of a message."""
    parser.add_argument(
        "--agent",
        metavar="ENDPOINT",
        type=endpoint,
        default=DEFAULT_AGENT,
        help=f"the agent's Twisted client endpoint (default: {DEFAULT_AGENT})",
    )


def add_status(parser: argparse.ArgumentParser) -> None:
    """Add ``--status``, for a command that asks one agent for its status and has no arguments but options."""
    parser.add_argument(
        "--status",
        metavar="ENDPOINT",
        type=endpoint,
        default=DEFAULT_STATUS,
        help=f"the Twisted client endpoint of the agent's --status (default: {DEFAULT_STATUS})",
    )
    add_no_argument(parser)


def add_no_argument(parser: argparse.ArgumentParser) -> None:
    """Add an argument that is refused: a user may write the endpoint without ``--status``."""
    parser.add_argument("endpoint", metavar="ENDPOINT", nargs="?", type=_no_endpoint, help=argparse.SUPPRESS)


def add_message(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add the name of a message, and its arguments.

    :param optional: whether the command has a message of its own, which it sends when the user names none.
    """
    parser.add_argument(
        "message",
        metavar="MESSAGE",
        nargs="?" if optional else None,
        type=message_name,
        help="the name of the message",
    )
    parser.add_argument(
        "arguments", metavar="NAME=VALUE", nargs="*", type=name_and_value, help="an argument of the message"
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add ``--settings``, for a command that loads handlers."""
    parser.add_argument(
        "--settings",
        metavar="FILE",
        help="the TOML file with the tables of ready-made agents, such as spoa_twisted.agents.blocklist",
    )


def add_timeout(parser: argparse.ArgumentParser, awaited: str, default: float = DEFAULT_TIMEOUT) -> None:
    """Add ``--timeout``.

    :param awaited: what the timeout applies to, for the help text.
    """
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=default,
        help=f"seconds to wait for {awaited} (default: {default:g})",
    )


def add_expect(parser: argparse._ActionsContainer, text: str) -> None:
    """Add ``--expect``.

    :param text: the help text.
    """
    parser.add_argument("--expect", metavar="NAME=VALUE", type=_variable, action=Collect, help=text)


# argparse puts the text of an ArgumentTypeError behind the name of the option.


def message_name(text: str) -> str:
    """Return ``text`` if it is not an endpoint, which belongs to ``--agent``.

    :raises argparse.ArgumentTypeError: when it is an endpoint.
    """
    if is_endpoint(text):
        raise argparse.ArgumentTypeError(f"{text!r} is an endpoint; write --agent {text}")
    return text


def no_argument(text: str) -> NoReturn:
    """Refuse ``text``, an argument of a command that has only options.

    :raises argparse.ArgumentTypeError: always. For an endpoint, the error says where it belongs.
    """
    raise argparse.ArgumentTypeError(f"{message_name(text)!r} is not an option")


def _no_endpoint(text: str) -> NoReturn:
    """Refuse an argument that is not an option. For an endpoint, the error says where it belongs."""
    try:
        no_argument(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(str(error).replace("--agent", "--status")) from error


def positive(text: str) -> int:
    """Return ``text`` as a whole number from 1 on.

    :raises argparse.ArgumentTypeError: when it is not.
    """
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is below 1")
    return number


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

    The value of ``name=@FILE`` is the content of the file, as BINARY.

    :raises argparse.ArgumentTypeError: when there is no "=", the value is not one of its type, or the file cannot be
        read.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, Path(value[1:]).read_bytes() if value.startswith("@") else parse_value(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
    except OSError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r}: cannot read {value[1:]!r}: {error.strerror}; write str:{value} for this text"
        ) from error


def _variable(text: str) -> dict[str, Value]:
    """Return a variable and its value, for :class:`Collect`."""
    try:
        # Encoded and decoded, as an agent's variables are: that checks the name, and adds the scope to "score".
        return decode_actions(encode_actions(dict([name_and_value(text)])))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


class Collect(argparse.Action):
    """Collects the values of a repeatable option in one dictionary. The same key twice is an error."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        """Add ``values``, a dictionary."""
        before: Mapping[Any, Any] = getattr(namespace, self.dest) or {}
        repeated = before.keys() & values.keys()
        if repeated:
            raise argparse.ArgumentError(self, f"{repeated.pop()} is given twice")
        # A new dictionary: the first one may be the default, which all calls of the parser share.
        setattr(namespace, self.dest, {**before, **values})
