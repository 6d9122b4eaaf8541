"""spoactl: speaks to agents from the command line."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as default_reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.utils import getProcessOutputAndValue

from spoa_twisted import NULL, Handlers, Int32, Int64, SPOAFactory, SPOAService, UInt32, UInt64
from spoa_twisted.ctl import _report, main, ping
from spoa_twisted.ctl.values import parse_value, show_value
from spoa_twisted.spop.frames import Disconnect, Flags, FrameType, encode_frame
from tests.programs import ENVIRONMENT, SPOACTL

reactor: Any = default_reactor

TYPED = [
    ("null", None),
    ("null:", None),
    ("bool:true", True),
    ("bool:false", False),
    ("int32:-5", Int32(-5)),
    ("uint32:4294967295", UInt32(2**32 - 1)),
    ("int64:42", Int64(42)),
    ("uint64:18446744073709551615", UInt64(2**64 - 1)),
    ("ipv4:192.0.2.1", IPv4Address("192.0.2.1")),
    ("ipv6:2001:db8::1", IPv6Address("2001:db8::1")),
    ("str:42", "42"),
    ("str:", ""),
    ("str:a:b", "a:b"),
    ("bin:00ff", b"\x00\xff"),
    ("bin:", b""),
]

GUESSED = [
    ("true", True),
    ("false", False),
    ("42", 42),
    ("-5", -5),
    ("0", 0),
    ("192.0.2.1", IPv4Address("192.0.2.1")),
    ("2001:db8::1", IPv6Address("2001:db8::1")),
    ("::1", IPv6Address("::1")),
    ("", ""),
    ("GET", "GET"),
    ("True", "True"),
    ("007", "007"),
    ("1_000", "1_000"),
    ("+1", "+1"),
    ("1.5", "1.5"),
    ("http://example.test/", "http://example.test/"),
    ("str", "str"),
    ("99999999999999999999", "99999999999999999999"),
    ("10.0.0.256", "10.0.0.256"),
]


class TestValues:
    @pytest.mark.parametrize(("text", "value"), [*TYPED, *GUESSED])
    def test_a_value_is_read(self, text: str, value: Any) -> None:
        """In the type that stands in front, else in one that it looks like."""
        read = parse_value(text)
        assert (read, type(read)) == (value, type(value))

    @pytest.mark.parametrize(
        "text",
        [
            "bool:1",
            "bool:",
            "int32:x",
            "int32:2147483648",
            "uint32:-1",
            "int64:9223372036854775808",
            "uint64:1.5",
            "ipv4:1.2.3",
            "ipv6:1.2.3.4",
            "bin:0",
            "bin:xy",
        ],
    )
    def test_what_its_type_does_not_allow_is_refused(self, text: str) -> None:
        """With a ValueError, not sent as something else."""
        with pytest.raises(ValueError):
            parse_value(text)

    @pytest.mark.parametrize(("text", "value"), [row for row in TYPED if row[1] is not None])
    def test_a_value_is_shown_as_it_is_read(self, text: str, value: Any) -> None:
        """What spoactl prints, it takes."""
        assert show_value(value) == text

    @pytest.mark.parametrize(
        ("value", "text"),
        [(7, "int64:7"), (NULL, "null"), ("a\nb\x1b[31m\udcff", "str:a\\nb\\x1b[31m\\udcff"), ("é", "str:é")],
    )
    def test_a_value_is_shown_in_one_line(self, value: Any, text: str) -> None:
        """A value from the network does not steer the terminal."""
        assert show_value(value) == text

    def test_what_spop_has_no_type_for_is_not_shown(self) -> None:
        """As a float."""
        with pytest.raises(TypeError, match="a float has no SPOP type"):
            show_value(1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["send"],
        ["send", "m", "noequals"],
        ["send", "m", "a=int32:x"],
        ["send", "--agent", "nonsense", "m"],
        ["send", "--timeout", "0", "m"],
        ["ping", "--timeout", "x"],
        ["ping", "nonsense:1"],
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """With exit status 2, and an error in one line behind the usage."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("spoactl")


async def spoactl(*arguments: str) -> tuple[str, str, int]:
    """Run the program; return its output, its errors, and its exit status."""
    out, err, status = await getProcessOutputAndValue(SPOACTL[0], [*SPOACTL[1:], *arguments], env=ENVIRONMENT)
    return out.decode(), err.decode(), status


@pytest_twisted.ensureDeferred
async def test_it_sends_and_pings(tmp_path: Path) -> None:
    """The variables are printed in the types in which they came; a health check says what the agent is."""
    handlers = Handlers(
        {
            "echo": lambda message: {f"txn.{name or 'unnamed'}": value for name, value in message},
            "nothing": lambda: None,
        }
    )
    service = SPOAService(SPOAFactory(handlers), [f"unix:{tmp_path}/agent"])
    service.startService()
    agent = f"unix:{tmp_path}/agent"
    assert await spoactl("send", "--agent", agent, "echo", "ip=192.0.2.1", "n=int32:-5", "=x", "gone=null") == (
        "txn.ip=ipv4:192.0.2.1\ntxn.n=int32:-5\ntxn.unnamed=str:x\nunset txn.gone\n",
        "",
        0,
    )
    assert await spoactl("send", "nothing", "--agent", agent) == ("", "", 0)
    assert await spoactl("send", "echo", "a=1", "--agent", agent, "b=2") == ("txn.a=int64:1\ntxn.b=int64:2\n", "", 0)
    out, err, status = await spoactl("send", "--agent", agent, "echo", *["a=1"] * 256)
    assert (out, err, status) == ("", "spoactl: the message 'echo' has 256 arguments; SPOP allows 255\n", 1)
    assert await spoactl("ping", agent) == (
        "SPOP 2.0, frames up to 16380 bytes, capabilities: fragmentation, pipelining\n",
        "",
        0,
    )
    await service.stopService()


@pytest_twisted.ensureDeferred
async def test_an_agent_does_not_steer_the_terminal(tmp_path: Path) -> None:
    """Whatever it calls its variables and says of itself."""
    goodbye = Disconnect(4, "\x1b[31m\n").encode()

    class Hostile(Protocol):
        def dataReceived(self, data: bytes) -> None:
            assert self.transport is not None
            self.transport.write(encode_frame(FrameType.AGENT_DISCONNECT, Flags.FIN, b"\0\0", goodbye))

    port = reactor.listenUNIX(f"{tmp_path}/agent", Factory.forProtocol(Hostile))
    out, err, status = await spoactl("ping", f"unix:{tmp_path}/agent")
    assert (out, status) == ("", 1)
    assert err == "spoactl: the agent disconnected: \\x1b[31m\\n (status code 4)\n"
    await port.stopListening()


@pytest.mark.parametrize("command", [["ping"], ["send", "m", "--agent"]])
@pytest_twisted.ensureDeferred
async def test_no_agent_is_told_in_one_line(command: list[str], tmp_path: Path) -> None:
    """With exit status 1."""
    out, err, status = await spoactl(*command, f"unix:{tmp_path}/nobody")
    assert (out, status) == ("", 1)
    assert err.startswith("spoactl: ")
    assert err.count("\n") == 1


@pytest_twisted.ensureDeferred
async def test_what_is_no_agent_is_told_in_one_line() -> None:
    """As when the port is a web server's, or nobody answers."""

    class Web(Protocol):
        def dataReceived(self, data: bytes) -> None:
            assert self.transport is not None
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    for protocol in (Web, Protocol):
        port = reactor.listenTCP(0, Factory.forProtocol(protocol), interface="127.0.0.1")
        out, err, status = await spoactl("ping", f"tcp:127.0.0.1:{port.getHost().port}", "--timeout", "1")
        assert (out, status) == ("", 1)
        assert err.startswith("spoactl: ")
        assert err.count("\n") == 1
        await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_an_agent_that_closes_without_an_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is told in plain words: Twisted says that the connection was closed cleanly."""

    class Closes(Protocol):
        def dataReceived(self, data: bytes) -> None:
            assert self.transport is not None
            self.transport.loseConnection()

    port = reactor.listenUNIX(f"{tmp_path}/agent", Factory.forProtocol(Closes))
    with pytest.raises(SystemExit) as caught:
        await _report(reactor, ping.run, ping.parser().parse_args([f"unix:{tmp_path}/agent"]))
    await port.stopListening()
    assert caught.value.code == 1
    assert capsys.readouterr() == ("", "spoactl: the agent closed the connection without an answer\n")
