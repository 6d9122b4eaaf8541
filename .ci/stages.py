"""Runs the stages of CI, independent ones side by side, and prints a table of them with their seconds.

Standard library only, because a fresh machine has nothing else. Most stages are sessions of ``noxfile.py`` with the
same name. The first stage is the README's first command, as it stands there: it also brings apt's lists and ``venv``.

Each stage writes a log, ``.ci/logs/NAME.log``. The first stage that fails ends the others, and the end of its log is
printed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / ".ci" / "logs"
NOX = ROOT / ".nox" / "nox"

#: How many cores the stages that run at a time may take together.
CORES = 2

#: How many lines of the log of a failed stage are printed.
TAIL = 80

#: Seconds until a stage that hangs is ended. On a quiet machine the longest stage takes a fifth of that.
STAGE_LIMIT = 1800.0

#: Seconds between two looks at the stages that run.
INTERVAL = 0.2

ENVIRONMENT = {
    **os.environ,
    "DEBIAN_FRONTEND": "noninteractive",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}

README = """\
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git archive HEAD | tar -x -C "$folder"
cd "$folder"
python3 -m tests.readme_commands {number} > .command
bash -e .command
"""

PREPARE = f"""\
apt-get install -y git gcc python3-dev
python3 -m venv {shlex.quote(str(NOX))}
{shlex.quote(str(NOX))}/bin/pip -q install nox
"""


@dataclass
class Stage:
    """A script or, without one, the session of nox of the same name.

    :param needs: the stages that have to pass before.
    :param cores: how many of :data:`CORES` it takes.
    """

    name: str
    needs: tuple[str, ...] = ("haproxy", "pythons")
    cores: int = 1
    script: str = ""

    def __post_init__(self) -> None:
        self.state = "waiting"
        self.seconds = 0.0
        self._log = LOGS / f"{self.name}.log"

    def start(self) -> None:
        command = ["bash", "-euo", "pipefail", "-c", self.script]
        if not self.script:
            command = [f"{NOX}/bin/nox", "--non-interactive", "--sessions", self.name]
        with self._log.open("wb") as log:
            # In a process group of its own, so that all that it starts can be ended with it.
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.state = "running"
        self._began = time.monotonic()

    def poll(self) -> None:
        """Note whether the stage has ended, and end it when its time is up."""
        self.seconds = time.monotonic() - self._began
        status = self._process.poll()
        if status is not None:
            self.state = "passed" if status == 0 else "failed"
        elif self.seconds > STAGE_LIMIT:
            self.stop()
            self.state = f"ended after {STAGE_LIMIT:.0f} s"

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.state = "stopped"

    def lines(self) -> list[str]:
        return self._log.read_text(errors="replace").splitlines() if self._log.exists() else []


#: In the order in which they begin, as far as what they need is done.
STAGES = [
    Stage("readme_example", needs=(), script=README.format(number=1)),
    Stage("prepare", needs=("readme_example",), script=PREPARE),
    # These two wait for the network most of the time.
    Stage("haproxy", needs=("prepare",), cores=0),
    Stage("pythons", needs=("prepare",), cores=0),
    Stage("lint", needs=("prepare",)),
    # The README's command updates apt's lists, which the downloads read: not beside them.
    Stage("readme_tests", cores=2, script=README.format(number=2)),
    Stage("everything", cores=2),
    Stage("coverage", cores=2),
    # The longest first, so that both cores have work to the end.
    Stage("on-pypy8"),
    Stage("on-pypy7"),
    Stage("package"),
    Stage("on-3.15"),
    Stage("on-3.14"),
    Stage("on-3.13"),
    Stage("on-3.12"),
    Stage("on-3.10"),
    Stage("compiled"),
]


def run(stages: list[Stage]) -> bool:
    """Run the stages; return whether all passed."""
    began = time.monotonic()

    def say(stage: Stage) -> None:
        took = f" after {stage.seconds:.0f} s" if stage.seconds else ""
        print(f"{time.monotonic() - began:5.0f} s  {stage.name}: {stage.state}{took}", flush=True)

    while True:
        running = [stage for stage in stages if stage.state == "running"]
        for stage in running:
            stage.poll()
            if stage.state != "running":
                say(stage)
        if any(stage.state not in ("waiting", "running", "passed") for stage in stages):
            return False
        passed = {stage.name for stage in stages if stage.state == "passed"}
        if len(passed) == len(stages):
            return True
        free = CORES - sum(stage.cores for stage in stages if stage.state == "running")
        for stage in stages:
            if stage.state == "waiting" and passed.issuperset(stage.needs) and stage.cores <= free:
                stage.start()
                say(stage)
                free -= stage.cores
        time.sleep(INTERVAL)


def report(stages: list[Stage]) -> None:
    """Print the end of the log of what failed, then the table, then what tests said of themselves."""
    for stage in stages:
        if stage.state not in ("waiting", "stopped", "passed"):
            print(f"\n== {stage.name} {stage.state}; the end of its log:\n", *stage.lines()[-TAIL:], sep="\n")
    print(f"\n{'stage':<16}  {'seconds':>7}  {'state':<8}  tests")
    for stage in stages:
        # The last line of pytest.
        closing = [line.strip("= ") for line in stage.lines() if re.search(r"\b\d+ passed\b.* in [\d.]+s", line)]
        seconds = f"{stage.seconds:.0f}" if stage.seconds else ""
        print(f"{stage.name:<16}  {seconds:>7}  {stage.state:<8}  {', '.join(closing)}".rstrip())
    for stage in stages:
        for line in stage.lines():
            if "NOT TESTED" in line:
                print(f"{stage.name}: {line}")


def main() -> int:
    LOGS.mkdir(exist_ok=True)
    for log in LOGS.glob("*.log"):
        log.unlink()
    # A machine that ends this with SIGTERM ends the stages too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    passed = False
    try:
        passed = run(STAGES)
    finally:
        for stage in STAGES:
            if stage.state == "running":
                stage.stop()
        report(STAGES)
    print("\nall passed" if passed else "\nFAILED; the logs are in .ci/logs")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
