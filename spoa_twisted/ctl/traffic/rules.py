"""The rules that a frame must keep by itself, whatever came before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from spoa_twisted.ctl.traffic.frame import SECTIONS, DecodedFrame
from spoa_twisted.spop.connection import ASYNC, FRAGMENTATION, PIPELINING, check_unfragmented
from spoa_twisted.spop.errors import SPOPError
from spoa_twisted.spop.frames import AgentHello, Disconnect, FrameType, HAProxyHello
from spoa_twisted.spop.typeddata import Value

#: The types that only HAProxy sends.
HAPROXY_TYPES: Final = (FrameType.UNSET, FrameType.HAPROXY_HELLO, FrameType.HAPROXY_DISCONNECT, FrameType.NOTIFY)
#: The types that only an agent sends.
AGENT_TYPES: Final = (FrameType.AGENT_HELLO, FrameType.AGENT_DISCONNECT, FrameType.ACK)

# The items that SPOE.txt calls mandatory.
_MANDATORY: Final = {
    FrameType.HAPROXY_HELLO: ("supported-versions", "max-frame-size", "capabilities"),
    FrameType.AGENT_HELLO: ("version", "max-frame-size", "capabilities"),
    FrameType.HAPROXY_DISCONNECT: ("status-code", "message"),
    FrameType.AGENT_DISCONNECT: ("status-code", "message"),
}
_CAPABILITIES: Final = (FRAGMENTATION, PIPELINING, ASYNC)
_CAPABILITIES_SECTION: Final = "3.2.1"

# HAProxy drops a variable whose name has other characters, and all names above this length, in characters: the scope,
# the prefix and two dots come on top.
_NAME: Final = re.compile(r"[A-Za-z0-9_.]+\Z")
_MAX_NAME_LENGTH: Final = 63

_DECODERS: Final[Mapping[int, Callable[[bytes], object]]] = {
    FrameType.HAPROXY_HELLO: HAProxyHello.decode,
    FrameType.AGENT_HELLO: AgentHello.decode,
    FrameType.HAPROXY_DISCONNECT: Disconnect.decode,
    FrameType.AGENT_DISCONNECT: Disconnect.decode,
}


def check_frame(frame: DecodedFrame) -> None:
    """Add the faults of ``frame`` that can be seen without a connection."""
    if frame.type is None:
        return
    if frame.type not in SECTIONS:
        frame.fault(f"SPOE.txt has no frame type {frame.type}: HAProxy and agents skip it", 4, "3.2.2")
    elif frame.type in _MANDATORY:
        _check_kv_list(frame, FrameType(frame.type))
    elif frame.type == FrameType.ACK:
        _check_ack(frame)


def _check_kv_list(frame: DecodedFrame, frame_type: FrameType) -> None:
    """Check a HELLO or DISCONNECT."""
    section = SECTIONS[frame_type]
    try:
        check_unfragmented(frame_type, frame.flags, frame.ids)
    except SPOPError as error:
        frame.fault(str(error).replace(frame_type.name, frame.name), 5 if not frame.is_whole else 9, section)
    if frame.faults:
        return
    items = dict(reversed(frame.items))
    missing = [name for name in _MANDATORY[frame_type] if name not in items]
    if missing:
        are = "items are missing" if len(missing) > 1 else "item is missing"
        frame.fault(f"{len(missing)} mandatory {are}: {', '.join(missing)}", frame.payload_offset, section)
    else:
        try:
            _DECODERS[frame_type](frame.payload)
        except SPOPError as error:
            frame.fault(str(error), frame.payload_offset, section)
    _check_capabilities(frame, items.get("capabilities"))


def _check_capabilities(frame: DecodedFrame, capabilities: Value) -> None:
    if isinstance(capabilities, str):
        for name in filter(None, "".join(capabilities.split()).split(",")):
            if name not in _CAPABILITIES:
                text = (
                    f"unknown capability {ascii(name)[:100]}, which is ignored: SPOE.txt has {', '.join(_CAPABILITIES)}"
                )
                frame.fault(text, frame.payload_offset, _CAPABILITIES_SECTION)


def _check_ack(frame: DecodedFrame) -> None:
    if not frame.is_whole:
        frame.fault(
            "an ACK without the flag FIN: no HAProxy accepts fragments from an agent", 5, SECTIONS[FrameType.ACK]
        )
    for variable, _ in frame.actions:
        name = variable.partition(".")[2]
        if not _NAME.match(name):
            frame.fault(f"HAProxy drops the variable {ascii(variable)[:100]}: a name has only A-Z a-z 0-9 _ and .")
        elif len(name) > _MAX_NAME_LENGTH:
            frame.fault(f"HAProxy drops the variable {ascii(variable)[:100]}: its name has more than 63 characters")
