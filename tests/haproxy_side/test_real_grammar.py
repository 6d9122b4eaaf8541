"""HAProxy itself splits lines, evaluates conditions and divides files as the grammar does."""

from __future__ import annotations

import os
import random
import re
import subprocess
from pathlib import Path

import pytest

from spoa_twisted.haproxy.grammar.branches import words_for
from spoa_twisted.haproxy.grammar.documents import parse_lines
from spoa_twisted.haproxy.grammar.lines import Line
from spoa_twisted.haproxy.grammar.predicates import evaluate
from tests.haproxy.branches import Branch
from tests.haproxy_side.test_predicates import ENVIRONMENT as CONDITIONS
from tests.haproxy_side.test_predicates import KNOWN, REFUSED, STRSTR
from tests.haproxy_side.test_words import ENVIRONMENT, PIECES

#: Random lines of a test. HAProxy reads no more of a file after 50 errors.
LINES, PER_FILE = 90, 45

#: HAProxy reads the first lines twice, in a buffer that grows, and does not find "}" behind "${X-" the second time.
LONG_LINE = f"# {'x' * 1000}\n"


def run(branch: Branch, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run HAProxy to its end."""
    command = [str(branch.executable), *arguments]
    environment = ENVIRONMENT | CONDITIONS | {"PATH": os.environ["PATH"]}
    return subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, errors="replace", timeout=30, check=False
    )


def check(branch: Branch, folder: Path, text: str) -> str:
    """Return what HAProxy prints about a configuration."""
    (folder / "f").write_text(LONG_LINE + text, newline="")
    return run(branch, "-c", "-f", "f", folder=folder).stderr


def printed(branch: Branch, folder: Path, lines: list[str]) -> list[str]:
    """Return the errors that HAProxy prints about lines."""
    found = dict(re.findall(r"parsing \[f:(\d+)\]: (.*)", check(branch, folder, "\n".join(lines) + "\n")))
    return [found.get(str(number), "") for number in range(2, len(lines) + 2)]


def parsed(lines: list[str]) -> list[Line]:
    """Return the lines as the grammar reads them, with the numbers that they have for HAProxy."""
    return list(parse_lines(LONG_LINE + "\n".join(lines) + "\n", "f", ENVIRONMENT).lines[1:])


def random_lines(seed: int) -> list[str]:
    """Return lines whose first three words HAProxy prints, or why it refuses the line."""
    generator = random.Random(seed)
    lines: list[str] = []
    while len(lines) < LINES:
        line = ".notice x" + "".join(generator.choices([*PIECES, " ", '"', '"'], k=generator.randint(1, 9)))
        (read,) = parsed([line])
        # HAProxy prints the second argument of .notice, because it takes one. Some branches refuse empty words.
        if read.error or (len(read.words) > 2 and all(word.text for word in read.words)):
            lines.append(line)
    return lines


def test_words(branch: Branch, tmp_path: Path) -> None:
    """HAProxy reads the same words, and refuses the same lines."""
    lines = random_lines(branch.version[0] * 100 + branch.version[1])
    # HAProxy 3.1 and later read the files twice, and do not come to the second time after the first kind of error.
    refused = [text for text, line in zip(lines, parsed(lines), strict=True) if line.error]
    accepted = [text for text in lines if text not in refused]
    for part in (refused[:PER_FILE], accepted[:PER_FILE]):
        for line, answer in zip(parsed(part), printed(branch, tmp_path, part), strict=True):
            if line.error:
                assert re.search("unmatched|hexadecimal|forbidden first char|truncated or invalid word", answer), line
            else:
                assert re.match("Unexpected argum", answer), line
                assert f"'{line.words[2].text}' for" in answer, line


def test_unset_variables(branch: Branch, tmp_path: Path) -> None:
    """HAProxy reads the same words of a line with variables that are not set, or refuses the line."""
    lines = ['a"$UNSET" x', 'a"$UNSET"x y', '"$UNSET" x', '"$UNSET x" y']
    for line, answer in zip(parsed(lines), printed(branch, tmp_path, lines), strict=True):
        words = words_for(line.words, branch.version)
        assert not words or f"'{words[0].text}'" in answer


def test_conditions(branch: Branch, tmp_path: Path) -> None:
    """HAProxy gives the same values to conditions."""
    texts = [*KNOWN, *(STRSTR if branch.version >= (2, 8) else {})]
    found: list[int] = []
    expected = []
    for start in range(0, len(texts), PER_FILE):
        part = range(start, min(start + PER_FILE, len(texts)))
        blocks = [f".if {texts[number]}\nv{number}\n.endif\n" for number in part]
        answer = check(branch, tmp_path, "global\n" + "".join(blocks))
        found += map(int, re.findall("unknown keyword 'v([0-9]+)'", answer))
        # HAProxy splits the line into words first, and then joins them with spaces.
        lines = parsed([f".if {texts[number]}" for number in part])
        conditions = (" ".join(word.text for word in line.words[1:]) for line in lines)
        values = [evaluate(text, branch.version, CONDITIONS) for text in conditions]
        expected += [number for number, value in zip(part, values, strict=True) if value]
    assert found == expected


@pytest.mark.soak
def test_refused_conditions(branch: Branch, tmp_path: Path) -> None:
    """HAProxy refuses the same conditions. It is started for each of them."""
    for text in REFUSED:
        answer = run(branch, "-cc", text, folder=tmp_path)
        assert answer.returncode == 2, text
    assert run(branch, "-cc", "1", folder=tmp_path).returncode == 0


def test_blocks(branch: Branch, tmp_path: Path) -> None:
    """HAProxy reads the same lines of blocks."""
    text = "global\n.if 0\n a\n.nope\n.if nope\n b\n.endif\n.elif 1\n d\n.elif nope\n e\n.else\n f\n.endif\n"
    assert re.findall("unknown keyword '(.)'", check(branch, tmp_path, text)) == ["d"]


def test_errors_in_blocks(branch: Branch, tmp_path: Path) -> None:
    """HAProxy splits lines into words, and finds errors, in branches that do not count, too."""
    assert "unmatched quote" in check(branch, tmp_path, ".if 0\n a 'x\n.endif\n")


def test_scopes(branch: Branch, tmp_path: Path) -> None:
    """HAProxy reads the lines of reopened scopes as the same sections."""
    engine = (
        ".if 0\n[e]\n.endif\nspoe-agent a\n[o]\n nonsense\n[e] # again\n use-backend b\n[o]\nspoe-message o\n"
        " nonsense\n[e]\nspoe-message m\n[o]\n args x=nope\n[e]\n args x=nope2\n"
    )
    (tmp_path / "e").write_text(engine)
    answer = check(branch, tmp_path, "frontend f\n filter spoe engine e config e\nbackend b\n")
    assert re.findall("unknown [a-z ]*'([a-z0-9]+)'", answer) == ["nope2"]
