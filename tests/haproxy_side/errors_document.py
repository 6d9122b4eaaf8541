"""docs/reference/errors.rst, made from the explanations: ``python -m tests.haproxy_side.errors_document`` writes it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from spoa_twisted.haproxy.explanations.checks import CHECKS, EMPTY_ANSWER, NO_APPLET, NO_SERVER, RESULTS
from spoa_twisted.haproxy.explanations.disconnects import DISCONNECTS, OWN_CODE
from spoa_twisted.haproxy.explanations.meaning import Explanation
from spoa_twisted.haproxy.explanations.search import TIMES
from spoa_twisted.haproxy.explanations.statuses import STATUSES, show_sum
from spoa_twisted.spop.errors import with_words

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "reference" / "errors.rst"

INTRODUCTION = """\
Errors of SPOE
==============

What HAProxy logs and sets when something is wrong with an agent, in whatever language the agent is written: what
happened, the usual causes in order, and for each what to look at or change. ``spoactl explain`` says the same about a
number or a line of a log:

.. code-block:: sh

   spoactl explain 257
   spoactl explain - < /var/log/haproxy.log

The line of a NOTIFY
--------------------

HAProxy writes it if the ``spoe-agent`` section has a ``log`` line, such as ``log global``: at the level ``warning`` for
an error, else at ``notice``. ``option dontlog-normal`` leaves out those without an error.

.. code-block:: text

   SPOE: [iprep] <EVENT:on-frontend-http-request> sid=0 st=257 0/8/0/-1/8 0/0 0/0 1/1     HAProxy <= 3.0
   SPOE: [iprep] <GROUP:scan-body> sid=0 st=0 2 0/1                                       HAProxy >= 3.1

``[iprep]`` is the agent, ``sid`` the number of the stream, and ``st`` the status: see below. Then come the times in
milliseconds, -1 if HAProxy did not get to this step. HAProxy >= 3.1 has only the last one.

{times}

HAProxy <= 3.0 goes on with its connections to the agent (idle/all) and with the NOTIFYs that wait (in the queue/for an
ACK). The last two numbers are those of errors and of all NOTIFYs since HAProxy started. From 3.2.26 and 3.3 on, the
first of these also counts NOTIFYs that ended well: ignore it.

``option set-on-error error`` sets ``txn.PREFIX.error`` to the status. HAProxy logs no line for a group whose rule ended
before the ACK came; the variable is set.
"""

OTHERS = """\
Another status from 256 on is 256 + the code of an AGENT-DISCONNECT, by which the agent ended the connection before the
ACK: 355 is 256 + 99. See below. HAProxy sets no other status below 256.
"""

CODES = """\
Status codes of DISCONNECT
--------------------------

The side that ends a connection says why in HAPROXY-DISCONNECT or AGENT-DISCONNECT (SPOE.txt, section 3.5). HAProxy >=
3.1 rarely sends one. A failed ``option spop-check`` has the same words.
"""

CHECKS_TITLE = """\
Health checks and servers
-------------------------

The results of ``option spop-check``, as in the column ``check_status`` of ``show stat``, and in HAProxy's log:

.. code-block:: text

   Health check for server agents/agent1 failed, reason: Layer7 timeout, check duration: 500ms, status: 0/2 DOWN.
   Server agents/agent1 is DOWN, reason: Layer7 invalid response, info: "version value not found", check duration: 1ms.

``L7RSP`` has the words of a DISCONNECT in most cases: see above.
"""


def document() -> str:
    """Return the document."""
    times = "\n".join([f"- ``{name}``: {text}" for name, text in TIMES.items()])
    parts = [INTRODUCTION.replace("{times}", times)]
    for generation, statuses in STATUSES.items():
        title = f"Status in {generation.value}"
        parts.append(f"{title}\n{'-' * len(title)}\n")
        for status, explanation in statuses.items():
            total = show_sum(status)
            parts.extend(described(f"{status}{f' = {total}' if total else ''}", explanation))
        parts.append(OTHERS)
    parts.append(CODES)
    for code, explanation in DISCONNECTS.items():
        parts.extend(described(with_words(code), explanation))
    parts.extend(described("another code", OWN_CODE))
    parts.append(CHECKS_TITLE)
    for result, explanation in CHECKS.items():
        parts.extend(described(f"{result}: {RESULTS[result]}", explanation))
    parts.extend(described('L7RSP, "TCPCHK got an empty response"', EMPTY_ANSWER))
    parts.extend(described('"backend ... has no server available!"', NO_SERVER))
    parts.extend(described('"SPOE: [...] failed to create SPOE applet"', NO_APPLET))
    return "\n".join(parts)


def described(title: str, explanation: Explanation) -> Iterator[str]:
    """Yield the entry of a value."""
    yield f"**{title}**"
    yield filled(explanation.text, "   ") + "\n"
    for number, cause in enumerate(explanation.causes, 1):
        sign = f"If {cause.sign.text}: " if cause.sign else ""
        yield filled(f"{number}. {sign}{cause.text}", "   ", "      ")
        yield filled(cause.advice, "      ") + "\n"


def filled(text: str, first: str, rest: str | None = None) -> str:
    """Return ``text`` in lines of 120 characters. What is quoted in it is code, and a page is a link."""
    code = re.sub(r'"([^"]*)"', r"``\1``", text)
    code = re.sub(r"docs/(\S+)\.rst", r":doc:`/\1`", code)
    rest = first if rest is None else rest
    return textwrap.fill(
        code, 120, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )


if __name__ == "__main__":
    DOCUMENT.write_text(document())
