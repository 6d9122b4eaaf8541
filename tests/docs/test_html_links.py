"""The check of links finds what is wrong."""

from __future__ import annotations

from pathlib import Path

from .html_links import faults

GOOD = '<h1 id="top">x</h1><a href="#top">x</a><a href="b.html#part">x</a><a href="https://example.com/">x</a>'


def test_good_links(tmp_path: Path) -> None:
    """Also links to other sites, which are not followed."""
    (tmp_path / "a.html").write_text(GOOD)
    (tmp_path / "b.html").write_text('<p id="part"><img src="a.html"></p>')
    assert list(faults(tmp_path)) == []


def test_faults(tmp_path: Path) -> None:
    """A page or a part that is not there, and a file of another site that a page loads."""
    (tmp_path / "a.html").write_text(
        '<a href="c.html">x</a><a href="#nothing">x</a><script src="https://example.com/x.js"></script>'
    )
    assert list(faults(tmp_path)) == [
        "a.html: loads https://example.com/x.js",
        "a.html: there is no c.html",
        "a.html: nothing in the page has the id of #nothing",
    ]
