"""The status as a page of HTML, for a browser on a desk or a phone.

The page needs no script, no image and no other file, so its Content-Security-Policy forbids them all. Every text goes
through :mod:`twisted.web.template`, which escapes it.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.web.template import Tag, flattenString, tags

from spoa_twisted.status.report import Status
from spoa_twisted.status.verdict import Finding, Level, Verdict
from spoa_twisted.status.view import NOTHING, Cell, Figure, Table, View, view

#: Seconds between two loads of the page. Each one makes the agent, or all of its workers, report.
REFRESH: Final = 5

#: The value of the header Content-Security-Policy. It is in the page too, so that it also applies to a saved page.
CONTENT_SECURITY_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"

# Signs in the title of the page. A browser shows them in the tab, in colour. They differ in shape too, because not
# everybody sees the colours.
_SIGNS: Final = {Level.OK: "\N{WHITE HEAVY CHECK MARK}", Level.WARNING: "\N{WARNING SIGN}\ufe0f"}
_SIGNS[Level.CRITICAL] = "\N{CROSS MARK}"

# The word for each level, so that no colour is needed to know it.
_WORDS: Final = {
    Level.OK: "OK",
    Level.NOTE: "Note",
    Level.WARNING: "Warning",
    Level.CRITICAL: "Critical",
}

# The marks, in a square of 24 by 24: a ring with a check, a triangle with an exclamation mark, an octagon with a cross,
# and a dot.
_MARKS: Final = {
    Level.OK: "M12 2a10 10 0 1 0 0 20a10 10 0 1 0 0-20zM7 12.5l3.5 3.5l6.5-7.5",
    Level.NOTE: "M12 8a4 4 0 1 0 0 8a4 4 0 1 0 0-8z",
    Level.WARNING: "M12 2.5L23 21.5H1zM12 9v6M12 17.5v1.5",
    Level.CRITICAL: "M8 2h8l6 6v8l-6 6H8l-6-6V8zM8.5 8.5l7 7M15.5 8.5l-7 7",
}

# No ">" and no "&" may be in it: they would be escaped. Each pair of colours has a contrast of 4.5 or more, as WCAG 2
# demands. A table that is wider than the window becomes a list of its rows.
_STYLE: Final = """
:root{color-scheme:light dark;--bg:#fcfcfb;--fg:#1b1d20;--dim:#5c636b;--line:#e3e4e2;--well:#1d6b40;--well-bg:#eaf4ee;
--warn:#7a4d00;--warn-bg:#ffe9b8;--bad:#b01c17;--bad-fg:#fff;--bad-bg:#b01c17}
@media(prefers-color-scheme:dark){:root{--bg:#15171a;--fg:#e4e6e8;--dim:#9aa2ab;--line:#2b2f34;--well:#74cf9b;
--well-bg:#15251c;--warn:#ffc95c;--warn-bg:#3a2b05;--bad:#ff8a80;--bad-fg:#fff;--bad-bg:#b3261e}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:76rem;padding:1rem 1.5rem 3rem;background:var(--bg);color:var(--fg);
font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",sans-serif;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
header{display:flex;flex-wrap:wrap;gap:0 1.5rem;justify-content:space-between;color:var(--dim);font-size:.87rem}
h1{display:flex;gap:.9rem;align-items:center;margin:.6rem 0 1rem;padding:.9rem 1.1rem;border-radius:.5rem;
font-size:1.55rem;line-height:1.25;font-weight:600}
h1 svg{width:2.1rem;height:2.1rem;flex:none}
h1.ok{background:var(--well-bg);color:var(--well)}
h1.warning{background:var(--warn-bg);color:var(--warn)}
h1.critical{background:var(--bad-bg);color:var(--bad-fg)}
h2{margin:2rem 0 .35rem;font-size:1rem;font-weight:600}
svg{fill:none;stroke:currentColor;stroke-width:2;stroke-linecap:round;stroke-linejoin:round}
.word{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden;white-space:nowrap}
.figures{display:flex;flex-wrap:wrap;gap:.4rem 2rem;margin:0 0 0 1.1rem}
.figures div{display:flex;flex-direction:column-reverse;justify-content:flex-end}
.figures dt{color:var(--dim);font-size:.8rem}
.figures dd{margin:0;font-size:1.2rem;font-weight:500;white-space:nowrap}
.problems{margin:0;padding:0;list-style:none;border-top:1px solid var(--line)}
.problems li{display:grid;grid-template-columns:1.1rem 1fr;gap:0 .7rem;padding:.5rem 0;
border-bottom:1px solid var(--line)}
.problems svg{width:1.1rem;height:1.1rem;margin-top:.15rem}
.problems .what{font-weight:600}
.problems .note .what{font-weight:400}
.problems .text{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace;font-size:.87rem}
.problems .often,.none,caption,.hint{color:var(--dim);font-size:.87rem}
.problems div{grid-column:2}
.problems svg,.problems .mark{grid-column:1;grid-row:1}
table{width:100%;border-collapse:collapse}
th{color:var(--dim);font-size:.8rem;font-weight:400;text-align:left;vertical-align:bottom}
th,td{padding:.35rem 1.4rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:baseline}
th:last-child,td:last-child{padding-right:0}
th:first-child{width:22%}
.number,thead .number{width:1%;text-align:right;white-space:nowrap}
tbody th{color:inherit;font-size:inherit;font-weight:500}
tbody .note{color:var(--dim);font-weight:400}
tbody .warning,.figures .warning,.problems .warning .mark{color:var(--warn);font-weight:600}
tbody .critical,.figures .critical,.problems .critical .mark{color:var(--bad);font-weight:600}
.problems .note .mark{color:var(--dim)}
.hint,.none{margin:.35rem 0}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1.4rem;margin:0}
.facts dt{color:var(--dim)}
.facts dd{margin:0}
@media(max-width:900px){
body{padding:.7rem .9rem 2rem}
h1{font-size:1.2rem;padding:.7rem .8rem;gap:.7rem}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(4.6rem,1fr));gap:.6rem .8rem;margin:0}
.figures dd{font-size:1.05rem;white-space:normal}
thead{position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
table,tbody{display:block}
tr{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;padding:.5rem 0;border-bottom:1px solid var(--line)}
th,td,th:last-child,th:first-child,td.number{width:auto;padding:0;border:0}
tbody th{flex-basis:100%}
td:before{content:attr(data-title) " ";color:var(--dim);font-weight:400;font-size:.87rem}
td.nothing{display:none}
.facts{display:block}
.facts dd{margin-bottom:.5rem}
}
"""


def render(status: Status) -> bytes:
    """Return the page of ``status``, in UTF-8."""
    pages: list[bytes] = []
    # Nothing in the page is a Deferred, so flattenString ends before it returns.
    flattenString(None, _page(view(status))).addCallback(pages.append)
    return b"<!DOCTYPE html>\n" + pages[0]


def _page(shown: View) -> Tag:
    verdict = shown.verdict
    return tags.html(
        tags.head(
            tags.meta(charset="utf-8"),
            tags.meta(name="viewport", content="width=device-width, initial-scale=1"),
            tags.meta(**{"http-equiv": "Content-Security-Policy", "content": CONTENT_SECURITY_POLICY}),
            tags.meta(**{"http-equiv": "refresh", "content": str(REFRESH)}),
            tags.title(f"{_SIGNS[verdict.level]} {verdict.sentence}"),
            tags.style(_STYLE),
        ),
        tags.body(
            tags.header(
                tags.span(f"SPOE agent on {shown.listen}" if shown.listen else "SPOE agent"),
                tags.span(f"{shown.time}, loads again every {REFRESH} s"),
            ),
            Tag("main")(
                _headline(verdict),
                tags.dl([_figure(figure) for figure in shown.figures], class_="figures"),
                _section("Problems", _problems(shown)),
                [_section(table.title, _table(table)) for table in shown.tables],
                _section("Agent", tags.dl([_fact(*fact) for fact in shown.facts], class_="facts")),
            ),
        ),
        lang="en",
    )


def _section(title: str, content: Any) -> Tag:
    return tags.section(tags.h2(title), content)


def _headline(verdict: Verdict) -> Tag:
    level = verdict.level
    return tags.h1(_mark(level), tags.span(_word(level), verdict.sentence), class_=level.value)


def _mark(level: Level) -> Tag:
    """Return the mark of ``level``: a shape that differs for each level."""
    return Tag("svg")(Tag("path")(d=_MARKS[level]), viewBox="0 0 24 24", **{"aria-hidden": "true"})


def _word(level: Level) -> Tag:
    """Return the word for ``level``, for screen readers. Others see the mark."""
    return tags.span(f"{_WORDS[level]}: ", class_="word")


def _figure(figure: Figure) -> Tag:
    return tags.div(tags.dt(figure.title), tags.dd(figure.text, class_=figure.level.value))


def _fact(title: str, text: str) -> list[Tag]:
    return [tags.dt(title), tags.dd(text)]


def _problems(shown: View) -> list[Tag]:
    if not shown.problems:
        return [tags.p("None since the start.", class_="none")]
    parts = [tags.ol([_problem(finding, often) for finding, often in shown.problems], class_="problems")]
    if shown.more_problems:
        parts.append(tags.p(f"{shown.more_problems:,} more are in /status.json.", class_="hint"))
    return parts


def _problem(finding: Finding, often: str) -> Tag:
    parts: list[Any] = [
        tags.span(_mark(finding.level), class_="mark"),
        tags.div(_word(finding.level), finding.what, class_="what"),
    ]
    if finding.text:
        parts.append(tags.div(finding.text, class_="text"))
    if finding.hint:
        parts.append(tags.div(finding.hint))
    if often:
        parts.append(tags.div(often, class_="often"))
    return tags.li(parts, class_=finding.level.value)


def _table(table: Table) -> list[Tag]:
    if not table.rows:
        return [tags.p(table.empty, class_="none")]
    # On a narrow window the parts of the table are no table boxes, and browsers would not tell screen readers about
    # rows and cells without these roles.
    columns = table.columns
    head = [_cell(tags.th, Cell(each.title), each.is_number, role="columnheader", scope="col") for each in columns]
    rows = []
    for row in table.rows:
        cells = [_cell(tags.th, row[0], columns[0].is_number, role="rowheader", scope="row")]
        for column, cell in zip(columns[1:], row[1:], strict=True):
            cells.append(_cell(tags.td, cell, column.is_number, role="cell", **{"data-title": column.title}))
        rows.append(tags.tr(cells, role="row"))
    shown = [
        tags.table(
            tags.thead(tags.tr(head, role="row"), role="rowgroup"), tags.tbody(rows, role="rowgroup"), role="table"
        )
    ]
    if table.note:
        shown.append(tags.p(table.note, class_="hint"))
    return shown


def _cell(tag: Tag, cell: Cell, is_number: bool, **attributes: str) -> Tag:
    classes = ["number"] * is_number + [cell.level.value] * (cell.level is not Level.OK)
    classes += ["nothing"] * (cell.text == NOTHING)
    if classes:
        attributes["class"] = " ".join(classes)
    return tag(cell.text, **attributes)
