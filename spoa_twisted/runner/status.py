"""The option ``--status`` of ``twistd spoa``."""

from __future__ import annotations

import importlib
from typing import Any, Final

from twisted.application.service import IService, MultiService
from twisted.internet.interfaces import IReactorCore
from twisted.python.usage import Options

from spoa_twisted.endpoints import cannot_listen, check_endpoint
from spoa_twisted.runner.changed import changed
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.runner.watch import check_watch, watch_of

_HELP: Final = (
    "A Twisted server endpoint for the status by HTTP: /, /status.json, /metrics, /health, /live. It has no password: "
    "write tcp:8404:interface=127.0.0.1."
)

#: The row of ``optParameters``.
STATUS: Final = ["status", None, None, _HELP]


def with_status(agent: Any, options: Options, make_source: Any = None) -> IService:
    """Return ``agent``, or a service with the agent and its status if ``options`` ask for it.

    :param agent: a service: a ``SPOAService``, or the master of workers.
    :param make_source: returns the source of the status for the endpoints, and for the options that differ from their
        defaults. Without it, the status is that of this process.
    :raises ValueError: if ``--status`` is not an endpoint, or names no interface; or ``--watch`` cannot be had.
    """
    values: Any = options
    watch = watch_of(agent, values)
    service: IService = agent
    if values["status"] is None:
        return service
    _import_web()
    from spoa_twisted.status.local import LocalSource
    from spoa_twisted.status.service import StatusService

    class ProcessStatus(StatusService):
        def _cannot_listen(self, description: str, error: BaseException) -> Any:
            raise CannotStart(cannot_listen(description, error)) from error

    both = MultiService()
    both.name = agent.name
    arguments = values["listen"], changed(options)
    source = LocalSource(agent, *arguments) if make_source is None else make_source(*arguments)
    # The status is the first to listen: while the startup functions run, /health says that the agent starts.
    status = ProcessStatus(agent, values["status"], source=source, watch=watch)
    status.setServiceParent(both)  # type: ignore[no-untyped-call]
    agent.setServiceParent(both)
    return both


def check_status(reactor: IReactorCore, options: Options) -> None:
    """Check ``--status`` and ``--watch`` as :func:`with_status` does, but open no port.

    :raises ValueError: if one of them is not valid.
    """
    values: Any = options
    check_watch(values)
    if values["status"] is not None:
        _import_web()
        from spoa_twisted.status.service import check_interface

        check_endpoint(reactor, values["status"])
        check_interface(values["status"])


def _import_web() -> None:
    # Only when it is needed: it takes 2 MiB of memory, and 0.15 seconds of the start.
    try:
        importlib.import_module("twisted.web.server")
    except ImportError as error:
        # Old versions of Twisted need the module cgi, which Python >= 3.13 lacks.
        raise CannotStart(f"--status needs twisted.web, which cannot be imported: {error}") from error
