"""The command line -> SPOAService: ``twistd spoa``, ``twist spoa`` and ``python -m twisted spoa``."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final, NoReturn, cast

from twisted.internet.base import ReactorBase
from twisted.internet.error import ReactorNotRunning
from twisted.logger import FilteringLogObserver, Logger, LogLevel, LogLevelFilterPredicate, globalLogPublisher
from twisted.python.reflect import safe_str
from twisted.python.usage import Options as UsageOptions

from spoa_twisted.agent.protocol import (
    DEFAULT_HANDLER_TIMEOUT,
    DEFAULT_HELLO_TIMEOUT,
    DEFAULT_MAX_CONNECTIONS,
    DEFAULT_MAX_IN_FLIGHT,
    DEFAULT_MAX_IN_FLIGHT_SIZE,
    DEFAULT_MAX_UNSENT,
    SPOAFactory,
)
from spoa_twisted.handlers.interfaces import IHandlers
from spoa_twisted.handlers.registry import Handlers
from spoa_twisted.service import DEFAULT_DRAIN_TIMEOUT, DEFAULT_ENDPOINT, SPOAService
from spoa_twisted.spop.connection import DEFAULT_MAX_FRAME_SIZE, DEFAULT_MAX_PAYLOAD_SIZE
from spoa_twisted.version import version

#: The attribute of a module that holds its handlers, unless another is named.
DEFAULT_ATTRIBUTE: Final = "handlers"

#: How many files are left for others than connections: ports, logs, and what handlers open.
_OTHER_FILES: Final = 64

#: How many objects CPython may make, more than it drops, before it looks for garbage among them. NOTIFYs that wait for
#: their handlers are soon 700, which is its own number, and none.
_GARBAGE_THRESHOLD: Final = 5000

#: Whose lines say nothing about what is wrong with a user's module.
_NOT_OWN: Final = ("importlib", "spoa_twisted", "twisted")


class CannotStart(SystemExit, Exception):
    """The agent cannot start: one line says why, and the exit status is 1.

    It is an ``Exception`` too because twistd, when it runs as a daemon, tells its parent process of those only.
    """


class Options(UsageOptions):
    """The options of ``twistd spoa``."""

    synopsis = "[options] --handlers MODULE"
    longdesc = "An agent for HAProxy's SPOE (Stream Processing Offload Engine) that answers with your handlers."

    optFlags = [
        ["async", None, "Announce the capability async, for HAProxy up to 3.0."],
        ["debug", None, "Log the beginning and the end of each connection too, health checks included."],
    ]
    optParameters = [
        ["max-frame-size", None, DEFAULT_MAX_FRAME_SIZE, "The longest frame, in bytes.", int],
        ["max-payload-size", None, DEFAULT_MAX_PAYLOAD_SIZE, "The longest NOTIFY in fragments, in bytes.", int],
        ["max-in-flight", None, DEFAULT_MAX_IN_FLIGHT, "How many NOTIFYs of a connection may be pending.", int],
        ["max-in-flight-size", None, DEFAULT_MAX_IN_FLIGHT_SIZE, "How many bytes they may take.", int],
        ["max-unsent", None, DEFAULT_MAX_UNSENT, "How many bytes a peer may leave unread.", int],
        ["max-connections", None, DEFAULT_MAX_CONNECTIONS, "How many connections may be open.", int],
        ["hello-timeout", None, DEFAULT_HELLO_TIMEOUT, "Seconds until HAProxy's HELLO must have come.", float],
        ["handler-timeout", None, DEFAULT_HANDLER_TIMEOUT, "Seconds that a handler may take; 0: any.", float],
        ["drain-timeout", None, DEFAULT_DRAIN_TIMEOUT, "Seconds to finish what is in flight on SIGTERM.", float],
    ]

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self["handlers"] = []
        self["listen"] = []

    def opt_handlers(self, value: str) -> None:
        """A module with handlers: pkg.mod, pkg.mod:attribute, path/to/file.py or path/to/file.py:attribute.
        The attribute is "handlers" unless named. Repeatable: the sets are merged.
        """
        self["handlers"].append(value)

    def opt_listen(self, value: str) -> None:
        """A Twisted server endpoint to listen on. Repeatable. [default: tcp:12345:interface=127.0.0.1]"""
        self["listen"].append(value)

    def opt_version(self) -> None:
        """Say which version of spoa_twisted runs, and which of Twisted."""
        print(version())  # noqa: T201 - what was asked for
        super().opt_version()  # type: ignore[no-untyped-call]

    def postOptions(self) -> None:
        """Fill in what can be given more than once."""
        if not self["listen"]:
            self["listen"] = [DEFAULT_ENDPOINT]


def makeService(options: Options) -> SPOAService:
    """Return the service that ``options`` ask for.

    :raises CannotStart: when handlers cannot be loaded or merged, or an option makes no sense.
    """
    if not options["handlers"]:
        _refuse("which handlers? Name their module, as in --handlers mymod")
    handlers = _merge([load(specification) for specification in options["handlers"]])
    try:
        factory = SPOAFactory(
            handlers,
            max_frame_size=options["max-frame-size"],
            max_payload_size=options["max-payload-size"],
            max_in_flight=options["max-in-flight"],
            max_in_flight_size=options["max-in-flight-size"],
            max_unsent=options["max-unsent"],
            max_connections=options["max-connections"],
            hello_timeout=options["hello-timeout"],
            handler_timeout=options["handler-timeout"],
            async_=bool(options["async"]),
            log=_log(bool(options["debug"])),
        )
        return _Agent(factory, options["listen"], drain_timeout=options["drain-timeout"])
    except ValueError as error:
        _refuse(str(error))


def load(specification: str) -> IHandlers:
    """Return the handlers that ``specification`` names: ``module`` or ``path.py``, with ``:attribute`` or without.

    The current directory is importable, and so is that of a file.

    :raises CannotStart: when it cannot be imported, or has no such attribute, or that is no handlers.
    """
    source, _, attribute = specification.rpartition(":")
    if not source:
        source, attribute = specification, DEFAULT_ATTRIBUTE
    _make_importable(os.getcwd())
    try:
        is_file = source.endswith(".py") or os.sep in source
        module = _load_file(Path(source)) if is_file else importlib.import_module(source)
    except BaseException as error:
        text = " ".join(safe_str(error).split())
        _refuse(f"cannot import {source}: {type(error).__name__}: {text}{_place(error)}")
    try:
        handlers = getattr(module, attribute)
    except Exception:
        _refuse(f"{source} has no {attribute!r}; it has: {', '.join(_names_in(module)) or 'nothing'}")
    if not _is_handlers(handlers):
        _refuse(f"{attribute!r} of {source} is a {type(handlers).__name__}, not Handlers")
    result: IHandlers = handlers
    return result


def _is_handlers(value: object) -> bool:
    try:
        return bool(IHandlers.providedBy(value))
    except Exception:
        # A stand-in for something that is not there yet, as some frameworks have them.
        return False


def _names_in(module: ModuleType) -> list[str]:
    """Return the names of the handlers in ``module``; when there are none, of all that is public."""
    attributes = getattr(module, "__dict__", {})
    sets = [name for name, value in attributes.items() if _is_handlers(value)]
    return sets or [name for name in attributes if not name.startswith("_")]


def _log(debug: bool) -> Logger:
    # twistd has no level below which it logs nothing, and HAProxy's health checks come every two seconds.
    level = LogLevel.debug if debug else LogLevel.info
    observer = FilteringLogObserver(globalLogPublisher, [LogLevelFilterPredicate(level)])
    return Logger("spoa_twisted.agent.protocol", observer=observer)


def _refuse(reason: str) -> NoReturn:
    raise CannotStart(f"spoa: {reason}")


def _make_importable(folder: str) -> None:
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _load_file(path: Path) -> ModuleType:
    path = path.resolve()
    _make_importable(str(path.parent))
    # Its own name is the natural one, unless another module has it.
    name = path.stem
    while name in sys.modules:
        module = sys.modules[name]
        if getattr(module, "__file__", None) == str(path):
            return module
        name += "_"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _place(error: BaseException) -> str:
    """Return where in the user's own code an import failed, if it came that far."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        package, _, _ = frame.f_globals.get("__name__", "").partition(".")
        file = frame.f_code.co_filename
        if package not in _NOT_OWN and not file.startswith("<"):
            place = f" ({file}, line {line})"
    return place


def _merge(sets: list[IHandlers]) -> IHandlers:
    if len(sets) == 1:
        return sets[0]
    mergeable = [handlers for handlers in sets if isinstance(handlers, Handlers)]
    if len(mergeable) < len(sets):
        _refuse("only instances of Handlers can be merged; give the other IHandlers alone")
    try:
        return Handlers.merged(*mergeable)
    except ValueError as error:
        _refuse(str(error))


# Once in a process, however often a service is started. gc.get_freeze_count() does not tell whether this was done: with
# CPython 3.12 it is not 0 from the beginning.
@cache
def _look_for_garbage_less_often() -> None:
    if sys.implementation.name != "cpython":
        return
    # What has been loaded by now stays: nothing in it is looked at again.
    gc.collect()
    gc.freeze()
    first, second, third = gc.get_threshold()
    # The handlers' author may have chosen more, or 0, which is never.
    if 0 < first < _GARBAGE_THRESHOLD:
        gc.set_threshold(_GARBAGE_THRESHOLD, second, third)


def _on_signal(number: int, function: Callable[[], object], *, instead_of: object = signal.SIG_DFL) -> None:
    # nohup ignores SIGHUP, a shell SIGINT for what runs in the background, and handlers' modules may know better. Where
    # the reactor runs in another thread, signals are somebody else's.
    if threading.current_thread() is threading.main_thread() and signal.getsignal(number) == instead_of:
        signal.signal(number, lambda number, frame: _reactor().callFromThread(function))


def _reactor() -> ReactorBase:
    from twisted.internet import reactor

    return cast("ReactorBase", reactor)


class _Agent(SPOAService):
    """The service as the command line wants it: it knows signals, and says in one line why it cannot listen."""

    def startService(self) -> None:
        super().startService()
        _look_for_garbage_less_often()

    def _going_down(self) -> None:
        # The reactor's own would stop it again, which it cannot.
        _on_signal(signal.SIGINT, self._end_now, instead_of=_reactor().sigInt)
        # Nobody is in haste who says this twice: what started the agent and what started that may both pass it on.
        _on_signal(signal.SIGTERM, lambda: None, instead_of=_reactor().sigTerm)

    def _hung_up(self) -> None:
        # Once more is no haste: of a terminal that is closed, kernel and shell tell both.
        with suppress(ReactorNotRunning):
            _reactor().stop()
            self._log.info("Received SIGHUP, shutting down.")

    def _end_now(self) -> None:
        self.factory.drain(0)

    def _listen(self) -> None:
        if not self._listening:
            self._hear_signals()
            self._judge_max_connections()
        super()._listen()

    def _hear_signals(self) -> None:
        _on_signal(signal.SIGHUP, self._hung_up)
        # twistd begins a new log file then, if it has one. Else it would be the end.
        _on_signal(signal.SIGUSR1, lambda: None)
        _reactor().addSystemEventTrigger("before", "shutdown", self._going_down)

    def _cannot_listen(self, description: str, error: BaseException) -> NoReturn:
        _refuse(f"cannot listen on {description}: {error}")

    def _judge_max_connections(self) -> None:
        # Where no file can be opened any more, Twisted logs three lines for each connection.
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = max(files - _OTHER_FILES, files // 2)
        if files != resource.RLIM_INFINITY and self.factory.max_connections > most:
            self.factory.max_connections = most
            self._log.info(
                "max_connections is {most}: the process may open {files} files, see ulimit -n",
                most=most,
                files=files,
            )

    def listening_failed(self, description: str, error: BaseException) -> None:
        super().listening_failed(description, error)
        _reactor().stop()
