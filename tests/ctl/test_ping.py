"""ctl.ping: make a health check."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.protocol import Factory, Protocol

from spoa_twisted import Handlers, SPOAFactory
from spoa_twisted.ctl import ping

from .agents import agent_disconnect
from .spoactl import spoactl


@pytest_twisted.ensureDeferred
async def test_the_agent_hello_is_printed(endpoint: str, listen: Any) -> None:
    """The line has the version, the frame size and the capabilities."""
    listen(SPOAFactory(Handlers()))
    assert await spoactl("ping", "--agent", endpoint) == (
        "SPOP 2.0, frames up to 16380 bytes, capabilities: fragmentation, pipelining\n",
        "",
        0,
    )


class Disconnecting(Protocol):
    """An agent that answers with an AGENT-DISCONNECT whose message has control characters."""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(agent_disconnect(4, "\x1b[31m\n"))


@pytest_twisted.ensureDeferred
async def test_control_characters_are_escaped(endpoint: str, listen: Any) -> None:
    """A text from the agent must not change the terminal."""
    listen(Factory.forProtocol(Disconnecting))
    error = "the agent disconnected: \\x1b[31m\\n (status code 4, invalid frame received)"
    meaning = "A frame could not be decoded, or came at the wrong time"
    assert await spoactl("ping", "--agent", endpoint) == ("", f"spoactl: {error}: {meaning}\n", 1)


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("tcp:127.0.0.1:12345", "'tcp:127.0.0.1:12345' is an endpoint; write --agent tcp:127.0.0.1:12345"),
        ("agent", "'agent' is not an option"),
    ],
)
def test_an_argument_is_refused(argument: str, error: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The error says where an endpoint belongs. The usage does not name the argument."""
    with pytest.raises(SystemExit):
        ping.parser().parse_args([argument])
    written = capsys.readouterr().err
    assert written.endswith(f"spoactl ping: error: argument ENDPOINT: {error}\n")
    assert "[ENDPOINT]" not in written
