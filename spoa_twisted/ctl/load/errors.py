"""The kinds of errors of an agent: the keys of :attr:`plan.Outcome.errors`, and of "errors" in the JSON report.

An AGENT-DISCONNECT is counted by its status code, as ``DISCONNECT 4``.
"""

from __future__ import annotations

from typing import Final

#: The agent closed a connection without AGENT-DISCONNECT.
CONNECTION_LOST: Final = "connection lost"

#: A connection that was to replace one that ended could not be opened.
NO_CONNECTION: Final = "no connection"

#: The bytes received are not a frame, or the frame is not allowed there. The load then closes the connection.
BROKEN_FRAME: Final = "broken frame"

#: The ids of an ACK belong to no NOTIFY that was sent.
UNKNOWN_IDS: Final = "unknown ids"

#: An ACK for a NOTIFY that already had its ACK.
REPEATED_IDS: Final = "repeated ids"

#: The actions of an ACK cannot be decoded.
UNDECODABLE: Final = "undecodable ACK"

#: An ACK has the flag ABORT.
ABORTED: Final = "aborted NOTIFY"

#: An ACK sets other variables than expected, or the same with other values or types.
OTHER_VARIABLES: Final = "other variables"

#: No ACK came before the connection ended, or before the timeout at the end of the load.
UNANSWERED: Final = "unanswered NOTIFY"
