"""docs/howto/status.rst names each verdict, its level and what to do."""

from __future__ import annotations

import re
import struct

import pytest
from docutils import nodes

from spoa_twisted.status import verdict
from spoa_twisted.status.verdict import assess
from tests.docs.pages import DOCS, Page, read

from .examples import EXAMPLES, example, message, problem, totals

PAGE = Page("howto/status")


def rows() -> dict[str, str]:
    """Return the level of each verdict in the list."""
    table: dict[str, str] = {}
    for sentence, (level,), advice in PAGE.definitions("What to do"):
        assert advice
        table[sentence] = level
    return table


def row_for(sentence: str) -> str:
    """Return the entry of the list that ``sentence`` belongs to. The words in capitals stand for any text."""
    found = []
    for row in rows():
        pattern = re.sub(r"\b[A-Z]{4,}\b(?<!ACKs)(?<!SPOP)", ".+", re.escape(row).replace(r"\ ", " "))
        if re.match(pattern, sentence):
            found.append(row)
    assert len(found) == 1, (sentence, found)
    return found[0]


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_example_is_documented(name: str) -> None:
    """With its level."""
    assessed = assess(example(name))
    assert rows()[row_for(assessed.sentence)] == assessed.level.value


def test_each_row_is_a_verdict() -> None:
    """Of an example, or of a status with one more fault."""
    sentences = [assess(example(name)).sentence for name in EXAMPLES]
    for result in ("unsendable", "too_big", "cancelled"):
        status = example("all well")
        status["recent"] = totals({"m": message(**{"ok": 0, result: 50})})
        sentences.append(assess(status).sentence)
    status = example("all well")
    status["recent"]["messages"]["(none)"] = message(unhandled=50)
    status["problems"] = [problem("MessageUnhandled", "m", "", 50, 9, 0)]
    sentences.append(assess(status).sentence)
    status = example("just started")
    status["started"] -= 100
    sentences.append(assess(status).sentence)
    status = example("all well")
    status["recent"]["refused"] = 5
    status["recent"]["dropped"] = {"payload": 5, "unread": 5}
    sentences += [finding.what for finding in assess(status).problems[:3]]
    status = example("all well")
    status["problems"] = [problem("LifeCycleFailed", "iprep.refresh", "", 1, 1, 1)]
    sentences.append(assess(status).sentence)
    assert {row_for(sentence) for sentence in sentences} == rows().keys()


def test_the_thresholds_are_those_of_the_code() -> None:
    """The text has them in words."""
    assert (verdict.ENOUGH, verdict.WARNING_SHARE, verdict.CRITICAL_SHARE, verdict.SLOW_SHARE) == (5, 0.01, 0.1, 0.1)
    assert (verdict.CRASHES, verdict.CRASH_SPAN, verdict.SAME_CRASH, verdict.RECENT) == (3, 300, 1, 60)
    assert (verdict.STANDSTILL, verdict.STANDSTILL_SHARE, verdict.GRACE, verdict.HANDLER_TIMEOUT) == (1, 0.1, 60, 1)


def test_the_picture_is_there() -> None:
    """With a text for those who do not see it. python -m tests.status.screenshot makes it."""
    (image,) = read(PAGE.text).findall(nodes.image)
    assert image["alt"]
    content = (DOCS / "howto" / image["uri"]).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert struct.unpack(">II", content[16:24]) == (960, 970)
