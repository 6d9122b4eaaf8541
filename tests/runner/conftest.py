"""Fixtures: a folder with modules of handlers, and programs that run in it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from spoa_twisted.tap import Options
from tests.programs import Program

MODULE = """\
from spoa_twisted import Handlers

handlers = Handlers()
other = Handlers()

@handlers.message("m")
def m():
    return {"sess.file": __name__}

@other.message("n")
def n():
    return {"sess.n": 2}

number = 42
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with modules of handlers, good and bad ones. It is the current folder of the test."""
    (tmp_path / "mymod.py").write_text(MODULE)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "inner.py").write_text("from mymod import handlers, other\n")
    (tmp_path / "raises.py").write_text("import os\n\nraise LookupError('boom')\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(0)\n")
    (tmp_path / "lines.py").write_text("raise LookupError('one\\ntwo')\n")
    for name, registered in (
        ("star", "handlers.message('x')(lambda *a: None)"),
        ("twice", "handlers.message('x')(handlers.message('x')(lambda: None))"),
        ("scope", "handlers.message('x', on_error={'scope.a': 1})(lambda: None)"),
        ("client", "from twisted.internet import endpoints, reactor; endpoints.clientFromString(reactor, 'x:1')"),
        ("reads", "import pathlib; pathlib.Path('no-such-file').read_text()"),
        ("deep", "import importlib; importlib.import_module('missing')"),
    ):
        (tmp_path / f"{name}.py").write_text(
            f"from spoa_twisted import Handlers\nhandlers = Handlers()\n{registered}\n"
        )
    (tmp_path / "interrupts.py").write_text("raise KeyboardInterrupt\n")
    (tmp_path / "stand_in.py").write_text(
        "class _StandIn:\n    def __getattr__(self, name): raise RuntimeError('not there yet')\nanything = _StandIn()\n"
    )
    (tmp_path / "own.py").write_text(
        "from zope.interface import implementer\n"
        "from spoa_twisted import IHandlers\n"
        "@implementer(IHandlers)\n"
        "class Own:\n"
        "    def respond(self, messages, max_size, reactor, timeout, outcomes): return b''\n"
        "    def refuse(self, names, max_size): return b''\n"
        "handlers = Own()\n"
    )
    (tmp_path / "lazy.py").write_text("def __getattr__(name): raise LookupError(name)\n")
    (tmp_path / "syntax.py").write_text("def 1\n")
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "nothing.py").write_text("from spoa_twisted import Handlers\nhandlers = Handlers()\n")
    (tmp_path / "wrong.py").write_text("handlers = {}\n")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "string.py").write_text("from spoa_twisted import Handlers\nhandlers = Handlers()\n")
    monkeypatch.chdir(tmp_path)
    # The current folder is removed from sys.path, because ``load`` has to add it. The list is a new one, so that what
    # ``load`` adds does not stay after the test.
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", os.getcwd())])
    modules = set(sys.modules)
    yield tmp_path
    # The next test has modules of the same names in another folder.
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def options(*arguments: str) -> Options:
    """Return the options of ``twistd spoa`` that ``arguments`` set."""
    parsed = Options()
    parsed.parseOptions(arguments)
    return parsed


Start = Callable[..., Program]


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Starts a command in the folder, and kills it after the test."""
    with ExitStack() as programs:
        yield lambda *command: programs.enter_context(Program(command, cwd=folder))
