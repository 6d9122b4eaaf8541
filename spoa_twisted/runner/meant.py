"""The module or file that the user meant with ``--handlers``, and the names in it, for error texts about others."""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

from spoa_twisted.handlers.names import did_you_mean, nearest
from spoa_twisted.handlers.registry import Handlers

# Python 3.13 and newer ends this text with a similar name, if there is one.
_UNEXPECTED: Final = re.compile(r"Handlers\.(\w+)\(\) got an unexpected keyword argument '(\w+)'")


def is_file(source: str) -> bool:
    """Return whether ``source`` is the path of a file, and not the name of a module."""
    return source.endswith(".py") or os.sep in source


def find_meant(source: str, error: BaseException) -> str:
    """Return the part of an error text that says which module or file may have been meant. It may be empty.

    :param source: the name of a module, or the path of a file.
    :param error: the error that the import of ``source`` raised.
    """
    if is_file(source):
        meant = _files_like(Path(source))
    elif isinstance(error, ModuleNotFoundError) and error.name and f"{source}.".startswith(f"{error.name}."):
        meant = _modules_like(source)
    else:
        # The module exists, and has raised the error.
        meant = []
    return did_you_mean(meant)


def find_misspelt(error: BaseException) -> str:
    """Return the part of an error text that says which option or method of :class:`Handlers` may have been meant.

    :param error: the error that the import of a module raised. For other errors, the text is empty.
    """
    meant: list[str] = []
    if isinstance(error, AttributeError) and isinstance(error.obj, Handlers):
        meant = nearest(error.name or "", [name for name in dir(error.obj) if not name.startswith("_")])
    elif isinstance(error, TypeError) and (match := _UNEXPECTED.fullmatch(str(error))) is not None:
        method, option = match.groups()
        meant = nearest(option, list(inspect.signature(getattr(Handlers, method)).parameters)[1:])
    return did_you_mean(meant[:1])


def _files_like(path: Path) -> list[str]:
    if path.is_dir():
        # Packages are imported by their names.
        return [path.name] if path.parent == Path() and (path / "__init__.py").is_file() else []
    if path.exists():
        return []
    names = _modules_in(path.parent)
    paths = [path.with_name(f"{name}.py") for name in nearest(path.stem, names)]
    return [str(similar) for similar in paths if similar.is_file()]


def _modules_like(source: str) -> list[str]:
    package, _, name = source.rpartition(".")
    if package in sys.modules and hasattr(sys.modules[package], name):
        # Other programs write a dot before the attribute.
        return [f"{package}:{name}"]
    similar = nearest(name, _modules_in(Path(*package.split("."))))
    return [f"{package}.{name}" if package else name for name in similar]


def _modules_in(folder: Path) -> list[str]:
    """Return the names of the modules and packages in ``folder``."""
    try:
        return sorted(
            path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
        )
    except OSError:
        return []


def find_other_module(source: str, module: ModuleType) -> str:
    """Return an error text if ``module`` is not the user's module, but another one of the same name.

    Python finds modules that are imported already, and those of the standard library, before files in the current
    folder. The text is empty if ``source`` is a file, or if ``module`` is the user's.
    """
    if is_file(source):
        return ""
    file = getattr(module, "__file__", None) or "built into Python"
    meant = Path(*source.split(".")).with_suffix(".py")
    is_standard = source.partition(".")[0] in sys.stdlib_module_names
    if meant.is_file() and not (os.path.exists(file) and meant.samefile(file)):
        owner = "the standard library's" if is_standard else "another one"
        return f"the module {source!r} is {owner} ({file}); name your file: --handlers ./{meant}"
    if is_standard:
        return f"the module {source!r} is the standard library's ({file}); give your module another name"
    return ""
