"""The manual pages, in the macros ``man`` of roff."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from spoa_twisted.help_text import Block, Kind, parse, runs, sections
from tests.program_pages.programs import Option, Program

#: A page needs the date of its last change.
DATE: Final = "2026-11-30"

# Characters of the source's lines. mandoc warns of longer ones than 80.
_WIDTH: Final = 78

# roff would print typographic signs for these, which cannot be copied to a command line.
_ESCAPES: Final = {"\\": r"\e", "-": r"\-", "'": r"\(aq", '"': r"\(dq", "^": r"\(ha", "~": r"\(ti", "`": r"\(ga"}


def page(program: Program, programs: Iterable[Program]) -> str:
    """Return the manual page of ``program``.

    :param programs: those that "SEE ALSO" lists.
    """
    lines = [
        r".\" Made by: python -m tests.program_pages",
        f".TH {escape(program.page.upper())} 1 {DATE} spoa_twisted",
        # Words that are copied must not have a hyphen added. Lines without hyphens look better ragged.
        ".nh",
        ".ad l",
        ".SH NAME",
        *_text(f"{program.page} - {program.summary}"),
        ".SH SYNOPSIS",
        f"{_bold(program.name)} {escape(program.synopsis)}",
        ".SH DESCRIPTION",
        *_blocks(parse(program.description)),
        *_options(program),
    ]
    for heading, blocks in sections(program.details):
        lines += [f'.SH "{heading.upper() or "DETAILS"}"', *_blocks(blocks)]
    lines.append(".SH SEE ALSO")
    others = [f".BR {escape(other.page)} (1)" for other in programs if other != program]
    lines += [f"{other}," for other in others[:-1]] + others[-1:]
    return "".join([f"{line}\n" for line in lines])


def _options(program: Program) -> Iterator[str]:
    begun = False
    for title, options in program.groups:
        if options[0].is_argument:
            yield ".SH ARGUMENTS"
        elif not begun:
            begun = True
            yield ".SH OPTIONS"
        if title != "options" and not options[0].is_argument:
            yield f'.SS "{escape(title[0].upper() + title[1:])}"'
        for option in options:
            yield ".TP"
            yield _flags(option)
            yield from _text(option.help)


def _flags(option: Option) -> str:
    if option.is_argument:
        return _italic(option.metavar)
    value = _italic(option.value) if option.metavar else ""
    between = "" if not value else "=" if option.equals else " "
    return ", ".join([f"{_bold(flag)}{between}{value}" for flag in option.flags])


def _blocks(blocks: Sequence[Block]) -> Iterator[str]:
    for number, run in enumerate(runs(blocks)):
        kind = run[0].kind
        if kind is Kind.ITEM:
            for block in run:
                yield from [".TP", _bold(block.term), *_text(block.text)]
        elif kind is Kind.BULLET:
            for block in run:
                yield from [r".IP \(bu 2", *_text(block.text)]
        elif kind is Kind.LITERAL:
            yield from [".PP"] * bool(number)
            yield from [".nf", ".RS 2", *[escape(block.text) for block in run], ".RE", ".fi"]
        else:
            for block in run:
                yield from [".PP"] * bool(number)
                yield from _text(block.text)


def _text(text: str) -> list[str]:
    lines = textwrap.wrap(escape(text), _WIDTH, break_on_hyphens=False, break_long_words=False)
    # A line that begins with a dot would be a macro.
    return [rf"\&{line}" if line.startswith(".") else line for line in lines]


def escape(text: str) -> str:
    """Return ``text`` for roff."""
    return "".join([_ESCAPES.get(character, character) for character in text])


def _bold(text: str) -> str:
    return rf"\fB{escape(text)}\fR"


def _italic(text: str) -> str:
    return rf"\fI{escape(text)}\fR"
