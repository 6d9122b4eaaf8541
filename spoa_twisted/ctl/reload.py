"""``spoactl reload``: let an agent with workers load its handlers anew, and wait until it has done so."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Coroutine
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, final

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from spoa_twisted.ctl.arguments import (
    add_status,
    add_timeout,
    exit_status,
    new_parser,
)
from spoa_twisted.shown import show_text
from spoa_twisted.status.report import Status

SUMMARY = "let an agent with workers load its handlers anew"

#: Seconds for the whole reload: the start of each worker, and the end of each old one.
DEFAULT_TIMEOUT: Final = 60.0

#: Seconds between two looks at the status.
INTERVAL: Final = 0.1

# Seconds for a look at the end of the time.
_LAST_LOOK: Final = 1.0

# Where Linux tells about processes. Other systems may have none.
_PROC: Final = Path("/proc")

# The word in the command line of each agent: twist spoa, twistd -n spoa.
_COMMAND: Final = b"spoa"

DESCRIPTION = """\
Sends SIGHUP to an agent that runs with "twistd spoa --workers N --status ENDPOINT" on this machine, and waits until its
workers have been replaced by new ones with the present code, or until the reload has failed.
"""

EPILOG = f"""\
It prints one line: that the agent has reloaded, or why not. If the new code cannot start, the old workers go on. A
reload that was already running may have missed the last change of a file, so it does not count: the next one does. If
the time is over before the end, the reload goes on.

{exit_status("the agent has reloaded", "it has not")}
examples:
  spoactl reload
  spoactl reload --status unix:/run/spoa/status --timeout 120
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of this command's arguments."""
    parser = new_parser("reload", DESCRIPTION, EPILOG)
    add_status(parser)
    add_timeout(parser, "the end of the reload", DEFAULT_TIMEOUT)
    return parser


async def run(reactor: Any, options: argparse.Namespace) -> None:
    """Reload, and print the result.

    :raises ValueError: when the agent cannot be reloaded, or the reload fails.
    """
    began = reactor.seconds()
    agent = _Agent(reactor, options.status, options.timeout)
    before = await agent.status()
    _check(before)
    if not agent.is_local:
        raise ValueError(
            f"the agent at {options.status} is on another machine: run spoactl reload there, where process"
            f" {before['pid']} is"
        )
    check_process(before["pid"])
    send_hangup(before["pid"])
    after = await _until_answered(agent, before)
    reloads = after["reloads"]
    if not reloads["last_ok"]:
        raise ValueError(
            f"the reload failed: {show_text(reloads['reason'])}; workers that were not replaced go on with their old"
            " code"
        )
    workers = len({process["worker"] for process in after["processes"]})
    replaced = "1 worker was" if workers == 1 else f"{workers} workers were"
    print(f"reloaded: {replaced} replaced in {reactor.seconds() - began:.2f} s")


def _check(status: Status) -> None:
    """Check that the agent can reload.

    :raises ValueError: when it cannot.
    """
    if not status["workers"]:
        raise ValueError(
            "this agent has no workers, so SIGHUP would end it; start it with --workers 1 or more, or restart it"
        )
    if status["state"] == "draining":
        raise ValueError("the agent is about to end, and reloads no more")


async def _until_answered(agent: _Agent, before: Status) -> Status:
    """Wait until a reload has ended that began after the status ``before``, and return the status then.

    Somebody else may ask for a reload at the same time. Whose request is counted first does not matter: each reload
    that answers a request after ``before`` has begun after it.

    :raises ValueError: when there is no such reload.
    """
    while True:
        try:
            status = await agent.status()
        except ValueError as error:
            raise ValueError(f"SIGHUP was sent to process {before['pid']}, but its status is gone: {error}") from error
        if (status["pid"], status["started"]) != (before["pid"], before["started"]):
            raise ValueError("the agent was started again meanwhile")
        if status["reloads"]["answered"] > before["reloads"]["requested"]:
            return status
        if status["state"] == "draining":
            raise ValueError("the agent was told to end during the reload")
        if agent.is_late():
            if status["reloads"]["requested"] == before["reloads"]["requested"]:
                raise ValueError(f"process {before['pid']} has not noticed SIGHUP within {agent.timeout:g} s")
            raise ValueError(
                f"the reload has not ended within {agent.timeout:g} s, and goes on; spoactl status and the log show how"
                " it ends"
            )
        await deferLater(agent.reactor, INTERVAL)


@final
class _Agent:
    """The agent, as its status shows it.

    :param endpoint: the client endpoint of the status.
    :param timeout: seconds from now on for all that is asked.
    """

    def __init__(self, reactor: Any, endpoint: str, timeout: float) -> None:
        self.reactor = reactor
        self.timeout = timeout
        #: Whether the connection stays on this machine.
        self.is_local = False
        self._endpoint = endpoint
        self._deadline = reactor.seconds() + timeout

    def is_late(self) -> bool:
        """Return whether the time is over."""
        late: bool = self.reactor.seconds() >= self._deadline
        return late

    def status(self) -> Coroutine[Deferred[Any], Any, Status]:
        """Return the status.

        :raises ValueError: when there is none.
        """
        # twisted.web is imported only for the commands that need it.
        from spoa_twisted.ctl.status.fetching import ask

        remaining = max(_LAST_LOOK, self._deadline - self.reactor.seconds())
        return ask(self.reactor, self._endpoint, remaining, self._on_connect)

    def _on_connect(self, transport: Any) -> None:
        self.is_local = is_local(transport.getPeer(), transport.getHost())


def is_local(peer: object, host: object) -> bool:
    """Return whether a connection between these two addresses stays on this machine."""
    if isinstance(peer, UNIXAddress):
        return True
    text = getattr(peer, "host", "")
    try:
        loopback = ip_address(text).is_loopback
    except ValueError:
        return False
    # An address that is also the own one is this machine, too.
    return loopback or text == getattr(host, "host", None)


def check_process(pid: int) -> None:
    """Check that the process is an agent. The endpoint may lead into a container, where processes have other numbers.

    :raises ValueError: when it is not, or not on this machine.
    """
    elsewhere = (
        f"process {pid} of this machine is no agent: does the agent run in a container? Run spoactl reload there"
    )
    if pid < 1:
        # For kill(), such a number stands for several processes.
        raise ValueError(elsewhere)
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        # This system has no /proc, or hides other users' processes there.
        return
    if _COMMAND not in words:
        raise ValueError(elsewhere)


def send_hangup(pid: int) -> None:
    """Send SIGHUP.

    :raises ValueError: when there is no such process, or this user may not.
    """
    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError as error:
        raise ValueError(
            f"there is no process {pid} on this machine: does the agent run in a container? Run spoactl reload there"
        ) from error
    except PermissionError as error:
        raise ValueError(
            f"this user may not send a signal to process {pid}: run spoactl reload as the agent's user, or as root"
        ) from error
