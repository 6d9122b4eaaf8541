"""What HAProxy does with the backends of agents on which the checks of checks/agents_backend.py speak."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol

from spoa_twisted import Handlers, SPOAFactory, Variables
from tests.haproxy.branches import Branch
from tests.haproxy.harness import shown

from .configurations import GOOD

SPOE = """\
    messages score

spoe-message score
    event on-frontend-http-request
"""

#: In front of SPOE: replaces the timeouts of the harness, because the last one counts.
SHORT_IDLE = "    timeout idle 200ms\n" + SPOE

WEB = shown("txn.spoa.score")


class Counting(SPOAFactory):
    """An agent that counts the connections."""

    built = 0

    def buildProtocol(self, addr: object) -> Protocol | None:
        self.built += 1
        protocol: Protocol | None = super().buildProtocol(addr)
        return protocol


@pytest.fixture
def handlers() -> Handlers:
    return Handlers({"score": lambda: {"txn.score": 42}})


@pytest.fixture
def slow() -> Handlers:
    """Answers after 0.5 s."""

    def score() -> Deferred[Variables]:
        answer: Deferred[Variables] = Deferred()
        reactor.callLater(0.5, answer.callback, {"txn.score": 42})
        return answer

    return Handlers({"score": score})


def test_the_good_configuration_has_no_warning(branch: Branch, tmp_path: Path) -> None:
    """``haproxy -c`` accepts the configuration of which the tests make variants, and says nothing but that."""
    _, haproxy_cfg = GOOD.write(tmp_path)
    run = subprocess.run(
        [branch.executable, "-c", "-f", haproxy_cfg], capture_output=True, text=True, timeout=20, check=True
    )
    assert (run.stdout + run.stderr).strip() in ("", "Configuration file is valid")
