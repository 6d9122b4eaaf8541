"""The how-to guides about ready-made agents say what the code does."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.runner.loading import load_all
from spoa_twisted.testing import FakeHAProxy
from tests.agents_settings import PAGE, with_tables

BLOCKLIST = PAGE.with_name("blocklist.rst")


def blocks(path: Path, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", path.read_text("utf-8"), re.MULTILINE)
    return [textwrap.dedent(block) for block in found]


def test_the_tables_are_up_to_date() -> None:
    """``python -m tests.agents_settings`` writes them."""
    text = PAGE.read_text("utf-8")
    assert text == with_tables(text)


@pytest.mark.parametrize("page", [PAGE, BLOCKLIST], ids=lambda page: page.stem)
def test_the_settings_are_right(page: Path, tmp_path: Path) -> None:
    """Each settings file of the pages can be used."""
    settings = blocks(page, "toml")
    assert settings
    for text in settings:
        (tmp_path / "agents.toml").write_text(text)
        loaded = load_all(["spoa_twisted.agents.blocklist"], f"{tmp_path}/agents.toml")
        assert isinstance(loaded, Handlers)
        assert list(loaded) == ["check-blocklist"]


@pytest.mark.parametrize(
    ("settings", "number"), [('fils = "a"', 0), ('file = "a"\ninterval = 0', 1), ("interval = 1", 2)]
)
def test_the_errors_are_right(settings: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page shows them as they are."""
    monkeypatch.chdir(tmp_path)
    Path("agents.toml").write_text(f"[blocklist]\n{settings}\n")
    (errors,) = [block for block in blocks(PAGE, "text") if "spoa: " in block]
    with pytest.raises(CannotStart) as caught:
        load_all(["spoa_twisted.agents.blocklist"], "agents.toml")
    assert str(caught.value).startswith(errors.splitlines()[number].removesuffix("..."))


def test_the_module_with_settings_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes its table, and answers."""
    monkeypatch.setattr("sys.path", [])
    (tmp_path / "scores.py").write_text(blocks(PAGE, "python")[0])
    (tmp_path / "agents.toml").write_text("[scores]\nlimit = 0\n")
    monkeypatch.delitem(__import__("sys").modules, "scores", raising=False)
    loaded = load_all([f"{tmp_path}/scores.py"], f"{tmp_path}/agents.toml")
    assert FakeHAProxy(loaded).notify("get-score", ip="192.0.2.1") == {"txn.allowed": False}
