"""Tests of the files in ``examples/`` that run an agent: they fit together, and name only what exists."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spoa_twisted.tap import Options
from tests.programs import ROOT

EXAMPLES = ROOT / "examples"

#: Options that a later commit adds. Remove the names, and this constant, when ``twistd spoa --help`` lists them.
NOT_YET = ("workers", "status")


def agent_options(command: Sequence[str]) -> Any:
    """Parse the options of a ``twist spoa`` command. It fails for an option that does not exist."""
    assert Path(command[0]).name == "twist"
    options: Any = Options()
    known = [option.rstrip("=") for option in options.longOpt]
    arguments = [
        argument
        for argument in command[command.index("spoa") + 1 :]
        if (name := argument[2:].partition("=")[0]) in known or name not in NOT_YET
    ]
    options.parseOptions(arguments)
    return options


# systemd.

UNIT = EXAMPLES / "systemd" / "spoa.service"

#: Tenths. systemd-analyze of Debian 12 says 1.0 of 10 for the unit, and 9.6 for one without hardening.
MAX_EXPOSURE = 10


def unit_settings() -> dict[str, list[str]]:
    """Return the values of each setting in the unit; a setting may be repeated."""
    settings: dict[str, list[str]] = {}
    for line in UNIT.read_text().replace("\\\n", "").splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


def test_the_unit_starts_an_agent() -> None:
    """Its options are valid, and its times and limits fit those of the agent."""
    settings = unit_settings()
    (command,) = settings["ExecStart"]
    options = agent_options(shlex.split(command))
    assert options["listen"] == ["tcp:12345:interface=127.0.0.1"]
    assert settings["Type"] == ["notify"]
    assert float(settings["TimeoutStopSec"][0]) > options["drain-timeout"]
    assert int(settings["LimitNOFILE"][0]) > options["max-connections"]
    # Without these two, long answers are slower, and nothing works.
    assert {"AF_NETLINK", "AF_UNIX"} <= set(settings["RestrictAddressFamilies"][0].split())


needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze"
)


@needs_systemd_analyze
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """``systemd-analyze verify`` finds no fault, and no setting that it does not know."""
    twist = tmp_path / "twist"
    twist.write_text("#!/bin/sh\n")
    twist.chmod(0o755)
    copy = tmp_path / UNIT.name
    # It also checks that the program of ExecStart exists.
    copy.write_text(UNIT.read_text().replace("/opt/spoa/bin/twist", str(twist)))
    ended = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@needs_systemd_analyze
def test_the_unit_is_hardened() -> None:
    """``systemd-analyze security`` finds little that an attacker could use."""
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={MAX_EXPOSURE}", str(UNIT)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"Overall exposure level for spoa.service: [0-9.]+ ", ended.stdout)
