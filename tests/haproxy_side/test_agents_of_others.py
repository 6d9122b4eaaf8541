"""The checks say nothing wrong about correct configurations of other agents."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from spoa_twisted.handlers.declaration import Declaration
from spoa_twisted.haproxy import checks
from spoa_twisted.haproxy.answers import Answer, Answers
from tests.haproxy.branches import Branch

from .agents_of_others import ALL
from .configurations import NEW, OLD, Files

#: Seconds for ``haproxy -c``. The limit only ends a HAProxy that hangs.
CHECK_LIMIT = 20

#: The types of variables, of which some are in the configurations, and a name without a scope.
SETS = {"txn.code": int, "txn.allowed": bool, "sess.score": str | None, "req.x": None, "proc.hits": int, "x": int}

#: The ids of warnings that are right. The bouncer lets requests pass when it fails, because its user wants it so.
#: The others read only the last part of a header.
RIGHT = {
    "bouncer": {"fail-open", "error-unread"},
    **{name: {"header-commas"} for name in ("sign-on", "subrequest", "tokens", "robots")},
}


@pytest.mark.parametrize("version", [OLD, NEW], ids=["old", "new"])
@pytest.mark.parametrize("name", ALL)
def test_no_false_alarm(name: str, version: tuple[int, int]) -> None:
    lines = ALL[name].found(checks, version=version)
    ids = {line.rpartition("[")[2].rstrip("]") for line in lines if ": info: " not in line}
    assert ids == RIGHT.get(name, set()), lines


@pytest.mark.soak  # it starts HAProxy for each configuration
@pytest.mark.parametrize("name", ALL)
def test_haproxy_accepts(name: str, branch: Branch, tmp_path: Path) -> None:
    """The configurations are of some use for the other test only if HAProxy accepts them."""
    ALL[name].write(tmp_path)
    # HAProxy looks for the second file of an engine in its working folder, also with "default-path config".
    command = [str(branch.executable), "-q", "-c", "-f", "haproxy.cfg"]
    subprocess.run(command, cwd=tmp_path, timeout=CHECK_LIMIT, check=True)


@pytest.mark.soak  # about a thousand configurations
@pytest.mark.parametrize("name", ALL)
def test_no_exception(name: str) -> None:
    """The checks also run on configurations that lack a line or a word."""
    files = ALL[name]
    assert files.haproxy is not None
    answer = Answer("", "agent.handler", (), False, True, 0, ("txn.error",), Declaration(), SETS)
    for answers in (None, Answers({}, answer)):
        for spoe in damaged(files.spoe):
            replace(files, spoe=spoe).found(checks, answers=answers)
        for haproxy in damaged(files.haproxy):
            Files(files.spoe, haproxy).found(checks, answers=answers)


def damaged(text: str) -> list[str]:
    """Return the text without each of its lines, and without the last word of each line."""
    lines = text.splitlines(keepends=True)
    texts = []
    for index, line in enumerate(lines):
        shorter = line.rstrip().rpartition(" ")[0] + "\n"
        texts += ["".join([*lines[:index], *instead, *lines[index + 1 :]]) for instead in ([], [shorter])]
    return texts
