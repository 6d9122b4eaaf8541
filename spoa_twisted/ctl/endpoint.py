"""The endpoint of an agent on the command line, and the hints for texts that are no endpoints."""

from __future__ import annotations

import argparse
import re
from typing import Final, cast

from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IReactorCore

from spoa_twisted.endpoints import server_endpoint

_DEFAULT_HOST: Final = "127.0.0.1"
_DEFAULT_PORT: Final = "12345"

#: The endpoint of an agent that was started without ``--listen``.
DEFAULT_AGENT: Final = f"tcp:{_DEFAULT_HOST}:{_DEFAULT_PORT}"

#: The endpoint of the status of an agent that was started with ``--status`` as docs/howto/status.rst shows.
DEFAULT_STATUS: Final = f"tcp:{_DEFAULT_HOST}:8404"

# The two forms that every user of an agent needs. Twisted has more.
_FORMS: Final = "tcp:HOST:PORT or unix:PATH"

# A port, or the server endpoint of an agent's --listen: "12345", "tcp:12345:interface=127.0.0.1".
_PORT: Final = re.compile(r"(?:tcp:)?(?P<port>\d+)(?::interface=(?P<host>[\w.-]+))?")
# A host without or with a port: "localhost", "127.0.0.1:12345".
_ADDRESS: Final = re.compile(r"(?P<host>[\w.-]+)(?::(?P<port>\d+))?")


def endpoint(text: str) -> str:
    """Return ``text`` if it describes a Twisted client endpoint.

    :raises argparse.ArgumentTypeError: when it does not. The error says what to write.
    """
    error = _error(text)
    if error is None:
        return text
    suggestion = _suggestion(text)
    hint = f"write {suggestion}" if suggestion else f"{error}; write {_FORMS}"
    raise argparse.ArgumentTypeError(f"{text!r} is not a Twisted client endpoint: {hint}")


def is_endpoint(text: str) -> bool:
    """Return whether ``text`` describes a Twisted client endpoint."""
    return _error(text) is None


def _error(text: str) -> Exception | None:
    """Return the reason why ``text`` does not describe an endpoint; ``None`` if it does."""
    # Importing it installs the default reactor, so not at the top of the module.
    from twisted.internet import reactor

    try:
        # The endpoint is not used. Only the parser of endpoint descriptions knows whether the text is a description.
        clientFromString(reactor, text)
    except Exception as error:
        # The parser of each kind of endpoint raises exceptions of its own.
        return error
    return None


def _suggestion(text: str) -> str | None:
    """Return the endpoint that a user means by a path, a port, a host, or an address; ``None`` for another text."""
    if text.startswith(("/", "./", "../")) and ":" not in text:
        return f"unix:{text}"
    match = _PORT.fullmatch(text) or _ADDRESS.fullmatch(text)
    return f"tcp:{match['host'] or _DEFAULT_HOST}:{match['port'] or _DEFAULT_PORT}" if match else None


def listening_endpoint(text: str) -> str:
    """Return ``text`` if it describes a Twisted server endpoint.

    :raises argparse.ArgumentTypeError: when it does not. The error says what to write.
    """
    # Importing it installs the default reactor, so not at the top of the module.
    from twisted.internet import reactor

    try:
        server_endpoint(cast("IReactorCore", reactor), text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text
