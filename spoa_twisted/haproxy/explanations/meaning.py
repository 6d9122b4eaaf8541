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


#: HAProxy <= 3.0: the NOTIFY was never sent.
NOT_SENT: Final = Sign("queue is -1", lambda times: times["queue"] < 0)
#: HAProxy <= 3.0: the NOTIFY was sent.
SENT: Final = Sign("queue is not -1", lambda times: times["queue"] >= 0)
#: HAProxy <= 3.0: the NOTIFY left the queue, but not to the agent.
NOT_WAITED: Final = Sign("wait is -1", lambda times: times["wait"] < 0)
#: HAProxy <= 3.0: HAProxy waited for the ACK.
WAITED: Final = Sign("wait is not -1", lambda times: times["wait"] >= 0)
#: HAProxy >= 3.1: the error came at once. A connection on this machine takes about this time too.
AT_ONCE: Final = Sign("process is 0 to 2", lambda times: times["process"] <= 2)
#: HAProxy >= 3.1: at least one attempt to connect, and the second after it.
RETRIED: Final = Sign("process is about 1000 for each retry", lambda times: times["process"] >= 900)


@dataclass(frozen=True)
class Cause:
    """One cause of what happened."""

    #: A sentence.
    text: str
    #: What to look at or change.
    advice: str
    #: How to know the cause from the times of the line; ``None`` if they do not tell.
    sign: Sign | None = None


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
        """Return the explanation without the causes that the times of a line rule out."""
        return replace(self, causes=tuple(c for c in self.causes if c.sign is None or c.sign.fits(times)))
