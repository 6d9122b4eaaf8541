"""What the status codes of HAPROXY-DISCONNECT and AGENT-DISCONNECT mean (SPOE.txt, section 3.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from spoa_twisted.haproxy.explanations.meaning import Cause, Context, Explanation
from spoa_twisted.spop.errors import StatusCode

#: A status code is a UINT32.
MAX_CODE: Final = 2**32 - 1

_SHOW_FRAMES: Final = '"spoactl proxy" between HAProxy and the agent prints each frame, and what is wrong with it.'
_AGENT_HELLO: Final = (
    f'"spoactl ping --agent tcp:HOST:PORT" reads the agent\'s HELLO. {_SHOW_FRAMES} Update or mend the agent.'
)
_NO_SPOP: Final = Cause(
    "The other side does not use SPOP on this connection: a web server, a scanner, a PROXY header.",
    'The port and "send-proxy" on the server line (also in "default-server"), and "option spop-check" instead of'
    ' another check. "spoactl ping --agent tcp:HOST:PORT".',
)

#: The codes of SPOE.txt.
DISCONNECTS: Final[Mapping[int, Explanation]] = {
    StatusCode.NORMAL: Explanation(
        "The side that sends this needs the connection no longer. This is no error.",
        (
            Cause("HAProxy <= 3.0 is stopped or reloaded.", "Nothing needs to change.", only=Context.HAPROXY),
            Cause(
                "The agent is stopped or restarted.",
                "Nothing needs to change, unless requests get status 256 or 257 at this time: then the agent does not"
                " answer pending NOTIFYs before it closes.",
            ),
        ),
    ),
    StatusCode.IO_ERROR: Explanation(
        "The connection broke, or was closed by the other side.",
        (
            Cause(
                'HAProxy <= 3.0: "timeout server" of the agents\' backend ended the connection.',
                'Let it be longer than "timeout idle" and "timeout processing": write "timeout server 3m".',
                only=Context.HAPROXY,
            ),
            Cause("The other side ended, or the network failed.", "The agent's log, and HAProxy's, at this time."),
        ),
    ),
    StatusCode.TIMEOUT: Explanation(
        "A timeout of the side that sends this was over.",
        (
            Cause(
                'HAProxy <= 3.0: the connection was unused for "timeout idle". This is no error.',
                'Nothing, if no NOTIFY waited. If requests get status 256, let "timeout idle" be longer.',
                only=Context.HAPROXY,
            ),
            Cause(
                "The agent: no HAPROXY-HELLO came in time, so the peer is a TCP check or no HAProxy.",
                'Write "option spop-check" into the agents\' backend.',
                only=Context.HELLO,
            ),
        ),
    ),
    StatusCode.FRAME_TOO_BIG: Explanation(
        "A frame was longer than the max-frame-size that the HELLOs agreed on.",
        (
            Cause(
                "From HAProxy: the agent's ACK was too long.",
                "Let the agent set fewer or shorter variables, or raise tune.bufsize in HAProxy.",
                only=Context.HAPROXY,
            ),
            Cause(
                "From the agent: the NOTIFY was too long.",
                'The limit of the agent, and "max-frame-size" in the spoe-agent section.',
            ),
            _NO_SPOP,
        ),
    ),
    StatusCode.INVALID_FRAME: Explanation(
        "A frame could not be decoded, or came at the wrong time.",
        (_NO_SPOP, Cause("One side has a fault.", _SHOW_FRAMES)),
    ),
    StatusCode.VERSION_NOT_FOUND: Explanation(
        "The HELLO has no version.",
        (
            Cause(
                "A health check of HAProxy >= 3.1 reports these words for each AGENT-DISCONNECT, whatever its code.",
                "The agent's log has the true reason.",
                only=Context.CHECK,
            ),
            Cause("The agent's HELLO lacks the item version.", _AGENT_HELLO, only=Context.HELLO),
        ),
    ),
    StatusCode.MAX_FRAME_SIZE_NOT_FOUND: Explanation(
        "The HELLO has no max-frame-size.",
        (Cause("The agent's HELLO lacks the item max-frame-size.", _AGENT_HELLO, only=Context.HELLO),),
    ),
    StatusCode.CAPABILITIES_NOT_FOUND: Explanation(
        "The HELLO has no capabilities.",
        (
            Cause(
                "The agent's HELLO lacks the item capabilities. Only a health check of HAProxy >= 3.1 refuses this.",
                f"The agent must send it, if only as an empty string. {_AGENT_HELLO}",
                only=Context.HELLO,
            ),
        ),
    ),
    StatusCode.UNSUPPORTED_VERSION: Explanation(
        "The two sides have no version of SPOP in common.",
        (Cause("The agent offers or expects another version than 2.0.", _AGENT_HELLO, only=Context.HELLO),),
    ),
    StatusCode.BAD_MAX_FRAME_SIZE: Explanation(
        "The max-frame-size of the HELLO is below 256, or above that of HAProxy.",
        (
            Cause(
                "The agent answers with a fixed size, and not with HAProxy's or a smaller one.",
                _AGENT_HELLO,
                only=Context.HELLO,
            ),
            Cause(
                '"max-frame-size" of the spoe-agent section, or tune.bufsize, is smaller than the agent expects.',
                "Raise or remove it, or lower the agent's size.",
                only=Context.HELLO,
            ),
        ),
    ),
    StatusCode.FRAGMENTATION_NOT_SUPPORTED: Explanation(
        "A payload came in fragments, which this side does not support.",
        (
            Cause(
                "HAProxy <= 3.0: the messages do not fit in a frame, and the agent does not announce fragmentation.",
                "Leave out or cut long arguments such as req.body, or raise tune.bufsize, or use an agent with"
                " fragmentation (spoa_twisted has it).",
            ),
            Cause("The agent sent an ACK without the flag FIN.", _SHOW_FRAMES),
        ),
    ),
    StatusCode.INTERLACED_FRAMES: Explanation(
        "Another NOTIFY came between the fragments of a NOTIFY.",
        (
            Cause(
                "Two programs write to one connection, or a fragment was lost.",
                f"HAProxy does not do this: look for a proxy between HAProxy and the agent. {_SHOW_FRAMES}",
            ),
        ),
    ),
    StatusCode.FRAME_ID_NOT_FOUND: Explanation(
        "An ACK has a stream-id and frame-id for which no NOTIFY waits.",
        (
            Cause(
                'The agent answered too late: "timeout processing" was over.',
                'Let the handlers be faster, or "timeout processing" longer.',
            ),
            Cause("The agent answers twice, or mixes up ids.", _SHOW_FRAMES),
        ),
    ),
    StatusCode.RESOURCE_ALLOCATION: Explanation(
        "The side that sends this lacks memory, or another resource.",
        (
            Cause(
                "A limit of memory, of open files, or of its own is reached.",
                "The log of the side that sends this, and the limits of its unit or container.",
            ),
        ),
    ),
    StatusCode.UNKNOWN: Explanation(
        "Something failed for which SPOE.txt has no code.",
        (
            Cause(
                "The agent failed. Many agents send this for each error, for example in a handler.",
                "The agent's log at this time.",
            ),
            Cause(
                "A health check of HAProxy <= 3.0 reports these words for each code that SPOE.txt does not list.",
                "The agent's log at this time.",
                only=Context.CHECK,
            ),
        ),
    ),
}

#: SPOE.txt allows an agent to have codes of its own.
OWN_CODE: Final = Explanation(
    "SPOE.txt does not list this code. It is one of the agent's own.",
    (Cause("The agent decides what it means.", "The documentation and the log of the agent."),),
)


def explain_code(code: int) -> Explanation:
    """Return what the status code of a DISCONNECT means."""
    return DISCONNECTS.get(code, OWN_CODE)
