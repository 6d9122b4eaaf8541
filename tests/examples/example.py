"""An example of ``examples/`` that a test runs: a copy of its folder, its agent, its HAProxy, and requests.

The commands are those that the README of the example tells. Only the ports differ: they are free ones.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from spoa_twisted.haproxy.answers import answers
from spoa_twisted.haproxy.checks import find
from spoa_twisted.haproxy.finding import Severity
from spoa_twisted.haproxy.joined import GENERATIONS
from spoa_twisted.haproxy.reading import read
from spoa_twisted.runner.loading import load_all
from tests.haproxy.branches import Branch
from tests.haproxy.summary import NOT_TESTED
from tests.machine import Agent, Machine, on_any_port, without_rules
from tests.programs import ROOT, NotInstalled, find_program

#: With this environment variable, a package or a program that is missing fails a test instead of skipping it.
STRICT = "SPOA_EXAMPLES"

#: The address of the agent in the configuration of the examples.
AGENT = "127.0.0.1:12345"


def require(*packages: str) -> None:
    """Skip the test, or fail it with :data:`STRICT`, if a Python package is not installed. Names are for import."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            _cannot_run(f'the package {package} is not installed: pip install "spoa_twisted[examples]"')


def require_program(name: str, debian: str, *folders: str) -> str:
    """Return the path of a program, see :func:`find_program`; skip or fail the test as :func:`required` does."""
    with required():
        return find_program(name, debian, *folders)


@contextlib.contextmanager
def required() -> Iterator[None]:
    """Skip the test, or fail it with :data:`STRICT`, if the block needs a program that is not installed."""
    try:
        yield
    except NotInstalled as missing:
        _cannot_run(str(missing))


def _cannot_run(reason: str) -> NoReturn:
    if STRICT in os.environ:
        pytest.fail(f"{reason} ({STRICT} is set, so this is no reason to skip the test)", pytrace=False)
    # A module may call this before it imports the package: then all its tests are skipped.
    pytest.skip(NOT_TESTED + reason, allow_module_level=True)


class Example(Machine):
    """A copy of ``examples/NAME``.

    :param folder: the folder of the copy.
    :param stack: ends what the test has started.
    """

    def __init__(self, name: str, folder: Path, stack: contextlib.ExitStack) -> None:
        super().__init__(folder, stack)
        self.name = name
        self.source = ROOT / "examples" / name
        shutil.copytree(self.source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))

    def text(self, name: str) -> str:
        """Return the text of a file of the copy."""
        return (self.folder / name).read_text("utf-8")

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text in a file of the copy. It must be there."""
        text = self.text(name)
        assert old in text, f"{name} has no {old!r}"
        (self.folder / name).write_text(text.replace(old, new), "utf-8")

    def agent(self, command: str = "twistd -n spoa --handlers handlers.py", **settings: str) -> Agent:
        """Start the agent on a free port, with more environment variables, and wait until it listens."""
        self.environment.update(settings)
        return self.start(on_any_port(command))

    def site(self, branch: Branch, agent: Agent | str, app: str | None = None) -> Callable[..., tuple[int, str]]:
        """Start HAProxy with the example's configuration; return what makes a request, see :meth:`Machine.haproxy`.

        :param agent: the agent, or its address.
        :param app: the port of the application behind HAProxy; by default a web server is started.
        """
        address = agent if isinstance(agent, str) else f"127.0.0.1:{agent.port}"
        # The section that stands for the application would listen on the port of the application below.
        text = self.text("haproxy.cfg").partition("\n# It stands for your application")[0]
        assert AGENT in text
        text = text.replace(AGENT, address)
        # On a busy machine, an agent may answer a health check so late that HAProxy marks it down.
        text = text.replace("timeout check 500ms", "timeout check 5s")
        return self.haproxy(branch, haproxy_cfg=text.replace("127.0.0.1:8081", f"127.0.0.1:{app or self.app()}"))

    def check_generated(self, *options: str, handlers: str = "handlers.py") -> None:
        """Check that ``spoactl config`` writes the configuration, but for the rules that the example adds.

        :param options: options of ``spoactl config`` in addition to ``--handlers``, ``--whole`` and ``--output``.
        """
        for name in ("spoe.conf", "haproxy.cfg"):
            (self.folder / name).rename(self.folder / f"{name}.kept")
        words = " ".join(options)
        self.run(f"spoactl config --handlers {handlers} {words} --whole --output .")
        assert self.text("spoe.conf") == self.text("spoe.conf.kept")
        assert without_rules(self.text("haproxy.cfg")) == without_rules(self.text("haproxy.cfg.kept"))
        for name in ("spoe.conf", "haproxy.cfg"):
            (self.folder / f"{name}.kept").rename(self.folder / name)

    def check_problems(self, *handlers: str) -> None:
        """Check that ``spoactl check`` finds nothing worse than an info, also against the handlers.

        :param handlers: as for ``--handlers``; by default the file ``handlers.py``.
        """
        files = [self.folder / "spoe.conf"], [self.folder / "haproxy.cfg"]
        loaded = load_all(list(handlers) or [str(self.folder / "handlers.py")])
        for version in GENERATIONS:
            configuration = read(*files, version=version, environment={})
            assert configuration.engines
            assert not configuration.not_read
            for known in (None, answers(loaded, 1.0)):  # type: ignore[arg-type]
                found = [item for item in find(configuration, known) if item.severity is not Severity.INFO]
                assert [f"{item.place.line}: {item.text} [{item.id}]" for item in found] == []

    def commands(self) -> list[str]:
        """Return the commands in the code blocks of the example's README, in order."""
        blocks = re.findall(r"^\.\. code-block:: (?:sh|console)\n\n((?:   .*\n|\n)+)", self.text("README.rst"), re.M)
        lines = [line.strip() for block in blocks for line in block.splitlines()]
        return [line.removeprefix("$ ") for line in lines if line and not line.startswith("#")]
