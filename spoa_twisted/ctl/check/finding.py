"""Read the files once for each version of HAProxy, and run all checks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Final

from spoa_twisted.ctl.check.inputs import Inputs
from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks import find
from spoa_twisted.haproxy.configuration import Configuration
from spoa_twisted.haproxy.joined import Joined, Version, join
from spoa_twisted.haproxy.reading import read

# A file that is no text has a line that is not understood for each of its lines.
_MAX_NOT_READ: Final = 5


def find_in(
    inputs: Inputs, answers: Answers | None, versions: Sequence[Version], *, ran: bool
) -> tuple[list[Joined], list[str]]:
    """Return the findings, and sentences about what was not checked.

    :param ran: whether ``haproxy -c`` has run. It says itself which lines it does not accept.
    """
    configurations = {
        version: read(inputs.engine_files, inputs.haproxy_files, version=version, environment=os.environ)
        for version in versions
    }
    joined = join({version: find(read_as, answers) for version, read_as in configurations.items()})
    return joined, list(_not_checked(list(configurations.values()), ran=ran))


def _not_checked(configurations: Sequence[Configuration], *, ran: bool) -> Iterator[str]:
    if not configurations[0].has_proxies:
        yield "only spoe.conf was given: checks that need haproxy.cfg were left out"
    elif not any(configuration.engines for configuration in configurations):
        yield "haproxy.cfg has no 'filter spoe' line: there is no engine to check"
    refused = {
        line.place[:2]
        for each in configurations
        for document in each.documents
        for line in document.lines
        if line.error is not None
    }
    not_read = [
        f"{part.place.file}:{part.place.line}: {part.why}"
        for each in configurations
        for part in each.not_read
        if not (ran and part.place[:2] in refused)
    ]
    texts = list(dict.fromkeys(not_read))
    for text in texts[:_MAX_NOT_READ]:
        yield f"not understood: {text}"
    if len(texts) > _MAX_NOT_READ:
        yield f"not understood: {len(texts) - _MAX_NOT_READ} more lines"
