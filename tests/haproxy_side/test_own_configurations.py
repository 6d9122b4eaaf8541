"""``spoactl check`` finds no error and no warning in the configurations of ``docs/howto`` and of ``examples/``."""

from __future__ import annotations

from pathlib import Path

import pytest

from spoa_twisted.haproxy.answers import Answers, answers
from spoa_twisted.haproxy.checks import find
from spoa_twisted.haproxy.finding import Severity
from spoa_twisted.haproxy.joined import GENERATIONS
from spoa_twisted.haproxy.reading import read
from spoa_twisted.runner.loading import load_all
from tests.docs.pages import Page
from tests.programs import ROOT


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


@pytest.mark.parametrize(("title", "page", "module"), [("", "handlers", "iprep"), (", bodies", "bodies", "scan")])
def test_the_pages(title: str, page: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also compared with its handlers."""
    monkeypatch.syspath_prepend(tmp_path)
    configuration = Page("howto/bodies" if title else "howto/haproxy_side")
    texts = {name: configuration.blocks[f"{name}{title}"] for name in ("spoe.conf", "haproxy.cfg")}
    # A name that no other module has.
    texts[f"own_{module}.py"] = Page(f"howto/{page}").blocks[f"{module}.py"]
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
