"""Whatever a handler comes to, its NOTIFY gets one ACK, the connection stays, and one line of the log says whose fault
it was.
"""

from __future__ import annotations

import asyncio
import re
from array import array
from collections import OrderedDict, UserDict
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv6Address
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
from tests.conftest import Logged
from tests.test_protocol import Session

#: Longer than any name, value or text that may be logged whole.
LONG = 3_000_000

#: What is in the ACK beside what the hostile handler set.
GOOD = {"sess.before": 1, "sess.after": 2}


def answer_of(function: Callable[..., Any], on_error: Any = None, size: int = 16380, **options: Any) -> dict[str, Any]:
    """Return what is left of an ACK for ``function`` when what the two other messages of its NOTIFY set is taken away.

    There is just one ACK, and the next NOTIFY on the same connection is answered too.
    """
    clock = Clock()
    handlers = Handlers({"before": lambda: {"sess.before": 1}, "after": lambda: {"sess.after": 2}})
    handlers.message("hostile", on_error={"sess.error": True} if on_error is None else on_error, **options)(function)
    session = Session(SPOAFactory(handlers, reactor=clock), HAProxyHello(max_frame_size=size))
    ids = session.engine.send_notify([Message("before"), Message("hostile"), Message("after")])
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
    """Return the one line that was logged: nothing in it steers a terminal, forges a line or fills a disk."""
    (text,) = logged.take()
    line = text.partition("\n")[0]
    assert "the message 'hostile'" in line
    assert len(line) < 3000
    assert all(character == "\n" or (character.isascii() and character.isprintable()) for character in text)
    return line


class Hostile:
    """Raises from whatever it is asked."""

    def __str__(self) -> str:
        raise LookupError("str")

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise LookupError("eq")

    def __bool__(self) -> bool:
        raise LookupError("bool")

    def __hash__(self) -> int:
        return 7

    @property
    def __class__(self) -> Any:
        raise LookupError("class")


class HostileMeta(type):
    @property
    def __name__(cls) -> str:
        raise LookupError("its class has no name")


class Nameless(metaclass=HostileMeta):
    """Whose class's name raises."""


# What was compiled reads a class's name without asking its metaclass.
HOSTILE = [(Hostile, "a Hostile has no SPOP type"), (Nameless, "(its class has no name|a Nameless has no SPOP type)")]


class HostileError(Exception):
    def __str__(self) -> str:
        raise LookupError("str")

    __repr__ = __str__


class Text(str):
    """Has characters, and methods that say something else."""

    __slots__ = ()

    def encode(self, *args: object) -> bytes:
        return b"\x08\xff spoilt"

    def partition(self, separator: str) -> tuple[str, str, str]:
        return "sess", ".", "no name\n"


class Number(int):
    def __le__(self, other: object) -> bool:
        return True

    __lt__ = __ge__ = __gt__ = __le__

    def __and__(self, other: object) -> int:
        return -1


class Octets(bytes):
    def __bytes__(self) -> bytes:
        raise LookupError("bytes")

    def __len__(self) -> int:
        return 2**40


class Address4(IPv4Address):
    @property
    def packed(self) -> bytes:
        return b"too long for an address"


class Address6(IPv6Address):
    @property
    def packed(self) -> bytes:
        return b"short"


class Score(IntEnum):
    HIGH = 90


class Verdict(str, Enum):
    DENY = "deny"


class Index:
    """As the integers of numpy."""

    def __index__(self) -> int:
        return 3


class Truth:
    """As the booleans of numpy."""

    def __bool__(self) -> bool:
        return True


class Mapped(Mapping[str, Any]):
    """A mapping of one variable."""

    def __getitem__(self, name: str) -> Any:
        return 1

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        return iter(["sess.mapped"])


class NoItems(Mapped):
    def items(self) -> Any:
        raise LookupError("no items")


class NoItemsNorLife(Mapped):
    def items(self) -> Any:
        raise SystemExit("no items")


class NoKeys(Mapped):
    def __iter__(self) -> Iterator[str]:
        raise LookupError("no keys")


class NoLength(Mapped):
    def __len__(self) -> int:
        raise LookupError("no length")


with pytest.raises(TypeError) as _no_pair:
    dict([1])  # type: ignore[list-item]

#: What this Python says of it.
NO_PAIR = str(_no_pair.value).partition("#")[0]


class NoPairs(Mapped):
    def items(self) -> Any:
        return [1, 2]


class Endless(Mapped):
    """Goes on for ever, with a new name each time or always the same."""

    def __init__(self, *, new_names: bool) -> None:
        self._new_names = new_names

    def __iter__(self) -> Iterator[str]:
        number = 0
        while True:
            yield f"sess.v{number}"
            number += self._new_names


class Growing(UserDict[str, Any]):
    def __iter__(self) -> Iterator[str]:
        for name in self.data:
            self.data[f"{name}x"] = 1
            yield name


class HostileDict(dict[str, Any]):
    def items(self) -> Any:
        raise LookupError("no items")


def released() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


class TestNames:
    """Scopes, and what HAProxy takes for a name."""

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
    def test_a_name_that_haproxy_takes(self, name: str, variable: str) -> None:
        """With a scope or, for proc, without; of a subclass of str, its characters count."""
        assert answer_of(lambda: {name: 1}) == {variable: 1}

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("", "variable '': HAProxy drops names"),
            (".", "variable '.': '' is no scope; those are proc, sess, txn, req, res"),
            (".v", "variable '.v': '' is no scope"),
            ("sess.", "variable 'sess.': HAProxy drops names"),
            ("SESS.v", "variable 'SESS.v': 'SESS' is no scope"),
            ("user.name", "variable 'user.name': 'user' is no scope"),
            ("sess.v w", "variable 'sess.v w': HAProxy drops names"),
            ("sess.ä", "variable 'sess.\\xe4': HAProxy drops names"),
            ("sess.\ud800", "variable 'sess.\\ud800': HAProxy drops names"),
            ("sess.v\n", "variable 'sess.v\\n': HAProxy drops names"),
            (
                "sess.v\n2026-01-01 forged\x1b[31m\x85\u2028",
                "variable 'sess.v\\n2026-01-01 forged\\x1b[31m\\x85\\u2028'",
            ),
            ("sess." + "v " * LONG, "variable 'sess.v v v"),
            ("scope" * LONG + ".v", "is no scope"),
            (None, "variable None: "),
            (b"sess.v", "variable b'sess.v': the name of a variable is a str, not a bytes"),
            (("sess", "v"), "variable ('sess', 'v'): the name of a variable is a str, not a tuple"),
            (("sess\n",) * LONG, "variable ('sess\\n', 'sess\\n'"),
        ],
        ids=lambda parameter: ascii(parameter)[:30],
    )
    def test_a_name_that_haproxy_would_drop(self, name: Any, text: str, logged: Logged) -> None:
        """It is an error that names the variable, as far as it is short, and shows what it is made of."""
        assert answer_of(lambda: {name: 1}) == {"sess.error": True}
        assert text in line_of(logged)

    def test_a_name_that_raises_from_whatever_it_is_asked(self, logged: Logged) -> None:
        """Its class and its place say which it is."""
        name: Any = Hostile()
        assert answer_of(lambda: {name: 1}) == {"sess.error": True}
        assert "variable <tests.test_hostile_results.Hostile object at " in line_of(logged)

    def test_a_name_that_may_be_too_long_is_sent_and_warned_about(self, logged: Logged) -> None:
        """Only HAProxy knows its prefix; with one that is as long as the frame, the log does not grow."""
        name = "sess." + "v" * 16000
        assert answer_of(lambda: {name: 1}) == {name: 1}
        (line,) = logged.take()
        assert line.startswith("warn: the variable 'sess.vvvv")
        assert len(line) < 300

    def test_a_name_longer_than_a_frame_does_not_fit(self, logged: Logged) -> None:
        """It is cut where it is logged."""
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
            (Number(5), 5),
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
            (Address4("192.0.2.1"), IPv4Address("192.0.2.1")),
            (Address6("2001:db8::1"), IPv6Address("2001:db8::1")),
            (IPv6Address("fe80::1%eth0"), IPv6Address("fe80::1")),
            (NULL, NULL),
            (None, None),
        ],
        ids=ascii,
    )
    def test_a_value_that_spop_holds(self, value: Any, received: Any) -> None:
        """With its type; of a subclass, what it is counts, and not what its methods say."""
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
            (Index(), "a Index has no SPOP type"),
            (Truth(), "a Truth has no SPOP type"),
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
            (Number(2**70), "1180591620717411303424 is outside the range of INT64"),
            (10**5000, "a number of 16610 bits is outside the range of INT64"),
            (UInt64(-(10**5000)), "a number of 16610 bits is outside the range of UINT64"),
            ("\ud800", "surrogates not allowed"),
            ("x" * LONG + "\ud800", "surrogates not allowed"),
            (released(), "released memoryview"),
        ],
        ids=lambda parameter: ascii(parameter)[:30] if isinstance(parameter, str) else type(parameter).__name__,
    )
    def test_a_value_that_spop_does_not_hold(self, value: Any, text: str, logged: Logged) -> None:
        """It is an error that names the variable."""
        assert answer_of(lambda: {"sess.first": 1, "sess.v": value}) == {"sess.error": True}
        line = line_of(logged)
        assert "variable 'sess.v': " in line
        assert text in line

    @pytest.mark.parametrize(("value_class", "text"), HOSTILE, ids=["object", "class"])
    def test_a_value_that_raises_from_whatever_it_is_asked(
        self, value_class: type[Any], text: str, logged: Logged
    ) -> None:
        """It is not asked for its class, and the line names the variable all the same."""
        assert answer_of(lambda: {"sess.v": value_class()}) == {"sess.error": True}
        assert re.search(f"variable 'sess.v': {text}", line_of(logged))


class TestMappings:
    @pytest.mark.parametrize(
        "mapping",
        [OrderedDict({"sess.mapped": 1}), MappingProxyType({"sess.mapped": 1}), Mapped(), NoLength()],
        ids=lambda mapping: type(mapping).__name__,
    )
    def test_any_mapping_will_do(self, mapping: Mapping[str, Any]) -> None:
        """Its items are all that is asked for."""
        assert answer_of(lambda: mapping) == {"sess.mapped": 1}

    @pytest.mark.parametrize(
        ("mapping", "text"),
        [
            (NoItems(), "no items"),
            (NoItemsNorLife(), "no items"),
            (NoKeys(), "no keys"),
            (NoPairs(), NO_PAIR),
            (Growing({"sess.a": 1}), "changed size during iteration"),
            (HostileDict({"sess.a": 1}), "no items"),
            (Endless(new_names=True), "a Endless of more than 262144 variables"),
            (Endless(new_names=False), "a Endless of more than 262144 variables"),
        ],
        ids=lambda parameter: type(parameter).__name__ if isinstance(parameter, Mapping) else "",
    )
    def test_a_mapping_that_cannot_be_read(self, mapping: Mapping[str, Any], text: str, logged: Logged) -> None:
        """It costs its own message only."""
        assert answer_of(lambda: mapping) == {"sess.error": True}
        assert text in line_of(logged)


async def yields_garbage() -> dict[str, Any]:
    @coroutine
    def garbage() -> Iterator[int]:
        yield 42

    await garbage()  # type: ignore[misc]
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


class AwaitIsNone:
    def __await__(self) -> Any:
        return 42


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
            (Index(), "Index"),
        ],
    )
    def test_what_is_no_mapping(self, result: Any, name: str, logged: Logged) -> None:
        """Be it false or callable; the line says what it is."""
        assert answer_of(lambda: result) == {"sess.error": True}
        assert f"a {name} is no mapping of variables" in line_of(logged)

    @pytest.mark.parametrize("function", [generator, asynchronous_generator])
    def test_a_generator_is_no_mapping(self, function: Callable[[], Any], logged: Logged) -> None:
        """A handler that yields is none."""
        assert answer_of(function) == {"sess.error": True}
        assert "generator is no mapping of variables" in line_of(logged)

    @pytest.mark.parametrize("result_class", [Hostile, Nameless], ids=["object", "class"])
    def test_an_object_that_raises_from_whatever_it_is_asked(self, result_class: type[Any], logged: Logged) -> None:
        """Even from what it is asked for the log's sake."""
        assert answer_of(result_class) == {"sess.error": True}
        line_of(logged)

    @pytest.mark.parametrize(
        "function",
        [awaited_before, AwaitRaises, AwaitIsNone, cancelled, lambda: fail(LookupError())],
        ids=["awaited before", "raises", "no iterator", "cancelled", "failed"],
    )
    def test_what_cannot_be_waited_for(self, function: Callable[[], Any], logged: Logged) -> None:
        """It fails at once."""
        assert answer_of(function) == {"sess.error": True}
        assert "failed" in line_of(logged)

    def test_a_coroutine_may_yield_what_twisted_does_not_know(self) -> None:
        """It gets it back, as Twisted does it."""
        assert answer_of(yields_garbage) == {"sess.v": 1}

    def test_a_deferred_that_fires_with_a_deferred(self, logged: Logged) -> None:
        """Which Twisted forbids, in some versions by an error."""
        assert answer_of(lambda: succeed(Deferred())) == {"sess.error": True}
        line_of(logged)

    def test_a_deferred_that_fires_with_a_coroutine(self, logged: Logged) -> None:
        """One wait too many: what fires is no mapping."""
        inner = yields_garbage()
        assert answer_of(lambda: succeed(inner)) == {"sess.error": True}
        assert "a coroutine is no mapping of variables" in line_of(logged)
        inner.close()

    def test_a_deferred_that_is_paused(self, logged: Logged) -> None:
        """It has a result, but gives it to nobody: its time runs out."""
        paused = succeed({"sess.v": 1})
        paused.pause()
        assert answer_of(lambda: paused) == {"sess.error": True}
        assert "took longer than 10.0 s" in line_of(logged)


#: The kinds of handlers that fail with what they are given.
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
            HostileError,
        ],
    )
    def test_nothing_that_a_handler_raises_gets_out(
        self, kind: Callable[[BaseException], Callable[[], Any]], error: type[BaseException], logged: Logged
    ) -> None:
        """Not even what ends a program, or cannot be written."""
        assert answer_of(kind(error("why"))) == {"sess.error": True}
        assert line_of(logged).startswith("critical: the handler of the message 'hostile' failed")

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        "text", ["no such user: bob\n2026-01-01 forged", "\x1b[2J\r\x85\u2028", "é\udc80"], ids=ascii
    )
    def test_what_a_client_sent_forges_no_line(
        self, kind: Callable[[BaseException], Callable[[], Any]], text: str, logged: Logged
    ) -> None:
        """It may stand in the text of an exception: there it is escaped, and the traceback stays."""
        assert answer_of(kind(ValueError(text))) == {"sess.error": True}
        (logged_text,) = logged.take()
        assert all(character == "\n" or " " <= character <= "~" for character in logged_text)
        assert "Traceback" in logged_text
        assert logged_text.endswith("ValueError: " + text.encode("unicode_escape").decode())

    def test_a_text_without_an_end_is_cut(self, logged: Logged) -> None:
        """An exception may hold all that was sent."""
        assert answer_of(plain(ValueError("x" * LONG))) == {"sess.error": True}
        (text,) = logged.take()
        assert "ValueError: xxxx" in text
        assert len(text) < 4000

    def test_a_recursion_does_not_fill_the_log(self, logged: Logged) -> None:
        """Of a thousand frames the last ones are logged."""

        def deeper(depth: int) -> Any:
            return deeper(depth + 1)

        assert answer_of(lambda: deeper(0)) == {"sess.error": True}
        (text,) = logged.take()
        assert "RecursionError" in text
        assert "in deeper" in text
        assert len(text) < 13_000

    def test_the_name_of_an_exception_steers_no_terminal(self, logged: Logged) -> None:
        """Which may be made of what a client sent."""

        def raising() -> None:
            raise type("No\x1b[2JUser", (Exception,), {})("bob")

        assert answer_of(raising) == {"sess.error": True}
        (text,) = logged.take()
        assert "No\\x1b[2JUser: bob" in text
        assert "\x1b" not in text

    def test_a_canceller_forges_no_line(self, logged: Logged) -> None:
        """What it raises is logged in the same way."""

        def canceller(deferred: Deferred[Any]) -> None:
            raise ValueError("a\nforged")

        assert answer_of(lambda: Deferred(canceller)) == {"sess.error": True}
        late, text = logged.take()
        assert "took longer than" in late
        assert text.endswith("ValueError: a\\nforged")

    @pytest.mark.parametrize("function", [recurses, recurses_asynchronously])
    def test_a_recursion_ends(self, function: Callable[[], Any], logged: Logged) -> None:
        """At Python's limit, which leaves enough for the rest."""
        assert answer_of(function) == {"sess.error": True}
        assert "failed" in line_of(logged)

    @pytest.mark.parametrize(
        "error", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, HostileError]
    )
    @pytest_twisted.ensureDeferred
    async def test_nothing_gets_out_of_a_thread(self, error: type[BaseException], logged: Logged) -> None:
        """The thread goes on, too: there is only one."""
        handlers = Handlers(blocking_threads=1, on_error={"sess.error": True})
        handlers.message("hostile", blocking=True)(plain(error("why")))
        handlers.message("good", blocking=True)(lambda: {"sess.good": 1})
        answer = handlers.respond([Message("hostile"), Message("good")], 1000, reactor, 10)  # type: ignore[arg-type]
        assert isinstance(answer, Deferred)
        assert decode_actions(await answer) == {"sess.error": True, "sess.good": 1}
        assert line_of(logged).startswith("critical: the handler of the message 'hostile' failed")

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_blocking_handler_in_place(
        self, kind: Callable[[BaseException], Callable[[], Any]], logged: Logged
    ) -> None:
        """Where there are no threads it fails like any."""
        function = kind(SystemExit("why"))
        if kind in {coroutine_at_once, coroutine_that_waited}:
            with pytest.raises(TypeError, match="async"):
                answer_of(function, blocking=True)
        else:
            assert answer_of(function, blocking=True) == {"sess.error": True}
            line_of(logged)


class TestSizes:
    """An ACK cannot be fragmented."""

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
        """They cost their own message only."""
        assert answer_of(lambda: {f"sess.v{number}": number for number in range(100_000)}) == {"sess.error": True}
        assert "do not fit" in line_of(logged)

    def test_an_on_error_that_does_not_fit_either(self, logged: Logged) -> None:
        """Nothing stands in for the handler then."""
        assert answer_of(lambda: {"sess.large": "x" * LONG}, on_error={"sess.error": "y" * 20_000}) == {}
        assert "the largest is sess.large" in line_of(logged)

    def test_the_smallest_frame(self, logged: Logged) -> None:
        """With 256 bytes there is room for the others and on_error."""
        assert answer_of(lambda: {"sess.large": "x" * 250}, size=256) == {"sess.error": True}
        assert "the largest is sess.large" in line_of(logged)
