"""ctl.decode: frames from hexadecimal text of every form that users paste."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Any

import pytest

from spoa_twisted.ctl.decode import parser, run
from spoa_twisted.ctl.decode.hexadecimal import NotHexadecimal, read_hexadecimal
from spoa_twisted.ctl.decode.packets import streams
from spoa_twisted.spop.actions import encode_actions
from spoa_twisted.spop.frames import NO_IDS, AgentHello, Disconnect, FrameType, HAProxyHello, encode_frame
from spoa_twisted.spop.messages import Message, encode_messages
from tests.needs import needs_program

HELLO = encode_frame(FrameType.HAPROXY_HELLO, 1, NO_IDS, HAProxyHello(engine_id="e").encode())
AGENT_HELLO = encode_frame(FrameType.AGENT_HELLO, 1, NO_IDS, AgentHello().encode())
# Its text looks like hexadecimal, and so does the column of a dump that shows it.
NOTIFY = encode_frame(
    FrameType.NOTIFY,
    1,
    b"\x01\x01",
    encode_messages([Message("abcd", [("ip", IPv4Address("192.0.2.1")), ("id", "beef 1234 cafe"), ("b", bytes(64))])]),
)
ACK = encode_frame(FrameType.ACK, 1, b"\x01\x01", encode_actions({"txn.allowed": True, "txn.user": None}))
BYE = encode_frame(FrameType.HAPROXY_DISCONNECT, 1, NO_IDS, Disconnect().encode())
ALL = HELLO + AGENT_HELLO + NOTIFY + ACK + BYE

VERSIONS = 'supported-versions="2.0"'
ABCD = f"abcd(ip=ipv4:192.0.2.1 id=str:beef 1234 cafe b=bin:{'00' * 64})"
LINES = [
    f'{0:6} HAPROXY-HELLO 0:0 FIN, 78 bytes: {VERSIONS} max-frame-size=16380 capabilities="" engine-id="e"',
    f'{len(HELLO):6} AGENT-HELLO 0:0 FIN, 54 bytes: version="2.0" max-frame-size=16380 capabilities=""',
    f"{len(HELLO + AGENT_HELLO):6} NOTIFY 1:1 FIN, {len(NOTIFY) - 4} bytes: {ABCD}",
    f"{len(HELLO + AGENT_HELLO + NOTIFY):6} ACK 1:1 FIN, {len(ACK) - 4} bytes: txn.allowed=bool:true unset txn.user",
    f'{len(ALL) - len(BYE):6} HAPROXY-DISCONNECT 0:0 FIN, 37 bytes: status-code=0 message="normal"',
]


async def decode(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[list[str], int]:
    """Return the lines that ``spoactl decode`` prints, and its exit status."""
    status = 0
    try:
        await run(None, parser().parse_intermixed_args(arguments))
    except SystemExit as error:
        assert isinstance(error.code, int)
        status = error.code
    return capsys.readouterr().out.splitlines(), status


def finished(coroutine: Any) -> Any:
    """Return the result of a coroutine that never waits."""
    with pytest.raises(StopIteration) as caught:
        coroutine.send(None)
    return caught.value.value


def ascii_of(data: bytes) -> str:
    return "".join([chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data])


def dump(data: bytes, prefix: str, group: int, width: int, separator: str, around: str = "") -> str:
    """Return a dump with offsets."""
    lines = []
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        groups = " ".join([row[at : at + group].hex() for at in range(0, len(row), group)])
        lines.append(f"{prefix.format(start)}{groups:<{width}}{separator}{around}{ascii_of(row)}{around}")
    return "\n".join(lines) + "\n"


def hexdump_c(data: bytes) -> str:
    lines = []
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        halves = f"{row[:8].hex(' '):<23}  {row[8:].hex(' '):<23}"
        lines.append(f"{start:08x}  {halves}  |{ascii_of(row)}|")
    return "\n".join(lines) + f"\n{len(data):08x}\n"


FORMS = {
    "one line": ALL.hex(),
    "bytes": ALL.hex(" "),
    "capitals": ALL.hex(" ").upper(),
    "groups of 4": ALL.hex(" ", 4),
    "groups of 2": ALL.hex(" ", 2),
    "colons": ALL.hex(":"),
    "dashes": ALL.hex("-"),
    "0x": ", ".join([f"0x{byte:02x}" for byte in ALL]),
    "0x in front": f"0x{ALL.hex()}",
    "escaped": '"' + "".join([f"\\x{byte:02x}" for byte in ALL]) + '"',
    "C array": "char peer0_0[] = { /* Packet 4 */\n" + ",\n".join([f"0x{byte:02x}" for byte in ALL]) + " };\n",
    "xxd -p": "\n".join([ALL[at : at + 30].hex() for at in range(0, len(ALL), 30)]) + "\n",
    "xxd": dump(ALL, "{:08x}: ", 2, 39, "  "),
    "hexdump -C": hexdump_c(ALL),
    "Wireshark": dump(ALL, "{:04x}   ", 1, 47, "   "),
    "Wireshark, bytes only": "".join([f"{at:04x}   {ALL[at : at + 16].hex(' ')}\n" for at in range(0, len(ALL), 16)]),
    "with other lines": "12:00:00.1 IP 127.0.0.1.1 > 127.0.0.1.2: Flags [P.]\n"
    + dump(ALL, "\t0x{:04x}:  ", 2, 39, "  "),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_forms(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each form has the same frames. The column of characters is not read, though it looks like bytes."""
    assert read_hexadecimal(FORMS[form]) == [ALL]
    assert finished(decode(capsys, FORMS[form])) == (LINES, 0)


def dumped_by(*command: str) -> Any:
    """Return a parameter that is left out if its program is not installed."""
    package = {"xxd": "xxd", "hexdump": "bsdextrautils"}[command[0]]
    return pytest.param(command, marks=needs_program(command[0], package), id=" ".join(command))


@pytest.mark.parametrize(
    "command",
    [
        dumped_by("xxd"),
        dumped_by("xxd", "-p"),
        dumped_by("hexdump", "-C"),
        dumped_by("xxd", "-a"),
        dumped_by("xxd", "-c", "8"),
    ],
)
def test_the_programs_themselves(command: Sequence[str]) -> None:
    """The output of the installed program is read. Both leave out lines that repeat, and write "*" for them."""
    out = subprocess.run(command, input=ALL, capture_output=True, check=True).stdout.decode()
    assert read_hexadecimal(out) == [ALL]


@pytest.mark.parametrize("frame", [HELLO, AGENT_HELLO, NOTIFY, ACK, BYE])
def test_without_the_length(frame: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """A frame may be pasted without its length."""
    (line,), status = finished(decode(capsys, frame[4:].hex()))
    assert (line[:6].strip(), status) == ("0", 0)
    assert line[6:] in [known[6:] for known in LINES]


@pytest.mark.parametrize("flags", [0, 1, 3])
def test_fragments_without_the_length(flags: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The type of a fragment is 0, so its first bytes look like a length: like one that is too short."""
    frame = encode_frame(FrameType.UNSET, flags, b"\x00\x01", b"x" * 300)
    for text in (frame.hex(), frame[4:].hex()):
        (line,), status = finished(decode(capsys, text))
        assert "UNSET 0:1" in line
        assert line.endswith("307 bytes, a fragment, which alone is not decoded")
        assert status == 0


def ip_packet(sequence: int, data: bytes, source: int = 1, link: bytes = b"", padding: bytes = b"") -> bytes:
    tcp = source.to_bytes(2, "big") + b"\x30\x39" + sequence.to_bytes(4, "big") + bytes(4) + b"\x80\x18" + bytes(18)
    header = b"\x45\x00" + (52 + len(data)).to_bytes(2, "big") + bytes(5) + b"\x06" + bytes(10)
    return link + header + tcp + data + padding


ETHERNET = bytes(12) + b"\x08\x00"


@pytest.mark.parametrize("link", [b"", ETHERNET, bytes(14) + b"\x08\x00", b"\x02\x00\x00\x00"])
def test_the_headers_of_packets_are_left_out(link: bytes) -> None:
    """Segments of one direction are joined; an empty or a repeated one is left out, and so is padding."""
    packets = [
        ip_packet(2**32 - 5, NOTIFY[:20], link=link),
        ip_packet(7, ACK, source=2, link=link),
        ip_packet(7, b"", link=link, padding=bytes(6)),
        ip_packet(2**32 - 5, NOTIFY[:20], link=link),
        ip_packet(15, NOTIFY[20:], link=link, padding=bytes(6)),
    ]
    text = "".join([f"12:00 IP\n{dump(packet, '0x{:04x}:  ', 2, 39, '  ')}" for packet in packets])
    assert read_hexadecimal(text) == packets
    assert streams(packets) == [NOTIFY, ACK]


def test_ipv6() -> None:
    """Packets of IPv6 have no length of their header."""
    tcp = ip_packet(1, ACK)[20:]
    packet = b"\x60\x00\x00\x00" + len(tcp).to_bytes(2, "big") + b"\x06\x40" + bytes(32) + tcp
    assert streams([packet, b"\x60" + bytes(60)]) == [ACK, b"\x60" + bytes(60)]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("00 0g", "line 1, character 5: 'g' is not a hexadecimal digit"),
        ("0000\n00x0", "line 2, character 3: 'x' is not a hexadecimal digit"),
        ("00 0", "3 hexadecimal digits: a digit is missing, as each byte has two"),
        ("0000: 00 11\n0003: 22", "line 2 has the offset 0x3, but the lines before it end at 0x2: a line is missing"),
        ("0000: zz", "line 1 has an offset, but no bytes behind it"),
    ],
)
def test_what_is_not_hexadecimal(text: str, error: str) -> None:
    """The error says where, and what is wrong."""
    with pytest.raises(NotHexadecimal) as caught:
        read_hexadecimal(text)
    assert str(caught.value) == error


def test_a_dump_that_ends_with_a_repetition() -> None:
    """The last line of hexdump -C is the size: the lines before it are as many as it says."""
    text = "00000000  61 62 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |ab..............|\n"
    text += "00000010  00 00 00 00 00 00 00 00  00 00 00 00 00 00 00 00  |................|\n*\n00000050\n"
    assert read_hexadecimal(text) == [b"ab" + bytes(78)]
    assert read_hexadecimal("*\n" + text) == [b"ab" + bytes(78)]


def test_a_packet_that_is_cut_off() -> None:
    """Without the whole header of TCP, it is shown as it is."""
    assert streams([ip_packet(1, b"")[:30]]) == [ip_packet(1, b"")[:30]]


def test_two_directions(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty line stands between them."""
    text = "".join([dump(ip_packet(1, data, n), "0x{:04x}:  ", 2, 39, "  ") for n, data in enumerate([NOTIFY, ACK])])
    lines, status = finished(decode(capsys, text))
    assert [line[7:13].strip() for line in lines] == ["NOTIFY", "", "ACK 1:"]
    assert status == 0


class Terminal(io.StringIO):
    """A stdin that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_stdin(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read if there are no arguments. On a terminal, a line says so."""
    monkeypatch.setattr("sys.stdin", Terminal(ALL.hex()))
    finished(run(None, parser().parse_intermixed_args([])))
    assert capsys.readouterr() == ("\n".join(LINES) + "\n", "spoactl: paste the bytes, and end with Ctrl-D\n")


def test_stdin_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture of hours would fill the memory."""
    monkeypatch.setattr("spoa_twisted.ctl.decode.MAX_INPUT", 10)
    monkeypatch.setattr("sys.stdin", io.StringIO(ALL.hex()))
    with pytest.raises(ValueError, match="the input has 10 characters or more"):
        run(None, parser().parse_intermixed_args([])).send(None)


def test_no_bytes() -> None:
    """An empty text is an error."""
    with pytest.raises(ValueError, match="no bytes: give them as arguments or on stdin"):
        run(None, parser().parse_intermixed_args([" "])).send(None)


@pytest.mark.parametrize("size", range(1, len(ACK)))
def test_a_cut_off_frame(size: int, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line says how much is missing, and where; the frame before it is shown."""
    lines, status = finished(decode(capsys, (NOTIFY + ACK[:size]).hex()))
    assert status == 1
    assert lines[0].startswith("     0 NOTIFY 1:1")
    if size < 4:
        text = f"{size} bytes are left: a frame begins with a length of 4 bytes (byte 0 of the frame, SPOE.txt 3.2)"
    else:
        length = len(ACK) - 4
        text = f"is cut off: its length is {length} bytes, and {size - 4} of them are here (byte {size} of the frame"
    assert text in lines[2]


def test_an_offset_counts_the_bytes_that_were_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    """Without the length, the same byte has another number."""
    wrong = encode_frame(FrameType.ACK, 1, b"\x01\x01", b"\x01\x03\x02\x01a\x0c")
    with_length, _ = finished(decode(capsys, wrong.hex()))
    without, status = finished(decode(capsys, wrong[4:].hex()))
    fault = "action 1: HAProxy drops it and all behind it: the data type 12 is reserved: SPOP defines the types 0 to 9"
    assert with_length[1] == f"       ! {fault} (byte 16 of the frame, SPOE.txt 3.4)"
    assert without[1] == f"       ! {fault} (byte 12 of the frame, SPOE.txt 3.4)"
    assert with_length[2] == f"       ! bytes 0 to 16: {wrong.hex(' ')}"
    assert without[2] == f"       ! bytes 0 to 12: {wrong[4:].hex(' ')}"
    assert status == 1


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Each frame is one object."""
    lines, status = finished(decode(capsys, "--json", (NOTIFY + ACK).hex()))
    notify, ack = map(json.loads, lines)
    assert status == 0
    assert notify["position"] == 0
    assert notify["messages"][0]["name"] == "abcd"
    assert notify["messages"][0]["arguments"][0] == {"name": "ip", "type": "ipv4", "value": "192.0.2.1"}
    assert ack["actions"] == [{"set": "txn.allowed", "type": "bool", "value": True}, {"unset": "txn.user"}]
