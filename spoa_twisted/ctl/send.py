"""``spoactl send``: send one message to an agent, print the variables that it sets, compare them with expected ones."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from typing import Any

from spoa_twisted.client import SPOEClient
from spoa_twisted.ctl.arguments import (
    add_agent,
    add_expect,
    add_message,
    add_timeout,
    exit_status,
    new_parser,
    positive,
)
from spoa_twisted.ctl.values import NO_TYPES, TYPES
from spoa_twisted.ctl.variables import canonical, differences, show_variable, variables_to_json
from spoa_twisted.spop.actions import Variables
from spoa_twisted.spop.messages import Message

SUMMARY = "send a message, print the variables that the agent sets"

DESCRIPTION = """\
Sends one message to an agent, as HAProxy does, and prints the variables that the agent sets. Each variable is one
line: scope.name=type:value, or "unset scope.name". If the agent sets none, stdout stays empty, and stderr says so.
"""

EPILOG = f"""\
Write an argument as name=type:value, or as name=value to have its type guessed. Write an argument without a name as
=value. The types are {TYPES}; bin is in hexadecimal.
A value that looks like an integer, an address, true or false is guessed to be one; every other value is a string.
name=@FILE is the content of FILE, as bin. After str: everything is text: str:42, str:@x, str:int:x.

A word before the first colon that looks like a type, but is none, is an error: ip:192.0.2.1, STR:x. These words are
{", ".join(NO_TYPES)}, and the types in capitals or with other digits, as INT32 or int16. Any other word is text:
http://x, Mozilla: x.

With --expect, the exit status is 1 if a variable has another value or type, or is missing. Then stderr has a line with
the expected and the received variable. NAME=null expects a variable that is unset, set to NULL, or missing. The agent
may set variables that no --expect names; "spoactl bench" allows none.

With --repeat, the messages are sent one after the other on one connection. spoactl connects again only if the agent
has closed the connection. At the end, equal answers are printed once, below the number of times that they came.
An answer without variables is printed then too: "3 times: no variables".

--json prints each answer as one line as soon as it comes: an object that has for each variable
  null                             if the agent unsets it
  {{"type": "int64", "value": 42}}  if the agent sets it
Integers, true and false are JSON values, and the value of the type null is null. (jq before 1.7 rounds integers above
2^53.) The other types are strings, bin in hexadecimal. For a str with bytes that are not UTF-8, "value" has U+FFFD in
their place, and "hex" has all of its bytes. An answer without variables is {{}}.

{exit_status("the agent has answered, as expected", "it has not")}
examples:
  spoactl send get-ip-reputation ip=192.0.2.1
  spoactl send get-ip-reputation ip=192.0.2.1 --expect txn.allowed=true
  spoactl send check-body length=int64:3 body=bin:616263 note=str:42
  spoactl send check-body body=@upload.bin --repeat 10 --json | jq .
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = new_parser("send", DESCRIPTION, EPILOG)
    add_expect(parser, "a variable that the agent must set, in this type; null for an unset one; repeatable")
    parser.add_argument("--repeat", metavar="N", type=positive, default=1, help="send the message N times (default: 1)")
    parser.add_argument("--json", action="store_true", help="print each answer as a line of JSON")
    add_agent(parser)
    add_timeout(parser, "each answer")
    add_message(parser)
    return parser


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Send the message; print the variables, and close the connection with HAPROXY-DISCONNECT.

    :raises SystemExit: with 1, when variables are not as expected.
    """
    client = SPOEClient(options.agent, timeout=options.timeout, reactor=reactor)
    message = Message(options.message, options.arguments)
    answers = Answers()
    try:
        for _ in range(options.repeat):
            variables = await client.send(message)
            answers.add(variables)
            if options.json:
                print(json.dumps(variables_to_json(variables)), flush=True)
    finally:
        # When a later message fails, the answers before it are printed nevertheless.
        if not options.json:
            answers.show(with_counts=options.repeat > 1)
    await client.disconnect()
    if answers.are_empty:
        _print_error(f"no variables: has the agent a handler for {options.message!a}? If so, its log may say why")
    unexpected = answers.differences(options.expect or {})
    for line, count in unexpected.items():
        _print_error(line if options.repeat == 1 else f"{count} of {options.repeat} times: {line}")
    if unexpected:
        raise SystemExit(1)


class Answers:
    """The answers of an agent. Equal answers are counted, so that each is printed once."""

    def __init__(self) -> None:
        # The first of several equal answers, and their number, by their variables.
        self._answers: dict[tuple[tuple[str, str], ...], Variables] = {}
        self._counts: Counter[tuple[tuple[str, str], ...]] = Counter()

    @property
    def are_empty(self) -> bool:
        """Whether no answer has variables."""
        return not any(self._answers.values())

    def add(self, variables: Variables) -> None:
        """Count an answer."""
        key = tuple(canonical(variables).items())
        self._answers.setdefault(key, variables)
        self._counts[key] += 1

    def show(self, *, with_counts: bool) -> None:
        """Print the variables of each answer, below the number of times that it came if ``with_counts`` is true."""
        for key, variables in self._answers.items():
            if with_counts:
                times = "once" if self._counts[key] == 1 else f"{self._counts[key]} times"
                print(f"{times}:" if variables else f"{times}: no variables")
            for name, value in variables.items():
                print(show_variable(name, value))

    def differences(self, expected: Variables) -> Counter[str]:
        """Return a line for each variable that is not as expected, with the number of answers that it is true of."""
        lines: Counter[str] = Counter()
        for key, variables in self._answers.items():
            for line in differences(expected, variables):
                lines[line] += self._counts[key]
        return lines


def _print_error(text: str) -> None:
    print(f"spoactl: {text}", file=sys.stderr)
