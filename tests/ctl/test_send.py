"""ctl.send: send a message, print the variables."""

from __future__ import annotations

from typing import Any

import pytest_twisted

from spoa_twisted import Handlers, SPOAFactory

from .spoactl import spoactl


@pytest_twisted.ensureDeferred
async def test_the_variables_are_printed_with_their_types(endpoint: str, listen: Any) -> None:
    """Each variable is one line; nothing is printed without variables. Options may stand between the arguments."""
    handlers = Handlers(
        {
            "echo": lambda message: {f"txn.{name or 'unnamed'}": value for name, value in message},
            "nothing": lambda: None,
        }
    )
    listen(SPOAFactory(handlers))
    assert await spoactl("send", "--agent", endpoint, "echo", "ip=192.0.2.1", "n=int32:-5", "=x", "gone=null") == (
        "txn.ip=ipv4:192.0.2.1\ntxn.n=int32:-5\ntxn.unnamed=str:x\nunset txn.gone\n",
        "",
        0,
    )
    assert await spoactl("send", "nothing", "--agent", endpoint) == ("", "", 0)
    assert await spoactl("send", "echo", "a=1", "--agent", endpoint, "b=2") == (
        "txn.a=int64:1\ntxn.b=int64:2\n",
        "",
        0,
    )


@pytest_twisted.ensureDeferred
async def test_a_message_that_cannot_be_encoded(endpoint: str, listen: Any) -> None:
    """The error is one line on stderr, and the exit status is 1."""
    listen(SPOAFactory(Handlers()))
    out, err, status = await spoactl("send", "--agent", endpoint, "echo", *["a=1"] * 256)
    assert (out, err, status) == ("", "spoactl: the message 'echo' has 256 arguments; SPOP allows 255\n", 1)
