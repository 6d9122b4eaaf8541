"""The parts of an explanation: what happened, its usual causes in order, and what to look at or change for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final


class Generation(Enum):
    """HAProxy's two implementations of SPOE. They give the same number different meanings."""

    #: The first one, up to HAProxy 3.0.
    OLD = "HAProxy <= 3.0"
    #: The rewritten one, from HAProxy 3.1 on.
    NEW = "HAProxy >= 3.1"


#: The times of a line of HAProxy's log by their names, in milliseconds.
Times = Mapping[str, int]


@dataclass(frozen=True)
class Sign:
    """What the times of a line look like if a cause is the true one."""

    #: As it is shown: "queue is -1".
    text: str
    fits: Callable[[Times], bool]
    #: True if the cause is ruled out when the times look otherwise.
    is_needed: bool = True


#: HAProxy <= 3.0: the NOTIFY was never sent.
NOT_SENT: Final = Sign("queue is -1", lambda times: times["queue"] < 0)
#: HAProxy <= 3.0: the NOTIFY was sent.
SENT: Final = Sign("queue is not -1", lambda times: times["queue"] >= 0)
#: HAProxy <= 3.0: the NOTIFY left the queue, but not to the agent.
NOT_WAITED: Final = Sign("wait is -1", lambda times: times["wait"] < 0)
#: HAProxy <= 3.0: HAProxy waited for the ACK.
WAITED: Final = Sign("wait is not -1", lambda times: times["wait"] >= 0)
#: HAProxy >= 3.1: the error came at once. On a machine that is busy, this takes some milliseconds.
AT_ONCE: Final = Sign("process is about 0", lambda times: times["process"] < 100)
#: HAProxy >= 3.1: at least one attempt to connect, and the second after it. With "retries 0" there is no second.
RETRIED: Final = Sign("process is about 1000 for each retry", lambda times: times["process"] >= 900, is_needed=False)


class Context(Enum):
    """Where a cause of a DISCONNECT is the only possible one. It is left out elsewhere."""

    #: HAProxy sends the DISCONNECT.
    HAPROXY = "HAPROXY-DISCONNECT"
    #: A health check of HAProxy fails.
    CHECK = "health check"
    #: The HELLOs are exchanged, also in a health check.
    HELLO = "HELLO"


@dataclass(frozen=True)
class Cause:
    """One cause of what happened."""

    #: A sentence.
    text: str
    #: What to look at or change.
    advice: str
    #: How to know the cause from the times of the line; ``None`` if they do not tell.
    sign: Sign | None = None
    #: ``None`` if the cause is possible everywhere.
    only: Context | None = None


@dataclass(frozen=True)
class Explanation:
    """What a value means."""

    #: The first sentence says what happened. It is also what the agent logs.
    text: str
    #: The usual causes, the most frequent one first.
    causes: tuple[Cause, ...] = ()

    @property
    def first_sentence(self) -> str:
        """The first sentence of the text, without the dot at its end."""
        return self.text.partition(". ")[0].removesuffix(".")

    def of(self, times: Times) -> Explanation:
        """Return the explanation with the causes that fit the times first, and without those that they rule out."""
        fitting = [cause for cause in self.causes if cause.sign is not None and cause.sign.fits(times)]
        others = [cause for cause in self.causes if cause.sign is None or not cause.sign.is_needed]
        return replace(self, causes=(*fitting, *[cause for cause in others if cause not in fitting]))

    def within(self, *contexts: Context) -> Explanation:
        """Return the explanation with the causes that are possible in ``contexts``."""
        return replace(self, causes=tuple([cause for cause in self.causes if cause.only in (None, *contexts)]))
