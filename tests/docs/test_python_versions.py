"""docs/reference/python_versions.rst names the Pythons that setup.cfg and the first page name."""

from __future__ import annotations

import configparser
import re

from tests.programs import ROOT

from .pages import Page


def test_the_python_versions() -> None:
    """The table, the first page and setup.cfg name the same Pythons, and the same oldest Twisted."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    classifiers = setup["metadata"]["classifiers"]
    rows = Page("reference/python_versions").table("Tested versions")
    names = [name.split() for name, *_ in rows]
    versions = [version for name, version in names if name == "CPython"]

    assert versions == re.findall(r"Python :: (3\.\d+)$", classifiers, re.MULTILINE)
    assert {name for name, _ in names} == set(re.findall(r"Implementation :: (\w+)$", classifiers, re.MULTILINE))
    assert setup["options"]["python_requires"] == f">={versions[0]}"
    first = " ".join(Page("index").text.split())
    assert f"It needs Python {versions[0]} or newer," in first
    pypys = " and ".join([version for name, version in names if name == "PyPy"])
    assert f"CPython {versions[0]} to {versions[-1]}, PyPy {pypys}, and Twisted 22.4 to " in first
    assert "twisted>=22.4" in setup["options"]["install_requires"].split()

    for (_, version), (_, tested, ends, dropped) in zip(names, rows, strict=True):
        assert tested.startswith(f"{version}.")
        assert (ends, dropped) == ("open", "open") or int(dropped) == int(ends.split()[1]) + 1
