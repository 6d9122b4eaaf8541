"""Tests of the files in ``examples/`` that run an agent: they fit together, and name only what exists."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from spoa_twisted.ctl import COMMANDS
from spoa_twisted.endpoints import DEFAULT_ENDPOINT, endpoint_options
from spoa_twisted.tap import Options
from tests.needs import load_yaml, needs_program
from tests.programs import ENVIRONMENT, ROOT, SPOACTL

EXAMPLES = ROOT / "examples"


def agent_options(command: Sequence[str]) -> Any:
    """Parse the options of a ``twist spoa`` command. It fails for an option that does not exist."""
    assert Path(command[0]).name == "twist"
    options: Any = Options()
    options.parseOptions(command[command.index("spoa") + 1 :])
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
    assert options["listen"] == [DEFAULT_ENDPOINT]
    assert settings["Type"] == ["notify"]
    # Its reload asks where the status is, and ends before systemd ends it.
    program, name, *arguments = shlex.split(settings["ExecReload"][0])
    assert (Path(program).parent, Path(program).name, name) == (Path(command.split()[0]).parent, "spoactl", "reload")
    reload = COMMANDS[name].parser().parse_args(arguments)
    assert options["workers"]
    assert endpoint_options(options["status"])[1] == {
        "port": reload.status.rpartition(":")[2],
        "interface": "127.0.0.1",
    }
    assert reload.status.startswith("tcp:127.0.0.1:")
    assert reload.timeout < float(settings["TimeoutStartSec"][0])
    assert float(settings["TimeoutStopSec"][0]) > options["drain-timeout"]
    assert int(settings["LimitNOFILE"][0]) > options["max-connections"]
    # Without these two, long answers are slower, and nothing works.
    assert {"AF_NETLINK", "AF_UNIX"} <= set(settings["RestrictAddressFamilies"][0].split())


needs_systemd_analyze = needs_program("systemd-analyze", "systemd")


@needs_systemd_analyze
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """``systemd-analyze verify`` finds no fault, and no setting that it does not know."""
    for name in ("twist", "spoactl"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    copy = tmp_path / UNIT.name
    # It also checks that the programs exist.
    copy.write_text(UNIT.read_text().replace("/opt/spoa/bin", str(tmp_path)))
    ended = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@needs_systemd_analyze
def test_the_unit_is_hardened() -> None:
    """``systemd-analyze security`` finds little that an attacker could use."""
    command = ["systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={MAX_EXPOSURE}", str(UNIT)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"Overall exposure level for spoa.service: [0-9.]+ ", ended.stdout)


# Containers.

CONTAINER = EXAMPLES / "container"


def seconds(text: str) -> float:
    """Return the seconds in a duration such as ``15s``."""
    return float(text.removesuffix("s"))


def instructions() -> dict[str, list[str]]:
    """Return the instructions in the Containerfile, by name."""
    found: dict[str, list[str]] = {}
    for line in (CONTAINER / "Containerfile").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, arguments = line.partition(" ")
            found.setdefault(name, []).append(arguments)
    return found


def haproxy_settings() -> dict[str, str]:
    """Return the settings of HAProxy's configuration; of a repeated one, the last value."""
    lines = [line.strip() for line in (CONTAINER / "haproxy.cfg").read_text().splitlines()]
    return dict(line.rpartition(" ")[::2] for line in lines if line and line[0] not in "#.")


def image_command(*replaced: str) -> list[str]:
    """Return the command of the image, with its own last arguments or with ``replaced``."""
    found = instructions()
    arguments: list[str] = json.loads(found["CMD"][0])
    command: list[str] = json.loads(found["ENTRYPOINT"][0])
    return [*command, *(replaced or arguments)]


def test_the_image() -> None:
    """Its command and its health check are lists, their options exist, and what it copies is there."""
    found = instructions()
    options = agent_options(image_command())
    assert options["listen"] == [DEFAULT_ENDPOINT]
    for copied in found["COPY"]:
        if not copied.startswith("--from=build"):
            assert all((ROOT / source).exists() for source in copied.split()[:-1])
    assert (EXAMPLES / "ip_reputation" / options["handlers"][0]).exists()
    assert found["USER"] == ["10001:10001"]
    assert found["STOPSIGNAL"] == ["SIGTERM"]
    assert "pip install --no-cache-dir" in found["RUN"][0]
    (check,) = found["HEALTHCHECK"]
    program, *arguments = json.loads(check.partition(" CMD ")[2])
    assert program == "spoactl"
    # A wrong command line has status 2. Nothing listens on port 1, so the check itself fails.
    command = [*SPOACTL, *arguments, "--agent=tcp:127.0.0.1:1"]
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)


def test_the_containers_fit_together() -> None:
    """HAProxy and the agent share a network namespace, the files are there, and the agent has time for its drain."""
    services = load_yaml(CONTAINER / "compose.yaml")["services"]
    assert services["agent"]["network_mode"] == services["app"]["network_mode"] == "service:haproxy"
    for volume in services["haproxy"]["volumes"]:
        source, target, _ = volume.split(":")
        assert (CONTAINER / source).resolve().name == Path(target).name
        assert (CONTAINER / source).is_file()
    build = services["agent"]["build"]
    context = (CONTAINER / build["context"]).resolve()
    assert context == ROOT
    assert context / build["dockerfile"] == CONTAINER / "Containerfile"
    assert seconds(services["agent"]["stop_grace_period"]) > agent_options(image_command())["drain-timeout"]
    settings = haproxy_settings()
    assert services["haproxy"]["ports"] == [f"127.0.0.1:8080{settings['bind']}"]
    assert settings["server app1"] == f"127.0.0.1:{services['app']['command'][-1]}"
    assert settings["server agent1 127.0.0.1:12345"] == "check"


def test_the_pod() -> None:
    """The agent is a sidecar with probes, its options exist, and the pod has time for both drains."""
    deployment = load_yaml(EXAMPLES / "kubernetes" / "agent.yaml")
    assert deployment["spec"]["selector"]["matchLabels"] == deployment["spec"]["template"]["metadata"]["labels"]
    pod = deployment["spec"]["template"]["spec"]
    (agent,), (haproxy,) = pod["initContainers"], pod["containers"]
    assert agent["restartPolicy"] == "Always"
    (argument,) = agent["args"]
    options = agent_options(image_command(argument))
    (port,) = agent["ports"]
    assert argument == f"--status=tcp:{port['containerPort']}:interface=0.0.0.0"
    for probe, path in (("startupProbe", "/health"), ("readinessProbe", "/health"), ("livenessProbe", "/live")):
        assert agent[probe]["httpGet"] == {"path": path, "port": port["name"]}
    settings = haproxy_settings()
    assert settings["bind"] == f":{haproxy['ports'][0]['containerPort']}"
    pause = float(haproxy["lifecycle"]["preStop"]["exec"]["command"][-1])
    stops = pause + seconds(settings["hard-stop-after"]) + options["drain-timeout"]
    assert pod["terminationGracePeriodSeconds"] > stops
    for container in (agent, haproxy):
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]


@pytest.mark.parametrize("name", ["container/compose.yaml", "kubernetes/agent.yaml", "container/Containerfile"])
def test_the_files_in_commands_exist(name: str) -> None:
    """The comments at the top of the files show commands. The files that these name are there."""
    for path in re.findall(r"examples/[\w./]+\w", (EXAMPLES / name).read_text()):
        assert (ROOT / path).exists(), path
