"""ctl.cpu: the CPU time of a process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from spoa_twisted.ctl import cpu
from spoa_twisted.ctl.cpu import CPUMeter


def burn() -> None:
    """Use some CPU time."""
    sum(range(10**6))


def test_two_meters_of_this_process_agree() -> None:
    """The meter of this process and the meter of its pid read the same time."""
    meters = [CPUMeter.of_this_process(), CPUMeter.of_process(os.getpid())]
    for meter in meters:
        meter.begin()
    burn()
    for meter in meters:
        meter.end()
    for meter in meters:
        assert meter.seconds is not None
        assert meter.seconds > 0
        assert meter.measured > 0
    assert meters[0].seconds == pytest.approx(meters[1].seconds, rel=0.2)


def test_a_process_that_ends_while_it_is_measured() -> None:
    """Its CPU time is unknown, not 0."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        meter = CPUMeter.of_process(child.pid)
        meter.begin()
        child.communicate()
    meter.end()
    assert (meter.seconds, meter.waited) == (None, None)


def test_a_process_that_does_not_exist() -> None:
    """The error names the option and the system's reason."""
    child = subprocess.Popen(["true"])
    child.wait()
    with pytest.raises(ProcessLookupError, match=rf"^--pid {child.pid}: No such process$"):
        CPUMeter.of_process(child.pid)


def test_a_system_that_does_not_tell_who_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    """On systems other than Linux, the time that a process waited is unknown, not 0."""
    monkeypatch.setattr(cpu, "waited", lambda pid: None)
    meter = CPUMeter.of_this_process()
    meter.begin()
    meter.end()
    assert meter.seconds is not None
    assert meter.waited is None
