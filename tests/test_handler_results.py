"""Whatever a handler returns or raises: its NOTIFY gets one ACK, the connection stays, the log names the message."""

from __future__ import annotations

import asyncio
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from enum import Enum, IntEnum, IntFlag
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from types import MappingProxyType, coroutine
from typing import Any, NoReturn

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock

from spoa_twisted import NULL, Handlers, Int32, Int64, Message, SPOAFactory, UInt32, UInt64
from spoa_twisted.spop.actions import decode_actions
from spoa_twisted.spop.connection import State
from spoa_twisted.spop.frames import HAProxyHello
from spoa_twisted.spop.unread import Receipt
from tests.agent.memory import Session
from tests.conftest import Logged

#: Longer than any name, value or text that may be logged whole.
LONG = 3_000_000

#: What the other two handlers of each NOTIFY set.
GOOD = {"sess.before": 1, "sess.after": 2}


def answer_of(function: Callable[..., Any], on_error: Any = None, size: int = 16380, **options: Any) -> dict[str, Any]:
    """Return the variables that ``function``, or its ``on_error``, adds to those of two other handlers in one ACK.

    There is just one ACK, and the next NOTIFY on the same connection is answered too.
    """
    clock = Clock()
    handlers = Handlers({"before": lambda: {"sess.before": 1}, "after": lambda: {"sess.after": 2}})
    handlers.message("tested", on_error={"sess.error": True} if on_error is None else on_error, **options)(function)
    session = Session(SPOAFactory(handlers, reactor=clock), HAProxyHello(max_frame_size=size))
    ids = session.engine.send_notify([Message("before"), Message("tested"), Message("after")])
    session.send()
    clock.advance(11)
    (ack,) = session.events()
    assert ack.ids == ids
    session.notify("before")
    (next_ack,) = session.events()
    assert next_ack.variables == {"sess.before": 1}
    assert session.engine.state is State.RUNNING
    assert not session.wire.disconnecting
    # Until HAProxy has surely read what was sent.
    clock.pump([1] * Receipt.UNKNOWN.value)
    assert clock.getDelayedCalls() == []
    assert ack.variables.items() >= GOOD.items()
    return {name: value for name, value in ack.variables.items() if name not in GOOD}


def line_of(logged: Logged) -> str:
    """Return the first line of the one text that was logged: it is short, and the whole text is printable ASCII."""
    (text,) = logged.take()
    line = text.partition("\n")[0]
    assert "the message 'tested'" in line
    assert len(line) < 3000
    assert all(character == "\n" or (character.isascii() and character.isprintable()) for character in text)
    return line


class UnprintableError(Exception):
    """Its ``__str__`` has a bug."""

    def __str__(self) -> str:
        raise LookupError("no such attribute")


class Text(str):
    __slots__ = ()


class Octets(bytes):
    __slots__ = ()


class Address(IPv4Address):
    pass


class Score(IntEnum):
    HIGH = 90
    TOO_HIGH = 2**70


class Permission(IntFlag):
    READ = 1
    WRITE = 2


class Verdict(str, Enum):
    DENY = "deny"


class NumpyInteger:
    """Like numpy's integers, not an ``int``."""

    def __index__(self) -> int:
        return 3


class NumpyBool:
    """Like numpy's booleans, not a ``bool``."""

    def __bool__(self) -> bool:
        return True


class Mapped(Mapping[str, Any]):
    """A mapping of one variable, not a ``dict``."""

    def __getitem__(self, name: str) -> Any:
        return 1

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(["sess.mapped"])


class Unreadable(Mapped):
    """Its value is looked up when it is read, and that fails."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __getitem__(self, name: str) -> NoReturn:
        raise self._error


def released() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


class TestNames:
    @pytest.mark.parametrize(
        ("name", "variable"),
        [
            ("proc.v", "proc.v"),
            ("sess.v", "sess.v"),
            ("txn.v", "txn.v"),
            ("req.v", "req.v"),
            ("res.v", "res.v"),
            ("v", "proc.v"),
            ("sess", "proc.sess"),
            ("sess.a.b..c", "sess.a.b..c"),
            ("txn.Az_09", "txn.Az_09"),
            (Verdict("deny"), "proc.deny"),
            (Text("txn.text"), "txn.text"),
            (Text("text"), "proc.text"),
        ],
        ids=ascii,
    )
    def test_a_name_that_haproxy_accepts(self, name: str, variable: str) -> None:
        """With a scope, or without one for proc. It may be of a subclass of str."""
        assert answer_of(lambda: {name: 1}) == {variable: 1}

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("", "variable '': HAProxy drops names"),
            (".", "variable '.': '' is not a scope; use one of proc, sess, txn, req, res"),
            (".v", "variable '.v': '' is not a scope"),
            ("sess.", "variable 'sess.': HAProxy drops names"),
            ("SESS.v", "variable 'SESS.v': 'SESS' is not a scope"),
            ("user.name", "variable 'user.name': 'user' is not a scope"),
            ("sess.v w", "variable 'sess.v w': HAProxy drops names"),
            ("sess.ä", "variable 'sess.\\xe4': HAProxy drops names"),
            ("sess.\ud800", "variable 'sess.\\ud800': HAProxy drops names"),
            ("sess.v\n", "variable 'sess.v\\n': HAProxy drops names"),
            (
                "sess.v\n2026-01-01 forged\x1b[31m\x85\u2028",
                "variable 'sess.v\\n2026-01-01 forged\\x1b[31m\\x85\\u2028'",
            ),
            ("sess." + "v " * LONG, "variable 'sess.v v v"),
            ("scope" * LONG + ".v", "is not a scope"),
            (None, "variable None: "),
            (b"sess.v", "variable b'sess.v': the name of a variable is a str, not a bytes"),
            (("sess", "v"), "variable ('sess', 'v'): the name of a variable is a str, not a tuple"),
        ],
        ids=lambda parameter: ascii(parameter)[:30],
    )
    def test_a_name_that_haproxy_would_drop(self, name: Any, text: str, logged: Logged) -> None:
        """The error names the variable, cut and escaped."""
        assert answer_of(lambda: {name: 1}) == {"sess.error": True}
        assert text in line_of(logged)

    def test_a_name_that_may_be_too_long_is_sent_and_warned_about(self, logged: Logged) -> None:
        """Only HAProxy knows its prefix. The log cuts the name, which may be as long as the frame."""
        name = "sess." + "v" * 16000
        assert answer_of(lambda: {name: 1}) == {name: 1}
        (line,) = logged.take()
        assert line.startswith("warn: the variable 'sess.vvvv")
        assert len(line) < 300

    def test_a_name_longer_than_a_frame_does_not_fit(self, logged: Logged) -> None:
        """The log cuts it."""
        assert answer_of(lambda: {"sess." + "v" * LONG: 1}) == {"sess.error": True}
        warning, line = logged.take()
        assert "may be too long for HAProxy" in warning
        assert f"do not fit in the frame: {LONG + 9} bytes" in line
        assert "the largest is sess.vvvv" in line
        assert len(line) < 300


class TestValues:
    @pytest.mark.parametrize(
        ("value", "received"),
        [
            (True, True),
            (False, False),
            (1, 1),
            (-(2**63), -(2**63)),
            (2**63 - 1, 2**63 - 1),
            (Int32(-(2**31)), Int32(-(2**31))),
            (Int32(2**31 - 1), Int32(2**31 - 1)),
            (UInt32(2**32 - 1), UInt32(2**32 - 1)),
            (Int64(-1), -1),
            (UInt64(2**64 - 1), UInt64(2**64 - 1)),
            (Score.HIGH, 90),
            (Permission.READ | Permission.WRITE, 3),
            (Verdict.DENY, "deny"),
            (Text("text"), "text"),
            ("\udc80\udcff", "\udc80\udcff"),
            ("a\nb\x00", "a\nb\x00"),
            (Octets(b"abc"), b"abc"),
            (bytearray(b"abc"), b"abc"),
            (memoryview(b"abcdef")[::2], b"ace"),
            (memoryview(b"abcdef")[::-1], b"fedcba"),
            (memoryview(bytes(6)).cast("B", (2, 3)), bytes(6)),
            (memoryview(array("H", [1, 2])), array("H", [1, 2]).tobytes()),
            (Address("192.0.2.1"), IPv4Address("192.0.2.1")),
            (IPv4Interface("192.0.2.1/24"), IPv4Address("192.0.2.1")),
            (IPv6Address("fe80::1%eth0"), IPv6Address("fe80::1")),
            (NULL, NULL),
            (None, None),
        ],
        # The repr of a memoryview holds its address, and pytest-xdist needs the same ids in each process.
        ids=lambda parameter: "memoryview" if isinstance(parameter, memoryview) else ascii(parameter),
    )
    def test_a_value_that_can_be_sent(self, value: Any, received: Any) -> None:
        """It arrives with its type. A value of a subclass arrives as one of the base class."""
        variables = answer_of(lambda: {"txn.v": value})
        assert [(name, type(v), v) for name, v in variables.items()] == [("txn.v", type(received), received)]

    @pytest.mark.parametrize("number", [-1, -(2**31), Int32(-1), Int64(-1)], ids=lambda number: type(number).__name__)
    def test_a_negative_number_has_its_sign_in_64_bits(self, number: int) -> None:
        """Whatever its type: HAProxy reads every integer as one of 64 bits."""
        actions = Handlers({"m": lambda: {"txn.v": number}}).respond([Message("m")], 1000, Clock(), 0)
        assert isinstance(actions, bytes)
        # The head of set-var with scope and name, the type, and the ten bytes of a number of 64 bits.
        assert len(actions) == 5 + 1 + 10

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (1.0, "a float has no SPOP type"),
            (float("nan"), "a float has no SPOP type"),
            (1j, "a complex has no SPOP type"),
            (Decimal(1), "a Decimal has no SPOP type"),
            (NumpyInteger(), "a NumpyInteger has no SPOP type"),
            (NumpyBool(), "a NumpyBool has no SPOP type"),
            (int, "a type has no SPOP type"),
            ([1], "a list has no SPOP type"),
            ({"a": 1}, "a dict has no SPOP type"),
            (NotImplemented, "a NotImplementedType has no SPOP type"),
            (-(2**63) - 1, "-9223372036854775809 is outside the range of INT64"),
            (Int64(2**63), "9223372036854775808 is outside the range of INT64"),
            (Int32(2**31), "2147483648 is outside the range of INT32"),
            (UInt32(-1), "-1 is outside the range of UINT32"),
            (UInt32(2**32), "4294967296 is outside the range of UINT32"),
            (UInt64(-1), "-1 is outside the range of UINT64"),
            (UInt64(2**64), "18446744073709551616 is outside the range of UINT64"),
            (Score.TOO_HIGH, "1180591620717411303424 is outside the range of INT64"),
            (10**5000, "a number of 16610 bits is outside the range of INT64"),
            (UInt64(-(10**5000)), "a number of 16610 bits is outside the range of UINT64"),
            ("\ud800", "surrogates not allowed"),
            ("x" * LONG + "\ud800", "surrogates not allowed"),
            (released(), "released memoryview"),
        ],
        ids=lambda parameter: ascii(parameter)[:30] if isinstance(parameter, str) else type(parameter).__name__,
    )
    def test_a_value_that_cannot_be_sent(self, value: Any, text: str, logged: Logged) -> None:
        """The error names the variable, and the type or the number."""
        assert answer_of(lambda: {"sess.first": 1, "sess.v": value}) == {"sess.error": True}
        line = line_of(logged)
        assert "variable 'sess.v': " in line
        assert text in line


class TestMappings:
    @pytest.mark.parametrize(
        "mapping",
        [OrderedDict({"sess.mapped": 1}), MappingProxyType({"sess.mapped": 1}), Mapped()],
        ids=lambda mapping: type(mapping).__name__,
    )
    def test_any_mapping_can_be_returned(self, mapping: Mapping[str, Any]) -> None:
        """It need not be a dict."""
        assert answer_of(lambda: mapping) == {"sess.mapped": 1}

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (ValueError("no such row"), "no such row"),
            (SystemExit("no such row"), "no such row"),
            (UnprintableError(), "<UnprintableError instance"),
        ],
        ids=["error", "exit", "unprintable"],
    )
    def test_a_mapping_that_cannot_be_read(self, error: BaseException, text: str, logged: Logged) -> None:
        """It costs its own message only."""
        assert answer_of(lambda: Unreadable(error)) == {"sess.error": True}
        assert f"returned what cannot be sent: {text}" in line_of(logged)


async def yields_garbage() -> dict[str, Any]:
    @coroutine
    def garbage() -> Iterator[int]:
        yield 42

    await garbage()
    return {"sess.v": 1}


async def asynchronous_generator() -> Any:
    yield {"sess.v": 1}


def generator() -> Iterator[tuple[str, int]]:
    yield "sess.v", 1


def awaited_before() -> Any:
    async def handler() -> dict[str, Any]:
        return {"sess.v": 1}

    result = handler()
    with pytest.raises(StopIteration):
        result.send(None)
    return result


class AwaitRaises:
    def __await__(self) -> Any:
        raise LookupError("cannot be awaited")


def cancelled() -> Deferred[Any]:
    deferred: Deferred[Any] = Deferred()
    deferred.cancel()
    return deferred


def recurses() -> Any:
    return recurses()


async def recurses_asynchronously() -> Any:
    return await recurses_asynchronously()


class TestResults:
    @pytest.mark.parametrize(
        ("result", "name"),
        [
            ((), "tuple"),
            ({"sess.v"}, "set"),
            (b"", "bytes"),
            (True, "bool"),
            (0, "int"),
            (dict, "type"),
            (len, type(len).__name__),
            (NumpyInteger(), "NumpyInteger"),
        ],
    )
    def test_other_objects_are_refused(self, result: Any, name: str, logged: Logged) -> None:
        """False ones and callable ones too. The line names the type."""
        assert answer_of(lambda: result) == {"sess.error": True}
        assert f"a {name} is no mapping of variables" in line_of(logged)

    @pytest.mark.parametrize("function", [generator, asynchronous_generator])
    def test_a_generator_is_refused(self, function: Callable[[], Any], logged: Logged) -> None:
        """A handler must not yield."""
        assert answer_of(function) == {"sess.error": True}
        assert "generator is no mapping of variables" in line_of(logged)

    @pytest.mark.parametrize(
        "function",
        [awaited_before, AwaitRaises, cancelled, lambda: fail(LookupError())],
        ids=["awaited before", "raises", "cancelled", "failed"],
    )
    def test_an_awaitable_that_fails_at_once(self, function: Callable[[], Any], logged: Logged) -> None:
        """The handler has failed, and its on_error is sent at once."""
        assert answer_of(function) == {"sess.error": True}
        assert "failed" in line_of(logged)

    def test_a_coroutine_may_yield_any_object(self) -> None:
        """It gets the object back, as from Twisted."""
        assert answer_of(yields_garbage) == {"sess.v": 1}

    def test_a_deferred_that_fires_with_a_deferred(self, logged: Logged) -> None:
        """Twisted forbids it, and some versions raise an error."""
        assert answer_of(lambda: succeed(Deferred())) == {"sess.error": True}
        line_of(logged)

    def test_a_deferred_that_fires_with_a_coroutine(self, logged: Logged) -> None:
        """The coroutine is not awaited: it is no mapping."""
        inner = yields_garbage()
        assert answer_of(lambda: succeed(inner)) == {"sess.error": True}
        assert "a coroutine is no mapping of variables" in line_of(logged)
        inner.close()

    def test_a_deferred_that_is_paused(self, logged: Logged) -> None:
        """It has a result, but its callbacks do not run: the handler times out."""
        paused = succeed({"sess.v": 1})
        paused.pause()
        assert answer_of(lambda: paused) == {"sess.error": True}
        assert "took longer than 10.0 s" in line_of(logged)


def plain(error: BaseException) -> Callable[[], Any]:
    def handler() -> NoReturn:
        raise error

    return handler


def deferred(error: BaseException) -> Callable[[], Any]:
    return lambda: fail(error)


def coroutine_at_once(error: BaseException) -> Callable[[], Any]:
    async def handler() -> NoReturn:
        raise error

    return handler


def coroutine_that_waited(error: BaseException) -> Callable[[], Any]:
    async def handler() -> NoReturn:
        await succeed(None)
        raise error

    return handler


#: Each returns a handler that fails with the given exception.
KINDS = [plain, deferred, coroutine_at_once, coroutine_that_waited]


class TestFailures:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        "error",
        [
            SystemExit,
            KeyboardInterrupt,
            GeneratorExit,
            BaseException,
            asyncio.CancelledError,
            CancelledError,
            StopIteration,
            StopAsyncIteration,
            MemoryError,
            UnprintableError,
        ],
    )
    def test_every_exception_is_caught(
        self, kind: Callable[[BaseException], Callable[[], Any]], error: type[BaseException], logged: Logged
    ) -> None:
        """Also one that would end the program, and one whose text cannot be read."""
        assert answer_of(kind(error("why"))) == {"sess.error": True}
        assert line_of(logged).startswith("critical: the handler of the message 'tested' failed")

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        "text", ["no such user: bob\n2026-01-01 forged", "\x1b[2J\r\x85\u2028", "é\udc80"], ids=ascii
    )
    def test_a_clients_text_in_an_exception_is_escaped(
        self, kind: Callable[[BaseException], Callable[[], Any]], text: str, logged: Logged
    ) -> None:
        """It can neither forge a line nor control a terminal. The traceback is logged nevertheless."""
        assert answer_of(kind(ValueError(text))) == {"sess.error": True}
        (logged_text,) = logged.take()
        assert all(character == "\n" or " " <= character <= "~" for character in logged_text)
        assert "Traceback" in logged_text
        assert logged_text.endswith("ValueError: " + text.encode("unicode_escape").decode())

    def test_a_long_text_is_cut(self, logged: Logged) -> None:
        """The text of an exception may hold all that a client sent."""
        assert answer_of(plain(ValueError("x" * LONG))) == {"sess.error": True}
        (text,) = logged.take()
        assert "ValueError: xxxx" in text
        assert len(text) < 4000

    def test_a_recursion_does_not_fill_the_log(self, logged: Logged) -> None:
        """Only the last of a thousand frames are logged."""

        def deeper(depth: int) -> Any:
            return deeper(depth + 1)

        assert answer_of(lambda: deeper(0)) == {"sess.error": True}
        (text,) = logged.take()
        assert "RecursionError" in text
        assert "in deeper" in text
        assert len(text) < 13_000

    def test_the_name_of_an_exception_is_escaped(self, logged: Logged) -> None:
        """A client's text may be in it, too."""

        def raising() -> None:
            raise type("No\x1b[2JUser", (Exception,), {})("bob")

        assert answer_of(raising) == {"sess.error": True}
        (text,) = logged.take()
        assert "No\\x1b[2JUser: bob" in text
        assert "\x1b" not in text

    def test_a_text_that_changes_is_escaped(self, logged: Logged) -> None:
        """Where it begins in the traceback is unknown then: all of it becomes one line."""

        class Changing(Exception):
            count = 0

            def __str__(self) -> str:
                self.count += 1
                return f"{self.count}\nforged\x1b[2J"

        assert answer_of(plain(Changing())) == {"sess.error": True}
        (text,) = logged.take()
        assert len(text.splitlines()) == 2
        assert "Traceback" in text
        assert "\x1b" not in text

    def test_the_exception_of_a_canceller_is_escaped(self, logged: Logged) -> None:
        """It is logged like that of a handler."""

        def canceller(deferred: Deferred[Any]) -> None:
            raise ValueError("a\nforged")

        assert answer_of(lambda: Deferred(canceller)) == {"sess.error": True}
        late, text = logged.take()
        assert "took longer than" in late
        assert text.endswith("ValueError: a\\nforged")

    @pytest.mark.parametrize("function", [recurses, recurses_asynchronously])
    def test_a_recursion_without_end_fails(self, function: Callable[[], Any], logged: Logged) -> None:
        """Python ends it, and the answer still goes."""
        assert answer_of(function) == {"sess.error": True}
        assert "failed" in line_of(logged)

    @pytest.mark.parametrize(
        "error", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, UnprintableError]
    )
    @pytest_twisted.ensureDeferred
    async def test_every_exception_in_a_thread_is_caught(self, error: type[BaseException], logged: Logged) -> None:
        """The only thread goes on to run the next handler."""
        handlers = Handlers(blocking_threads=1, on_error={"sess.error": True})
        handlers.message("tested", blocking=True)(plain(error("why")))
        handlers.message("good", blocking=True)(lambda: {"sess.good": 1})
        answer = handlers.respond([Message("tested"), Message("good")], 1000, reactor, 10)
        assert isinstance(answer, Deferred)
        assert decode_actions(await answer) == {"sess.error": True, "sess.good": 1}
        assert line_of(logged).startswith("critical: the handler of the message 'tested' failed")

    @pytest.mark.parametrize("kind", [plain, deferred])
    def test_a_blocking_handler_in_place(
        self, kind: Callable[[BaseException], Callable[[], Any]], logged: Logged
    ) -> None:
        """Where the reactor has no threads, it fails like any other."""
        assert answer_of(kind(SystemExit("why")), blocking=True) == {"sess.error": True}
        line_of(logged)


class TestSizes:
    """An ACK is never fragmented: it must fit in one frame."""

    @pytest.mark.parametrize("size", [1, 16379, 16380, 70_000, LONG])
    @pytest.mark.parametrize("one", ["x", b"x"], ids=["str", "bytes"])
    def test_a_value_of_any_size(self, size: int, one: str | bytes, logged: Logged) -> None:
        """It is sent, or the line says how much there is, how much room, and which variable is the largest."""
        answer = answer_of(lambda: {"sess.small": 1, "sess.large": one * size})
        if size == 1:
            assert answer == {"sess.small": 1, "sess.large": one}
        else:
            assert answer == {"sess.error": True}
            line = line_of(logged)
            assert "do not fit in the frame" in line
            assert "the largest is sess.large" in line

    def test_a_hundred_thousand_variables(self, logged: Logged) -> None:
        """They do not fit, and cost their own message only."""
        assert answer_of(lambda: {f"sess.v{number}": number for number in range(100_000)}) == {"sess.error": True}
        assert "do not fit" in line_of(logged)

    def test_an_on_error_that_does_not_fit_either(self, logged: Logged) -> None:
        """The ACK goes without variables for that message."""
        assert answer_of(lambda: {"sess.large": "x" * LONG}, on_error={"sess.error": "y" * 20_000}) == {}
        assert "the largest is sess.large" in line_of(logged)

    def test_the_smallest_frame(self, logged: Logged) -> None:
        """With 256 bytes there is room for the others and on_error."""
        assert answer_of(lambda: {"sess.large": "x" * 250}, size=256) == {"sess.error": True}
        assert "the largest is sess.large" in line_of(logged)
