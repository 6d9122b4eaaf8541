"""The file of ``--settings``: what an agent gets from it, and the errors, each one line, on the real programs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spoa_twisted.agents import settings
from spoa_twisted.agents.settings import (
    FLAG,
    NUMBER,
    PATH,
    PATHS,
    TEXT,
    TEXTS,
    WHOLE,
    Key,
    SettingsError,
    SettingsFile,
)
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.runner.loading import load_all
from tests.programs import ENVIRONMENT, SPOACTL, TWIST, TWISTD

KEYS = [
    Key("file", PATHS, "Files."),
    Key("word", TEXT, "A word.", "x", choices=("x", "y")),
    Key("words", TEXTS, "Words.", ()),
    Key("limit", WHOLE, "A limit.", 7, 1, 10),
    Key("seconds", NUMBER, "Seconds.", 1.5, at_least=0),
    Key("most", NUMBER, "A number.", 0, at_most=3),
    Key("strict", FLAG, "A flag.", False),
    Key("folder", PATH, "A path.", None),
]

#: A module of a user that takes settings.
MODULE = """\
from spoa_twisted import Handlers
from spoa_twisted.agents.settings import WHOLE, Key

def handlers(settings):
    limit = settings.read([Key("limit", WHOLE, "The limit.", 7, at_least=1)])["limit"]
    made = Handlers({"limit": lambda message: {"txn.limit": limit}})
    if settings.get("limit") == 13:
        raise LookupError("no thirteen")
    return None if limit == 14 else made

def other(settings):
    return Handlers({"other": lambda message: {"txn.other": settings["name"]}})
"""


def read(folder: Path, text: str) -> dict[str, object]:
    """Return what an agent with :data:`KEYS` gets from the table ``[a]`` of a file with ``text``."""
    (folder / "agents.toml").write_text(text)
    return SettingsFile(f"{folder}/agents.toml").take("a", "the agent").read(KEYS)


def test_values_and_defaults(tmp_path: Path) -> None:
    """A relative path starts at the folder of the file. A single text stands for a list of one."""
    text = '[a]\nfile = "list.txt"\nwords = ["b", "c"]\nlimit = 10\nseconds = 2\nstrict = true\nfolder = "/etc"\n'
    assert read(tmp_path, text) == {
        "file": (tmp_path / "list.txt",),
        "word": "x",
        "words": ("b", "c"),
        "limit": 10,
        "seconds": 2,
        "most": 0,
        "strict": True,
        "folder": Path("/etc"),
    }


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('[a]\nfils = "b"', ", line 2: a.fils is unknown; did you mean a.file? Allowed are file, word, words, limit, "),
        ("[a]\nxyz = 1", ", line 2: a.xyz is unknown. Allowed are file, word, "),
        ("[a]", ": a.file is missing; it is required: file, or list of files"),
        ("[a]\nfile = 3", ", line 2: a.file is 3; allowed is: file, or list of files"),
        ("[a]\nfile = []", ", line 2: a.file is an empty list; allowed is: file, or list of files"),
        ("[a]\nfile = [1]", ", line 2: a.file is 1; allowed is: file, or list of files"),
        ('[a]\nfile = ""', ', line 2: a.file is ""; allowed is: file, or list of files'),
        ('[a]\nfile = "b\\u0000"', ', line 2: a.file is "b\\x00"; allowed is: file, or list of files'),
        ('[a]\nfile = "b"\n\nword = "z"', ', line 4: a.word is "z"; allowed is: "x" or "y"'),
        ('[a]\nfile = "b"\nlimit = true', ", line 3: a.limit is true; allowed is: whole number, 1 to 10"),
        ('[a]\nfile = "b"\nlimit = 11', ", line 3: a.limit is 11; allowed is: whole number, 1 to 10"),
        ('[a]\nfile = "b"\nlimit = 2.0', ", line 3: a.limit is 2.0; allowed is: whole number, 1 to 10"),
        ('[a]\nfile = "b"\nseconds = nan', ", line 3: a.seconds is nan; allowed is: number, at least 0"),
        ('[a]\nfile = "b"\nmost = 4', ", line 3: a.most is 4; allowed is: number, at most 3"),
        ('[a]\nfile = "b"\nstrict = 1', ", line 3: a.strict is 1; allowed is: true or false"),
        ('[a]\nfile = "b"\nfolder = {}', ", line 3: a.folder is a table; allowed is: file"),
        ('[a]\nfile = "b"\nfolder = 2020-01-01', ", line 3: a.folder is a date; allowed is: file"),
        # The same key in another table does not lead to its line.
        ('[b]\nlimit = 1\n[a]\nfile = "b"\nlimit = 0', ", line 5: a.limit is 0; "),
        ("a.limit = 0\na.file = 'b'", ": a.limit is 0; "),
    ],
)
def test_a_wrong_key(tmp_path: Path, text: str, error: str) -> None:
    """The error names the file, the line if it is known, and the key. It says what is wrong and what is allowed."""
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path}/agents.toml{error}")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[a", "agents.toml is not TOML: Expected "),
        ("\udcff", "agents.toml is not TOML: byte 0 is not UTF-8"),
        ("limit = 1", "agents.toml, line 1: limit is in no table; write a line such as [blocklist] above it"),
        ("[[a]]", "agents.toml: [[a]] is a list of tables; write [a], once"),
        ("[aa]", "agents.toml has no table [a], which the agent needs; did you mean [aa]?"),
        ("[xyz]", "agents.toml has no table [a], which the agent needs; it has: [xyz]"),
        ("", "agents.toml has no table [a], which the agent needs; it has: no table"),
        ("#" * 2**20 + "\n", "agents.toml is larger than 1,048,576 bytes: is it a settings file?"),
    ],
)
def test_a_wrong_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, error: str) -> None:
    """The error is about the whole file, or about a table that is missing."""
    monkeypatch.chdir(tmp_path)
    Path("agents.toml").write_text(text, errors="surrogateescape")
    with pytest.raises(SettingsError) as caught:
        SettingsFile("agents.toml").take("a", "the agent")
    assert str(caught.value).startswith(error)


def test_without_a_reader_of_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.10 has none. The error says what to install."""
    (tmp_path / "agents.toml").touch()
    for name in ("tomllib", "tomli"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingsError, match=r'pip install "spoa_twisted\[agents\]"'):
        SettingsFile(f"{tmp_path}/agents.toml")


def test_a_key_checks_its_value(tmp_path: Path) -> None:
    """The ``check`` of a key says what is wrong with a value."""

    def check(value: str) -> None:
        if value != "DE":
            raise ValueError("write two capital letters")

    (tmp_path / "a.toml").write_text('[a]\ncountries = ["DE", "Germany"]\n')
    table = SettingsFile(f"{tmp_path}/a.toml").take("a", "the agent")
    with pytest.raises(SettingsError, match=r'a.toml, line 2: a.countries is "Germany": write two capital letters$'):
        table.read([Key("countries", TEXTS, "Codes.", check=check)])


@pytest.mark.parametrize(("value", "text"), [("x" * 99, '"' + "x" * 60 + '..."'), (10**20, "a large number")])
def test_long_values_are_shown_short(value: object, text: str) -> None:
    """An error stays one line of reasonable length."""
    assert settings._show(value) == text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a module ``limits`` that takes settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "limits", raising=False)
    (tmp_path / "limits.py").write_text(MODULE)
    return tmp_path


class TestLoad:
    @pytest.mark.parametrize("name", ["limits", "limits.py", "limits:handlers", "./limits.py:handlers"])
    def test_a_function_gets_its_table(self, folder: Path, name: str) -> None:
        """The table has the name of the module, or that of the function if it is not called handlers."""
        (folder / "a.toml").write_text("[limits]\n[other]\nname = 'x'\n")
        loaded = load_all([name, "limits:other"], "a.toml")
        assert isinstance(loaded, Handlers)
        assert list(loaded) == ["limit", "other"]

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            (
                "[limits]\nlimit = 13",
                "limits cannot make handlers from the table [limits] of a.toml: LookupError: ",
            ),
            ("[limits]\nlimit = 14", "limits returned NoneType, not Handlers"),
            (
                "[limits]\n[limit]",
                "a.toml, line 2: the table [limit] belongs to none of the --handlers; did you m",
            ),
            (
                "[limits]\n[xyz]",
                "a.toml, line 2: the table [xyz] belongs to none of the --handlers; name i",
            ),
        ],
    )
    def test_errors(self, folder: Path, text: str, error: str) -> None:
        """What the function raises or returns, and a table that nobody takes."""
        (folder / "a.toml").write_text(text)
        with pytest.raises(CannotStart) as caught:
            load_all(["limits"], "a.toml")
        assert str(caught.value).startswith(f"spoa: {error}")

    def test_without_settings(self, folder: Path) -> None:
        """The error says which option and which table are missing."""
        with pytest.raises(CannotStart, match=r"limits is a function, .* add --settings FILE with a table \[limits\]$"):
            load_all(["limits"])


#: The commands that load handlers, and what begins the line of their error.
PROGRAMS = {
    "twistd": ([*TWISTD, "-n", "spoa"], "spoa: "),
    "--check": ([*TWIST, "spoa", "--check"], "spoa: "),
    "--workers": ([*TWISTD, "-n", "spoa", "--workers=1"], "spoa: "),
    "config": ([*SPOACTL, "config"], "spoactl: "),
    "check": ([*SPOACTL, "check", "spoe.conf", "--no-haproxy"], "spoactl: "),
}
ERRORS = [
    (None, "cannot read the settings in a.toml: No such file or directory"),
    ("[limits", "a.toml is not TOML: Expected ']' at the end of a table declaration (at "),
    ("[limit]", "a.toml has no table [limits], which limits needs; did you mean [limit]?"),
    ("[limits]\n[more]", "a.toml, line 2: the table [more] belongs to none of the --handlers; name its"),
    ("[limits]\nlimit = 0", "a.toml, line 2: limits.limit is 0; allowed is: whole number, at least 1"),
    ("[limits]\nlimt = 1", "a.toml, line 2: limits.limt is unknown; did you mean limits.limit? Allowed are limit"),
]


@pytest.mark.parametrize(
    ("program", "text", "error"),
    [
        *[(program, *error) for program in ("twistd", "config") for error in ERRORS],
        *[(program, *ERRORS[-1]) for program in ("--check", "--workers", "check")],
    ],
)
def test_the_programs(folder: Path, program: str, text: str | None, error: str) -> None:
    """Each error is one line, and the exit status is 1."""
    if text is not None:
        (folder / "a.toml").write_text(text)
    (folder / "spoe.conf").write_text("[e]\nspoe-agent a\n")
    command, prefix = PROGRAMS[program]
    ended = subprocess.run(
        [*command, "--handlers=limits", "--settings=a.toml"],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith(prefix + error)
