"""Arguments that are a part of a header, because ``req.hdr`` splits it at its commas."""

from __future__ import annotations

from collections.abc import Iterator

from spoa_twisted.haproxy.answers import Answers
from spoa_twisted.haproxy.checks.spoe_messages import scopes_of
from spoa_twisted.haproxy.configuration import Configuration
from spoa_twisted.haproxy.finding import Finding, Severity
from spoa_twisted.haproxy.headers import whole_header


def check_header_commas(configuration: Configuration, answers: Answers | None) -> Iterator[Finding]:
    """Find arguments that split a header which is no list."""
    for scope in scopes_of(configuration):
        for message in scope.messages:
            for argument in message.arguments:
                whole = None if argument.expression is None else whole_header(argument.expression)
                if argument.expression is not None and whole is not None:
                    text = f"{argument.expression.fetch.name} gives what follows the last comma: write {whole}"
                    yield Finding("header-commas", Severity.WARNING, argument.word.place, text)
