"""The command line of ``twistd spoa``, and the service that it describes.

``twist spoa`` and ``python -m twisted spoa`` are the same command. Twisted's plugin in ``twisted/plugins`` names this
module; Twisted then uses :class:`Options` and :func:`makeService` by these names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from twisted.application.service import IService
from twisted.python.usage import Options as UsageOptions
from twisted.python.usage import UsageError

from spoa_twisted.agent.pipelining import AUTO, check_mode
from spoa_twisted.agent.protocol import SPOAFactory
from spoa_twisted.endpoints import DEFAULT_ENDPOINT
from spoa_twisted.handlers.names import did_you_mean, nearest
from spoa_twisted.limits import LIMITS, Limit
from spoa_twisted.log import agent_log
from spoa_twisted.runner import log_format
from spoa_twisted.runner.check import check
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.runner.loading import load_all
from spoa_twisted.runner.process import ProcessService
from spoa_twisted.runner.status import STATUS, with_status
from spoa_twisted.runner.systemd import Supervisor, refuse_daemon
from spoa_twisted.runner.watch import WATCH
from spoa_twisted.version import version
from spoa_twisted.workers import options as worker_options

_PIPELINING = (
    "Whether HAProxy may have several NOTIFYs in flight on a connection: always, never or auto. "
    "With auto, HAProxy >= 3.1 may have them only while the answers to it are short."
)
_SETTINGS = (
    "A TOML file with a table for each of the --handlers that is a function, such as spoa_twisted.agents.blocklist: the"
    " function makes the handlers from it."
)


def _row(limit: Limit) -> list[Any]:
    """Return the row of a limit in ``optParameters``: name, short name, default, help, conversion."""

    def convert(text: str) -> float:
        try:
            return limit.parse(text)
        except ValueError as error:
            raise CannotStart(str(error)) from None

    # --help shows the default with str(). A user should read 10 there, not 10.0.
    default = int(limit.default) if limit.default == int(limit.default) else limit.default
    return [limit.option, None, default, limit.help, convert]


def _mode(text: str) -> str:
    """Return the value of ``--pipelining``."""
    try:
        check_mode(text)
    except ValueError as error:
        raise CannotStart(f"--{error}") from None
    return text


class Options(UsageOptions):
    """The options of ``twistd spoa``.

    Each limit in :data:`~spoa_twisted.limits.LIMITS` is an option here without further code.
    """

    synopsis = "[options] --handlers MODULE"
    longdesc = "An agent for HAProxy's SPOE (Stream Processing Offload Engine) that answers with your handlers."

    optFlags = [
        ["async", None, "Announce the capability async: HAProxy <= 3.0 then takes an ACK on another connection too."],
        ["check", None, "Load the handlers, check all options, print what the agent would serve, and exit."],
        ["debug", None, "Also log the beginning and the end of each connection, health checks included."],
        *worker_options.FLAGS,
    ]
    optParameters = [
        [*log_format.ROW],
        ["pipelining", None, AUTO, _PIPELINING, _mode],
        ["settings", None, None, _SETTINGS],
        STATUS,
        WATCH,
        *[_row(limit) for limit in LIMITS.values()],
        *worker_options.PARAMETERS,
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # These two options may be repeated, so their values are lists.
        self["handlers"] = []
        self["listen"] = []
        # The text for --help. The value itself gets its default in postOptions, after all --listen are known.
        self.defaults["listen"] = DEFAULT_ENDPOINT

    # Twisted finds options that are methods by the prefix opt_. The docstring is the text in --help and in the README.

    def opt_handlers(self, value: str) -> None:
        """Where the handlers are: pkg.mod or path/file.py, and :name if they are not called handlers. Repeatable."""
        self["handlers"].append(value)

    def opt_listen(self, value: str) -> None:
        """A Twisted server endpoint to listen on. Repeatable."""
        self["listen"].append(value)

    def opt_version(self) -> None:
        """Print the versions of spoa_twisted and Twisted, and exit."""
        print(version())  # noqa: T201 - this is what the user asked for
        super().opt_version()  # type: ignore[no-untyped-call]

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Parse the command line.

        :raises CannotStart: for an unknown option, an option without a value, or a value that is not valid.
        """
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except UsageError as error:
            # For a UsageError, twistd prints the whole help before the error. The oldest twistd that we support also
            # exits with status 0 then, which means success.
            # From Python 3.14 on, the text of an ambiguous option also lists the options that it may be.
            text, _, _ = str(error).partition("; possible options:")
            unknown = [name for name in re.findall("--([A-Za-z_-]+)", text) if name not in self.docs]
            similar = [f"--{name}" for name in nearest(unknown[0], self.docs)] if unknown else []
            hint = did_you_mean(similar) or "; twistd spoa --help lists the options"
            if "not recognized" in text and not similar:
                # The option may be one of twistd's, for example --reactor or -n.
                hint += "; the options of twistd and twist stand before spoa"
            raise CannotStart(f"{text}{hint}") from None

    def parseArgs(self, *arguments: str) -> None:
        """Refuse arguments that are not options. Twisted calls this with them.

        :raises CannotStart: for the first of them.
        """
        if arguments:
            raise CannotStart(f"{arguments[0]!r} is not an option; did you mean --handlers {arguments[0]}?")

    def postOptions(self) -> None:
        """Set the default of ``--listen``, and the format of the log. Twisted calls this at the end of parsing.

        ``--check`` ends here, as ``--help`` does: later, twistd would refuse to run beside an agent with its pidfile.
        """
        if not self["listen"]:
            self["listen"] = [DEFAULT_ENDPOINT]
        worker_options.check(self)
        if self["check"]:
            check(make_factory(self), self)
        log_format.apply(self["log-format"], getattr(self, "parent", None))


def makeService(options: Options) -> IService:
    """Return the service that ``options`` describe. It does not listen before Twisted starts it.

    :raises CannotStart: if handlers cannot be loaded or merged, if an endpoint is not valid, or if twistd would become
        a daemon although systemd waits for a message.
    """
    refuse_daemon(options.parent)
    # Before the handlers' modules are imported: they may start processes.
    supervisor = Supervisor.from_environment()
    try:
        if options["workers"] is not None:
            # Imported here: an agent without workers does not need it.
            from spoa_twisted.workers.master import make_master

            master = make_master(options)
            master.supervisor = supervisor
            return with_status(master, options, master.source)
        service = ProcessService(make_factory(options), options["listen"])
        service.supervisor = supervisor
        return with_status(service, options)
    except ValueError as error:
        raise CannotStart(str(error)) from error


def make_factory(options: Options) -> SPOAFactory:
    """Return the agent that ``options`` describe, with its handlers. A worker calls this too.

    :raises CannotStart: if handlers cannot be loaded or merged, or if the settings are wrong.
    """
    handlers = load_all(options["handlers"], options["settings"])
    return SPOAFactory(
        handlers,
        async_=bool(options["async"]),
        pipelining=options["pipelining"],
        log=agent_log(debug=bool(options["debug"])),
        **{name: options[limit.option] for name, limit in LIMITS.items()},
    )
