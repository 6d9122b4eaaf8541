"""ctl.http: requests to the endpoint of ``--status``. The subcommands ``status`` and ``watch`` test what it returns."""

from __future__ import annotations

from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from spoa_twisted.ctl.http import _Body


def test_more_of_a_body_that_is_too_long() -> None:
    """What comes before the connection is closed is dropped."""
    body, transport = _Body(100), StringTransport()
    body.makeConnection(transport)
    errors: list[Failure] = []
    body.finished.addErrback(errors.append)
    for _ in range(3):
        body.dataReceived(b" " * 100)
    assert len(errors) == 1
    assert transport.producerState == "stopped"
    assert body._parts == [b" " * 100]
