"""What the agent tells systemd: that it is ready, reloads, stops, or is alive; and one line for ``systemctl status``.

This is the protocol of ``sd_notify(3)``: datagrams of lines ``NAME=value`` to the Unix socket ``NOTIFY_SOCKET``. Other
supervisors speak it too. Without ``NOTIFY_SOCKET``, nothing is sent.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.usage import Options

from spoa_twisted.escaping import in_one_line
from spoa_twisted.runner.errors import CannotStart

#: The variables of the environment. They are for this process only, so they are removed when they have been read:
#: systemd could take a message of a child process for one of the agent.
_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

#: Bytes. systemd drops a datagram of more than 4,096 bytes. Escaped texts have as many bytes as characters.
_MAX_STATUS_LENGTH: Final = 1000

#: Seconds until the next attempt, when the socket's queue is full.
_RETRY_INTERVAL: Final = 0.5

_MICROSECONDS: Final = 1_000_000


@final
class Supervisor:
    """The supervisor that has started this process, such as systemd. Without arguments, there is none.

    No method raises an exception, or waits: a supervisor that does not listen must not stop the agent. If the queue of
    the socket is full, the message is sent again later. If the socket is gone, the log says so once.

    :param address: the path of the Unix socket; ``@`` as the first character stands for an abstract socket.
    :param watchdog: the supervisor ends this process when it sends no WATCHDOG=1 for this many seconds; 0: never.
    """

    _log = Logger()

    def __init__(self, address: str = "", watchdog: float = 0) -> None:
        self._address = address
        self._watchdog = watchdog
        self._timer: LoopingCall | None = None
        # The variables that wait until the queue of the socket has room. There are few names, so this is bounded.
        self._unsent: dict[str, str] = {}
        self._retry: IDelayedCall | None = None
        self._failed = False
        self._reactor: IReactorTime | None = None

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Supervisor:
        """Return the supervisor that ``environment`` names. Remove its variables, so that no child process has them."""
        values = {name: environment.pop(name, "") for name in _VARIABLES}
        return cls(values["NOTIFY_SOCKET"], _watchdog(values))

    def start(self, reactor: IReactorTime) -> None:
        """Send WATCHDOG=1 from now on, twice in the time that the supervisor allows, if it has asked for that.

        A timer of ``reactor`` sends it, so nothing is sent while the reactor stands still.
        """
        self._reactor = reactor
        if self._address and self._watchdog and self._timer is None:
            self._timer = LoopingCall(self.watchdog)
            self._timer.clock = reactor
            self._timer.start(self._watchdog / 2)

    def close(self) -> None:
        """Stop all timers."""
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        self._reactor = None

    def ready(self, status: str) -> None:
        """Report that the agent is ready: it has started, or a reload is over.

        :param status: one line for ``systemctl status``.
        """
        # systemd must not read RELOADING=1 behind READY=1 in one datagram: the reload would never end.
        self._unsent.pop("RELOADING", None)
        self._unsent.pop("MONOTONIC_USEC", None)
        self._send(READY="1", STATUS=status)

    def status(self, text: str) -> None:
        """Report ``text``, one line for ``systemctl status``."""
        self._send(STATUS=text)

    def reloading(self, status: str = "reloading") -> None:
        """Report that a reload has begun. :meth:`ready` ends it, also when the reload has failed."""
        # Type=notify-reload needs the time. It distinguishes this reload from an earlier one.
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(RELOADING="1", MONOTONIC_USEC=str(now), STATUS=status)

    def stopping(self, status: str = "stopping") -> None:
        """Report that the agent stops."""
        self._send(STOPPING="1", STATUS=status)

    def watchdog(self) -> None:
        """Report once that the agent is alive. After :meth:`start`, a timer does this."""
        self._send(WATCHDOG="1")

    def _send(self, **variables: str) -> None:
        self._unsent.update(variables)
        if not self._address or not self._unsent:
            return
        text = "".join([f"{name}={in_one_line(value)[:_MAX_STATUS_LENGTH]}\n" for name, value in self._unsent.items()])
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            # The socket is opened each time: systemd may have been restarted, and then its socket is another one.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notify:
                notify.sendto(text.encode(), address)
        except BlockingIOError:
            self._send_later()
            return
        except OSError as error:
            self._report(error)
        self._unsent.clear()

    def _send_later(self) -> None:
        # Before start() there is no reactor to wait with. The next call sends it then.
        if self._retry is None and self._reactor is not None:
            self._retry = self._reactor.callLater(_RETRY_INTERVAL, self._send_again)

    def _send_again(self) -> None:
        self._retry = None
        self._send()

    def _report(self, error: OSError) -> None:
        if not self._failed:
            self._failed = True
            self._log.warn(
                "cannot notify the supervisor at NOTIFY_SOCKET {address}: {reason}; with systemd, the unit needs"
                " NotifyAccess=main",
                address=in_one_line(self._address),
                reason=error.strerror or error,
            )


def _watchdog(values: Mapping[str, str]) -> float:
    """Return the seconds in WATCHDOG_USEC; 0 if it is not for this process, or not a number."""
    if values["WATCHDOG_PID"] not in ("", str(os.getpid())) or not values["WATCHDOG_USEC"].isdecimal():
        return 0
    return int(values["WATCHDOG_USEC"]) / _MICROSECONDS


def refuse_daemon(twistd: Options | None, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse to start if ``twistd`` will become a daemon, and a supervisor waits for a message.

    It accepts messages from the process that it has started only. A daemon is another process, so the supervisor would
    wait until its timeout, and then end the agent.

    :param twistd: the options in front of ``spoa``; those of ``twist`` have no ``nodaemon``.
    :raises CannotStart: if so.
    """
    options: Any = twistd or {}
    if environment.get("NOTIFY_SOCKET") and not options.get("nodaemon", True) and not options.get("debug"):
        raise CannotStart(
            "NOTIFY_SOCKET is set: systemd waits for a message from this process, and a daemon is another one; start"
            " twistd with -n"
        )
