"""Each check has a page, and docs/reference/checks.rst lists all checks."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import docutils.core
import pytest

from spoa_twisted.haproxy import checks, pages
from spoa_twisted.haproxy.checks import BY_ID

from .list_of_checks import PATH, with_list

FOLDER = Path(checks.__file__).parent / "pages"

PARTS = ["What happens", "How to see it", "The mend"]


def test_each_id_has_a_page_and_each_page_an_id() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(BY_ID)


def test_docs_list_each_check() -> None:
    """Otherwise run ``python -m tests.haproxy_side.list_of_checks``."""
    assert PATH.read_text() == with_list(PATH.read_text())


@pytest.mark.parametrize("id_", BY_ID)
def test_a_page_has_three_parts(id_: str) -> None:
    """It begins with the id and a summary, and is at most a screen."""
    text = pages.source(id_)
    lines = text.splitlines()
    assert lines[:3] == [id_, "=" * len(id_), ""]
    assert [line for line, below in pairwise(lines) if re.fullmatch("-{3,}", below)] == PARTS
    for part in re.split(r"\n.+\n[-=]+\n", f"\n{text}")[1:]:
        assert part.strip()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 120


def test_the_pages_are_restructured_text() -> None:
    """docutils has nothing to complain about."""
    text = "\n\n".join(pages.source(id_) for id_ in BY_ID)
    docutils.core.publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 2})


def test_plain_text_has_no_marks() -> None:
    """Literals and the colons of blocks are as a reader expects them; an example is left alone."""
    text = pages.plain('Write ``a b`` and\n``c``::\n\n    log-format "``x``::"\n\nEnd.\n')
    assert text == 'Write a b and\nc:\n\n    log-format "``x``::"\n\nEnd.\n'


@pytest.mark.parametrize("id_", BY_ID)
def test_each_page_is_plain(id_: str) -> None:
    """Also a literal that goes on in the next line has lost its quotes."""
    assert "``" not in pages.plain(pages.source(id_))
