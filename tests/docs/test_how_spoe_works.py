"""docs/explanation/how_spoe_works.rst: its bytes, its commands and its drawing are right."""

from __future__ import annotations

import re
import runpy
from ipaddress import IPv4Address
from xml.etree import ElementTree as ET

from spoa_twisted.spop.actions import encode_actions
from spoa_twisted.spop.frames import Flags, FrameType, encode_frame, encode_ids
from spoa_twisted.spop.messages import MAX_ARGUMENTS, Message, encode_messages
from tests.machine import Machine

from .blocks import Steps, commands, same
from .pages import DOCS

TEXT = (DOCS / "explanation" / "how_spoe_works.rst").read_text("utf-8")

IDS = encode_ids(1, 1)
NOTIFY = encode_frame(
    FrameType.NOTIFY,
    Flags.FIN,
    IDS,
    encode_messages([Message("check-ip", [("ip", IPv4Address("127.0.0.66"))])]),
)
ACK = encode_frame(FrameType.ACK, Flags.FIN, IDS, encode_actions({"txn.allowed": False}))


def bytes_of(title: str) -> bytes:
    """Return the bytes in the first column of a table."""
    table = re.search(rf"list-table:: {title}.*\n((?:   .*\n|\n)+)", TEXT)
    assert table is not None
    return bytes.fromhex(" ".join(re.findall(r"\* - ``(.*)``", table[1])))


def test_the_bytes() -> None:
    """The tables have the bytes that the package writes for these frames."""
    assert bytes_of("NOTIFY") == NOTIFY
    assert bytes_of("ACK") == ACK
    assert f"{len(NOTIFY) - 4} bytes follow" in TEXT
    assert f"{len(ACK) - 4} bytes follow" in TEXT
    true = encode_actions({"txn.allowed": True})
    assert f"(true is ``{true[-1:].hex()}``)" in TEXT
    assert f"arguments of a message                {MAX_ARGUMENTS}\n" in TEXT


def test_the_commands(machine: Machine) -> None:
    """``spoactl decode`` prints what the page shows, for the bytes of the tables."""
    page = Steps("explanation/how_spoe_works")
    session = commands(page.take())
    page.finish()
    for (command, shown), frame in zip(session, (NOTIFY, ACK), strict=True):
        assert bytes.fromhex(command.removeprefix("spoactl decode ")) == frame
        assert same(shown, machine.run(command))


def test_the_drawing() -> None:
    """The SVG is the one that the script draws, is well-formed, and its texts do not leave it."""
    script = runpy.run_path(str(DOCS / "explanation" / "frames_drawing.py"))
    text = script["FILE"].read_text("utf-8")
    assert text == script["draw"](), "run: python docs/explanation/frames_drawing.py"
    root = ET.fromstring(text)
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"] == "spop-frames-title"
    # Between HAProxy and the agent, a letter of 12 units takes 7 at most on average.
    room = script["AGENT"] - script["HAPROXY"]
    for _, arrows in script["PARTS"]:
        for start, end, label in arrows:
            assert {start, end} <= {script["CLIENT"], script["HAPROXY"], script["AGENT"]}
            assert len(label) * 7 <= room
