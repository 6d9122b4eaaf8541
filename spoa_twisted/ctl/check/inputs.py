"""Which of the files that the user names are haproxy.cfg, and which are files of engines: their contents say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from spoa_twisted.haproxy.content import load
from spoa_twisted.haproxy.grammar.documents import ENGINE_SECTIONS, HAPROXY_SECTIONS

# Names of files that are looked at in a folder.
_SUFFIXES: Final = (".cfg", ".conf")

_FIRST_WORD: Final = re.compile(rb"^[ \t]*([^\s#]+)", re.MULTILINE)
_SCOPE: Final = re.compile(rb"^[ \t]*\[[A-Za-z0-9._:-]+\][ \t\r]*(?:#.*)?$", re.MULTILINE)


class Kind(Enum):
    """What a file is."""

    #: It has sections of a spoe.conf.
    ENGINE = auto()
    #: It has sections of a haproxy.cfg.
    HAPROXY = auto()
    NEITHER = auto()


@dataclass(frozen=True)
class Inputs:
    """The files to check."""

    engine_files: tuple[str, ...]
    haproxy_files: tuple[str, ...]


def kind_of(data: bytes) -> Kind:
    """Return what a file with this content is."""
    words = {word.decode("latin-1") for word in _FIRST_WORD.findall(data)}
    # First, because HAProxy also finds a "global" in the file of an engine, and ignores it.
    if words & ENGINE_SECTIONS:
        return Kind.ENGINE
    if words & HAPROXY_SECTIONS:
        return Kind.HAPROXY
    return Kind.ENGINE if _SCOPE.search(data) else Kind.NEITHER


def sort_files(paths: Iterable[str]) -> Inputs:
    """Return the files that the user names, by what they are.

    Of a folder, these are the files ``*.cfg`` and ``*.conf``. If there is a haproxy.cfg among them, its ``filter spoe``
    lines say which files of engines count.

    :raises ValueError: if a file cannot be read, or is neither; and if a folder has no configuration.
    """
    engine_files: list[str] = []
    haproxy_files: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            found = _in_folder(path)
            haproxy_files += found.haproxy_files
            if not found.haproxy_files:
                engine_files += found.engine_files
        else:
            kind = kind_of(_load(path))
            if kind is Kind.NEITHER:
                raise ValueError(f"{path} is no configuration: it has no section of a spoe.conf or haproxy.cfg")
            (engine_files if kind is Kind.ENGINE else haproxy_files).append(path)
    return Inputs(tuple(dict.fromkeys(engine_files)), tuple(dict.fromkeys(haproxy_files)))


def _in_folder(folder: str) -> Inputs:
    try:
        names = sorted(os.listdir(folder), key=os.fsencode)
    except OSError as error:
        raise ValueError(f"cannot read {folder}: {error.strerror}") from error
    paths = [
        os.path.normpath(os.path.join(folder, name))
        for name in names
        if name.endswith(_SUFFIXES) and not name.startswith(".")
    ]
    kinds = {path: kind_of(_load(path)) for path in paths if os.path.isfile(path)}
    found = {kind: tuple(path for path in kinds if kinds[path] is kind) for kind in Kind}
    if not found[Kind.ENGINE] and not found[Kind.HAPROXY]:
        raise ValueError(f"{folder} has no spoe.conf and no haproxy.cfg: no *.cfg or *.conf with their sections")
    return Inputs(found[Kind.ENGINE], found[Kind.HAPROXY])


def _load(path: str) -> bytes:
    try:
        return load(path)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error
