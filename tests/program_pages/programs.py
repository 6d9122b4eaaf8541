"""The programs with their options, read from the parsers of ``spoactl`` and from the options of ``twistd spoa``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from spoa_twisted import ctl, tap
from spoa_twisted.haproxy.checks import BY_ID
from spoa_twisted.help_text import NO_BREAK
from spoa_twisted.runner import usage


@dataclass(frozen=True, kw_only=True)
class Option:
    """An option or a positional argument.

    :param flags: ``("-h", "--help")``; for an argument none.
    :param metavar: what the value is called; empty if there is none.
    :param choices: the values, if they are a fixed list.
    :param repeatable: whether it may be given more than once.
    :param equals: whether the help shows ``--option=VALUE`` rather than ``--option VALUE``.
    """

    flags: tuple[str, ...]
    metavar: str
    choices: tuple[str, ...]
    help: str
    repeatable: bool = False
    optional_value: bool = False
    equals: bool = False

    @property
    def is_argument(self) -> bool:
        return not self.flags

    @property
    def value(self) -> str:
        """The value as the help shows it: ``{closed,open}``."""
        if self.choices and not self.is_argument:
            return "{" + ",".join(self.choices) + "}"
        return f"[{self.metavar}]" if self.optional_value else self.metavar


#: What completes the values of these names; a value of another name is not completed.
KINDS: Final = {
    "FILE": "file",
    "PATH": "file",
    "DIR": "folder",
    "MODULE": "module",
    "ENDPOINT": "endpoint",
    "MESSAGE": "message",
}

#: The versions that are proposed for "--version X.Y".
VERSIONS: Final = ("2.6", "2.8", "3.0", "3.1", "3.2", "3.3", "3.4")

_WORDS: Final = {"ID": tuple(BY_ID), "X.Y": VERSIONS}


def words_of(option: Option) -> tuple[str, ...]:
    """Return the words that a shell proposes for the value; none if :data:`KINDS` says what completes it."""
    return option.choices or _WORDS.get(option.metavar, ())


@dataclass(frozen=True, kw_only=True)
class Program:
    """A command with options.

    :param words: ``("spoactl", "send")``.
    :param summary: a line without a full stop.
    :param synopsis: what follows the words.
    :param groups: options by the title of their group.
    :param details: a text for :mod:`spoa_twisted.help_text`.
    """

    words: tuple[str, ...]
    summary: str
    synopsis: str
    description: str
    groups: tuple[tuple[str, tuple[Option, ...]], ...]
    details: str

    @property
    def name(self) -> str:
        return " ".join(self.words)

    @property
    def page(self) -> str:
        """The name of the manual page."""
        return "-".join(self.words)

    @property
    def options(self) -> Iterator[Option]:
        for _, options in self.groups:
            yield from options


def programs() -> list[Program]:
    """Return ``spoactl``, each of its commands, and ``twistd spoa``."""
    summary = "try, measure, look after and configure agents for HAProxy's SPOE"
    commands = [_from_argparse(command.parser(), command.SUMMARY) for command in ctl.COMMANDS.values()]
    return [_from_argparse(ctl.parser(), summary, "COMMAND ..."), *commands, _twistd()]


def _from_argparse(parser: argparse.ArgumentParser, summary: str, synopsis: str = "") -> Program:
    groups = []
    for group in parser._action_groups:
        shown = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if shown:
            # argparse's own titles of its two groups changed with Python 3.10.
            title = "options" if group is parser._optionals else str(group.title)
            groups.append((title, tuple(_option(parser, action) for action in shown)))
    return Program(
        words=tuple(parser.prog.split()),
        summary=summary,
        synopsis=synopsis or " ".join(_synopsis(groups)),
        description=str(parser.description),
        groups=tuple(groups),
        details=str(parser.epilog),
    )


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> Option:
    takes_value = action.nargs != 0
    choices = tuple(map(str, action.choices or ()))
    metavar = str(action.metavar or action.dest.upper())
    return Option(
        flags=tuple(action.option_strings),
        metavar=metavar if takes_value else "",
        choices=choices,
        help=(action.help or "") % {"default": action.default},
        repeatable="repeatable" in (action.help or "") or action.nargs == "*",
        optional_value=action.nargs == "?",
    )


def _synopsis(groups: list[tuple[str, tuple[Option, ...]]]) -> Iterator[str]:
    yield "[OPTIONS]"
    for _, options in groups:
        for option in options:
            if option.is_argument:
                value = option.value
                yield f"[{value.strip('[]')} ...]" if option.repeatable else value


def _twistd() -> Program:
    return Program(
        words=("twistd", "spoa"),
        summary="run an agent for HAProxy's SPOE",
        synopsis=usage.SYNOPSIS.replace("options", "OPTIONS"),
        description=usage.DESCRIPTION,
        groups=tuple((title, tuple(map(_entry, entries))) for title, entries in usage.groups(tap.Options())),
        details=usage.EPILOG,
    )


def _entry(entry: usage.Entry) -> Option:
    choices = tuple(entry.metavar.strip("{}").split(",")) if entry.metavar.startswith("{") else ()
    return Option(
        flags=(f"--{entry.name}",),
        metavar=entry.metavar,
        choices=choices,
        help=entry.text.replace(NO_BREAK, " "),
        repeatable="Repeatable" in entry.help,
        equals=True,
    )
