"""``--log-format``, with twistd, with twist, and with ``twistd --logger``."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.application.twist._options import TwistOptions
from twisted.logger import textFileLogObserver
from twisted.scripts._twistd_unix import ServerOptions

from spoa_twisted import logging
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.spop.messages import Message
from tests.programs import TWISTD
from tests.runner.conftest import Start
from tests.runner.test_process import Engine

JSON = "spoa_twisted.logging.json"


@pytest.fixture(autouse=True)
def log() -> Iterator[logging.JSONLog]:
    yield logging.json
    logging.json.path = ""


def twistd(*arguments: str) -> Any:
    options: Any = ServerOptions()
    options.parseOptions(arguments)
    return options


class TestTwistd:
    @pytest.mark.parametrize(
        ("arguments", "path"),
        [
            (["-n"], ""),
            (["-n", "--logfile=-"], ""),
            (["-n", "--logfile=agent.log"], "agent.log"),
            (["--logfile=agent.log"], "agent.log"),
            ([], "twistd.log"),
        ],
    )
    def test_the_log_stays_where_it_is(self, arguments: list[str], path: str, log: logging.JSONLog) -> None:
        """In the file of ``--logfile``, or on stdout, or in the daemon's file."""
        for command in ([*arguments, "spoa", "--log-format=json"], [*arguments, f"--logger={JSON}", "spoa"]):
            log.path = "another"
            assert twistd(*command)["logger"] is log
            assert log.path == path

    @pytest.mark.parametrize("arguments", [["-n", "spoa"], ["-n", "spoa", "--log-format=text"]])
    def test_text_is_twistds_own(self, arguments: list[str]) -> None:
        assert twistd(*arguments)["logger"] is None

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["spoa", "--log-format=xml"], "--log-format is 'xml', which is none of text, json"),
            (
                ["--logger=twisted.logger.jsonFileLogObserver", "spoa", "--log-format=json"],
                (
                    "--logger twisted.logger.jsonFileLogObserver decides about the log: leave out --log-format or"
                    " --logger"
                ),
            ),
            (
                [f"--logger={JSON}", "spoa", "--log-format=text"],
                f"--logger {JSON} writes JSON: leave out --log-format text or --logger",
            ),
            (
                ["--syslog", "spoa", "--log-format=json"],
                "lines for syslog are text: leave out --log-format json or --syslog",
            ),
            (
                ["--logfile=-", "spoa", "--log-format=json"],
                "a daemon cannot log to stdout: leave out --logfile -, or start twistd with -n",
            ),
        ],
    )
    def test_a_contradiction_is_refused(self, arguments: list[str], text: str) -> None:
        """The error says which option to leave out."""
        with pytest.raises(CannotStart) as caught:
            twistd(*arguments)
        assert str(caught.value) == f"spoa: {text}"


class TestTwist:
    def twist(self, *arguments: str) -> Any:
        options: Any = TwistOptions()
        options.parseOptions(arguments)
        return options["fileLogObserverFactory"]

    def test_the_format_replaces_twists_own(self) -> None:
        assert self.twist("spoa", "--log-format=json") is logging.json_observer
        assert self.twist("--log-format=text", "spoa", "--log-format=json") is logging.json_observer
        assert self.twist("--log-format=json", "spoa", "--log-format=text") is textFileLogObserver

    def test_without_it_twist_decides(self) -> None:
        assert self.twist("spoa") is not logging.json_observer
        assert self.twist("--log-format=text", "spoa") is textFileLogObserver


NOISY = """\
import logging, sys, warnings
from spoa_twisted import Handlers

handlers = Handlers()
print("print")
logging.getLogger("lib").warning("before the log begins")

@handlers.startup
def noise():
    print("printed \\udc80")
    print("two\\nlines", file=sys.stderr)
    warnings.warn("warned")
    logging.getLogger("lib").error("logged")
"""


def test_each_line_of_a_daemon_is_json(start: Start, folder: Path) -> None:
    """Also those of twistd itself, of ``print``, ``warnings`` and ``logging``; and in both files after SIGUSR1."""
    (folder / "noisy.py").write_text(NOISY)
    command = (*TWISTD, "--pidfile=agent.pid", "--logfile=agent.log", "spoa", "--listen=unix:agent.sock")
    started = start(*command, "--handlers=noisy", "--log-format=json")
    assert started.ended() == 0, started.output
    pid = int((folder / "agent.pid").read_text())
    log = folder / "agent.log"
    try:
        start("tail", "-n", "+1", "-F", "agent.log").said("SPOA listening")
        os.kill(pid, signal.SIGUSR1)
        start("tail", "-n", "+1", "--retry", "-F", "agent.log.1").said("SPOA listening")
        os.kill(pid, signal.SIGTERM)
        start("tail", "-n", "+1", "-F", "agent.log").said("Server Shut Down")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    lines = [json.loads(line) for path in (folder / "agent.log.1", log) for line in path.read_text().splitlines()]
    found = [(line["level"], line["logger"], line["message"]) for line in lines]
    assert ("info", "stdout", "printed \\udc80") in found
    assert ("error", "stderr", "lines") in found
    assert ("error", "lib", "logged") in found
    assert [level for level, _, message in found if message.endswith("UserWarning: warned")] == ["warn"]
    assert found[-1][2] == "Server Shut Down."


SLOW = """\
from twisted.internet import reactor
from twisted.internet.task import deferLater
from spoa_twisted import Handlers

handlers = Handlers({"slow": lambda: deferLater(reactor, 0.2, dict)})
"""


@pytest.mark.parametrize("program", [[*TWISTD, "-n"], [sys.executable, "-m", "twisted"]], ids=["twistd", "twist"])
def test_a_slow_notify(program: list[str], start: Start, folder: Path) -> None:
    """``--log-slow`` and ``--log-format json`` together: the line has numbers, and the id of the request."""
    (folder / "slow.py").write_text(SLOW)
    command = [*program, "spoa", "--handlers=slow", "--listen=unix:agent.sock", "--log-slow=0.1", "--log-format=json"]
    agent = start(*command)
    agent.said("SPOA listening")
    with Engine("agent.sock") as engine:
        engine.connection.send_notify([Message("slow", [("id", "7F2A"), ("secret", "swordfish")])])
        engine.send()
        assert engine.next_event().variables == {}
        line = json.loads(agent.said(r'\{.*"kind": "NotifySlow".*\}')[0])
    assert (line["level"], line["name"], line["id"], line["stream_id"]) == ("warn", "slow", "7F2A", 1)
    assert line["seconds"] >= line["handler"] > 0.1
    agent.stop()
    for text in agent.output.splitlines():
        assert "swordfish" not in text
        json.loads(text)
