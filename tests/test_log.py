"""LogObserver: a fault that repeats is logged once, and only so many faults are remembered."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock
from twisted.logger import Logger

from spoa_twisted.log import LogObserver
from spoa_twisted.observer import ProtocolError
from spoa_twisted.spop.errors import InvalidFrame
from tests.conftest import Logged

#: How many faults are remembered.
MAX_FAULTS = 1000


@pytest.fixture
def observer() -> LogObserver:
    return LogObserver(Logger("test"), Clock())


def fault(number: int) -> ProtocolError:
    """Return a fault of host number ``number``."""
    return ProtocolError(f"192.0.2.{number}:1234", InvalidFrame("wrong"))


def test_a_fault_of_each_host_is_logged_once(observer: LogObserver, logged: Logged) -> None:
    """The number of hosts makes no difference."""
    for number in range(2 * MAX_FAULTS + 500):
        observer.on_event(fault(number))
        assert len(logged.take()) == 1
        observer.on_event(fault(number))
        assert logged.take() == []


def test_the_remembered_faults_are_limited(observer: LogObserver, logged: Logged) -> None:
    """All are forgotten when there is one too many: then the first one is logged again."""
    for number in range(MAX_FAULTS):
        observer.on_event(fault(number))
    assert len(logged.take()) == MAX_FAULTS
    observer.on_event(fault(0))
    assert logged.take() == []
    observer.on_event(fault(MAX_FAULTS))
    observer.on_event(fault(0))
    assert len(logged.take()) == 2
