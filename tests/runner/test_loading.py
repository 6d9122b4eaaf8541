"""``load``: from the text after ``--handlers`` to the handlers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.runner.loading import load


class TestLoad:
    @pytest.mark.parametrize(
        "specification",
        ["mymod", "mymod:handlers", "mymod:other", "pkg.inner", "pkg.inner:other", "mymod.py", "./mymod.py:other"],
    )
    def test_handlers_are_found(self, folder: Path, specification: str) -> None:
        """``load`` finds handlers by module or file, under the name handlers or another, in the current folder."""
        handlers = load(specification)
        assert IHandlers.providedBy(handlers)
        assert list(handlers) == (["n"] if specification.endswith("other") else ["m"])  # type: ignore[call-overload]

    def test_a_file_may_be_anywhere(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file in another folder is loaded, and can import the modules beside it."""
        monkeypatch.chdir("/")
        (folder / "user.py").write_text("from mymod import other as handlers\n")
        assert list(load(f"{folder}/user.py")) == ["n"]  # type: ignore[call-overload]

    def test_a_file_is_run_once(self, folder: Path) -> None:
        """A file that is loaded several times, by its path or as a module, is executed only once."""
        (folder / "counted.py").write_text(
            "import sys\nsys.counted = getattr(sys, 'counted', 0) + 1\nfrom mymod import handlers, other\n"
        )
        for specification in ("counted.py", "./counted.py:other", "counted", "counted.py"):
            load(specification)
        assert vars(sys).pop("counted") == 1

    def test_a_file_may_be_called_like_a_module(self, folder: Path) -> None:
        """A file with the name of an imported module, here ``string``, does not replace that module."""
        import string

        load("files/string.py")
        assert sys.modules["string"] is string

    def test_a_module_of_the_standard_library_comes_first(self, folder: Path) -> None:
        """Python has imported its own ``token`` already. The error says how to name the user's file."""
        (folder / "token.py").write_text("from mymod import handlers\n")
        with pytest.raises(CannotStart, match=r"^spoa: the module 'token' is the standard library's .* ./token.py$"):
            load("token")
        assert list(load("./token.py")) == ["m"]  # type: ignore[call-overload]

    @pytest.mark.parametrize(
        ("specification", "text"),
        [
            ("missing", "cannot import missing: ModuleNotFoundError: No module named 'missing'"),
            ("missing.py", "cannot import missing.py: FileNotFoundError"),
            ("./pkg", "cannot import ./pkg: ImportError"),
            ("raises", r"cannot import raises: LookupError: boom \(.*raises.py, line 3\)"),
            ("raises.py", r"cannot import raises.py: LookupError: boom \(.*raises.py, line 3\)"),
            ("star", r"cannot import star: .*\(.*star.py, line 3\)"),
            ("twice", r"cannot import twice: .*\(.*twice.py, line 3\)"),
            ("scope", r"cannot import scope: .*\(.*scope.py, line 3\)"),
            ("client", r"cannot import client: .*\(.*client.py, line 3\)"),
            ("reads", r"cannot import reads: FileNotFoundError: .*\(.*reads.py, line 3\)"),
            ("deep", r"cannot import deep: ModuleNotFoundError: .*\(.*deep.py, line 3\)"),
            ("leaves", "cannot import leaves: SystemExit: 0"),
            ("lines", "cannot import lines: LookupError: one two"),
            ("interrupts", "cannot import interrupts: KeyboardInterrupt: "),
            ("stand_in", "stand_in has no 'handlers'; it has: anything"),
            ("lazy", "lazy has no 'handlers'"),
            ("syntax", r"cannot import syntax: SyntaxError: .*syntax.py, line 1"),
            ("mymod:missing", "mymod has no 'missing'; it has: handlers, other"),
            ("empty", "empty has no 'handlers'; it has: nothing"),
            ("mymod:number", "'number' of mymod is not Handlers, but of the type int"),
            ("wrong", "'handlers' of wrong is not Handlers, but of the type dict"),
            ("", "cannot import : "),
            ("mymdo", "cannot import mymdo: ModuleNotFoundError: No module named 'mymdo'; did you mean mymod.?$"),
            ("json:loads", r"the module 'json' is the standard library's \(.*\); give your module another name"),
        ],
    )
    def test_a_failed_load_is_one_line(self, folder: Path, specification: str, text: str) -> None:
        """If handlers cannot be loaded, ``load`` raises a SystemExit whose text is one line with the reason."""
        with pytest.raises(CannotStart, match=f"^spoa: {text}") as caught:
            load(specification)
        assert isinstance(caught.value, SystemExit)
        assert "\n" not in str(caught.value)
