"""ctl.arguments: the arguments that several subcommands have in common."""

from __future__ import annotations

import argparse
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from spoa_twisted.ctl.arguments import (
    add_agent,
    add_expect,
    add_message,
    add_timeout,
    name_and_value,
    positive,
    seconds,
)
from spoa_twisted.spop.typeddata import Int32


def test_the_defaults() -> None:
    """Without arguments, the agent is the one that was started without --listen."""
    parser = argparse.ArgumentParser()
    add_agent(parser)
    add_message(parser, optional=True)
    add_timeout(parser, "an answer")
    add_expect(parser, "a variable")
    assert vars(parser.parse_args([])) == {
        "agent": "tcp:127.0.0.1:12345",
        "message": None,
        "arguments": [],
        "timeout": 5.0,
        "expect": None,
    }


def test_expected_variables() -> None:
    """The option is repeatable. A name without a scope has the scope proc, as in the answer of a handler."""
    parser = argparse.ArgumentParser()
    add_expect(parser, "a variable")
    options = parser.parse_args(["--expect=score=int32:20", "--expect", "txn.user=null"])
    assert options.expect == {"proc.score": Int32(20), "txn.user": None}
    assert type(options.expect["proc.score"]) is Int32


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--expect=noequals"], "argument --expect: 'noequals' is not NAME=VALUE"),
        (["--expect=foo.bar=1"], "argument --expect: variable 'foo.bar': 'foo' is not a scope; use one of proc, sess"),
        (["--expect=txn.a=1", "--expect=txn.a=2"], "argument --expect: txn.a is given twice"),
    ],
)
def test_a_wrong_expectation(arguments: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the option and what is wrong."""
    parser = argparse.ArgumentParser()
    add_expect(parser, "a variable")
    with pytest.raises(SystemExit):
        parser.parse_args(arguments)
    assert error in capsys.readouterr().err


@pytest.mark.parametrize("text", ["tcp:127.0.0.1:12345", "unix:/run/agent.sock"])
def test_an_endpoint_is_no_message(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the option. Otherwise, a message with this name would be sent to the default agent."""
    parser = argparse.ArgumentParser()
    add_message(parser)
    with pytest.raises(SystemExit):
        parser.parse_args([text, "m"])
    assert f"argument MESSAGE: '{text}' is an endpoint; write --agent {text}\n" in capsys.readouterr().err


def test_a_message_may_be_required(capsys: pytest.CaptureFixture[str]) -> None:
    """The parser then refuses a command line without a message."""
    parser = argparse.ArgumentParser()
    add_message(parser)
    assert vars(parser.parse_args(["m", "a=1"])) == {"message": "m", "arguments": [("a", 1)]}
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert "the following arguments are required: MESSAGE" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "inf", "nan"])
def test_a_text_that_is_not_a_number_of_seconds(text: str) -> None:
    """A timeout must be finite and above 0."""
    with pytest.raises(argparse.ArgumentTypeError, match=rf"^'{text}' is not a number of seconds above 0$"):
        seconds(text)


@pytest.mark.parametrize(("text", "error"), [("x", "is not a whole number"), ("1.5", "is not"), ("0", "is below 1")])
def test_a_text_that_is_not_a_positive_number(text: str, error: str) -> None:
    """The error names the text."""
    assert positive("1") == 1
    with pytest.raises(argparse.ArgumentTypeError, match=f"^'{text}' {error}"):
        positive(text)


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


def test_the_content_of_a_file(tmp_path: Path) -> None:
    """It is BINARY. A text that begins with "@" is sent with its type."""
    path = tmp_path / "body"
    path.write_bytes(b"\x00\xff@\n")
    assert name_and_value(f"body=@{path}") == ("body", b"\x00\xff@\n")
    assert name_and_value(f"body=str:@{path}") == ("body", f"@{path}")
    assert name_and_value("mail=a@b") == ("mail", "a@b")


@pytest.mark.parametrize(("name", "error"), [("nothing", "No such file or directory"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read(name: str, error: str, tmp_path: Path) -> None:
    """The error has the name of the file, the reason, and how to send the text itself."""
    text = f"@{tmp_path}/{name}"
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        name_and_value(f"body={text}")
    assert str(caught.value) == f"'body={text}': cannot read '{text[1:]}': {error}; write str:{text} for this text"
