"""``--handlers`` -> handlers: import the modules that the user names, and merge their handlers."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final

from twisted.python.reflect import safe_str

from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.runner.errors import CannotStart

#: The attribute of a module that holds its handlers, unless the user names another.
DEFAULT_ATTRIBUTE: Final = "handlers"

# Packages that are skipped when the place of an import error in the user's code is located.
_FRAMEWORK_PACKAGES: Final = ("importlib", "spoa_twisted", "twisted")


def load_all(specifications: Sequence[str]) -> IHandlers:
    """Load each of ``specifications`` as :func:`load` does, and merge the results.

    :raises CannotStart: if there are none, if one cannot be loaded, or if they cannot be merged.
    """
    if not specifications:
        raise CannotStart("no handlers: name the module that has them, as in --handlers mymod")
    return _merge([load(specification) for specification in specifications])


def load(specification: str) -> IHandlers:
    """Return the handlers that ``specification`` names.

    The current directory is importable afterwards, and so is the directory of a file.

    :param specification: a module or the path of a Python file, and a colon and the name of an attribute if that is
        not :data:`DEFAULT_ATTRIBUTE`: ``package.module``, ``path/to/file.py``, ``package.module:attribute``.
    :raises CannotStart: if the module cannot be imported, has no such attribute, or the attribute is not handlers.
    """
    source, _, attribute = specification.rpartition(":")
    if not source:
        source, attribute = specification, DEFAULT_ATTRIBUTE
    module = _import(source)
    try:
        handlers = getattr(module, attribute)
    except Exception:
        # The __getattr__ of a module may raise any exception.
        names = ", ".join(_names_in(module)) or "nothing"
        raise CannotStart(f"{source} has no {attribute!r}; it has: {names}") from None
    if not _is_handlers(handlers):
        raise CannotStart(f"{attribute!r} of {source} is not Handlers, but of the type {type(handlers).__name__}")
    result: IHandlers = handlers
    return result


def _import(source: str) -> ModuleType:
    _make_importable(os.getcwd())
    is_file = source.endswith(".py") or os.sep in source
    try:
        return _import_file(Path(source)) if is_file else importlib.import_module(source)
    except BaseException as error:
        # The module may also raise SystemExit or KeyboardInterrupt. The user needs the same line then.
        text = " ".join(safe_str(error).split())
        raise CannotStart(f"cannot import {source}: {type(error).__name__}: {text}{_place(error)}") from error


def _import_file(path: Path) -> ModuleType:
    path = path.resolve()
    _make_importable(str(path.parent))
    # The module gets the name of its file, so that "import" finds this module too, and does not run the file twice.
    # If another module has that name already, such as one of the standard library, it stays as it is.
    name = path.stem
    while name in sys.modules:
        module = sys.modules[name]
        if getattr(module, "__file__", None) == str(path):
            return module
        name += "_"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        # As "import" does: a module that failed is not there for the next import.
        del sys.modules[name]
        raise
    return module


def _make_importable(folder: str) -> None:
    # An installed twistd does not have the current directory on the path.
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _place(error: BaseException) -> str:
    """Return the last line of the user's own code that ``error`` passed through, if there is one."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        package, _, _ = frame.f_globals.get("__name__", "").partition(".")
        file = frame.f_code.co_filename
        # "<frozen importlib._bootstrap>" is not a file that the user can open.
        if package not in _FRAMEWORK_PACKAGES and not file.startswith("<"):
            place = f" ({file}, line {line})"
    return place


def _is_handlers(value: object) -> bool:
    try:
        return bool(IHandlers.providedBy(value))
    except Exception:
        # Some frameworks put proxy objects into modules, which raise on any access until an application runs.
        return False


def _names_in(module: ModuleType) -> list[str]:
    """Return the names of all handlers in ``module``; if it has none, return all public names."""
    # A handlers module may replace itself in sys.modules by an object without __dict__.
    attributes = getattr(module, "__dict__", {})
    handlers = [name for name, value in attributes.items() if _is_handlers(value)]
    return handlers or [name for name in attributes if not name.startswith("_")]


def _merge(loaded: list[IHandlers]) -> IHandlers:
    if len(loaded) == 1:
        return loaded[0]
    mergeable = [handlers for handlers in loaded if isinstance(handlers, Handlers)]
    if len(mergeable) < len(loaded):
        raise CannotStart("several --handlers were given, but only instances of Handlers can be merged")
    try:
        return Handlers.merged(*mergeable)
    except ValueError as error:
        raise CannotStart(str(error)) from error
