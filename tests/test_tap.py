"""``twistd spoa``: its options, the service that they make, and the errors that the user sees."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from twisted.application.service import IServiceMaker
from twisted.plugin import getPlugins

from spoa_twisted import SPOAService, tap
from spoa_twisted.endpoints import DEFAULT_ENDPOINT
from spoa_twisted.limits import LIMITS, Limits
from spoa_twisted.runner.errors import CannotStart
from spoa_twisted.spop.frames import HAProxyHello
from spoa_twisted.tap import Options
from tests.programs import TWIST, TWISTD
from tests.runner.conftest import Start, folder, options, start

# pytest finds the fixtures by these names. Without __all__, ruff would remove the imports as unused.
__all__ = ["folder", "start"]

#: The end of the error text about an option that has no similar one.
UNKNOWN = "twistd spoa --help lists the options; the options of twistd and twist stand before spoa"


def make(parsed: Options) -> SPOAService:
    """Return the service of an agent without workers."""
    service = tap.makeService(parsed)
    assert isinstance(service, SPOAService)
    return service


class TestOptions:
    def test_limits_have_their_defaults(self) -> None:
        """Without options, the agent has the limits that ``SPOAFactory`` has without keywords."""
        parsed = options()
        assert Limits(**{name: parsed[limit.option] for name, limit in LIMITS.items()}) == Limits()

    @pytest.mark.parametrize(
        ("argument", "text"),
        [
            ("--handler-timeout=2s", "--handler-timeout: '2s' is not a number of seconds"),
            ("--handler-timeout=nan", "--handler-timeout: 'nan' is not between 0 and 10,000,000 seconds"),
            ("--drain-timeout=-1", "--drain-timeout: '-1' is not between 0 and 10,000,000 seconds"),
            ("--max-unsent=1.5", "--max-unsent: '1.5' is not a whole number of bytes"),
            ("--max-in-flight=", "--max-in-flight: '' is not a whole number of NOTIFYs"),
            ("--max-frame-size=255", "--max-frame-size: '255' is not between 256 and 4,294,967,295 bytes"),
            ("--max-connections=0", "--max-connections: '0' is not between 1 and 1,099,511,627,776 connections"),
        ],
    )
    def test_a_bad_value_is_refused(self, argument: str, text: str) -> None:
        """The error names the option, the value and the reason."""
        with pytest.raises(CannotStart) as caught:
            options(argument)
        assert str(caught.value) == f"spoa: {text}"

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            (["ok"], "'ok' is not an option; did you mean --handlers ok?"),
            (["--handlers=mymod", "a", "b"], "'a' is not an option; did you mean --handlers a?"),
            (
                ["--handler=mymod"],
                "option --handler not a unique prefix; did you mean --handlers or --handler-timeout?",
            ),
            (["--max_unsent=5"], "option --max_unsent not recognized; did you mean --max-unsent?"),
            (["--xyzzy"], f"option --xyzzy not recognized; {UNKNOWN}"),
            (["--reactor=asyncio"], f"option --reactor not recognized; {UNKNOWN}"),
            (["-n"], f"option -n not recognized; {UNKNOWN}"),
            (["--handlers"], "option --handlers requires argument; twistd spoa --help lists the options"),
        ],
    )
    def test_an_argument_that_is_not_an_option_is_refused(self, arguments: list[str], text: str) -> None:
        """The error names similar options."""
        with pytest.raises(CannotStart) as caught:
            options(*arguments)
        assert str(caught.value) == f"spoa: {text}"

    def test_help_shows_each_option_with_its_default(self) -> None:
        """A whole number is shown without a fraction."""
        usage = " ".join(options().getUsage(width=1000).split())
        for limit in LIMITS.values():
            unit = {"bytes": "BYTES", "seconds": "SECONDS"}.get(limit.unit, "N")
            assert f"--{limit.option}={unit} {limit.help} [default: {limit.default:.12g}]" in usage
        assert f"[default: {DEFAULT_ENDPOINT}]" in usage


class TestMakeService:
    def test_options_have_the_names_of_keywords(self, folder: Path) -> None:
        """Each option sets the limit of the factory, or the attribute, that has the same name."""
        service = make(
            options(
                "--handlers=mymod",
                "--async",
                "--max-frame-size=1000",
                "--max-payload-size=1001",
                "--max-in-flight=1002",
                "--max-in-flight-size=1005",
                "--max-unsent=1003",
                "--max-connections=1004",
                "--hello-timeout=1.5",
                "--handler-timeout=2.5",
                "--drain-timeout=3.5",
            )
        )
        assert service.factory.async_
        limits = service.factory.limits
        assert (limits.max_frame_size, limits.max_payload_size, limits.max_in_flight) == (1000, 1001, 1002)
        assert limits.max_in_flight_size == 1005
        assert (limits.max_unsent, limits.max_connections) == (1003, 1004)
        assert (limits.hello_timeout, limits.handler_timeout, service.drain_timeout) == (1.5, 2.5, 3.5)

    def test_pipelining(self, folder: Path) -> None:
        """The mode goes to the factory. Another word than the three modes is refused."""
        hello = HAProxyHello(capabilities=frozenset({"pipelining"}))
        for mode, allowed in [("always", True), ("never", False)]:
            service = make(options("--handlers=mymod", f"--pipelining={mode}"))
            assert service.factory.pipelining.allows(hello) is allowed
        with pytest.raises(CannotStart, match="--pipelining is 'sometimes', which is none of auto, always, never"):
            options("--pipelining=sometimes")

    def test_it_listens_on_the_loopback_interface_by_default(self) -> None:
        """Without ``--listen``, other machines cannot reach the agent."""
        assert options()["listen"] == ["tcp:12345:interface=127.0.0.1"]
        assert options("--listen=tcp:1", "--listen=unix:/x")["listen"] == ["tcp:1", "unix:/x"]

    def test_sets_are_merged(self, folder: Path) -> None:
        """Handlers from several ``--handlers`` options are merged into one set."""
        service = make(options("--handlers=mymod", "--handlers=pkg.inner:other"))
        assert sorted(service.factory.handlers) == ["m", "n"]  # type: ignore[call-overload]

    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ([], "no handlers: name the module"),
            (["--handlers=mymod", "--handlers=mymod.py"], "the message 'm' has two handlers: mymod.m and mymod.m"),
            (["--handlers=mymod", "--listen=nonsense:1"], "bad endpoint 'nonsense:1': 'nonsense' is not a kind"),
            (
                ["--handlers=mymod", "--listen=127.0.0.1:1"],
                "bad endpoint '127.0.0.1:1': write tcp:1:interface=127.0.0.1",
            ),
            (["--handlers=nothing"], "no handlers are registered in 'nothing'; register functions with @handlers.mess"),
            (["--handlers=mymod", "--handlers=nothing:handlers"], "no handlers are registered in 'nothing:handlers'"),
            (["--handlers=mymod", "--listen=tcp:x"], "bad endpoint 'tcp:x'"),
            (["--handlers=mymod", "--listen="], "bad endpoint ''"),
            (["--handlers=mymod", "--listen=ssl:1:privateKey=missing.pem"], "bad endpoint .*missing.pem"),
        ],
    )
    def test_a_bad_option_is_one_line(self, folder: Path, arguments: list[str], text: str) -> None:
        """Invalid options raise CannotStart with one line of text, before the agent listens."""
        with pytest.raises(CannotStart, match=f"^spoa: {text}") as caught:
            make(options(*arguments))
        assert "\n" not in str(caught.value)

    def test_a_default_handler_is_enough(self, folder: Path) -> None:
        """Such an agent answers all messages."""
        (folder / "rest.py").write_text(
            "from spoa_twisted import Handlers\nhandlers = Handlers(default=lambda: None)\n"
        )
        assert make(options("--handlers=rest")).factory.handlers.describe() == "all messages"  # type: ignore[attr-defined]

    def test_other_implementations_cannot_be_merged(self, folder: Path) -> None:
        """Another implementation of IHandlers works alone, but only instances of Handlers can be merged."""
        assert make(options("--handlers=own")).factory.handlers.respond([], 0, None, 0, None) == b""  # type: ignore[arg-type]
        with pytest.raises(CannotStart, match="only instances of Handlers"):
            make(options("--handlers=own", "--handlers=mymod"))


def test_one_plugin_makes_the_command() -> None:
    """There is one plugin named spoa, by which twistd, twist and ``python -m twisted`` find the command."""
    (maker,) = [maker for maker in getPlugins(IServiceMaker) if maker.tapname == "spoa"]
    assert maker.module == "spoa_twisted.tap"  # type: ignore[attr-defined]
    assert maker.options is Options
    assert maker.makeService is tap.makeService


@pytest.mark.parametrize("program", [[*TWISTD, "-n"], TWISTD, TWIST], ids=["twistd", "daemon", "twist"])
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--handlers=missing"], "spoa: cannot import missing: ModuleNotFoundError"),
        (["--handlers=mymod:missing"], "spoa: mymod has no 'missing'; it has: handlers, other"),
        (["--handlers=mymod", "--listen=nonsense:1"], "spoa: bad endpoint 'nonsense:1'"),
        (
            ["--handlers=mymod", "--listen=unix:/nowhere/agent"],
            "spoa: cannot listen on unix:/nowhere/agent: the folder /no",
        ),
        (["mymod"], "^spoa: 'mymod' is not an option; did you mean --handlers mymod.$"),
        (["--handler=mymod"], "^spoa: option --handler not a unique prefix; did you mean --handlers or"),
    ],
)
def test_an_agent_that_cannot_start_exits(program: list[str], arguments: list[str], text: str, start: Start) -> None:
    """An agent that cannot start prints one line with the reason, no traceback, and exits with status 1."""
    agent = start(*program, "spoa", *arguments)
    assert agent.ended() == 1
    assert re.search(text, agent.output, re.MULTILINE)
    assert "Traceback" not in agent.output
    assert "SPOA listening" not in agent.output
    deadline = time.monotonic() + 30
    while Path("twistd.pid").exists():
        # As a daemon, twistd removes its pid file after the command has ended.
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("program", [[*TWISTD, "-n"], TWISTD, TWIST], ids=["twistd", "daemon", "twist"])
def test_an_agent_with_a_bad_value_exits(program: list[str], start: Start) -> None:
    """A bad value is reported before the handlers are loaded: no module is called ``missing``."""
    agent = start(*program, "spoa", "--handlers=missing", "--handler-timeout=2s")
    assert agent.ended() == 1
    assert agent.output == "spoa: --handler-timeout: '2s' is not a number of seconds\n"


def test_help_lists_the_options(start: Start) -> None:
    """``twistd spoa --help`` lists the options, and the default endpoint."""
    agent = start(*TWISTD, "spoa", "--help")
    assert agent.ended() == 0
    for option in ("--handlers=", "--listen=", "--drain-timeout=", "--async", "tcp:12345:interface=127.0.0.1"):
        assert option in agent.output
