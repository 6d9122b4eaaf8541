"""A web server that answers each request with ``20`` after a fixed delay: it stands for a service that handlers ask.

``python -m benchmarks.delayed_web --delay 2`` listens on a free port of 127.0.0.1, and prints it. The delay is in
milliseconds. ``benchmarks.lookups`` runs it.
"""

from __future__ import annotations

import argparse
from typing import Any, Final

from twisted.internet.protocol import Factory, Protocol

from benchmarks.lookup_handlers import SCORE

_ANSWER: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%s" % (len(SCORE), SCORE)


class DelayedWeb(Protocol):
    """One connection. Its requests have no body, and each comes after the answer to the one before.

    :param clock: the reactor.
    :param delay: seconds between a request and its answer.
    """

    def __init__(self, clock: Any, delay: float) -> None:
        self._clock = clock
        self._delay = delay
        # The part of the request that has arrived.
        self._received = b""

    def dataReceived(self, data: bytes) -> None:
        """Add to the request. When it is complete, answer it after the delay."""
        self._received += data
        if self._received.endswith(b"\r\n\r\n"):
            self._received = b""
            self._clock.callLater(self._delay, self._answer)

    def _answer(self) -> None:
        # The client may have closed the connection. Then the transport ignores the answer.
        assert self.transport is not None
        self.transport.write(_ANSWER)


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=2.0, help="milliseconds (default: %(default)s)")
    options = parser.parse_args()
    from twisted.internet import reactor as installed

    reactor: Any = installed

    class Connections(Factory):
        noisy = False

        def buildProtocol(self, address: object) -> DelayedWeb:
            return DelayedWeb(reactor, options.delay / 1000)

    port = reactor.listenTCP(0, Connections(), backlog=1024, interface="127.0.0.1")
    print(f"web server on port {port.getHost().port}", flush=True)
    reactor.run()


if __name__ == "__main__":
    main()
