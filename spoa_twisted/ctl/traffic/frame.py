"""Decode one frame of either side, without a connection, as far as it can be decoded.

The functions of :mod:`spoa_twisted.spop` decode its parts. Where one of them fails, the parts before it are kept, and a
:class:`Fault` has the reason and the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, final

from spoa_twisted.ctl.traffic.cutter import LENGTH_SIZE, MAX_DECODED_SIZE, Cut
from spoa_twisted.spop.actions import decode_action
from spoa_twisted.spop.errors import InvalidFrame, SPOPError
from spoa_twisted.spop.frames import Flags, FrameBuffer, FrameType, decode_ids, frame_overhead
from spoa_twisted.spop.messages import MAX_MESSAGES, Message, decode_message, decode_names
from spoa_twisted.spop.typeddata import Value, decode_string, decode_typed_data

#: The section of SPOE.txt that describes a type of frames.
SECTIONS: Final = {
    FrameType.UNSET: "3.2.2",
    FrameType.HAPROXY_HELLO: "3.2.4",
    FrameType.AGENT_HELLO: "3.2.5",
    FrameType.NOTIFY: "3.2.6",
    FrameType.ACK: "3.2.7",
    FrameType.HAPROXY_DISCONNECT: "3.2.8",
    FrameType.AGENT_DISCONNECT: "3.2.9",
}

#: The section of SPOE.txt that describes the header of a frame.
_HEADER_SECTION: Final = "3.2"

_KV_LISTS: Final = (
    *(FrameType.HAPROXY_HELLO, FrameType.AGENT_HELLO),
    *(FrameType.HAPROXY_DISCONNECT, FrameType.AGENT_DISCONNECT),
)

# How many items of a KV-LIST, or actions of an ACK, are decoded. The shortest one has two bytes, and its Python object
# takes much more memory.
_MAX_ELEMENTS: Final = MAX_MESSAGES


@final
@dataclass(frozen=True, slots=True)
class Fault:
    """An error in a frame, or a rule that the frame breaks."""

    text: str
    #: The byte of the frame, counted from 0 at its FRAME-LENGTH; ``None`` if the fault has no place.
    offset: int | None = None
    #: The section of SPOE.txt with the rule that the frame breaks; empty if HAProxy has the rule and SPOE.txt has not.
    section: str = ""


@final
@dataclass(slots=True)
class DecodedFrame:
    """A frame, as far as it could be decoded."""

    #: The bytes of the frame with FRAME-LENGTH. Of a frame that is too long, only the first 64 bytes.
    raw: bytes
    #: FRAME-LENGTH.
    size: int
    #: The type, which need not be a :class:`FrameType`; ``None`` if there is no whole header.
    type: int | None = None
    flags: int = 0
    #: Whether it is a fragment of a NOTIFY: its payload alone is not decoded.
    is_fragment: bool = False
    ids: bytes = b""
    stream_id: int = 0
    frame_id: int = 0
    payload: bytes = b""
    #: The items of the KV-LIST of a HELLO or DISCONNECT.
    items: list[tuple[str, Value]] = field(default_factory=list)
    #: The messages of a NOTIFY; of a fragmented one, with its last fragment.
    messages: list[Message] = field(default_factory=list)
    #: The variables of an ACK, by ``scope.name``, in the order of its actions. ``None`` unsets the variable.
    actions: list[tuple[str, Value]] = field(default_factory=list)
    #: Facts that are no faults: "fragment", "answers a NOTIFY of #1".
    notes: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    #: How many bytes of :attr:`raw` the input did not have: the length may be missing.
    added: int = 0
    #: The seconds since the NOTIFY that this ACK answers, or since its last fragment.
    seconds: float | None = None

    @property
    def name(self) -> str:
        """The name of the type in SPOE.txt, such as "HAPROXY-HELLO"."""
        if self.type is None:
            return "no frame"
        return FrameType(self.type).name.replace("_", "-") if self.type in SECTIONS else f"type {self.type}"

    @property
    def is_whole(self) -> bool:
        """Whether the frame is the last fragment of its payload, or has the whole payload."""
        return bool(self.flags & Flags.FIN)

    @property
    def payload_offset(self) -> int:
        """The byte at which the payload begins."""
        return LENGTH_SIZE + frame_overhead(self.ids)

    def fault(self, text: str, offset: int | None = None, section: str = "") -> None:
        """Add a fault."""
        self.faults.append(Fault(text, offset, section))


def decode_frame(cut: Cut) -> DecodedFrame:
    """Decode the bytes of one frame. The payload of a fragment is not decoded."""
    frame = DecodedFrame(cut.raw, cut.size)
    if cut.cut_off:
        _on_cut_off(frame, cut)
        return frame
    # The header of a frame that is too long is decoded too: then it ends where the kept bytes end.
    raw = cut.raw if not cut.missing else (len(cut.raw) - LENGTH_SIZE).to_bytes(LENGTH_SIZE, "big") + cut.raw[4:]
    buffer = FrameBuffer(max(MAX_DECODED_SIZE, len(raw)))
    buffer.feed(raw)
    try:
        decoded = buffer.next_frame()
    except SPOPError as error:
        offset = error.offset if isinstance(error, InvalidFrame) else None
        # A length below that of a header has no offset.
        frame.fault(str(error), offset or 0, _HEADER_SECTION)
        _explain_length(frame)
        return frame
    assert decoded is not None
    frame.type, frame.flags, frame.ids, frame.payload = decoded
    frame.stream_id, frame.frame_id = decode_ids(frame.ids)
    if cut.missing:
        if frame.type not in SECTIONS:
            # Most probably these bytes are no frame at all.
            frame.type = None
        frame.payload = b""
        frame.fault(
            f"a frame of {cut.size} bytes is not decoded: spoactl decodes frames up to {MAX_DECODED_SIZE} bytes",
            0,
            _HEADER_SECTION,
        )
        _explain_length(frame)
    elif frame.is_whole and frame.type != FrameType.UNSET:
        decode_payload(frame, frame.payload, frame.payload_offset)
    elif frame.type in (FrameType.NOTIFY, FrameType.UNSET):
        # A Conversation decodes the joined fragments.
        frame.is_fragment = True
    return frame


def decode_payload(frame: DecodedFrame, payload: bytes, base: int | None) -> None:
    """Decode ``payload`` by the type of ``frame``, and add the result to ``frame``.

    :param payload: the payload of the frame; with its last fragment, the joined fragments.
    :param base: the byte of the frame at which ``payload`` begins; ``None`` for joined fragments.
    """
    if frame.type in _KV_LISTS:
        elements = _decode_items(payload, frame.items)
    elif frame.type == FrameType.ACK:
        elements = _decode_actions(payload, frame.actions)
    elif frame.type in (FrameType.NOTIFY, FrameType.UNSET):
        elements = _decode_messages(payload, frame.messages)
    else:
        # A type of a later version of SPOP.
        return
    count = 0
    try:
        for _ in elements:
            count += 1
            if count > _MAX_ELEMENTS:
                frame.notes.append("spoactl shows no more of its content")
                break
    except InvalidFrame as error:
        assert frame.type is not None
        section = "3.4" if frame.type == FrameType.ACK else SECTIONS[FrameType(frame.type)]
        text = f"{_place_in(frame, payload)}{error}"
        if base is None:
            # The offset in the joined fragments is no offset in this frame.
            frame.fault(f"{text} (byte {error.offset} of the joined fragments)", None, section)
        else:
            frame.fault(text, None if error.offset is None else base + error.offset, section)


def _decode_items(payload: bytes, items: list[tuple[str, Value]]) -> Iterator[None]:
    offset = 0
    while offset < len(payload):
        name, offset = decode_string(payload, offset)
        value, offset = decode_typed_data(payload, offset)
        items.append((name, value))
        yield


def _decode_messages(payload: bytes, messages: list[Message]) -> Iterator[None]:
    offset = 0
    while offset < len(payload):
        message, offset = decode_message(payload, offset)
        messages.append(message)
        yield


def _decode_actions(payload: bytes, actions: list[tuple[str, Value]]) -> Iterator[None]:
    offset = 0
    while offset < len(payload):
        variable, value, offset = decode_action(payload, offset)
        actions.append((variable, value))
        yield


def _place_in(frame: DecodedFrame, payload: bytes) -> str:
    """Return the element in which decoding failed, for the text of a fault."""
    if frame.type == FrameType.ACK:
        before = len(frame.actions)
        return f"action {before + 1}: HAProxy drops it and all behind it: "
    if frame.type in (FrameType.NOTIFY, FrameType.UNSET):
        names = decode_names(payload)[len(frame.messages) :]
        return f"the message {ascii(names[0])[:100]}: " if names else ""
    return f"item {len(frame.items) + 1}: "


def _on_cut_off(frame: DecodedFrame, cut: Cut) -> None:
    """Add the fault of a frame whose stream ends before it does."""
    if len(cut.raw) < LENGTH_SIZE:
        frame.fault(f"{len(cut.raw)} bytes are left: a frame begins with a length of 4 bytes", 0, _HEADER_SECTION)
        return
    frame.fault(
        f"the frame is cut off: its length is {cut.size} bytes, and {len(cut.raw) - LENGTH_SIZE} of them are here",
        len(cut.raw),
        _HEADER_SECTION,
    )
    if cut.missing == LENGTH_SIZE:
        frame.fault("4 bytes are missing: does the length count its own 4 bytes? It must not", 0, _HEADER_SECTION)
    _explain_length(frame)


def _explain_length(frame: DecodedFrame) -> None:
    """Add the probable reason of a wrong FRAME-LENGTH."""
    for explains, text in _EXPLANATIONS:
        if explains(frame):
            frame.fault(text, 0, _HEADER_SECTION)
            return


def _looks_little_endian(frame: DecodedFrame) -> bool:
    # The four bytes of an ordinary frame, read the other way round, are a very long frame.
    return frame.size > MAX_DECODED_SIZE and 7 <= int.from_bytes(frame.raw[:LENGTH_SIZE], "little") < 2**16


def _looks_like_text(frame: DecodedFrame) -> bool:
    return all(0x20 <= byte < 0x7F for byte in frame.raw[:LENGTH_SIZE])


def _looks_like_tls(frame: DecodedFrame) -> bool:
    # The type of a TLS record (20 to 23), and the version 3.x.
    return 20 <= frame.raw[0] <= 23 and frame.raw[1] == 3


_EXPLANATIONS: Final[tuple[tuple[Callable[[DecodedFrame], bool], str], ...]] = (
    (_looks_little_endian, "the length looks little-endian: SPOP's is big-endian"),
    (_looks_like_text, "the bytes look like text: is the peer an HTTP server or another program without SPOP?"),
    (_looks_like_tls, "the bytes look like TLS: use ssl: or tls: in the endpoint, or spoactl cannot read them"),
)
