"""The manual pages, the reference page and the completion of shells: they are what the parsers of today say."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from glob import glob
from pathlib import Path

import pytest

from spoa_twisted import ctl, tap
from spoa_twisted.ctl import COMMANDS
from spoa_twisted.limits import LIMITS
from tests.examples.example import require_program
from tests.program_pages import manual, reference
from tests.program_pages.files import FOLDERS, MANUAL, texts
from tests.program_pages.programs import Program, programs
from tests.programs import ENVIRONMENT, ROOT, SPOACTL, TWISTD

PROGRAMS = programs()
NAMES = [program.name for program in PROGRAMS]


def test_the_files_are_up_to_date() -> None:
    """Each file has the text that is made now, and no other file is in the folders."""
    wanted = texts()
    for path, text in wanted.items():
        assert path.read_text("utf-8") == text, f"{path}: run: python -m tests.program_pages"
    for folder, pattern in FOLDERS.items():
        assert {path for path in folder.glob(pattern) if path.is_file()} == {
            path for path in wanted if path.parent == folder
        }


def test_the_package_installs_the_files() -> None:
    """setup.cfg names all of them, but for the page of the documentation."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = [pattern for value in setup["options.data_files"].values() for pattern in value.split()]
    installed = {Path(path) for pattern in patterns for path in glob(str(ROOT / pattern))}
    assert installed == {path for path in texts() if path.suffix != ".rst"}


@pytest.mark.parametrize("program", PROGRAMS, ids=NAMES)
def test_the_help_fits_80_columns(program: Program) -> None:
    """Nothing is wider than a terminal of 80 columns, also when the help goes to a pipe and COLUMNS is not set."""
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "COLUMNS"}
    command = [*(SPOACTL if program.words[0] == "spoactl" else TWISTD), *program.words[1:], "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []
    assert re.search(r"(?m)^exit status:\n  0  ", done.stdout)
    assert re.search(rf"(?m)^examples:\n  ({program.name}|twistd -n spoa)\b", done.stdout)


@pytest.mark.parametrize(
    "program", [["-m", "twisted"], ["-c", "from twisted.application.twist._twist import Twist; Twist.main()"]]
)
def test_the_help_of_twist_fits_80_columns(program: list[str]) -> None:
    """Twisted's own first line would be longer."""
    environment = {**ENVIRONMENT, "COLUMNS": "80"}
    command = [sys.executable, *program, "spoa", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "--handlers=MODULE" in done.stdout
    assert [line for line in done.stdout.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("program", PROGRAMS, ids=NAMES)
def test_each_option_has_a_help(program: Program) -> None:
    """``spoactl`` describes options in words without a full stop, ``twistd spoa`` in sentences, as Twisted does."""
    for option in program.options:
        text = option.help
        if program.words[0] == "spoactl":
            assert re.fullmatch(r"([a-z]|HAProxy's).*", text), option.flags
            assert not text.endswith("."), option.flags
        else:
            assert re.fullmatch(r"[A-Z].*\.( \[default: [^\]]+\])?", text), option.flags


def test_defaults_are_named() -> None:
    """The help of an option with a default says so."""
    for command in COMMANDS.values():
        for action in command.parser()._actions:
            if action.default not in (None, False, [], {}, "==SUPPRESS==") and action.option_strings:
                assert "(default: " in str(action.help), action.option_strings
    (agent,) = [program for program in PROGRAMS if program.name == "twistd spoa"]
    defaults = {option.flags[0]: option.help.partition(" [default: ")[2].rstrip("]") for option in agent.options}
    for limit in LIMITS.values():
        assert float(defaults[f"--{limit.option}"]) == limit.default


def test_the_programs() -> None:
    """There is a page for each command, and each option of ``twistd spoa`` is in its page."""
    assert ["spoactl", *[f"spoactl {name}" for name in COMMANDS], "twistd spoa"] == NAMES
    shown = {flag for program in PROGRAMS[-1:] for option in program.options for flag in option.flags}
    assert shown == {f"--{option.rstrip('=')}" for option in tap.Options().longOpt}
    assert {name for task in ctl.TASKS.values() for name in task} == set(COMMANDS)


@pytest.mark.parametrize("path", sorted(MANUAL.glob("*.1")), ids=lambda path: str(path.name))
def test_man_finds_no_fault(path: Path) -> None:
    """groff has no warning about the page, ``man`` shows it, and mandoc finds nothing either."""
    man = require_program("man", "man-db")
    environment = {**os.environ, "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MAN_KEEP_FORMATTING": ""}
    command = [man, "--warnings", "-E", "UTF-8", "-l", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == ""
    assert "NAME\n       " + path.stem in done.stdout
    done = subprocess.run(
        [require_program("mandoc", "mandoc"), "-T", "lint", str(path)], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_escapes() -> None:
    """Signs of roff and of reStructuredText are shown as they are."""
    assert manual.escape(r"a\b --c 'd' ^") == r"a\eb \-\-c \(aqd\(aq \(ha"
    assert manual._text(".x") == [r"\&.x"]
    assert reference.markup('see "a --b", --c and -d, x_y*, a "word"s') == (
        r"see ``a --b``, ``--c`` and ``-d``, x\_y\*, a ``word``\ s"
    )
