"""``twistd spoa --check``: print what the agent would serve, and exit.

No startup function runs, and nothing listens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final, NoReturn, cast

from twisted.internet.interfaces import IReactorCore
from twisted.python.usage import Options

from spoa_twisted.agent.protocol import SPOAFactory
from spoa_twisted.endpoints import check_endpoint
from spoa_twisted.handlers.handler import Handler
from spoa_twisted.handlers.lifecycle import Kind, LifeCycleFunction
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.runner.changed import changed
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.runner.status import check_status
from spoa_twisted.workers.options import expand

_HEAD: Final = ("message", "handler", "runs as", "timeout", "on_error")


def check(factory: SPOAFactory, options: Options) -> NoReturn:
    """Check the endpoints and what needs others, print what the agent would serve, and exit with status 0.

    :raises CannotStart: for an endpoint that is not valid, or options that cannot be used together. The process then
        prints one line, and exits with status 1.
    """
    from twisted.internet import reactor

    values: Any = options
    process = cast("IReactorCore", reactor)
    try:
        for text, _ in expand(values["listen"], values["workers"] or 0):
            check_endpoint(process, text)
        check_status(process, options)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    print(*describe(factory, options), sep="\n")  # noqa: T201 - this is what the user asked for
    sys.exit(0)


def describe(factory: SPOAFactory, options: Options) -> Iterator[str]:
    """Yield the lines that ``--check`` prints."""
    handlers = factory.handlers
    if isinstance(handlers, Handlers):
        yield from _table([_HEAD, *_rows(handlers, factory.limits.handler_timeout)])
        yield from map(_life_cycle_line, handlers.life_cycle)
    else:
        # Another implementation of IHandlers does not tell which messages it answers.
        yield f"handlers  {type(handlers).__module__}.{type(handlers).__qualname__}"
    values: Any = options
    for endpoint in values["listen"]:
        yield f"listens on {endpoint}"
    for name, value in changed(options).items():
        # The table shows the handlers.
        if name != "handlers":
            yield f"option --{name} {value}".rstrip()
    yield "all valid; no port was opened, and no startup function was run"


def _rows(handlers: Handlers, handler_timeout: float) -> Iterator[Sequence[str]]:
    for name, handler in handlers.registered():
        yield (
            name or "(all others)",
            str(handler),
            handler.kind,
            _timeout(handler, handler_timeout),
            "yes" if handler.on_error else "no",
        )


def _timeout(handler: Handler, handler_timeout: float) -> str:
    seconds = handler_timeout if handler.timeout is None else handler.timeout
    # A plain function cannot be interrupted.
    return f"{seconds:g} s" if seconds and handler.kind != "plain" else "none"


def _life_cycle_line(function: LifeCycleFunction) -> str:
    when = f"every {function.seconds:g} s" if function.kind is Kind.EVERY else f"at {function.kind.value}"
    return f"{when} {function.name}{', in a thread' if function.blocking else ''}"


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a line for each row. All columns but the last are as wide as their longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join([cell.ljust(width) for cell, width in zip(row, widths, strict=True)]).rstrip()
