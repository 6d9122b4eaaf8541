"""The code blocks and the tables of the pages in ``docs/``, and which of the blocks a test runs."""

from __future__ import annotations

import functools

import pytest
from docutils import nodes
from docutils.core import publish_doctree
from docutils.parsers.rst import roles

from tests import readme_commands
from tests.programs import ROOT

DOCS = ROOT / "docs"

# Sphinx knows these roles, docutils does not.
for _role in ("doc", "ref", "term", "class", "meth", "func", "mod"):
    roles.register_generic_role(_role, nodes.literal)


def read(text: str) -> nodes.document:
    """Return a text as docutils reads it. An error or a warning of docutils is an exception."""
    settings = {"halt_level": 2, "report_level": 2, "syntax_highlight": "none"}
    return publish_doctree(text, settings_overrides=settings)


class Page:
    """A page of ``docs/``.

    :param name: its path in ``docs/`` without ``.rst``.
    """

    #: The names of the blocks that tests run, by page. Importing the modules of the tests fills it.
    run_by_tests: dict[str, set[str]] = {}

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = (DOCS / f"{name}.rst").read_text("utf-8")

    @functools.cached_property
    def blocks(self) -> dict[str, str]:
        """The code blocks: a file by its name, which its first line says; others by section and number."""
        return readme_commands.named(self.text)

    def run(self, **names: str) -> pytest.MarkDecorator:
        """Give a test code blocks as arguments, and count them as run."""
        texts = [self.take(name) for name in names.values()]
        return pytest.mark.parametrize(tuple(names), [texts], ids=[self.name])

    def take(self, name: str) -> str:
        """Return a code block that the calling test runs."""
        self.run_by_tests.setdefault(self.name, set()).add(name)
        return self.blocks[name]

    def table(self, section: str) -> list[list[str]]:
        """Return the rows, without the head, of the table in a section: the text of each cell."""
        body = self._section(section).next_node(nodes.tbody)
        return [[entry.astext() for entry in row.findall(nodes.entry)] for row in body.findall(nodes.row)]

    def definitions(self, section: str) -> list[tuple[str, list[str], str]]:
        """Return the list of definitions in a section: the term, what stands behind it, and the definition."""
        return [
            (
                item.next_node(nodes.term).astext(),
                [classifier.astext() for classifier in item.findall(nodes.classifier)],
                item.next_node(nodes.definition).astext(),
            )
            for item in self._section(section).next_node(nodes.definition_list).findall(nodes.definition_list_item)
        ]

    def _section(self, section: str) -> nodes.Element:
        doctree = read(self.text)
        # The title of a page with a single section is the title of the document.
        for part in [doctree, *doctree.findall(nodes.section)]:
            if part.next_node(nodes.title).astext() == section:
                return part
        raise AssertionError(f"{self.name} has no section {section!r}")
