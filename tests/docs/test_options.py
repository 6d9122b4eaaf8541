"""docs/reference/options.rst has the options of ``twistd spoa``."""

from __future__ import annotations

import re

from spoa_twisted import (
    Handlers,
    SPOAFactory,
    SPOAService,
)
from spoa_twisted.limits import LIMITS

from . import options
from .pages import Page

PAGE = Page("reference/options")


def test_the_options_of_the_command_line() -> None:
    """The list is what ``tests.docs.options`` makes of the options, and docutils finds each of them in it."""
    assert options.with_list(PAGE.text) == PAGE.text, "run: python -m tests.docs.options"
    found = [(term, " : ".join(classifiers), text) for term, classifiers, text in PAGE.definitions("Options")]
    assert [entry[:2] for entry in found] == [entry[:2] for entry in options.entries()]


def test_the_options_that_are_keywords() -> None:
    """The text above the list names the first and the last limit, and keywords that exist."""
    text = " ".join(PAGE.text.partition("\nOptions\n-------\n")[0].split())
    first, last = re.findall(r"``--([a-z-]+)`` to ``--([a-z-]+)``", text)[0]
    names = [option[2:] for option, *_ in PAGE.definitions("Options")]
    limits = names[names.index(first) : names.index(last) + 1]
    assert [name.replace("-", "_") for name in limits] == list(LIMITS)
    factory = SPOAFactory(Handlers(), async_=True, drain_timeout=2)
    assert SPOAService(factory).drain_timeout == 2
    assert SPOAService(factory, drain_timeout=1).drain_timeout == 1
