"""A directive for Sphinx that documents an interface of zope.interface: autodoc knows only classes.

``.. interface:: spoa_twisted.IHandlers`` makes the entry from the docstrings of the interface and its members.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from zope.interface.interface import InterfaceClass, Method


class InterfaceDirective(SphinxDirective):
    """The directive. Its argument is the full name of the interface."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the entry."""
        module, _, name = self.arguments[0].rpartition(".")
        interface = getattr(import_module(module), name)
        return self.parse_text_to_nodes("\n".join(described(self.arguments[0], interface)))


def described(name: str, interface: InterfaceClass) -> Iterator[str]:
    """Yield the lines of the entry, as reStructuredText."""
    # After an automodule, Sphinx would put the name of that module in front.
    yield ".. py:currentmodule:: None"
    yield ""
    yield f".. py:class:: {name}"
    # The code refers to the interface by the module that defines it.
    canonical = f"{interface.__module__}.{interface.__name__}"
    if canonical != name:
        yield f"   :canonical: {canonical}"
    yield ""
    yield from _indented(interface, 1)
    for member_name, member in interface.namesAndDescriptions():
        if isinstance(member, Method):
            yield f"   .. py:method:: {member_name}{member.getSignatureString()}"
        else:
            yield f"   .. py:attribute:: {member_name}"
        yield ""
        yield from _indented(member, 2)


def _indented(documented: Any, depth: int) -> Iterator[str]:
    for line in inspect.cleandoc(documented.__doc__ or "").splitlines():
        yield f"{'   ' * depth}{line}".rstrip()
    yield ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directive to Sphinx."""
    app.add_directive("interface", InterfaceDirective)
    return {"parallel_read_safe": True}
