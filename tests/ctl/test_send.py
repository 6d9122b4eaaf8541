"""ctl.send: send a message, print the variables, compare them with expected ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.utils import getProcessOutputAndValue

from spoa_twisted import Handlers, Message, SPOAFactory
from spoa_twisted.spop.actions import encode_actions
from tests.conftest import Logged
from tests.programs import ENVIRONMENT, SPOACTL

from .agents import Agent, ack
from .spoactl import spoactl


def echo(message: Message) -> dict[str, Any]:
    return {f"txn.{name or 'unnamed'}": value for name, value in message}


@pytest_twisted.ensureDeferred
async def test_the_variables_are_printed_with_their_types(endpoint: str, listen: Any) -> None:
    """Each variable is one line. Options may stand between the arguments."""
    listen(SPOAFactory(Handlers({"echo": echo})))
    assert await spoactl("send", "--agent", endpoint, "echo", "ip=192.0.2.1", "n=int32:-5", "=x", "gone=null") == (
        "txn.ip=ipv4:192.0.2.1\ntxn.n=int32:-5\ntxn.unnamed=str:x\nunset txn.gone\n",
        "",
        0,
    )
    assert await spoactl("send", "echo", "a=1", "--agent", endpoint, "b=2") == (
        "txn.a=int64:1\ntxn.b=int64:2\n",
        "",
        0,
    )


@pytest_twisted.ensureDeferred
async def test_no_variables(endpoint: str, listen: Any, logged: Logged) -> None:
    """A line on stderr says so, so that stdout has variables only. The exit status is 0."""
    listen(SPOAFactory(Handlers({"echo": echo})))
    hint = "spoactl: no variables: has the agent a handler for '{}'? If so, its log may say why\n"
    assert await spoactl("send", "--agent", endpoint, "ehco\x1b") == ("", hint.format("ehco\\x1b"), 0)
    assert await spoactl("send", "--agent", endpoint, "echo", "--json") == ("{}\n", hint.format("echo"), 0)
    assert await spoactl("send", "--agent", endpoint, "echo", "--repeat=2") == (
        "2 times: no variables\n",
        hint.format("echo"),
        0,
    )
    assert logged.take() == ["warn: no handler for the message 'ehco\\x1b': it sets no variables; did you mean 'echo'?"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--expect=txn.a=1", "--expect=txn.gone=null", "--expect=txn.none=null"], ""),
        (["--expect=txn.a=2", "--expect=txn.b=str:x"], "expected txn.a=int64:2, got txn.a=int64:1"),
        (["--expect=txn.a=int32:1"], "expected txn.a=int32:1, got txn.a=int64:1"),
        (["--expect=txn.a=null"], "expected txn.a=null, got txn.a=int64:1"),
        (["--expect=txn.gone=1"], "expected txn.gone=int64:1, got unset txn.gone"),
        (["--expect=a=1"], "expected proc.a=int64:1, got no proc.a"),
        (["--expect=txn.none=true", "--json"], "expected txn.none=bool:true, got no txn.none"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_expected_variables(arguments: list[str], error: str, endpoint: str, listen: Any) -> None:
    """The exit status is 1 if a variable differs or is missing. The variables are printed in any case."""
    listen(SPOAFactory(Handlers({"echo": echo})))
    out, err, status = await spoactl("send", "--agent", endpoint, "echo", "a=1", "b=x", "gone=null", *arguments)
    assert (err, status) == ((f"spoactl: {error}\n", 1) if error else ("", 0))
    if "--json" in arguments:
        assert json.loads(out)["txn.a"] == {"type": "int64", "value": 1}
    else:
        assert out == "txn.a=int64:1\ntxn.b=str:x\nunset txn.gone\n"


@pytest_twisted.ensureDeferred
async def test_the_content_of_a_file(endpoint: str, listen: Any) -> None:
    """The file is read once, so it may be a pipe. A file that cannot be read is an error of the command line."""
    listen(SPOAFactory(Handlers({"echo": echo})))
    arguments = ["send", "--agent", endpoint, "echo", "body=@/dev/stdin", "text=str:@x", "--expect=txn.text=str:@x"]
    script = r"""printf '\000\377' | "$@" """
    printed = await getProcessOutputAndValue("/bin/sh", ["-c", script, "sh", *SPOACTL, *arguments], env=ENVIRONMENT)
    assert printed == (b"txn.body=bin:00ff\ntxn.text=str:@x\n", b"", 0)

    out, err, status = await spoactl("send", "--agent", endpoint, "echo", "body=@nothing")
    assert (out, status) == ("", 2)
    error = "'body=@nothing': cannot read 'nothing': No such file or directory; write str:@nothing for this text"
    assert err.splitlines()[-1] == f"spoactl send: error: argument NAME=VALUE: {error}"


def numbered(numbers: Iterator[int]) -> Callable[[bytes, int], bytes]:
    """Return an answer for ``Agent``: it sets the numbers one after the other."""
    return lambda ids, n: ack(ids, encode_actions({"txn.n": next(numbers)}))


@pytest_twisted.ensureDeferred
async def test_a_repeated_message(endpoint: str, listen: Any) -> None:
    """It goes over one connection. Equal answers are printed once, in the order of their first ones."""
    agent = Agent(numbered(iter([2, 1, 2, 3, 2, 1])))
    listen(agent)
    assert await spoactl("send", "--agent", endpoint, "m", "--repeat=6", "--expect=txn.n=2") == (
        "3 times:\ntxn.n=int64:2\n2 times:\ntxn.n=int64:1\nonce:\ntxn.n=int64:3\n",
        (
            "spoactl: 2 of 6 times: expected txn.n=int64:2, got txn.n=int64:1\n"
            "spoactl: 1 of 6 times: expected txn.n=int64:2, got txn.n=int64:3\n"
        ),
        1,
    )
    assert len(agent.connections) == 1
    assert agent.notifys == 6


@pytest_twisted.ensureDeferred
async def test_a_repeated_message_as_json(endpoint: str, listen: Any) -> None:
    """Each answer is one line."""
    listen(Agent(numbered(iter([1, 1, 2]))))
    out, err, status = await spoactl("send", "--agent", endpoint, "m", "--repeat=3", "--json")
    assert (err, status) == ("", 0)
    assert [json.loads(line)["txn.n"]["value"] for line in out.splitlines()] == [1, 1, 2]


@pytest_twisted.ensureDeferred
async def test_an_agent_that_fails_in_between(endpoint: str, listen: Any) -> None:
    """The answers before are printed."""
    listen(Agent(lambda ids, n: ack(ids) if n < 3 else None))
    assert await spoactl("send", "--agent", endpoint, "m", "--repeat=5") == (
        "2 times:\nsess.score=int64:20\n",
        "spoactl: the agent closed the connection without an answer\n",
        1,
    )


@pytest_twisted.ensureDeferred
async def test_values_that_are_not_json(endpoint: str, listen: Any) -> None:
    """Each answer is one line of ASCII, so that other programs, such as jq, read it: bytes, line breaks, and unset."""
    listen(SPOAFactory(Handlers({"echo": lambda: {"txn.a": "a\udcff\n\x1b", "txn.b": True, "txn.c": None}})))
    out, _, _ = await spoactl("send", "--agent", endpoint, "echo", "--repeat=2", "--json")
    assert out.isascii()
    first, second = [json.loads(line) for line in out.splitlines()]
    assert first == second
    assert (first["txn.a"]["hex"], first["txn.b"]["value"], first["txn.c"]) == ("61ff0a1b", True, None)


@pytest_twisted.ensureDeferred
async def test_a_message_that_cannot_be_encoded(endpoint: str, listen: Any) -> None:
    """The error is one line on stderr, and the exit status is 1."""
    listen(SPOAFactory(Handlers()))
    out, err, status = await spoactl("send", "--agent", endpoint, "echo", *["a=1"] * 256)
    assert (out, err, status) == ("", "spoactl: the message 'echo' has 256 arguments; SPOP allows 255\n", 1)
