"""The file of ``--settings``: one TOML table for each agent, and the description of its keys.

An agent describes its keys with :class:`Key`. Its function ``handlers`` gets its :class:`Table` and calls
:meth:`Table.read`. A module of yours may do the same::

    KEYS = [Key("limit", WHOLE, "The most requests in a minute.", default=60, at_least=1)]

    def handlers(settings: Table) -> Handlers:
        limit = settings.read(KEYS)["limit"]
"""

from __future__ import annotations

import importlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from spoa_twisted.handlers.names import did_you_mean, nearest

#: The types of a key's value. They are the words of errors and of the documentation.
TEXT: Final = "text"
WHOLE: Final = "whole number"
NUMBER: Final = "number"
FLAG: Final = "true or false"
PATH: Final = "file"
#: A single text or path stands for a list of one.
TEXTS: Final = "text, or list of texts"
PATHS: Final = "file, or list of files"

#: The default of a key that the table must have.
REQUIRED: Final = object()

#: The largest settings file, in bytes. A larger file is surely another one.
MAX_SIZE: Final = 2**20


class SettingsError(ValueError):
    """A settings file is wrong. The text is one line: the file, the line if it is known, the key, what to write."""


@final
@dataclass(frozen=True)
class Key:
    """The description of one key of a table. Errors and the documentation are made from it.

    :param name: the name in the file.
    :param kind: one of the types of this module: :data:`TEXT`, :data:`WHOLE`, :data:`NUMBER`, :data:`FLAG`,
        :data:`PATH`, :data:`TEXTS`, :data:`PATHS`. A relative path starts at the folder of the settings file.
    :param help: one or two sentences for the documentation.
    :param default: the value if the table does not have the key. Without it, the key is required.
    :param at_least: the smallest number.
    :param at_most: the largest number.
    :param choices: the texts that are allowed; empty if any text is.
    :param check: raises a ``ValueError`` for a value, or a member of a list, that is wrong.
    """

    name: str
    kind: str
    help: str
    default: Any = REQUIRED
    at_least: float | None = None
    at_most: float | None = None
    choices: tuple[str, ...] = ()
    check: Callable[[Any], object] | None = None

    @property
    def allowed(self) -> str:
        """What the value may be, for errors and for the documentation."""
        if self.choices:
            return " or ".join([f'"{choice}"' for choice in self.choices])
        if self.at_least is not None and self.at_most is not None:
            return f"{self.kind}, {self.at_least:g} to {self.at_most:g}"
        if self.at_least is not None:
            return f"{self.kind}, at least {self.at_least:g}"
        return self.kind if self.at_most is None else f"{self.kind}, at most {self.at_most:g}"

    def convert(self, value: object, folder: Path) -> Any:
        """Return the value for the agent: a ``Path`` for a path, and a tuple for a list.

        :param value: from the file.
        :param folder: where relative paths start.
        :raises ValueError: for a value that is not allowed.
        """
        if self.kind in (TEXTS, PATHS):
            members = value if isinstance(value, list) else [value]
            if not members:
                raise ValueError(f"is an empty list; allowed is: {self.allowed}")
            return tuple([self._single(member, folder) for member in members])
        return self._single(value, folder)

    def _single(self, value: Any, folder: Path) -> Any:
        if not self._has_type(value) or (self.choices and value not in self.choices):
            raise ValueError(f"is {_show(value)}; allowed is: {self.allowed}")
        if self.kind in (WHOLE, NUMBER):
            low, high = self.at_least, self.at_most
            # Not "value < low": that is false for nan.
            if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
                raise ValueError(f"is {_show(value)}; allowed is: {self.allowed}")
        result = folder / value if self.kind in (PATH, PATHS) else value
        if self.check is not None:
            try:
                self.check(result)
            except ValueError as error:
                raise ValueError(f"is {_show(value)}: {error}") from error
        return result

    def _has_type(self, value: object) -> bool:
        if self.kind == FLAG:
            return isinstance(value, bool)
        if self.kind == WHOLE:
            return isinstance(value, int) and not isinstance(value, bool)
        if self.kind == NUMBER:
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        # A NUL ends a path in the system, and a line end breaks a line of HAProxy's configuration.
        return isinstance(value, str) and value != "" and value.isprintable()


#: A key for the agents that look an address up.
ADDRESS: Final = Key(
    "address",
    TEXT,
    "HAProxy's sample expression for the address. Behind a proxy that adds the client's address to a header, it is"
    " ``req.hdr_ip(x-forwarded-for,-1)``.",
    "src",
)


@final
class Table(Mapping[str, Any]):
    """One table of a settings file, as it was read.

    :param file: the file.
    :param name: the name of the table.
    :param values: what is in the table.
    """

    def __init__(self, file: SettingsFile, name: str, values: Mapping[str, Any]) -> None:
        self.name = name
        self._file = file
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def read(self, keys: Sequence[Key]) -> dict[str, Any]:
        """Return the checked value of each key, or its default.

        :raises SettingsError: for a key that is unknown or missing, and for a value that is not allowed.
        """
        names = [key.name for key in keys]
        for name in self._values:
            if name not in names:
                similar = did_you_mean([f"{self.name}.{other}" for other in nearest(name, names)])
                raise self.error(name, f"is unknown{similar or '.'} Allowed are {', '.join(names)}")
        result = {}
        for key in keys:
            if key.name in self._values:
                try:
                    result[key.name] = key.convert(self._values[key.name], self._file.folder)
                except ValueError as error:
                    raise self.error(key.name, str(error)) from error
            elif key.default is REQUIRED:
                raise self.error(key.name, f"is missing; it is required: {key.allowed}")
            else:
                result[key.name] = key.default
        return result

    def error(self, key: str, problem: str) -> SettingsError:
        """Return the error for a key.

        :param problem: what is wrong, and what is allowed. It stands behind the name of the key.
        """
        line = self._file.line_of(self.name, key)
        return SettingsError(f"{self._file.path}{line}: {self.name}.{key} {problem}")


@final
class SettingsFile:
    """A settings file.

    :param path: the file, as the user has named it.
    :raises SettingsError: if it cannot be read, or is no TOML.
    """

    def __init__(self, path: str) -> None:
        #: As the user has named it.
        self.path = path
        #: Where relative paths in the file start. Absolute: twistd may change the current folder later.
        self.folder = Path(os.path.abspath(path)).parent
        self._taken: set[str] = set()
        try:
            with open(path, "rb") as file:
                content = file.read(MAX_SIZE + 1)
        except (OSError, ValueError) as error:
            # ValueError: a NUL in the path.
            raise SettingsError(f"cannot read the settings in {path}: {getattr(error, 'strerror', error)}") from error
        if len(content) > MAX_SIZE:
            raise SettingsError(f"{path} is larger than {MAX_SIZE:,} bytes: is it a settings file?")
        toml = _toml()
        try:
            self._text = content.decode()
            self._tables: dict[str, Any] = toml.loads(self._text)
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path} is not TOML: byte {error.start} is not UTF-8") from error
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"{path} is not TOML: {' '.join(str(error).split())}") from error
        for name, value in self._tables.items():
            if not isinstance(value, dict):
                line = self._line(f"{re.escape(name)}[ ]*=")
                if line == "" and isinstance(value, list):
                    raise SettingsError(f"{path}: [[{name}]] is a list of tables; write [{name}], once")
                raise SettingsError(f"{path}{line}: {name} is in no table; write a line such as [blocklist] above it")

    def take(self, name: str, owner: str) -> Table:
        """Return the table called ``name``.

        :param owner: the handlers that need it, for the error.
        :raises SettingsError: if there is none.
        """
        if name not in self._tables:
            similar = did_you_mean([f"[{other}]" for other in nearest(name, self._tables)])
            raise SettingsError(f"{self.path} has no table [{name}], which {owner} needs{self._listed(similar)}")
        self._taken.add(name)
        return Table(self, name, self._tables[name])

    def check_taken(self) -> None:
        """Check that each table was taken.

        :raises SettingsError: for a table that no handlers have taken: the user believes that it is in use.
        """
        for name in self._tables:
            if name not in self._taken:
                line = self._line(rf"\[[ ]*[\"']?{re.escape(name)}[\"']?[ ]*\]")
                similar = did_you_mean([f"[{other}]" for other in nearest(name, self._taken)])
                hint = similar or "; name its module with --handlers, or remove it"
                raise SettingsError(f"{self.path}{line}: the table [{name}] belongs to none of the --handlers{hint}")

    def line_of(self, table: str, key: str) -> str:
        """Return ``, line 3`` for a key; an empty text if the line is not known."""
        head = re.search(rf"^[ \t]*\[[ ]*{re.escape(table)}[ ]*\][ \t]*(?:#.*)?$", self._text, re.MULTILINE)
        if head is None:
            return ""
        following = re.compile(r"^[ \t]*\[", re.MULTILINE).search(self._text, head.end())
        end = following.start() if following else len(self._text)
        return self._line(f"{re.escape(key)}[ \t]*=", head.end(), end)

    def _line(self, pattern: str, start: int = 0, end: int | None = None) -> str:
        """Return ``, line 3`` if exactly one line begins with ``pattern``. The reader of TOML does not tell lines."""
        begins = re.compile(rf"^[ \t]*{pattern}", re.MULTILINE)
        found = [match.start() for match in begins.finditer(self._text, start, len(self._text) if end is None else end)]
        return f", line {self._text.count(chr(10), 0, found[0]) + 1}" if len(found) == 1 else ""

    def _listed(self, similar: str) -> str:
        return similar or f"; it has: {', '.join([f'[{name}]' for name in self._tables]) or 'no table'}"


def _toml() -> Any:
    """Return the module that reads TOML."""
    for name in ("tomllib", "tomli"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise SettingsError('settings need the package tomli on Python 3.10: pip install "spoa_twisted[agents]"')


def _show(value: object) -> str:
    """Return a value as the user may have written it, in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = ascii(value)[1:-1]
        return f'"{text}"' if len(text) <= 60 else f'"{text[:60]}..."'
    if isinstance(value, (int, float)):
        # The text of an integer with thousands of digits cannot be made.
        return f"{value}" if abs(value) < 1e18 or isinstance(value, float) else "a large number"
    if isinstance(value, (dict, list)):
        return "a table" if isinstance(value, dict) else "a list"
    return f"a {type(value).__name__}"
