"""Checks the links of the built documentation, without a network: ``python -m tests.docs.html_links FOLDER``.

Each link to a file of the documentation, or to a part of a page, must have its target. And no page may load anything
from another site. ``nox -s docs`` runs this. It uses the standard library only.
"""

from __future__ import annotations

import html.parser
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

#: What a browser loads with a page. It follows a link, <a>, only when the reader does.
LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("object", "data")}


class Links(html.parser.HTMLParser):
    """The targets and the links of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id":
                self.targets.add(value)
            elif (tag, name) == ("a", "href"):
                self.links.append(value)
            elif (tag, name) in LOADED:
                self.loaded.append(value)


def faults(folder: Path) -> Iterator[str]:
    """Yield a line for each link without a target, and for each thing that a page loads from another site."""
    pages = {path: Links(path) for path in sorted(folder.resolve().rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        for link in page.loaded:
            if urlsplit(link).netloc:
                yield f"{name}: loads {link}"
        for link in [*page.links, *page.loaded]:
            url, fragment = urldefrag(link)
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                yield f"{name}: there is no {link}"
            elif fragment and target in pages and unquote(fragment) not in pages[target].targets:
                yield f"{name}: nothing in the page has the id of {link}"


if __name__ == "__main__":
    found = list(faults(Path(sys.argv[1])))
    sys.exit("\n".join(found) if found else 0)
