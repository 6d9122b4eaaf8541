"""``spoactl decode``: show frames that the user pastes in hexadecimal."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any, Final

from spoa_twisted.ctl.arguments import exit_status, new_parser
from spoa_twisted.ctl.decode.hexadecimal import read_hexadecimal
from spoa_twisted.ctl.decode.packets import streams
from spoa_twisted.ctl.traffic.cutter import LENGTH_SIZE, MAX_DECODED_SIZE, Cut, Cutter
from spoa_twisted.ctl.traffic.frame import SECTIONS, decode_frame
from spoa_twisted.ctl.traffic.rules import check_frame
from spoa_twisted.ctl.traffic.show import frame_to_json, show_faults, show_frame
from spoa_twisted.spop.frames import MIN_FRAME_SIZE

SUMMARY = "decode frames that are pasted in hexadecimal"

#: The most characters that are read from stdin: a larger input is a file of packets rather than a few frames.
MAX_INPUT: Final = 2**26

DESCRIPTION = """\
Decodes frames from hexadecimal text, of the command line or else of stdin, and prints each as "spoactl proxy --values"
does. The frames of both sides are decoded, with or without the 4 bytes of the length in front.
"""

EPILOG = f"""\
The text may be
  - plain: 00000033 65..., 00:00:00:33, 0x00, 0x00, "\\x00\\x00", as xxd -p writes it, or as a C array
  - a dump with offsets: of xxd, hexdump -C, tcpdump -X, or Wireshark ("Copy as Hex Dump"). A column with the bytes as
    text is left out, and so are lines that do not begin with an offset.
In a dump of IP packets, the headers of IP, TCP and Ethernet are left out, and the segments of each direction joined.

Several frames may follow each other. A frame without its length must be alone in the input.

Each frame has the position of its first byte in front. A line with "!" says what is wrong with it, at which byte of the
frame, and which section of HAProxy's doc/SPOE.txt has the rule. --json prints each frame as a line of JSON; see
"spoactl proxy --help".

{exit_status("all frames are right", "one is not, is cut off, or the text is not hexadecimal")}
examples:
  spoactl decode 0000001567000000010101 010302 08 69705f73636f7265 022a
  spoactl decode '03000000010101 08 636865636b2d6970 01 02 6970 06 7f000001'
  spoactl decode --json
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = new_parser("decode", DESCRIPTION, EPILOG)
    parser.add_argument("--json", action="store_true", help="print each frame as a line of JSON")
    parser.add_argument("hexadecimal", metavar="HEX", nargs="*", help="the bytes; stdin is read if there is none")
    return parser


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Print the frames.

    :raises NotHexadecimal: (a ``ValueError``) when the text is not hexadecimal.
    :raises ValueError: when there are no bytes.
    :raises SystemExit: with 1, when a frame is wrong.
    """
    text = " ".join(options.hexadecimal) if options.hexadecimal else _read_stdin()
    inputs = [data for data in streams(read_hexadecimal(text)) if data]
    if not inputs:
        raise ValueError("no bytes: give them as arguments or on stdin")
    faults = 0
    for data in inputs:
        if data is not inputs[0] and not options.json:
            print()
        has_length = begins_with_length(data)
        for cut in cut_frames(data if has_length else len(data).to_bytes(LENGTH_SIZE, "big") + data):
            frame = decode_frame(cut)
            frame.added = 0 if has_length else LENGTH_SIZE
            check_frame(frame)
            if frame.is_fragment:
                frame.notes.append("a fragment, which alone is not decoded")
            faults += len(frame.faults)
            if options.json:
                print(json.dumps({"position": cut.position, **frame_to_json(frame, values=True)}))
            else:
                print(f"{cut.position:6} {show_frame(frame, values=True)}")
                for line in show_faults(frame, values=True):
                    print(f"{'':6} ! {line}")
    if faults:
        raise SystemExit(1)


def cut_frames(data: bytes) -> Iterator[Cut]:
    """Yield the frames in ``data``. The last one may be cut off."""
    cutter = Cutter()
    yield from cutter.feed(data)
    rest = cutter.end()
    if rest is not None:
        yield rest


def begins_with_length(data: bytes) -> bool:
    """Return whether ``data`` begins with FRAME-LENGTH.

    A frame without it begins with its type, and then has the flags, whose first bytes are 0. No length that is allowed
    looks so: it is below 7, or above 16 MiB.
    """
    length = int.from_bytes(data[:LENGTH_SIZE], "big")
    return MIN_FRAME_SIZE <= length <= MAX_DECODED_SIZE or len(data) <= LENGTH_SIZE or data[0] not in SECTIONS


def _read_stdin() -> str:
    if sys.stdin.isatty():
        print("spoactl: paste the bytes, and end with Ctrl-D", file=sys.stderr, flush=True)
    text = sys.stdin.read(MAX_INPUT)
    if len(text) == MAX_INPUT:
        raise ValueError(f"the input has {MAX_INPUT} characters or more")
    return text
