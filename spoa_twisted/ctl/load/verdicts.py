"""The check of the ACKs. An ACK is good if its actions can be decoded and set the expected variables."""

from __future__ import annotations

from typing import final

from spoa_twisted.ctl.load.cache import Cache
from spoa_twisted.ctl.load.errors import OTHER_VARIABLES, UNDECODABLE
from spoa_twisted.ctl.variables import canonical
from spoa_twisted.spop.actions import decode_actions
from spoa_twisted.spop.errors import SPOPError


@final
class Verdicts:
    """Checks the payloads of ACKs. It checks equal payloads only once.

    :param expected: the variables that each ACK must set, from :func:`canonical`. If ``None``, each ACK must set the
        same variables as the first ACK.
    :param varying: true if an ACK may set any variables.
    """

    def __init__(self, expected: dict[str, str] | None, varying: bool) -> None:
        self._expected = expected
        self._varying = varying
        #: The variables of the first ACK that could be decoded; ``None`` before this ACK.
        self.first: dict[str, str] | None = None
        #: The variables of the first ACK that did not set the expected variables; ``None`` before this ACK.
        self.first_other: dict[str, str] | None = None
        # The result of each payload that was checked. Most agents send few different payloads, with many different ids.
        # So this cache often has the payload of a frame that is not in Ring.good_acks.
        self._known: Cache[str | None] = Cache()

    def check(self, payload: bytes) -> str | None:
        """Return the kind of error of an ACK with this payload, or ``None`` if the ACK is good."""
        if payload in self._known.entries:
            return self._known.entries[payload]
        error = self._check(payload)
        self._known.store(payload, error)
        return error

    def _check(self, payload: bytes) -> str | None:
        """Decode the payload and compare its variables with the expected ones."""
        try:
            variables = canonical(decode_actions(payload))
        except SPOPError:
            return UNDECODABLE
        if self.first is None:
            self.first = variables
        expected = self.first if self._expected is None else self._expected
        if self._varying or variables == expected:
            return None
        if self.first_other is None:
            self.first_other = variables
        return OTHER_VARIABLES
