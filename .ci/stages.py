"""Runs the stages of CI and prints a table of their results and times. Independent stages run at the same time.

It uses the standard library only, because a new machine has nothing else. Most stages are sessions of ``noxfile.py``
with the same name. The first stage runs the first command of the README exactly as it is written there. That command
also updates apt's package lists and installs ``venv``, which the next stages need.

Each stage writes a log, ``.ci/logs/NAME.log``. When a stage fails, all running stages are ended, and the end of the log
of the failed stage is printed.
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

#: The sum of the cores of all stages that run at the same time is at most this.
CORES = 2

#: Lines of a failed stage's log that are printed, and of its list of failed tests.
TAIL = 80
FAILED_TESTS = 40

#: Seconds after which a stage is ended, because it hangs. The longest ones are those of PyPy.
STAGE_LIMIT = 2700.0

#: Seconds between two checks of the running stages.
INTERVAL = 0.2

ENVIRONMENT = {
    **os.environ,
    "DEBIAN_FRONTEND": "noninteractive",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
}

# Runs a command of the README or of CONTRIBUTING.rst in an archive of the last commit: a user has no other files.
README = """\
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git archive HEAD | tar -x -C "$folder"
cd "$folder"
python3 -m tests.readme_commands {number} > .command
bash -e .command
"""

# It shows that the command works with the files of a commit, and with no other HAProxy than that of the extra "test".
# The stage "coverage" runs the tests that are left out here.
DEFAULT_TESTS = f"""\
export PYTEST_ADDOPTS="--ignore=tests/ctl --ignore=tests/docs --ignore=tests/faults --ignore=tests/haproxy_side"
{README.format(number=2)}"""

# zsh, man-db and mandoc are for the tests of the completion and of the manual pages.
# The second command is for the tests of the status page. Recommended packages would add to its 90 MB.
# Of the package prometheus (19 MB), only promtool is unpacked: the package would install and start a server.
# The line with python3 -c fails, and prints the reason, if the tests that need separate hosts would be skipped.
PREPARE = f"""\
apt-get install -y git gcc python3-dev iproute2 systemd xxd bsdextrautils zsh man-db mandoc
apt-get install -y --no-install-recommends chromium chromium-driver
# For the examples, whose tests start servers of their own. In this runlevel, Debian's packages start none.
RUNLEVEL=1 apt-get install -y --no-install-recommends redis-server slapd postgresql
(
    cd "$(mktemp -d)"
    apt-get download prometheus
    dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x -C /usr/local --strip-components=2 ./usr/bin/promtool
)
python3 -c 'import sys; from tests.haproxy.hosts import missing; sys.exit(missing(tun=True))'
python3 -m venv {shlex.quote(str(NOX))}
{shlex.quote(str(NOX))}/bin/pip -q install nox
"""


@dataclass
class Stage:
    """A step of CI: a shell script or, without a script, the nox session of the same name.

    :param needs: names of the stages that must pass before this one starts.
    :param cores: the part of :data:`CORES` that it uses.
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
            # In a new process group, so that stop() also ends the processes that the stage has started.
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
        """Update the state of a running stage. End the stage if it has exceeded :data:`STAGE_LIMIT`."""
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


#: A stage starts when its needs have passed and enough cores are free. If several can start, the first one does.
STAGES = [
    Stage("readme_example", needs=(), script=README.format(number=1)),
    Stage("prepare", needs=("readme_example",), script=PREPARE),
    # These two mostly wait for the network, so they count as using no core.
    Stage("haproxy", needs=("prepare",), cores=0),
    Stage("pythons", needs=("prepare",), cores=0),
    Stage("lint", needs=("prepare",)),
    # Not at the same time as the downloads: the README's command updates apt's package lists, which they read.
    Stage("default_tests", cores=2, script=DEFAULT_TESTS),
    Stage("everything", cores=2),
    Stage("coverage", cores=2),
    Stage("examples", cores=2),
    Stage("docs", needs=("prepare",)),
    # The longest first, so that both cores are busy until the end.
    Stage("on-pypy7"),
    Stage("on-pypy8"),
    Stage("package"),
    Stage("on-3.15"),
    Stage("on-3.10"),
    Stage("on-3.14"),
    Stage("on-3.13"),
    Stage("on-3.12"),
    Stage("compiled"),
]


def run(stages: list[Stage]) -> bool:
    """Run the stages; return whether all passed."""
    began = time.monotonic()

    def print_state(stage: Stage) -> None:
        took = f" after {stage.seconds:.0f} s" if stage.seconds else ""
        print(f"{time.monotonic() - began:5.0f} s  {stage.name}: {stage.state}{took}", flush=True)

    while True:
        running = [stage for stage in stages if stage.state == "running"]
        for stage in running:
            stage.poll()
            if stage.state != "running":
                print_state(stage)
        if any(stage.state not in ("waiting", "running", "passed") for stage in stages):
            return False
        passed = {stage.name for stage in stages if stage.state == "passed"}
        if len(passed) == len(stages):
            return True
        free = CORES - sum(stage.cores for stage in stages if stage.state == "running")
        for stage in stages:
            if stage.state == "waiting" and passed.issuperset(stage.needs) and stage.cores <= free:
                stage.start()
                print_state(stage)
                free -= stage.cores
        time.sleep(INTERVAL)


def report(stages: list[Stage]) -> None:
    """Print what was not tested, the table, and at last what failed: often only the end of the output is kept."""
    for stage in stages:
        for line in stage.lines():
            if "NOT TESTED" in line:
                print(f"{stage.name}: {line}")
    print(f"\n{'stage':<16}  {'seconds':>7}  {'state':<8}  tests")
    for stage in stages:
        # pytest's summary lines, for example "12 passed in 3.45s".
        closing = [line.strip("= ") for line in stage.lines() if re.search(r"\b\d+ passed\b.* in [\d.]+s", line)]
        seconds = f"{stage.seconds:.0f}" if stage.seconds else ""
        print(f"{stage.name:<16}  {seconds:>7}  {stage.state:<8}  {', '.join(closing)}".rstrip())
    for stage in stages:
        if stage.state not in ("waiting", "stopped", "passed"):
            print(f"\n== {stage.name} {stage.state}; the end of its log:\n", *stage.lines()[-TAIL:], sep="\n")
            # pytest's list of failed tests, again, because it is the shortest answer.
            print(*[line for line in stage.lines() if re.match(r"(FAILED|ERROR) ", line)][:FAILED_TESTS], sep="\n")


def main() -> int:
    LOGS.mkdir(exist_ok=True)
    for log in LOGS.glob("*.log"):
        log.unlink()
    # By default SIGTERM would end this process at once, and the stages would go on without it. sys.exit() runs the
    # finally block below, which stops them.
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
