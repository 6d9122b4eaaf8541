"""The kinds of errors of an agent: the keys of :attr:`plan.Outcome.errors`, and of "errors" in the JSON report.

An AGENT-DISCONNECT is counted by its status code, as ``DISCONNECT 4``.
"""

from __future__ import annotations

from typing import Final

#: The agent closed a connection without AGENT-DISCONNECT.
CONNECTION_LOST: Final = "connection lost"

#: A connection ended, and the load could not open another one in its place.
NO_CONNECTION: Final = "no connection"

#: The received bytes are not a frame, or the frame is not legal after the AGENT-HELLO. The load closes the connection.
BROKEN_FRAME: Final = "broken frame"

#: An ACK has ids that no NOTIFY sent on this connection has.
UNKNOWN_IDS: Final = "unknown ids"

#: An ACK has the ids of a NOTIFY that already had its ACK.
REPEATED_IDS: Final = "repeated ids"

#: The actions of an ACK cannot be decoded.
UNDECODABLE: Final = "undecodable ACK"

#: An ACK has the flag ABORT.
ABORTED: Final = "aborted NOTIFY"

#: An ACK sets other variables than expected, or the same variables with other values or types.
OTHER_VARIABLES: Final = "other variables"

#: No ACK of a NOTIFY arrived before the connection ended, or before the timeout at the end of the load.
UNANSWERED: Final = "unanswered NOTIFY"
