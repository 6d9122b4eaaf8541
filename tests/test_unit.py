"""The unit in ``examples/systemd`` with a real systemd, which runs in namespaces of its own.

That systemd is process 1 of a PID namespace, and sees its own mounts, network and part of the cgroups. When the test
ends, the kernel ends all its processes. The test needs root, and a cgroup v2 file system.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.haproxy.summary import NOT_TESTED
from tests.programs import LIMIT, ROOT, Program
from tests.test_deployment import UNIT

SYSTEMD = Path("/lib/systemd/systemd")

HANDLERS = """\
from spoa_twisted import Handlers

handlers = Handlers()


@handlers.message("m")
def m():
    return {"txn.seen": True}
"""

#: Why the second reload fails.
BAD_CODE = "cannot import iprep: ValueError: bad (/opt/spoa/iprep.py, line 1)"

#: Makes the namespaces' mounts, and becomes systemd. The unit's /opt/spoa has the interpreter and the packages of this
#: test: the unit hides the home folders and /tmp, where they may be.
BOOT = """\
set -e
echo $$ > {cgroup}/cgroup.procs
exec unshare --fork --pid --kill-child=KILL --mount --mount-proc --cgroup --uts --ipc --net bash -ec '
ip link set lo up
mkdir {folder}/opt
mount -t tmpfs tmpfs {folder}/opt
mkdir -p {folder}/opt/spoa/{{bin,python,site,src}}
mount --bind {prefix} {folder}/opt/spoa/python
mount --bind {site} {folder}/opt/spoa/site
mount --bind {root} {folder}/opt/spoa/src
cp {folder}/twist {folder}/spoactl {folder}/opt/spoa/bin
cp {folder}/iprep.py {folder}/opt/spoa
mount --rbind {folder}/opt /opt
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/lock
cp {folder}/units/* /run/systemd/system
mkdir /run/systemd/system/spoa.service.d
mv /run/systemd/system/log.conf /run/systemd/system/spoa.service.d
mount -t tmpfs tmpfs /etc/systemd/system
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin {systemd} --system --unit=test.target --log-target=null \
    --show-status=no --default-standard-output=null
'
"""

#: Without the default dependencies, systemd starts nothing else of the machine. A short watchdog saves time.
DROP_IN = """\
[Unit]
DefaultDependencies=no
[Service]
WatchdogSec=1
StandardOutput=append:{folder}/log
StandardError=append:{folder}/log
"""

#: What an operator does. The test reads the output.
OPERATOR = """\
show() { systemctl show spoa --property=$1 --value; }
systemctl start spoa; echo "started: $?"
show ActiveState; show StatusText
/opt/spoa/bin/spoactl send m
sed -i s/True/False/ /opt/spoa/iprep.py
systemctl reload spoa; echo "reloaded: $?"
/opt/spoa/bin/spoactl send m
mv /opt/spoa/iprep.py /opt/spoa/good.py
echo 'raise ValueError("bad")' > /opt/spoa/iprep.py
systemctl reload spoa 2>/dev/null; echo "reloaded bad code: $?"
show ActiveState; show StatusText
mv /opt/spoa/good.py /opt/spoa/iprep.py
/opt/spoa/bin/spoactl send m
pid=$(show MainPID)
grep -E '^(NoNewPrivs|CapBnd|Seccomp):' /proc/$pid/status
kill -STOP $pid
while [ $(show NRestarts) = 0 ]; do sleep 0.05; done
while [ $(show ActiveState) != active ]; do sleep 0.05; done
/opt/spoa/bin/spoactl send m
systemctl stop spoa; echo "stopped: $?"
show ActiveState; show Result
mv /opt/spoa/iprep.py /opt/spoa/other.py
systemctl start spoa 2>/dev/null; echo "started without handlers: $?"
echo done
"""


def cgroups() -> Path | None:
    """Return the folder of this process in a cgroup v2 file system, if root may make another one in it."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    own = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    for _, folder, kind, *_ in mounts:
        if kind == "cgroup2" and own and os.access(Path(folder, own[1]), os.W_OK):
            return Path(folder, own[1])
    return None


def why_not() -> str:
    """Return what this machine lacks, or an empty text."""
    if os.geteuid() != 0:
        return "systemd as process 1 needs root: run the tests as root"
    for program in ("unshare", "ip", SYSTEMD):
        if shutil.which(program) is None:
            package = {"unshare": "util-linux", "ip": "iproute2"}.get(str(program), "systemd")
            return f"{program} is not installed: apt-get install {package}"
    return "" if cgroups() else "no cgroup v2 file system can be written: use a machine, or a container, that has one"


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A new cgroup. It is removed when the kernel has ended all processes in it."""
    parent = cgroups()
    assert parent is not None
    folder = parent / f"spoa-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    deadline = time.monotonic() + LIMIT
    while folder.exists():
        assert time.monotonic() < deadline, f"{folder} has processes"
        for path, _, _ in os.walk(folder, topdown=False):
            with suppress(OSError):
                Path(path).rmdir()
        time.sleep(0.05)


def write_units(folder: Path) -> None:
    """Write the unit, a drop-in for it, and a service that does what an operator does."""
    units = folder / "units"
    units.mkdir()
    (units / "spoa.service").write_text(UNIT.read_text())
    (units / "log.conf").write_text(DROP_IN.format(folder=folder))
    (units / "test.target").write_text("[Unit]\nDefaultDependencies=no\nWants=operator.service\n")
    script = f"exec bash {folder}/operator > {folder}/output 2>&1"
    (units / "operator.service").write_text(
        f"[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/bash -c {shlex.quote(script)}\n"
    )
    (folder / "operator").write_text(OPERATOR)


def write_programs(folder: Path) -> None:
    """Write ``twist`` and ``spoactl``, as an installation has them, and the handlers."""
    python = f"/opt/spoa/python/bin/{Path(os.path.realpath(sys.executable)).name}"
    for name, arguments in (("twist", "-m twisted"), ("spoactl", "-c 'from spoa_twisted.ctl import main; main()'")):
        program = folder / name
        program.write_text(f'#!/bin/sh\nPYTHONPATH=/opt/spoa/src:/opt/spoa/site exec {python} {arguments} "$@"\n')
        program.chmod(0o755)
    (folder / "iprep.py").write_text(HANDLERS)


# It boots systemd, and waits for its watchdog.
@pytest.mark.soak
@pytest.mark.skipif(bool(why_not()), reason=NOT_TESTED + why_not())
def test_the_unit_with_systemd(tmp_path: Path, cgroup: Path) -> None:
    """The hardened agent starts, reloads, is restarted when it stands still, stops, and fails with a reason."""
    write_units(tmp_path)
    write_programs(tmp_path)
    os.mkfifo(tmp_path / "output")
    boot = BOOT.format(
        cgroup=cgroup,
        folder=tmp_path,
        prefix=sys.base_prefix,
        site=sysconfig.get_path("purelib"),
        root=ROOT,
        systemd=SYSTEMD,
    )
    with ExitStack() as stack:
        operator = stack.enter_context(Program(["cat", tmp_path / "output"]))
        stack.enter_context(Program(["bash", "-c", boot]))
        operator.said("\ndone\n", limit=90)
    log = (tmp_path / "log").read_text()
    lines = operator.output.splitlines()
    assert lines == [
        "started: 0",
        "active",
        "2 workers, listening on 127.0.0.1:12345 for the message m",
        "txn.seen=bool:true",
        "reloaded: 0",
        "txn.seen=bool:false",
        "reloaded bad code: 1",
        "active",
        f"the last reload failed: {BAD_CODE}; 2 workers, listening on 127.0.0.1:12345 for the message m",
        "txn.seen=bool:false",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "txn.seen=bool:false",
        "stopped: 0",
        "inactive",
        "success",
        "started without handlers: 1",
        "done",
    ], log
    # "systemctl reload" itself names only the journal, where this line of spoactl is.
    assert f"spoactl: the reload failed: {BAD_CODE}; workers that were not replaced go on with their old code\n" in log
    assert "Fatal Python error: Aborted" in log
    assert "spoa: cannot import iprep: ModuleNotFoundError" in log
