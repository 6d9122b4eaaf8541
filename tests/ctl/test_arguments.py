"""ctl.arguments: the arguments that several subcommands have in common."""

from __future__ import annotations

import argparse
from ipaddress import IPv4Address
from typing import Any

import pytest

from spoa_twisted.ctl.arguments import (
    DEFAULT_AGENT,
    add_agent,
    add_agent_option,
    add_message,
    add_timeout,
    endpoint,
    name_and_value,
    seconds,
)


def test_the_defaults() -> None:
    """Without arguments, the agent is the one that was started without --listen."""
    for add in (add_agent, add_agent_option):
        parser = argparse.ArgumentParser()
        add(parser)
        add_message(parser, optional=True)
        add_timeout(parser, "an answer")
        assert vars(parser.parse_args([])) == {
            "agent": DEFAULT_AGENT,
            "message": None,
            "arguments": [],
            "timeout": 5.0,
        }


def test_a_message_may_be_required(capsys: pytest.CaptureFixture[str]) -> None:
    """The parser then refuses a command line without a message."""
    parser = argparse.ArgumentParser()
    add_message(parser)
    assert vars(parser.parse_args(["m", "a=1"])) == {"message": "m", "arguments": [("a", 1)]}
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert "the following arguments are required: MESSAGE" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["tcp:127.0.0.1:12345", "unix:/run/agent.sock"])
def test_an_endpoint(text: str) -> None:
    """A description of an endpoint is returned unchanged."""
    assert endpoint(text) == text


@pytest.mark.parametrize("text", ["nonsense", "nonsense:1", "tcp:127.0.0.1:x"])
def test_a_text_that_is_not_an_endpoint(text: str) -> None:
    """The error names the text."""
    with pytest.raises(argparse.ArgumentTypeError, match=rf"^'{text}' is not a Twisted client endpoint: "):
        endpoint(text)


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "inf", "nan"])
def test_a_text_that_is_not_a_number_of_seconds(text: str) -> None:
    """A timeout must be finite and above 0."""
    with pytest.raises(argparse.ArgumentTypeError, match=rf"^'{text}' is not a number of seconds above 0$"):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [("ip=192.0.2.1", "ip", IPv4Address("192.0.2.1")), ("=x", "", "x"), ("a=b=c", "a", "b=c"), ("a=", "a", "")],
)
def test_a_name_and_a_value(text: str, name: str, value: Any) -> None:
    """The first "=" ends the name, which may be empty."""
    assert name_and_value(text) == (name, value)


@pytest.mark.parametrize(
    ("text", "error"), [("noequals", "'noequals' is not NAME=VALUE"), ("a=int32:x", "'a=int32:x': invalid literal")]
)
def test_a_text_that_is_not_a_name_and_a_value(text: str, error: str) -> None:
    """The error names the text and what is wrong with it."""
    with pytest.raises(argparse.ArgumentTypeError, match=f"^{error}"):
        name_and_value(text)
