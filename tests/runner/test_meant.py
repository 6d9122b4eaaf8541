"""The module or file that the user may have meant."""

from __future__ import annotations

import json
import re
import string
import sys
from pathlib import Path
from types import ModuleType

import pytest

from spoa_twisted import Handlers
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.runner.loading import load
from spoa_twisted.runner.meant import find_meant, find_misspelt, find_other_module


def missing(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    ("source", "error", "meant"),
    [
        ("mymdo", missing("mymdo"), "mymod"),
        ("pkg.iner", missing("pkg.iner"), "pkg.inner"),
        ("pgk.inner", missing("pgk"), ""),
        ("mymod", missing("other"), ""),
        ("mymod", LookupError("mymod"), ""),
        ("json.loads", missing("json.loads"), "json:loads"),
        ("xyzzy", missing("xyzzy"), ""),
        ("nowhere.mymod", missing("nowhere"), ""),
        ("mymdo.py", FileNotFoundError(), "mymod.py"),
        ("./pkg/iner.py", FileNotFoundError(), "pkg/inner.py"),
        ("./mymod", ImportError(), "mymod.py"),
        ("pkgs.py", FileNotFoundError(), ""),
        ("./pkg", ImportError(), "pkg"),
        ("./files", ImportError(), ""),
        ("nowhere/mymod.py", FileNotFoundError(), ""),
        ("mymod.py", LookupError(), ""),
    ],
)
def test_a_similar_module_or_file_is_found(folder: Path, source: str, error: Exception, meant: str) -> None:
    """It exists. A module that raises an error itself was meant."""
    assert find_meant(source, error) == (f"; did you mean {meant}?" if meant else "")


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("@handlers.message('x', evnt='on-client-session')", "event"),
        ("@handlers.message('x', onerror={})", "on_error"),
        ("@handlers.default(time_out=1)", "timeout"),
        ("@handlers.mesage('x')", "message"),
        ("@Handlers(defualt=None)", "default"),
    ],
)
def test_a_misspelt_option_or_method(folder: Path, line: str, meant: str) -> None:
    """Python 3.13 and newer says which option was meant, in its own words."""
    path = folder / "misspelt.py"
    path.write_text(f"from spoa_twisted import Handlers\nhandlers = Handlers()\n{line}\ndef check(): ...\n")
    with pytest.raises(CannotStart) as raised:
        load(str(path))
    assert re.search(rf"did you mean '?{meant}'?\?", raised.value.reason, re.IGNORECASE)
    assert raised.value.reason.count("id you mean") == 1


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("no name, and no object"),
        AttributeError("of another object", name="mesage", obj=object()),
        AttributeError("nothing is similar", name="xyzzy", obj=Handlers()),
        TypeError("Handlers.message() got an unexpected keyword argument 'xyzzy'"),
        TypeError("f() got an unexpected keyword argument 'evnt'"),
        LookupError("mesage"),
    ],
)
def test_other_errors_have_no_hint(error: Exception) -> None:
    assert find_misspelt(error) == ""


class TestOtherModule:
    def test_a_file_of_the_same_name(self, folder: Path) -> None:
        """``string.py`` is in the current folder, but Python has imported its own module of that name."""
        (folder / "string.py").write_text("")
        text = find_other_module("string", string)
        assert text == (
            f"the module 'string' is the standard library's ({string.__file__}); name your file: --handlers ./string.py"
        )
        assert find_other_module("./string.py", string) == ""

    def test_a_module_of_the_standard_library(self, folder: Path) -> None:
        """The user has no file of that name. A module that is built into Python has no file at all."""
        expected = f"the module 'json' is the standard library's ({json.__file__}); give your module another name"
        assert find_other_module("json", json) == expected
        assert "(built into Python)" in find_other_module("sys", sys)

    def test_an_installed_module_of_the_same_name(self, folder: Path) -> None:
        """It was imported from another folder, for example by a plugin of Twisted."""
        other = ModuleType("mymod")
        other.__file__ = str(folder / "files" / "string.py")
        assert find_other_module("mymod", other).endswith("string.py); name your file: --handlers ./mymod.py")

    def test_the_users_own_module(self, folder: Path) -> None:
        """It is the file in the current folder, or the user's package has another name than modules of Python."""
        own = ModuleType("mymod")
        own.__file__ = str(folder / "mymod.py")
        assert find_other_module("mymod", own) == ""
        assert find_other_module("installed", ModuleType("installed")) == ""
