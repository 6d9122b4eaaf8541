"""Read bytes from text: plain hexadecimal, or the dump of another program.

Dumps have an offset at the beginning of each line, and may have the bytes as text at its end: those of xxd, hexdump -C,
tcpdump -X and Wireshark.
"""

from __future__ import annotations

import re
from typing import Final, final

# The beginning of a line of a dump: its offset, then a colon or two spaces. Not an offset: "65:00:00", "0000 0033".
_OFFSET: Final = re.compile(r"\s*(?:0x)?([0-9a-fA-F]{4,16})(?::\s+|\s{2,}|\t\s*)(?=\S)")
# The last line of hexdump -C: the size.
_SIZE_ONLY: Final = re.compile(r"\s*[0-9a-fA-F]{6,16}\s*\Z")
# Bytes in a row, as "00", "0000" or "00000033".
_BYTES: Final = re.compile(r"(?:[0-9a-fA-F]{2})+\Z")
# Texts that may stand before or between bytes in plain hexadecimal: 0x, \x, quotation marks, and the rest of a C array.
_IGNORED: Final = re.compile(r"(?<![0-9a-fA-F])0x|\\x|/\*.*?\*/|[\s:,;\"'{}\\-]")
_C_DECLARATION: Final = re.compile(r"^.*\w+\s*\[\w*\]\s*=", re.MULTILINE)
_NOT_HEX: Final = re.compile(r"[^0-9a-fA-F]")
# Bytes in one line of a dump. Wireshark and xxd can write up to 256.
_MAX_LINE: Final = 256


@final
class NotHexadecimal(ValueError):
    """A text is not hexadecimal. The error says where."""


def read_hexadecimal(text: str) -> list[bytes]:
    """Return the bytes of ``text``. A dump of several packets has one element for each of them.

    :raises NotHexadecimal: if ``text`` is neither plain hexadecimal nor a dump.
    """
    lines = text.splitlines()
    if any(_OFFSET.match(line) for line in lines):
        return _Dump().read(lines)
    return [_read_plain(text)]


def _read_plain(text: str) -> bytes:
    stripped = _C_DECLARATION.sub(lambda match: " " * len(match[0]), text)
    # Ignored characters become spaces: so the position of a wrong one stays right.
    spaced = _IGNORED.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), stripped)
    for number, line in enumerate(spaced.splitlines(), 1):
        wrong = _NOT_HEX.search(line.replace(" ", "0"))
        if wrong is not None:
            raise NotHexadecimal(
                f"line {number}, character {wrong.start() + 1}: {wrong[0]!a} is not a hexadecimal digit"
            )
    digits = "".join(spaced.split())
    if len(digits) % 2:
        raise NotHexadecimal(f"{len(digits)} hexadecimal digits: a digit is missing, as each byte has two")
    return bytes.fromhex(digits)


@final
class _Dump:
    """Reads a dump. A line whose offset is 0 begins a packet; lines without an offset are skipped."""

    def __init__(self) -> None:
        self._packets: list[bytearray] = []
        # The offset of the first line of the packet: the user may have pasted a part of a dump only.
        self._base = 0
        self._last_line = b""
        # Whether a "*" was seen, which stands for lines that are equal to the last one.
        self._repeats = False

    def read(self, lines: list[str]) -> list[bytes]:
        """Return the packets."""
        offsets = [int(match[1], 16) if (match := _OFFSET.match(line)) else None for line in lines]
        for number, line in enumerate(lines):
            if line.strip() == "*":
                self._repeats = True
            elif self._repeats and _SIZE_ONLY.match(line):
                self._go_to(int(line, 16), number)
            match = _OFFSET.match(line)
            if match is not None:
                self._go_to(int(match[1], 16), number)
                following = next((offset for offset in offsets[number + 1 :] if offset is not None), None)
                self._add(line[match.end() :], int(match[1], 16), following, number)
        return [bytes(packet) for packet in self._packets]

    def _go_to(self, offset: int, number: int) -> None:
        """Begin a packet, repeat the last line up to ``offset``, or check that no line is missing."""
        if not self._packets or (offset == 0 and not self._repeats):
            self._packets.append(bytearray())
            self._base = offset
        packet = self._packets[-1]
        missing = offset - self._base - len(packet)
        if self._repeats:
            self._repeats = False
            if self._last_line and 0 <= missing <= 2**24:
                packet += self._last_line * (missing // len(self._last_line))
                missing = offset - self._base - len(packet)
        if missing:
            expected = self._base + len(packet)
            raise NotHexadecimal(
                f"line {number + 1} has the offset {offset:#x}, but the lines before it end at {expected:#x}:"
                f" {'a line is missing' if missing > 0 else 'the offsets do not fit'}"
            )

    def _add(self, text: str, offset: int, following: int | None, number: int) -> None:
        """Add the bytes of one line.

        :param text: the line without its offset.
        :param following: the offset of the next line, which tells how many bytes this line has.
        """
        size = following - offset if following is not None and 0 < following - offset <= _MAX_LINE else _MAX_LINE
        data = bytearray()
        position = 0
        for match in re.finditer(r"\S+", text):
            rest = text[match.start() :]
            # Behind the bytes, two spaces or more and the same bytes as text. That may look like bytes: "abcd".
            is_separated = match.start() - position >= 2 and data
            if len(data) >= size or (is_separated and _is_text_of(rest, data)) or not _BYTES.match(match[0]):
                break
            data += bytes.fromhex(match[0])[: size - len(data)]
            position = match.end()
        if not data:
            raise NotHexadecimal(f"line {number + 1} has an offset, but no bytes behind it")
        self._last_line = bytes(data)
        self._packets[-1] += data


def _is_text_of(text: str, data: bytes | bytearray) -> bool:
    """Return whether ``text`` is the column of a dump that shows ``data`` as characters."""
    shown = "".join([chr(byte) if 0x20 <= byte < 0x7F else "." for byte in data])
    text = text.rstrip()
    return text.strip("|><") == shown.strip("|><").rstrip() or text == shown.strip() or text.startswith(f"|{shown}")
