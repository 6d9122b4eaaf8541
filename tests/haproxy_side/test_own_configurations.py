"""``spoactl check`` finds no error and no warning in the configurations of the README and of ``examples/``."""

from __future__ import annotations

from pathlib import Path

import pytest

from spoa_twisted.haproxy.answers import Answers, answers
from spoa_twisted.haproxy.checks import find
from spoa_twisted.haproxy.finding import Severity
from spoa_twisted.haproxy.joined import GENERATIONS
from spoa_twisted.haproxy.reading import read
from spoa_twisted.runner.loading import load_all
from tests.programs import ROOT
from tests.readme_commands import blocks


def problems(spoe: Path, haproxy: Path, known: Answers | None) -> list[str]:
    """Return what is worse than an info."""
    found = []
    for version in GENERATIONS:
        configuration = read([spoe], [haproxy], version=version, environment={})
        assert configuration.engines
        assert not configuration.not_read
        found += [
            f"{item.place.line}: {item.text} [{item.id}]"
            for item in find(configuration, known)
            if item.severity is not Severity.INFO
        ]
    return found


def block(head: str) -> str:
    """Return the block of the README with this first line."""
    (text,) = [block.text for block in blocks() if block.text.splitlines()[0] == head]
    return text


@pytest.mark.parametrize(("title", "module"), [("", "iprep"), (", bodies", "scan")])
def test_the_readme(title: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also compared with its handlers."""
    monkeypatch.syspath_prepend(tmp_path)
    names = {
        "spoe.conf": f"# spoe.conf{title}",
        "haproxy.cfg": f"# haproxy.cfg{title}",
        f"{module}.py": f"# {module}.py",
    }
    texts = {name: block(head) for name, head in names.items()}
    # A name that no other module has.
    texts[f"own_{module}.py"] = texts.pop(f"{module}.py")
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    files = tmp_path / "spoe.conf", tmp_path / "haproxy.cfg"
    assert problems(*files, None) == []
    assert problems(*files, answers(load_all([str(tmp_path / f"own_{module}.py")]), 1.0)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("folder", ["ip_reputation", "scale"])
def test_the_examples(folder: str) -> None:
    files = ROOT / "examples" / folder
    assert problems(files / "spoe.conf", files / "haproxy.cfg", None) == []


def test_the_container() -> None:
    """It takes the spoe.conf of ``ip_reputation``."""
    files = ROOT / "examples"
    assert problems(files / "ip_reputation" / "spoe.conf", files / "container" / "haproxy.cfg", None) == []
