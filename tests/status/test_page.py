"""status.page and status.view: the page has every part in its order, for a browser and for a screen reader."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest

from spoa_twisted.status.page import CONTENT_SECURITY_POLICY, REFRESH, render
from spoa_twisted.status.report import Status
from spoa_twisted.status.verdict import assess
from spoa_twisted.status.view import MAX_PROBLEMS, view

from .examples import EXAMPLES, NOW, example, histogram, message, problem, process, totals

#: Elements without an end tag.
VOID = {"meta"}


class Page(HTMLParser):
    """The elements and texts of a page. It fails unless all elements are closed in their order."""

    def __init__(self, status: Status) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        #: The texts by the path of their elements: ``html/head/title``.
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.source = render(status).decode()
        assert self.source.startswith("<!DOCTYPE html>\n")
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(("/".join(self._open), data))

    def under(self, element: str) -> list[str]:
        """Return the texts in elements of this name, or in elements inside them."""
        return [text for path, text in self.texts if element in path.split("/")]

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of each element of this name."""
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_verdict_is_the_title_and_the_heading(name: str) -> None:
    """The title has a sign in front, and the heading a word for those who do not see the mark."""
    verdict = assess(example(name))
    page = Page(example(name))
    sign = {"ok": "✅", "warning": "⚠️", "critical": "❌"}[verdict.level.value]
    assert page.under("title") == [f"{sign} {verdict.sentence}"]
    assert page.under("h1") == [f"{verdict.level.name.capitalize().replace('Ok', 'OK')}: ", verdict.sentence]
    assert page.attributes("h1") == [{"class": verdict.level.value}]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_sections_are_in_order(name: str) -> None:
    """What an operator needs first comes first."""
    status = example(name)
    headings = Page(status).under("h2")
    assert [heading.partition(" of ")[0] for heading in headings] == [
        "Problems",
        "Messages",
        "Workers" if status["workers"] else "Process",
        "HAProxys",
        "Agent",
    ]


def test_the_page_needs_nothing_else() -> None:
    """No script, no image, no link, no other file. The policy forbids what is not there."""
    page = Page(example("handler failing"))
    assert {name for name, _ in page.elements}.isdisjoint({"script", "img", "link", "a", "iframe", "form"})
    names = {name for _, attributes in page.elements for name in attributes}
    assert not names & {"src", "href", "style"}
    assert not [name for name in names if name.startswith("on")]
    assert "url(" not in page.source
    assert page.attributes("html") == [{"lang": "en"}]
    metas = {each.get("http-equiv") or each.get("name"): each.get("content") for each in page.attributes("meta")}
    assert metas["Content-Security-Policy"] == CONTENT_SECURITY_POLICY
    assert metas["refresh"] == str(REFRESH)
    assert metas["viewport"] == "width=device-width, initial-scale=1"
    # The template would escape these characters in the style, and the browser would not understand it.
    assert "&" not in "".join(page.under("style"))


def test_a_table_says_what_its_cells_are() -> None:
    """To screen readers, also where the cells are no table boxes."""
    page = Page(example("all well"))
    assert {each["role"] for each in page.attributes("table")} == {"table"}
    assert {each["role"] for each in page.attributes("tr")} == {"row"}
    assert {(each["role"], each["scope"]) for each in page.attributes("th")} == {
        ("columnheader", "col"),
        ("rowheader", "row"),
    }
    titles = set(page.under("thead"))
    assert {each["role"] for each in page.attributes("td")} == {"cell"}
    assert {each["data-title"] for each in page.attributes("td")} <= titles


EVIL = "<script>alert(1)</script>&amp;\"'\x1b[2J\0\u202e\ud800"


def with_evil(value: Any) -> Any:
    """Return ``value`` with each text and each key replaced."""
    if isinstance(value, dict):
        return {key: with_evil(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_evil(item) for item in value]
    return EVIL if isinstance(value, str) else value


@pytest.mark.parametrize("name", EXAMPLES)
def test_texts_from_outside_are_escaped(name: str) -> None:
    """Also those that the agent has escaped already, and the names of messages and of numbers."""
    status = with_evil(example(name))
    status["recent"]["messages"][EVIL] = message((0.1, 50), ok=1, error=49)
    status["recent"]["messages"][EVIL]["results"][EVIL] = 1
    status["messages"] = [EVIL]
    status["options"] = status["restarts"] = {EVIL: EVIL}
    status["restarts"] = status["totals"]["dropped"] = {EVIL: 1}
    status["totals"]["disconnects"] = {EVIL: 1, f"haproxy {EVIL}": 2}
    page = Page(status)
    assert "script" not in {name for name, _ in page.elements}
    assert "alert(1)" in "".join(text for _, text in page.texts)
    assert not [char for char in page.source if not (char.isprintable() or char in "\n\ufe0f")]


def cells(status: Status, table: str) -> list[list[str]]:
    """Return the texts of a table of the view."""
    return [[cell.text for cell in row] for row in getattr(view(status), table).rows]


def test_messages_with_most_failures_come_first() -> None:
    """Then those with most requests. Messages that were not sent come last."""
    status = example("handler failing")
    status["messages"].append("never-sent")
    rows = cells(status, "messages")
    assert [row[0] for row in rows] == ["check-token", "get-ip-reputation", "check-dnsbl", "never-sent"]
    assert rows[0] == [
        *("check-token", "361/s", "62 %", "≤ 25 ms", "≤ 25 ms", "83 ms"),
        "ok 8,229 · error 13,402 · timeout 24",
    ]
    assert rows[-1] == ["never-sent", *"-----", "not sent"]


def test_messages_without_a_name() -> None:
    """A default handler, and messages without a handler. Durations beyond the buckets have no bound."""
    status = example("all well")
    status["recent"] = totals({"(default)": message((9.0, 60), ok=60), "(none)": message(unhandled=60)})
    status["messages"], status["longest"] = [], {}
    assert cells(status, "messages") == [
        ["without a handler", "1.0/s", "100 %", "-", "-", "-", "unhandled 60"],
        ["other messages", "1.0/s", "0 %", "> 2.5 s", "> 2.5 s", "-", "ok 60"],
    ]


def test_an_agent_without_anything() -> None:
    """Each section says so."""
    status = example("starting")
    status["processes"], status["messages"] = [], []
    status["listen"], status["options"] = [], {}
    page = Page(status)
    texts = [text for _, text in page.texts]
    for text in (
        "SPOE agent",
        "The agent has no handlers.",
        "The agent has no process.",
        "No engine of a HAProxy is connected.",
        "ports of the application",
        "all at their defaults",
    ):
        assert text in texts


def test_no_problem() -> None:
    """The section says so."""
    status = example("all well")
    status["problems"] = []
    assert "None since the start." in Page(status).under("p")


def test_columns_that_are_mostly_empty_are_shown_when_needed() -> None:
    """The waits for a thread, and held back ACKs."""
    status = example("all well, without workers")
    titles = [column.title for column in view(status).processes.columns]
    assert {"wait for a thread", "held back"}.isdisjoint(titles)
    status["processes"][0].update({"blocking_waiting": 3, "held_back": 4096})
    table = view(status).processes
    row = dict(zip([column.title for column in table.columns], table.rows[0], strict=True))
    assert (row["wait for a thread"].text, row["held back"].text) == ("3", "4 KiB")


@pytest.mark.parametrize(
    ("each", "text", "level"),
    [
        (process(1), "ready", "ok"),
        (process(1, "starting"), "starting", "note"),
        (process(1, "lost", "exit status 3"), "lost: exit status 3", "warning"),
        (process(1, "lost"), "lost", "warning"),
        (process(1, "silent", "a.py, line 3, in b", 4.1), "stands still for 4.1 s in a.py, line 3, in b", "critical"),
        (process(0, age=2.0), "stands still for 2 s", "critical"),
    ],
)
def test_the_state_of_a_process(each: Any, text: str, level: str) -> None:
    """In words, and with the level that colours it."""
    status = example("all well")
    status["processes"] = [each]
    cell = view(status).processes.rows[0][1]
    assert (cell.text, cell.level.value) == (text, level)


def test_the_cpu_is_that_of_all_processes_of_a_worker() -> None:
    """Since the start of the agent. A system may not tell the memory."""
    status = example("all well, without workers")
    status["processes"][0].update({"cpu_seconds": 0.5 * (status["time"] - status["started"]), "resident_memory": 0})
    status["processes"][0]["started"] = NOW - 1
    table = view(status).processes
    row = dict(zip([column.title for column in table.columns], table.rows[0], strict=True))
    assert (row["CPU"].text, row["memory"].text, row["up"].text) == ("50 %", "-", "1 s")


@pytest.mark.parametrize(
    ("name", "ready", "level"),
    [
        ("all well", "4 of 4", "ok"),
        ("worker lost", "3 of 4", "warning"),
        ("all workers lost", "0 of 2", "critical"),
        ("starting", "0 of 2", "warning"),
        ("draining", "0 of 4", "warning"),
    ],
)
def test_workers_that_are_ready(name: str, ready: str, level: str) -> None:
    """While the agent starts or drains, no worker is ready, and that is no disaster."""
    figure = view(example(name)).figures[-1]
    assert (figure.title, figure.text, figure.level.value) == ("workers", ready, level)


def test_a_figure_says_of_what_it_is() -> None:
    """The share and the times of all NOTIFYs differ from those of one message. No time is above the longest one."""
    status = example("handler slow")
    figures = {figure.title: figure.text for figure in view(status).figures}
    assert (figures["messages failed"], figures["NOTIFY p99"]) == ("0.1 %", "≤ 25 ms")
    status["recent"]["notify"] = histogram((1.0012, 100))
    for longest, p99 in ((1.0013, "≤ 1 s"), (0.0, "≤ 2.5 s")):
        status["longest_notify"] = longest
        assert {figure.title: figure.text for figure in view(status).figures}["NOTIFY p99"] == p99


def test_facts() -> None:
    """What is true since the start."""
    status = example("reload refused")
    status["totals"].update({"refused": 4, "stalls": 2, "stall_seconds": 3.4})
    status["totals"]["dropped"] = {"unread": 2, "payload": 0}
    status["totals"]["disconnects"] = {"haproxy 0": 1, "agent 3": 2, "agent 1234": 3, "agent": 1}
    facts = dict(view(status).facts)
    assert facts["last reload"].endswith(", 12 min ago, failed: SyntaxError: expected ':' (iprep.py, line 12)")
    assert facts["workers replaced"] == "8 were replaced in a reload"
    assert facts["since the start"] == "136,842 connections, 136,800 health checks, 4 refused"
    assert facts["DISCONNECTs"] == (
        "HAProxy once with status code 0 (normal); the agent 2 times with status code 3 (frame is too big);"
        " the agent 3 times with status code 1234; the agent once"
    )
    assert facts["dropped"] == "unread 2"
    assert facts["stood still"] == "2 times, for 3.4 s in all"
    facts = dict(view(example("all well, without workers")).facts)
    assert not {"last reload", "workers replaced", "DISCONNECTs", "dropped", "stood still"} & facts.keys()


def test_how_often_a_problem_happened() -> None:
    """A state has no number, and what happened once has no first time."""
    status = example("all well")
    status["problems"] = [
        problem("HandlerFailed", "a", "", 1, 90, 90),
        problem("HandlerFailed", "b", "", 12, 900, 100),
    ]
    assert [often for _, often in view(status).problems] == [
        "Not in the last minute: once, 90 s ago",
        "Not in the last minute: 12 times, the first 15 min ago, the last 100 s ago",
    ]
    status["problems"][0]["last"] = status["problems"][0]["first"] = NOW - 59
    status["problems"][1]["last"] = NOW - 59
    assert [often for _, often in view(status).problems] == [
        "once, 59 s ago",
        "Still happens: 12 times, the first 15 min ago, the last 59 s ago",
    ]
    assert view(example("draining")).problems[0][1] == ""


def test_what_lasts_need_not_happen_again() -> None:
    """A reload that has failed is not over, and functions that never run are reported once."""
    status = example("reload refused")
    status["problems"] = [problem("LifeCycleIgnored", "", "", 1, 900, 900)]
    assert [often for _, often in view(status).problems] == ["once, 12 min ago", "once, 15 min ago"]


def test_many_problems() -> None:
    """The page stays short. The worst problems come first, so those that are left out are notes."""
    status = example("handler failing")
    status["problems"] += [problem("MessageUnhandled", f"m{number}", "", 1, number, number) for number in range(30)]
    page = Page(status)
    assert len(page.attributes("li")) == MAX_PROBLEMS
    assert "12 more are in /status.json." in page.under("p")
    assert page.attributes("li")[0] == {"class": "critical"}


def test_only_the_page_imports_twisted_web() -> None:
    """It takes 0.15 seconds and 2 MiB, which an agent without --status need not have."""
    code = "import sys, spoa_twisted.status.view, spoa_twisted.ctl; sys.exit('twisted.web' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_examples_are_statuses() -> None:
    """A test that changes its status changes no other one."""
    first, second = example("all well"), example("all well")
    first["recent"]["messages"].clear()
    assert second["recent"]["messages"]
    assert histogram((0.1, 1)) == {"buckets": [0] * 9 + [1] + [0] * 5, "sum": 0.1}
    assert second["time"] == NOW
