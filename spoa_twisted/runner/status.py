"""The option ``--status`` of ``twistd spoa``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from twisted.application.service import IService, MultiService

from spoa_twisted.endpoints import describe_failure
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.runner.watch import watch_of

_HELP: Final = (
    "A Twisted server endpoint for the status by HTTP: /, /status.json, /metrics, /health, /live. It has no password: "
    "write tcp:8404:interface=127.0.0.1."
)

#: The row of ``optParameters``.
STATUS: Final = ["status", None, None, _HELP]


def with_status(agent: Any, options: Mapping[str, Any], make_source: Any = None) -> IService:
    """Return ``agent``, or a service with the agent and its status if ``options`` ask for it.

    :param agent: a service: a ``SPOAService``, or the master of workers.
    :param make_source: returns the source of the status for the endpoints, and for the options that differ from their
        defaults. Without it, the status is that of this process.
    :raises ValueError: if ``--status`` is not an endpoint, or names no interface; or ``--watch`` cannot be had.
    """
    watch = watch_of(agent, options)
    service: IService = agent
    if options["status"] is None:
        return service
    # Only now: twisted.web takes 2 MiB of memory, and 0.15 seconds of the start.
    try:
        from spoa_twisted.status.local import LocalSource
        from spoa_twisted.status.service import StatusService
    except ImportError as error:
        # Old versions of Twisted need the module cgi, which Python >= 3.13 lacks.
        raise CannotStart(f"--status needs twisted.web, which cannot be imported: {error}") from error

    class ProcessStatus(StatusService):
        def _cannot_listen(self, description: str, error: BaseException) -> Any:
            raise CannotStart(f"cannot listen on {description}: {describe_failure(error)}") from error

    both = MultiService()
    both.name = agent.name
    arguments = options["listen"], changed(options)
    source = LocalSource(agent, *arguments) if make_source is None else make_source(*arguments)
    # The status is the first to listen: while the startup functions run, /health says that the agent starts.
    status = ProcessStatus(agent, options["status"], source=source, watch=watch)
    status.setServiceParent(both)  # type: ignore[no-untyped-call]
    agent.setServiceParent(both)
    return both


def changed(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that differ from their defaults, without ``--listen``. The text of a flag is empty."""
    defaults: Mapping[str, Any] = getattr(options, "defaults", {})
    flags = {name for name, _, _ in getattr(options, "optFlags", ())}
    return {
        name: "" if name in flags else _text(value)
        for name, value in options.items()
        if name != "listen" and value not in (None, [], defaults.get(name))
    }


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
