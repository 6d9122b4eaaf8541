"""A machine to try documents and examples on: a folder, the package's programs on the PATH, a web server, HAProxy.

``on_any_port`` and ``without_rules`` change what a reader would type or write as little as a test needs.
"""

from __future__ import annotations

import configparser
import contextlib
import http.client
import http.server
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spoa_twisted import IHandlers
from spoa_twisted.runner.loading import load
from tests.haproxy.branches import Branch
from tests.programs import ENVIRONMENT, LISTENING, ROOT, STOPPED, Program


class App(http.server.BaseHTTPRequestHandler):
    """The web server behind HAProxy: it answers with the user that HAProxy tells it."""

    def do_GET(self) -> None:
        # A request may have a body.
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = f"user: {self.headers.get('X-User')}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


class Agent:
    """An agent that runs, or an application with one in it, and the port where it listens.

    :param ready: what it prints when it listens, with the port behind the last colon.
    """

    def __init__(self, program: Program, ready: str | re.Pattern[str]) -> None:
        self.program = program
        self.port = program.said(ready)[1].rpartition(":")[2]

    def stop(self) -> str:
        """End it as a service manager does; return all that it printed."""
        assert self.program.stop() in STOPPED, self.program.describe()
        return self.program.output


class Machine:
    """A folder to work in, and a PATH with the programs of this package and of Twisted."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        programs = folder / ".programs"
        programs.mkdir()
        setup = configparser.ConfigParser()
        setup.read(ROOT / "setup.cfg")
        scripts = dict(
            line.split(" = ") for line in setup["options.entry_points"]["console_scripts"].strip().splitlines()
        )
        scripts["twistd"] = "twisted.scripts.twistd:run"
        for name, entry in scripts.items():
            module, _, function = entry.partition(":")
            script = programs / name
            # No "-c": as with an installed script, the current folder is on the path only if the program puts it there.
            script.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
            script.chmod(0o755)
        self.environment = {**ENVIRONMENT, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def write(self, **texts: str) -> None:
        """Write files: ``iprep_py`` is iprep.py."""
        for name, text in texts.items():
            (self.folder / name.replace("_", ".")).write_text(text)

    def run(self, command: str) -> str:
        """Run a command to its end; return what it printed."""
        ended = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    def start(self, command: str, ready: str | re.Pattern[str] = LISTENING) -> Agent:
        """Start a command that goes on, and wait until it prints that it listens."""
        words = shlex.split(command)
        environment = dict(self.environment)
        while re.match(r"[A-Z_]+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            # The package is installed, as it were, whatever the command says.
            environment[name] = f"{value}{os.pathsep}{ROOT}" if name == "PYTHONPATH" else value
        words[0] = shutil.which(words[0], path=environment["PATH"]) or words[0]
        program = self._stack.enter_context(Program(words, cwd=self.folder, environment=environment))
        return Agent(program, ready)

    def app(self) -> str:
        """Start the web server; return its port."""
        app = http.server.ThreadingHTTPServer(("127.0.0.1", 0), App)
        self._stack.callback(app.server_close)
        threading.Thread(target=app.serve_forever).start()
        self._stack.callback(app.shutdown)
        return str(app.server_port)

    def haproxy(self, branch: Branch, **files: str) -> Callable[..., tuple[int, str]]:
        """Start HAProxy with ``haproxy_cfg`` and the other files; return what makes a request.

        The result of a request is its HTTP status and the body of the response.
        """
        website = self._stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.website: tuple[str, int] = website.getsockname()
        # HAProxy takes a listener that is there already: who connects early waits.
        files["haproxy_cfg"] = files["haproxy_cfg"].replace("127.0.0.1:8080", f"fd@{website.fileno()}")
        self.write(**files)
        command = [str(branch.executable), "-f", "haproxy.cfg"]
        self._stack.enter_context(Program(command, cwd=self.folder, sockets=[website]))

        def request(
            client: str = "127.0.0.1", path: str = "/", method: str = "GET", body: bytes | None = None, **headers: str
        ) -> tuple[int, str]:
            host, port = website.getsockname()
            connection = http.client.HTTPConnection(host, port, timeout=60, source_address=(client, 0))
            with contextlib.closing(connection):
                connection.request(method, path, body=body, headers=headers)
                response = connection.getresponse()
                return response.status, response.read().decode()

        return request


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine with a folder of its own. What was started on it is ended."""
    with contextlib.ExitStack() as stack:
        yield Machine(tmp_path, stack)


@pytest.fixture
def load_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], IHandlers]]:
    """Writes a module, and loads its handlers as ``twistd spoa`` does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = set(sys.modules)

    def load_text(name: str, text: str) -> IHandlers:
        (tmp_path / f"{name}.py").write_text(text)
        return load(name)

    yield load_text
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


def on_any_port(command: str) -> str:
    """Return a ``twistd spoa`` command that listens on a port that is free."""
    return f"{command.strip()} --listen tcp:0:interface=127.0.0.1"


def without_rules(haproxy_cfg: str) -> list[str]:
    """Return the lines of a configuration without comments, and without the reader's own rules."""
    lines = haproxy_cfg.partition("\n# It stands for your application")[0].splitlines()
    return [
        line
        for line in lines
        if not line.strip().startswith("#") and ("error" in line or not line.startswith("    http-request "))
    ]
