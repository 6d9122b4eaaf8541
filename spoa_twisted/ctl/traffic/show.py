"""Show a decoded frame: in lines of text, or as a JSON object.

The values of arguments and variables are a user's data. They are shown if the user of ``spoactl`` asks for them;
otherwise only their types. The items of a HELLO or DISCONNECT are always shown.
"""

from __future__ import annotations

from typing import Any, Final

from spoa_twisted.ctl.traffic.frame import DecodedFrame, Fault
from spoa_twisted.shown import (
    MAX_VALUE,
    actions_to_json,
    cut_text,
    message_to_json,
    show_name,
    show_text,
    show_value,
    size_of,
    type_of,
    typed_to_json,
)
from spoa_twisted.spop.actions import NO_ACTIONS
from spoa_twisted.spop.frames import Flags, FrameType
from spoa_twisted.spop.messages import Message
from spoa_twisted.spop.typeddata import NULL, Value

# Characters of the part of a line that shows a payload.
_MAX_LINE: Final = 2000
# Faults of one frame. The others are counted.
_MAX_FAULTS: Final = 10
# Bytes of a frame that cannot be decoded: around the fault, and without the values of users.
_HEX_BEFORE: Final = 16
_HEX_AFTER: Final = 32
_HEX_HEADER: Final = 16

# The content of a frame without a payload.
_EMPTY: Final[dict[int, str]] = {FrameType.NOTIFY: "no messages", FrameType.ACK: "no actions"}

_FLAGS: Final = {Flags.FIN: "FIN", Flags.ABORT: "ABORT"}


def show_frame(frame: DecodedFrame, *, values: bool) -> str:
    """Return the line of ``frame``: its type, ids, flags, size, and content.

    :param values: whether to show the values of arguments and variables.
    """
    if frame.type is None:
        return f"{frame.name}, {_bytes(frame)}"
    flags = "+".join(_flags(frame)) or "no flags"
    facts = [*([] if frame.seconds is None else [f"after {_milliseconds(frame.seconds)}"]), *frame.notes]
    head = f"{frame.name} {frame.stream_id}:{frame.frame_id} {flags}, {_bytes(frame)}"
    content = cut_text(_content(frame, values=values), _MAX_LINE)
    return ", ".join([head, *facts]) + (f": {content}" if content else "")


def show_faults(frame: DecodedFrame, *, values: bool) -> list[str]:
    """Return a line for each fault of ``frame``, and a line with its bytes at the first fault."""
    lines = [_show_fault(frame, fault) for fault in frame.faults[:_MAX_FAULTS]]
    if len(frame.faults) > _MAX_FAULTS:
        lines.append(f"and {len(frame.faults) - _MAX_FAULTS} faults more")
    excerpt = _excerpt(frame, values=values)
    if excerpt is not None:
        start, data = excerpt
        lines.append(f"bytes {start} to {start + len(data) - 1}: {data.hex(' ')}")
    return lines


def frame_to_json(frame: DecodedFrame, *, values: bool) -> dict[str, Any]:
    """Return ``frame`` as a JSON object. ``spoactl proxy --help`` describes it."""
    shown: dict[str, Any] = {"frame": None if frame.type is None else frame.name, "length": frame.size}
    if frame.type is not None:
        shown.update(stream_id=frame.stream_id, frame_id=frame.frame_id, flags=_flags(frame))
    if frame.seconds is not None:
        shown["seconds"] = round(frame.seconds, 6)
    if frame.notes:
        shown["notes"] = frame.notes
    if frame.items:
        shown["items"] = {show_name(name): typed_to_json(value, values=True) for name, value in frame.items}
    if frame.messages:
        shown["messages"] = [message_to_json(message, values=values) for message in frame.messages]
    if frame.type == FrameType.ACK:
        shown["actions"] = actions_to_json(frame.actions, values=values)
    if frame.faults:
        shown["faults"] = [
            {"text": fault.text, "offset": _offset(frame, fault), "section": fault.section or None}
            for fault in frame.faults
        ]
        excerpt = _excerpt(frame, values=values)
        if excerpt is not None:
            shown["hex_offset"], shown["hex"] = excerpt[0], excerpt[1].hex()
    return shown


def _bytes(frame: DecodedFrame) -> str:
    return f"{frame.size} byte{'s' * (frame.size != 1)}"


def _flags(frame: DecodedFrame) -> list[str]:
    reserved = frame.flags & ~int(Flags.FIN | Flags.ABORT)
    return [name for flag, name in _FLAGS.items() if frame.flags & flag] + ([f"{reserved:#x}"] if reserved else [])


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3f} s"


def _content(frame: DecodedFrame, *, values: bool) -> str:
    if frame.items:
        return " ".join([f"{show_name(name)}={_item(value)}" for name, value in frame.items])
    if frame.messages:
        return ", ".join([_show_message(message, values=values) for message in frame.messages])
    if frame.actions:
        if frame.payload == NO_ACTIONS:
            return "no actions (unset txn._)"
        return " ".join([_show_action(name, value, values=values) for name, value in frame.actions])
    if frame.is_whole and not frame.payload:
        return _EMPTY.get(frame.type or 0, "")
    return ""


def _show_message(message: Message, *, values: bool) -> str:
    arguments = [f"{show_name(name)}={_value(value, values=values)}" for name, value in message]
    return f"{show_name(message.name)}({' '.join(arguments)})"


def _show_action(name: str, value: Value, *, values: bool) -> str:
    return f"unset {show_name(name)}" if value is None else f"{show_name(name)}={_value(value, values=values)}"


def _item(value: Value) -> str:
    """Return the value of an item of a HELLO or DISCONNECT: a text in quotation marks, any other without its type."""
    shown = _value(value, values=True)
    name, colon, text = shown.partition(":")
    return f'"{text}"' if name == "str" else text if colon else shown


def _value(value: Value, *, values: bool) -> str:
    """Return the type of ``value``, with the size of a STRING or BINARY; or its type and its value."""
    # An argument of the type NULL: HAProxy sends it for a header that the request does not have.
    value = NULL if value is None else value
    size = size_of(value)
    if not values:
        return type_of(value) if size is None else f"{type_of(value)}({size})"
    if size is not None and isinstance(value, (str, bytes)) and len(value) > MAX_VALUE:
        return f"{show_value(value[:MAX_VALUE])}...({size} bytes)"
    return show_value(value)


def _show_fault(frame: DecodedFrame, fault: Fault) -> str:
    offset = _offset(frame, fault)
    where = [] if offset is None else [f"byte {offset} of the frame"]
    section = [f"SPOE.txt {fault.section}"] if fault.section else []
    places = ", ".join(where + section)
    return cut_text(show_text(fault.text), _MAX_LINE) + (f" ({places})" if places else "")


def _offset(frame: DecodedFrame, fault: Fault) -> int | None:
    """Return the byte of the input's frame at which the fault is."""
    return None if fault.offset is None else max(0, fault.offset - frame.added)


def _excerpt(frame: DecodedFrame, *, values: bool) -> tuple[int, bytes] | None:
    """Return the position and the bytes that are shown of a frame with faults, if any.

    Without ``values``, the payload of a NOTIFY or ACK is not shown. Of bytes that are no frame, 16 are shown.
    """
    fault = next((fault for fault in frame.faults if fault.offset is not None), None)
    if fault is None or fault.offset is None:
        return None
    end = len(frame.raw)
    if not values and frame.type is None:
        end = min(end, _HEX_HEADER)
    elif not values and not frame.items:
        end = min(end, frame.payload_offset)
    start = max(frame.added, min(fault.offset, end) - _HEX_BEFORE)
    data = frame.raw[start : min(end, start + _HEX_BEFORE + _HEX_AFTER)]
    return (start - frame.added, data) if data else None
