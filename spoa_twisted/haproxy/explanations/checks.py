"""What HAProxy's log says of the servers of the agents' backend: results of health checks, UP and DOWN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from spoa_twisted.haproxy.explanations.disconnects import DISCONNECTS
from spoa_twisted.haproxy.explanations.meaning import Cause, Context, Explanation
from spoa_twisted.spop.errors import STATUS_WORDS, StatusCode

#: HAProxy's words for each result of a check, as in the column check_status of "show stat".
RESULTS: Final[Mapping[str, str]] = {
    "L4OK": "Layer4 check passed",
    "L4CON": "Layer4 connection problem",
    "L4TOUT": "Layer4 timeout",
    "L6RSP": "Layer6 invalid response",
    "L6TOUT": "Layer6 timeout",
    "L7OK": "Layer7 check passed",
    "L7RSP": "Layer7 invalid response",
    "L7STS": "Layer7 wrong status",
    "L7TOUT": "Layer7 timeout",
    "SOCKERR": "Socket error",
}

#: The status code of each text that a failed "option spop-check" may give as its reason.
CODES: Final[Mapping[str, int]] = {words: code for code, words in STATUS_WORDS.items()}

_TLS: Final = Explanation(
    "The TLS handshake of the health check failed.",
    (
        Cause("One side uses TLS, and the other does not.", '"ssl" or "check-ssl" on the server line.'),
        Cause("A certificate is not accepted.", '"verify", "ca-file" and "crt" on the server line.'),
    ),
)
_OTHER_CHECK: Final = Cause(
    "The backend uses the check of another protocol, perhaps from the defaults section.",
    'Write "option spop-check" into the agents\' backend, as its last check option.',
)

CHECKS: Final[Mapping[str, Explanation]] = {
    "L4OK": Explanation(
        "The server accepts connections. No agent was asked.",
        (_OTHER_CHECK,),
    ),
    "L4CON": Explanation(
        "HAProxy could not connect to the server.",
        (
            Cause(
                "The agent does not run, or listens on another address.",
                'The address on the server line; "ss -ltn" on the agent\'s machine; "spoactl ping --agent'
                ' tcp:HOST:PORT".',
            ),
            Cause("A firewall refuses the connection.", "Connect from HAProxy's machine."),
        ),
    ),
    "L4TOUT": Explanation(
        "The connection to the server was not open in time.",
        (
            Cause("The machine is down, or a firewall drops the packets.", "Connect from HAProxy's machine."),
            Cause(
                "The agent's machine is overloaded, or its queue of new connections is full.",
                '"ss -ltn" on the agent\'s machine: Recv-Q at its limit, Send-Q.',
            ),
        ),
    ),
    "L6RSP": _TLS,
    "L6TOUT": _TLS,
    "L7OK": Explanation("The agent answered the health check. This is no error."),
    "L7STS": Explanation("The server answered the check of another protocol, with an error.", (_OTHER_CHECK,)),
    "L7TOUT": Explanation(
        "The server accepted the connection, but sent no AGENT-HELLO in time.",
        (
            Cause(
                "The agent hangs, or a handler blocks it.",
                'The agent\'s log, and "spoactl ping --agent tcp:HOST:PORT --timeout 10".',
            ),
            Cause('"timeout check" is very short.', 'Write "timeout check 500ms" or more into the agents\' backend.'),
            Cause(
                "The server is no SPOP agent: HAProxy <= 3.0 waits for the rest of a frame.",
                "The port on the server line.",
            ),
        ),
    ),
    "SOCKERR": Explanation(
        "HAProxy could not open the connection of the health check.",
        (
            Cause(
                "The unix socket on the server line does not exist: the agent does not run, or listens elsewhere.",
                'The path on the server line. With "chroot" in the section global, HAProxy looks for it below that'
                " folder.",
            ),
            Cause("HAProxy may not open this socket.", "The owner and the mode of the socket, and of its folder."),
            Cause("HAProxy has no file descriptors left.", '"ulimit-n" and "maxconn" in the section global.'),
        ),
    ),
}

#: The agent closed the connection of a check: "TCPCHK got an empty response at step 2".
EMPTY_ANSWER: Final = Explanation(
    "The agent closed the connection of the health check without an answer.",
    (
        Cause("The agent is stopping, or has too many connections.", "The agent's log, and its limit of connections."),
        Cause("The server is no SPOP agent, or expects TLS.", 'The port and "ssl" on the server line.'),
        Cause('The agent expects a PROXY header ("haproxy:" endpoint).', '"send-proxy" and "check-send-proxy".'),
    ),
)

_REFUSED: Final = Explanation(
    "The agent refused the health check: AGENT-DISCONNECT 0.",
    (Cause("The agent is stopping, or does not support health checks.", "The agent's log."),),
)

NO_SERVER: Final = Explanation(
    "No server of the backend is up. If it is the agents' backend, requests get status 2 (HAProxy <= 3.0) or 257.",
    (
        Cause("The health check failed.", 'The line before this one says why: "spoactl explain" it.'),
        Cause("All servers were disabled.", '"show servers state" on HAProxy\'s stats socket.'),
    ),
)

DOWN: Final = Explanation(
    "HAProxy uses this server no longer. If no other server is up, requests get status 2 (HAProxy <= 3.0) or 257.",
    NO_SERVER.causes,
)

UP: Final = Explanation("HAProxy uses this server again. This is no error.")

NO_APPLET: Final = Explanation(
    "HAProxy could not make its side of a connection to the agent. The request gets status 2.",
    (
        Cause(
            "HAProxy's memory is limited, and used up.",
            'The option -m of haproxy, the limits of its unit or container, and "show info" on its stats socket.',
        ),
    ),
)


def explain_check(result: str, info: str = "") -> Explanation:
    """Return what a result of a health check means.

    :param result: a key of :data:`RESULTS`.
    :param info: HAProxy's text about it.
    """
    if result != "L7RSP":
        return CHECKS[result]
    if info.startswith("TCPCHK got an empty response"):
        return EMPTY_ANSWER
    code = CODES.get(info)
    if code == StatusCode.NORMAL:
        return _REFUSED
    if code is not None:
        return DISCONNECTS[code].within(Context.CHECK, Context.HELLO)
    return Explanation("The answer to the health check is not valid SPOP.", (*DISCONNECTS[4].causes, _OTHER_CHECK))
