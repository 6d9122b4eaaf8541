"""What a check is: an id, how bad its findings are at worst, a title, and the function that finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.configuration import Configuration
from spoa_twisted.haproxy.finding import Finding, Severity

#: Finds what is wrong in a configuration. It says nothing about parts that are ``None``, or that it does not know.
#: Without handlers, ``Answers`` is ``None``.
Find: TypeAlias = Callable[[Configuration, "Answers | None"], Iterator[Finding]]


@dataclass(frozen=True)
class Check:
    """A check, with the id of its findings."""

    #: As ``event-twice``. ``--ignore`` takes it, and ``pages/ID.rst`` explains it.
    id: str
    #: The severity of most of its findings; each finding has its own.
    severity: Severity
    #: One line for the list of all checks.
    title: str
    #: Several checks may have the same function, which then finds all of them. It runs once.
    check: Find
