"""Fetches the status of an agent over HTTP, from a TCP or Unix endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NoReturn

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.web.client import ResponseFailed

from spoa_twisted.ctl.http import get, read_body
from spoa_twisted.ctl.status.checking import check_status
from spoa_twisted.ctl.status.text import Answer
from spoa_twisted.shown import show_text
from spoa_twisted.status.report import Status

#: Bytes. A longer answer is not from an agent: the status of 1,000 messages and 100 workers has less than one MiB.
MAX_LENGTH: Final = 16 * 2**20

_OK: Final = 200

_WHICH: Final = "is this the endpoint of --status?"


async def fetch(reactor: Any, agent: str, timeout: float) -> Answer:
    """Return the status of ``agent``, a client endpoint, or the reason why there is none."""
    try:
        return Answer(agent, await ask(reactor, agent, timeout))
    except ValueError as error:
        return Answer(agent, None, str(error))


async def ask(
    reactor: Any, agent: str, timeout: float, on_connect: Callable[[Any], None] = lambda transport: None
) -> Status:
    """Return the status of ``agent``, a client endpoint.

    :param on_connect: gets the transport of the connection.
    :raises ValueError: when there is none. The text is the reason, in one line.
    """
    request: Deferred[bytes] = get(reactor, agent, "/status.json", on_connect).addCallback(_read)
    # Not addTimeout(): what a request that is cancelled raises depends on how far it has come.
    limit = reactor.callLater(timeout, request.cancel)
    try:
        return check_status(json.loads(await request, parse_constant=_no_constant))
    except Exception as error:
        # Endpoints, name resolution, TLS and HTTP each raise exceptions of their own.
        reason = _reason(error) if limit.active() else f"no answer within {timeout:g} s: does the agent stand still?"
        raise ValueError(show_text(reason)) from error
    finally:
        if limit.active():
            limit.cancel()


def _no_constant(text: str) -> NoReturn:
    """Refuse NaN and Infinity, which are no JSON."""
    raise ValueError(f"the answer is no JSON: it has {text}")


def _reason(error: Exception) -> str:
    """Return what went wrong, for an operator."""
    if isinstance(error, ResponseFailed):
        if any(reason.check(ConnectionDone, ConnectionLost) for reason in error.reasons):
            return f"the connection was closed without an answer: {_WHICH}"
        return f"the answer is no HTTP: {_WHICH}"
    if isinstance(error, ConnectError):
        return f"{str(error).rstrip('.')}; does an agent run with --status there?"
    # RecursionError: thousands of lists in each other.
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError, RecursionError)):
        return f"the answer is no JSON: {_WHICH}"
    return str(error) or type(error).__name__


def _read(response: Any) -> Deferred[bytes]:
    """Return the body of the response.

    :raises ValueError: when the server answers with something else than the status.
    """
    if response.code != _OK:
        raise ValueError(f"HTTP status {response.code} for /status.json: {_WHICH}")
    return read_body(response, MAX_LENGTH)
