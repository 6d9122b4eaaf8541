"""``twistd --reactor=spoa-epoll``: Twisted's epoll reactor, with less work for each event.

An event is a descriptor that can be read or written. Before a reactor of Twisted handles one, it sets the logging
context, from which ``twisted.python.log.msg`` takes the key ``system``: the ``logPrefix`` of the connection or port.
``twisted.python.log.callWithLogger`` does this through five function calls that pass on any arguments.
:class:`LeanEPollReactor` pushes the same context on the same stack itself, and logs the same failures.
"""

from __future__ import annotations

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor
from twisted.python import context, log


class LeanEPollReactor(EPollReactor):
    """Twisted's ``EPollReactor``, which it replaces everywhere: only :meth:`doPoll` differs."""

    def doPoll(self, timeout: float | None) -> None:
        """Wait until there are events, and handle them.

        :param timeout: how many seconds to wait at most; ``None`` for any time.
        """
        try:
            events = self._poller.poll(-1 if timeout is None else timeout, len(self._selectables))
        except InterruptedError:
            return
        # Do not call _handle for no events: the reactor often waits only for a timer.
        if events:
            self._handle(events)

    # Twisted's main loop calls the reactor by this name.
    doIteration = doPoll

    def _handle(self, events: list[tuple[int, int]]) -> None:
        """Read from and write to descriptors, as the loop in Twisted's ``doPoll`` and ``callWithLogger`` do.

        :param events: each descriptor, and the bits of ``epoll_wait`` for it.
        """
        tracker = context.theContextTracker.currentContext()
        contexts = tracker.contexts
        # The reactor's caller has rarely pushed a context; then this is the lowest one, which always has the key.
        outer = contexts[-1].get(log.ILogContext) or tracker.getContext(log.ILogContext)
        for fd, event in events:
            # The handling of an earlier event may have removed this one.
            selectable = self._selectables.get(fd)
            if selectable is None:
                continue
            try:
                prefix = selectable.logPrefix()
            except KeyboardInterrupt:
                raise
            except BaseException:
                prefix = "(buggy logPrefix method)"
                log.err(system=prefix)
            try:
                # Two new dicts for each event: callInThread takes the one in ``contexts`` to another thread, where it
                # lasts longer than this call, and protocols may add keys to the other.
                log_context = outer.copy()
                log_context["system"] = prefix
                contexts.append({log.ILogContext: log_context})
                try:
                    self._doReadOrWrite(selectable, fd, event)  # type: ignore[no-untyped-call]
                finally:
                    contexts.pop()
            except KeyboardInterrupt:
                raise
            except BaseException:
                log.err(system=prefix)


def install() -> None:
    """Make a :class:`LeanEPollReactor` the reactor of this process. Call it before anything imports the reactor."""
    installReactor(LeanEPollReactor())  # type: ignore[no-untyped-call]
