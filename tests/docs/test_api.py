"""docs/reference/api.rst has each name that the package exports."""

from __future__ import annotations

import re
from importlib import import_module

import spoa_twisted

from .pages import Page


def test_the_names() -> None:
    """By itself, or with all others of its module."""
    text = Page("reference/api").text
    documented = {
        name.rpartition(".")[2] for name in re.findall(r"^\.\. (?:auto|inter)\w+:: (\S+)$", text, re.MULTILINE)
    }
    for module in re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE):
        names = vars(import_module(module)).items()
        documented |= {name for name, value in names if getattr(value, "__module__", "") == module}
    assert set(spoa_twisted.__all__) - {"__version__"} <= documented
