"""The page of the documentation about the programs, in reStructuredText for Sphinx."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from spoa_twisted.help_text import Block, Kind, parse, runs, sections
from tests.program_pages.programs import Option, Program

WIDTH: Final = 120

_HEAD: Final = """\
Programs
========

This is what ``--help`` of each program prints. The package installs the same texts as manual pages: ``man spoactl``,
``man spoactl-check``, ``man twistd-spoa``. How to have the Tab key complete command lines is in `spoactl completion`_.

.. Made by: python -m tests.program_pages
"""

# What is a literal in the page: words in quotation marks, and options. Sphinx would turn "--" into a dash.
_LITERAL: Final = re.compile(r'"([^"`]+)"|((?<![\w-])--?[a-z][a-z-]*)')


def page(programs: Iterable[Program]) -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, *["\n".join(_program(program)) for program in programs]])


def _program(program: Program) -> Iterator[str]:
    yield from [program.name, "-" * len(program.name), "", f".. program:: {program.name}", ""]
    yield from [".. code-block:: text", "", f"   {program.name} {program.synopsis}", ""]
    yield from _blocks(parse(program.description))
    for title, options in program.groups:
        yield from _rubric("arguments" if options[0].is_argument else title)
        for option in options:
            yield from _option(option)
    for heading, blocks in sections(program.details):
        if heading:
            yield from _rubric(heading)
        yield from _blocks(blocks)


def _rubric(title: str) -> list[str]:
    return [f".. rubric:: {title[0].upper()}{title[1:]}", ""]


def _option(option: Option) -> Iterator[str]:
    if option.is_argument:
        yield f"``{option.metavar}``"
    else:
        between = "" if not option.metavar else "=" if option.equals else " "
        yield ".. option:: " + ", ".join([f"{flag}{between}{option.value}" for flag in option.flags])
        yield ""
    yield from _wrap(option.help, "   ", "   ")
    yield ""


def _blocks(blocks: Sequence[Block]) -> Iterator[str]:
    for run in runs(blocks):
        kind = run[0].kind
        if kind is Kind.LITERAL:
            yield from [".. code-block:: text", "", *[f"   {block.text}" for block in run], ""]
            continue
        for block in run:
            if kind is Kind.ITEM:
                yield from [f"``{block.term}``", *_wrap(block.text, "   ", "   "), ""]
            elif kind is Kind.BULLET:
                yield from [*_wrap(block.text, "- ", "  "), ""]
            else:
                yield from [*_wrap(block.text, "", ""), ""]


def _wrap(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        markup(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    )


def markup(text: str) -> str:
    """Return ``text`` as reStructuredText that shows the same."""
    parts: list[str] = []
    end = 0
    for match in _LITERAL.finditer(text):
        parts += [_escape(text[end : match.start()]), f"``{match[1] or match[2]}``"]
        end = match.end()
        if text[end : end + 1].isalnum():
            # A literal must end before a space or a punctuation mark.
            parts.append("\\ ")
    return "".join([*parts, _escape(text[end:])])


def _escape(text: str) -> str:
    return re.sub(r"([\\*`|_])", r"\\\1", text)
