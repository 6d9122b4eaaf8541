"""``--handlers`` -> handlers: import the modules that the user names, and merge their handlers.

Where ``--handlers`` names a function, it makes the handlers from its table in the file of ``--settings``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Final

from twisted.python.reflect import safe_str

from spoa_twisted.agents.settings import SettingsError, SettingsFile
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.runner.errors import CannotStart, place_of
from spoa_twisted.runner.meant import find_meant, find_misspelt, find_other_module, is_file

#: The attribute of a module that holds its handlers, unless the user names another attribute.
DEFAULT_ATTRIBUTE: Final = "handlers"


def load_all(specifications: Sequence[str], settings: str | None = None) -> IHandlers:
    """Load each of ``specifications`` as :func:`load` does, and merge the results.

    :param settings: the path of the settings file, if there is one. It is read now.
    :raises CannotStart: if there are none, if one cannot be loaded or is empty, if they cannot be merged, or if the
        settings file is wrong or has a table that none of them takes.
    """
    if not specifications:
        raise CannotStart("no handlers: name the module that has them, as in --handlers mymod")
    try:
        file = None if settings is None else SettingsFile(settings)
        loaded = [load(specification, file) for specification in specifications]
        if file is not None:
            file.check_taken()
    except SettingsError as error:
        raise CannotStart(str(error)) from error
    for specification, handlers in zip(specifications, loaded, strict=True):
        if isinstance(handlers, Handlers) and handlers.is_empty:
            raise CannotStart(
                f"no handlers are registered in {specification!r}; register functions with @handlers.message, or import"
                " the modules that do"
            )
    return _merge(loaded)


def load(specification: str, settings: SettingsFile | None = None) -> IHandlers:
    """Return the handlers that ``specification`` names.

    Afterwards, the current directory is on ``sys.path``. If a file was loaded, its directory is there too, so that the
    file can import the modules beside it.

    :param specification: the name of a module or the path of a Python file. A colon and the name of an attribute may
        follow; without them, the attribute is :data:`DEFAULT_ATTRIBUTE`. Examples: ``package.module``,
        ``path/to/file.py``, ``package.module:attribute``. The attribute is handlers, or a function that takes its
        :class:`~spoa_twisted.agents.settings.Table` of ``settings`` and returns handlers.
    :raises CannotStart: if the module cannot be imported, has no such attribute, or the attribute is not handlers.
    :raises SettingsError: if the table is missing or wrong.
    """
    source, _, attribute = specification.rpartition(":")
    if not source:
        source, attribute = specification, DEFAULT_ATTRIBUTE
    module = _import(source)
    try:
        handlers = getattr(module, attribute)
    except Exception:
        # A module may define __getattr__, which may raise any exception, not only AttributeError.
        names = ", ".join(_names_in(module)) or "nothing"
        problem = find_other_module(source, module) or f"{source} has no {attribute!r}; it has: {names}"
        raise CannotStart(problem) from None
    if type(handlers) is FunctionType:
        if settings is None:
            problem = (
                f"{specification} is a function, not Handlers; if it makes Handlers from settings, add --settings FILE"
                f" with a table [{table_name(source, attribute)}]"
            )
            raise CannotStart(find_other_module(source, module) or problem)
        handlers = _make(specification, handlers, table_name(source, attribute), settings)
    if not _is_handlers(handlers):
        problem = f"{attribute!r} of {source} is not Handlers, but of the type {type(handlers).__name__}"
        raise CannotStart(find_other_module(source, module) or problem)
    result: IHandlers = handlers
    return result


def table_name(source: str, attribute: str) -> str:
    """Return the name of the table for a function: that of its module, or its own unless it is called ``handlers``."""
    if attribute != DEFAULT_ATTRIBUTE:
        return attribute
    return Path(source).stem if is_file(source) else source.rpartition(".")[2]


def _make(specification: str, function: Any, table: str, settings: SettingsFile) -> Any:
    """Return the handlers that ``function`` makes from its table.

    :raises CannotStart: for an exception of the function, and if it returns something else.
    :raises SettingsError: if the table is missing or wrong.
    """
    taken = settings.take(table, specification)
    try:
        handlers = function(taken)
    except SettingsError:
        raise
    except BaseException as error:
        text = " ".join(safe_str(error).split())
        problem = f"{specification} cannot make handlers from the table [{table}] of {settings.path}"
        raise CannotStart(f"{problem}: {type(error).__name__}: {text}{place_of(error)}") from error
    if not _is_handlers(handlers):
        raise CannotStart(f"{specification} returned {type(handlers).__name__}, not Handlers")
    return handlers


def _import(source: str) -> ModuleType:
    """Import ``source``, a module or a file.

    :raises CannotStart: for every exception that the import raises.
    """
    _make_importable(os.getcwd())
    try:
        return _import_file(Path(source)) if is_file(source) else importlib.import_module(source)
    except BaseException as error:
        # BaseException, because a module may call sys.exit(): twistd would then end without the name of the module.
        text = " ".join(safe_str(error).split())
        hint = find_meant(source, error) or find_misspelt(error)
        raise CannotStart(f"cannot import {source}: {type(error).__name__}: {text}{place_of(error)}{hint}") from error


def _import_file(path: Path) -> ModuleType:
    """Import the Python file at ``path``, unless it was imported before."""
    path = path.resolve()
    _make_importable(str(path.parent))
    # The module gets the name of its file. If another module imports it by that name, Python finds it in sys.modules,
    # and does not run the file again. If a different module has that name already, for example a module of the standard
    # library, the new module gets a longer name: the other module must stay where its users find it.
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
        # The import statement does the same. Otherwise, the next import would return a module that is incomplete.
        del sys.modules[name]
        raise
    return module


def _make_importable(folder: str) -> None:
    # "python -m twisted" has the current directory on the path already. The command twistd does not.
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _is_handlers(value: object) -> bool:
    """Return whether ``value`` provides :class:`IHandlers`."""
    try:
        return bool(IHandlers.providedBy(value))
    except Exception:
        # Some frameworks put proxy objects into modules. Until the application runs, any access to a proxy raises.
        return False


def _names_in(module: ModuleType) -> list[str]:
    """Return names for an error text: those of all handlers in ``module``, or all public names if it has none."""
    # A module may replace itself in sys.modules by any object, also by one without __dict__.
    attributes = getattr(module, "__dict__", {})
    handlers = [name for name, value in attributes.items() if _is_handlers(value)]
    return handlers or [name for name in attributes if not name.startswith("_")]


def _merge(loaded: list[IHandlers]) -> IHandlers:
    """Return one object that answers the messages of all ``loaded``.

    :raises CannotStart: if two of them answer the same message, or one of several is not a :class:`Handlers`.
    """
    # IHandlers does not list its messages, so another implementation works alone, but cannot be merged.
    if len(loaded) == 1:
        return loaded[0]
    mergeable = [handlers for handlers in loaded if isinstance(handlers, Handlers)]
    if len(mergeable) < len(loaded):
        raise CannotStart("several --handlers were given, but only instances of Handlers can be merged")
    try:
        return Handlers.merged(*mergeable)
    except ValueError as error:
        raise CannotStart(str(error)) from error
