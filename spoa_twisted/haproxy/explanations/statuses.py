"""What the status of a NOTIFY means: ``st=`` in HAProxy's log, and the variable of ``option set-on-error``.

The numbers below 256 are HAProxy's own, and differ between its generations. From 256 on, a status is 256 + the status
code of a DISCONNECT, or of an error that HAProxy found on the connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from spoa_twisted.haproxy.explanations.disconnects import MAX_CODE, explain_code
from spoa_twisted.haproxy.explanations.meaning import (
    AT_ONCE,
    NOT_SENT,
    NOT_WAITED,
    RETRIED,
    SENT,
    WAITED,
    Cause,
    Explanation,
    Generation,
)
from spoa_twisted.spop.errors import STATUS_WORDS, with_words

#: The status of a NOTIFY is this number + the status code, if the error is one of the connection.
CONNECTION: Final = 256

_SLOW: Final = (
    'The agent\'s log: an agent of spoa_twisted names slow messages with "--log-slow 0.1". Or let "timeout processing"'
    " (spoe-agent section) be longer."
)
_SHOW_FRAMES: Final = '"spoactl proxy" between HAProxy and the agent prints each frame, and what is wrong with it.'
_NO_SERVER: Final = (
    '"show stat" on HAProxy\'s stats socket: status, check_status and last_chk of the agents\' backend. "spoactl ping'
    ' --agent tcp:HOST:PORT" makes the same check.'
)
_RESTARTED: Final = (
    "The agent's log at this time. An agent of spoa_twisted that is stopped answers first, and closes then."
)
_TIMEOUT_SERVER: Final = Cause(
    '"timeout server" of the agents\' backend is shorter than the agent needed.',
    'Write "timeout server 3m" into this backend: the value of "defaults" is often shorter than "timeout processing".',
)
_LONG_ARGUMENT: Final = Cause(
    "An argument is long, such as req.body or req.hdrs.",
    "Leave it out, or cut it: req.body,bytes(0,8192). Cookies alone may have several KB.",
)
_NEVER: Final = "HAProxy does not set this status."

# The other causes of its status code are those of a HELLO, which has succeeded before a NOTIFY.
_OF_THE_AGENT: Final = Cause(
    "The agent failed, or had a timeout, and reports it by this code.", "The agent's log at this time."
)

_OK: Final = Explanation(
    "No error. The agent's ACK came in time.",
    (
        Cause(
            "A variable is not set although there is no error.",
            'The agent did not set it, or its name is wrong: "spoactl watch" shows what the agent sets; "spoactl check'
            ' spoe.conf haproxy.cfg" looks for wrong names.',
        ),
        Cause(
            "HAProxy logs a line for each NOTIFY.",
            'Write "option dontlog-normal" into the spoe-agent section: it then logs only the errors.',
        ),
    ),
)

_OLD: Final[Mapping[int, Explanation]] = {
    0: _OK,
    1: Explanation(
        '"timeout processing" was over before the agent\'s ACK came.',
        (
            Cause("A handler is slow, or waits for something that is slow.", _SLOW, SENT),
            Cause(
                "The agent hangs, or sends no ACK for this NOTIFY.",
                f'"spoactl ping" and "spoactl send" ask the agent itself. {_SHOW_FRAMES}',
                SENT,
            ),
            Cause(
                "The connection ended. With the capability async, HAProxy waits for the ACK on another connection.",
                'The agent was stopped, or HAProxy reloaded. "no option async" in the spoe-agent section gives status'
                " 257 at once.",
                SENT,
            ),
            Cause(
                "HAProxy could not connect: nothing listens on the server's port.",
                'The address on the "server" line. With "option spop-check", and "check" on each server line, such'
                " requests get status 2 at once, without the wait.",
                NOT_SENT,
            ),
            Cause(
                "The HELLOs failed: the agent sent none, or one side refused the other's. HAProxy tries again until the"
                " timeout.",
                f'"spoactl ping --agent tcp:HOST:PORT". {_SHOW_FRAMES}',
                NOT_SENT,
            ),
            Cause(
                "The agent takes no more connections, or all are busy.",
                '"maxconn" on the server line, "maxconnrate" and "max-waiting-frames" in the spoe-agent section, and'
                " the agent's own limit.",
                NOT_SENT,
            ),
        ),
    ),
    2: Explanation(
        "HAProxy has no connection to an agent, and did not open one.",
        (
            Cause("No server of the agents' backend is up: the health check fails, or all are disabled.", _NO_SERVER),
            Cause(
                "The agents' backend has no server line.",
                'The backend that "use-backend" (spoe-agent section) names, in haproxy.cfg. "spoactl check" reads it.',
            ),
            Cause('"maxconnrate" allows no connection now.', 'Remove "maxconnrate" from the spoe-agent section.'),
        ),
    ),
    3: Explanation(
        "The messages do not fit in a frame, and HAProxy may not send fragments. Nothing was sent.",
        (
            Cause(
                '"no option send-frag-payload" is set.',
                "Remove it from the spoe-agent section, if the agent supports fragmentation (spoa_twisted does).",
            ),
            Cause(
                '"max-frame-size" of the spoe-agent section is small.',
                "Remove it: the default is tune.bufsize - 4, which is 16380.",
            ),
            _LONG_ARGUMENT,
        ),
    ),
    4: Explanation(
        "The agent refused a long payload while HAProxy sent it in fragments: it sent an ACK with the flag ABORT.",
        (
            Cause(
                "The payload, usually a body, is longer than the agent accepts.",
                "The agent's log, and its limit. An agent of spoa_twisted does not cause this: it sets the variables of"
                " on_error instead.",
            ),
            _LONG_ARGUMENT,
        ),
    ),
    5: Explanation(
        "HAProxy did not wait for the ACK: the rule that sent the group ended before. HAProxy logs no line for this.",
        (
            Cause(
                '"tcp-request inspect-delay" (or tcp-response) is shorter than the agent needed.',
                'Let inspect-delay be longer than "timeout processing": the rule of the group waits no longer.',
            ),
            Cause(
                "The client closed its connection.", "Nothing needs to change, if only some requests have this status."
            ),
        ),
    ),
    255: Explanation(_NEVER),
    256: Explanation(
        "HAProxy or the agent closed the connection in order, before the ACK came.",
        (
            Cause(
                '"timeout idle" (spoe-agent section) is shorter than the agent needed.',
                'Let it be longer than "timeout processing": write "timeout idle 2m". It also ends connections on which'
                " a NOTIFY waits.",
            ),
            Cause("The agent was stopped or restarted: it sent AGENT-DISCONNECT 0.", _RESTARTED),
            Cause(
                "HAProxy did not accept an ACK, such as one without the flag FIN, and the agent answered HAProxy's"
                " DISCONNECT.",
                _SHOW_FRAMES,
            ),
        ),
    ),
    257: Explanation(
        "The connection to the agent ended before the ACK came.",
        (
            Cause("The agent crashed, was killed, or closed the connection.", _RESTARTED),
            _TIMEOUT_SERVER,
            Cause(
                'The server was marked down, and "on-marked-down shutdown-sessions" ended its connections.',
                'The lines "Server ... is DOWN" in HAProxy\'s log at this time.',
            ),
        ),
    ),
    259: Explanation(
        "A frame was longer than the max-frame-size of the connection.",
        (
            Cause(
                "The agent's HELLO lowered max-frame-size, and this NOTIFY was made before. Only the first requests of"
                " HAProxy get this.",
                'Write the agent\'s "max-frame-size" into the spoe-agent section.',
                NOT_WAITED,
            ),
            Cause(
                "The agent's ACK was too long.",
                "Let the agent set fewer or shorter variables, or raise tune.bufsize. An agent of spoa_twisted never"
                " sends such an ACK; it logs the message instead.",
                WAITED,
            ),
            Cause(
                "The server is no SPOP agent: HAProxy read its text as a length.",
                'The port on the server line. "spoactl ping --agent tcp:HOST:PORT".',
                WAITED,
            ),
            Cause("The agent refused the NOTIFY as too long: AGENT-DISCONNECT 3.", "The agent's log.", WAITED),
        ),
    ),
    260: Explanation(
        "HAProxy or the agent received a frame that is not valid.",
        (
            Cause("The agent could not read a frame of HAProxy: AGENT-DISCONNECT 4.", "The agent's log."),
            Cause("HAProxy could not read a frame of the agent.", _SHOW_FRAMES),
        ),
    ),
}

_NEW: Final[Mapping[int, Explanation]] = {
    0: _OK,
    1: Explanation(
        '"timeout processing" was over before the agent\'s ACK came.',
        (
            Cause("A handler is slow, or waits for something that is slow.", _SLOW),
            Cause(
                "There was no connection in time: nothing listens on the server's port (HAProxy tries again each"
                " second), or one side refused the other's HELLO.",
                '"spoactl ping --agent tcp:HOST:PORT". With "option spop-check", and "check" on each server line, such'
                " requests get status 257 at once, without the wait.",
            ),
            Cause(
                "HAProxy could not read the ACK: it was too long, had no flag FIN, or had a wrong stream-id.",
                f"{_SHOW_FRAMES} Long answers need an agent that paces them: docs/explanation/pacing.rst.",
            ),
        ),
    ),
    2: Explanation(
        "HAProxy could not allocate what a connection to the agent needs.",
        (
            Cause(
                "HAProxy's memory is limited, and used up.",
                'The option -m of haproxy, the limits of its unit or container, and "show info" on its stats socket.',
            ),
        ),
    ),
    3: Explanation(
        "The messages do not fit in a frame, and HAProxy >= 3.1 does not send fragments. Nothing was sent.",
        (
            _LONG_ARGUMENT,
            Cause(
                '"max-frame-size" of the spoe-agent section is small.',
                "Remove it: the default is tune.bufsize - 4, which is 16380.",
            ),
            Cause(
                '"tune.bufsize" is smaller than what the requests need.',
                'Raise "tune.bufsize" in the section global: each connection of HAProxy then needs more memory.',
            ),
        ),
    ),
    4: Explanation(
        "HAProxy did not wait for the ACK: what it processed was interrupted. Of a group it logs no line for this.",
        (
            Cause(
                '"tcp-request inspect-delay" (or tcp-response) is shorter than the agent needed.',
                'Let inspect-delay be longer than "timeout processing": the rule of the group waits no longer.',
            ),
            Cause(
                "The client closed its connection (for an event: from HAProxy 3.4 on).",
                "Nothing needs to change, if only some requests have this status.",
            ),
        ),
    ),
    5: Explanation("HAProxy >= 3.1 does not set this status. Its SPOE.txt lists it, but what was 5 is 4 now."),
    255: Explanation(_NEVER),
    256: Explanation("HAProxy >= 3.1 has not been seen to set this status: an AGENT-DISCONNECT 0 gives 257 there."),
    257: Explanation(
        "HAProxy had no connection to an agent, or the connection ended before the ACK came.",
        (
            Cause("No server of the agents' backend is up, or it has no server line.", _NO_SERVER, AT_ONCE),
            Cause("The agent crashed, was killed, or was restarted.", _RESTARTED),
            Cause(
                "Nothing listens on the server's port, and all retries are used up.",
                'The address on the "server" line. "spoactl ping --agent tcp:HOST:PORT".',
                RETRIED,
            ),
            _TIMEOUT_SERVER,
        ),
    ),
    259: Explanation(
        "A frame was longer than the max-frame-size of the connection.",
        (
            Cause(
                "The agent's HELLO has a lower max-frame-size than HAProxy's, and the messages do not fit.",
                'Raise it in the agent, or write the agent\'s "max-frame-size" into the spoe-agent section: then such'
                " requests get status 3.",
            ),
            Cause("The agent refused the NOTIFY as too long: AGENT-DISCONNECT 3.", "The agent's log."),
        ),
    ),
    260: Explanation(
        "The agent or HAProxy received a frame that is not valid.",
        (
            Cause("The agent could not read a frame of HAProxy: AGENT-DISCONNECT 4.", "The agent's log."),
            Cause("HAProxy could not read a frame of the agent.", _SHOW_FRAMES),
        ),
    ),
}

#: The statuses that have an explanation of their own.
STATUSES: Final[Mapping[Generation, Mapping[int, Explanation]]] = {Generation.OLD: _OLD, Generation.NEW: _NEW}


def explain_status(status: int, generation: Generation) -> Explanation | None:
    """Return what ``status`` means in HAProxy's log; ``None`` if no status is so large, or negative."""
    if status in STATUSES[generation]:
        return STATUSES[generation][status]
    code = status - CONNECTION
    if status < 0 or code > MAX_CODE:
        return None
    if code < 0:
        return Explanation(f"{_NEVER} Below 256 it has only 0 to {5 if generation is Generation.OLD else 4}.")
    words = with_words(code) if code in STATUS_WORDS else f"{code}, a code of the agent's own"
    text = f"The agent ended the connection before the ACK: AGENT-DISCONNECT {words}."
    return Explanation(text, explain_code(code).within().causes or (_OF_THE_AGENT,))


def show_sum(status: int) -> str:
    """Return how a status from 256 on is made: ``256 + 3, frame is too big``. Return "" for a lower one."""
    return "" if status < CONNECTION else f"{CONNECTION} + {with_words(status - CONNECTION)}"
