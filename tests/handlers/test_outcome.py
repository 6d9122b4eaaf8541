"""What became of a handler's call: its actions, and the report to the observers.

A handler may return any object. Its NOTIFY still has one ACK, the connection stays open, and the log names the message.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, UserDict
from collections.abc import Iterator, Mapping
from decimal import Decimal
from enum import Enum, IntEnum, IntFlag
from ipaddress import IPv4Address, IPv4Interface, IPv6Address
from types import MappingProxyType
from typing import Any, NoReturn

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from spoa_twisted import NULL, Handlers, Int32, Int64, Message, UInt32, UInt64
from spoa_twisted.handlers.declaration import Declaration
from spoa_twisted.handlers.handler import Handler
from spoa_twisted.handlers.outcome import Outcomes
from spoa_twisted.handlers.undeclared import RESULTS
from spoa_twisted.observer import (
    CancelFailed,
    HandlerFailed,
    HandlerTimedOut,
    MessageUnhandled,
    Outcome,
    ResultNotAsDeclared,
    ResultTooBig,
    ResultUnsendable,
    VariableNameLong,
    VariableWithoutScope,
)
from spoa_twisted.spop.actions import LONGEST_SAFE_NAME, encode_actions
from tests.conftest import Logged
from tests.handlers.answers import LONG, ROOM, Recorder, UnprintableError, answer_of, ask, line_of, respond

MESSAGE = Message("m")
HANDLER = Handler("m", lambda: None, None, {"sess.e": 1}, blocking=False)
DIFFERENCE = "set 'txn.b', which its sets does not declare; did you mean 'txn.a'?"
ON_ERROR = encode_actions({"sess.e": 1})


class TestReports:
    """Outcomes alone: each method returns the actions of one message, reports a fault, and records the outcome."""

    @pytest.fixture
    def observer(self) -> Recorder:
        return Recorder()

    @pytest.fixture
    def record(self) -> list[Outcome]:
        return [Outcome.OK] * 3

    @pytest.fixture
    def outcomes(self, observer: Recorder, record: list[Outcome]) -> Outcomes:
        return Outcomes(observer, record)

    @pytest.mark.parametrize("result", [{"sess.a": 1}, None, {}, UserDict({"sess.a": 1})])
    def test_returned(self, result: Any, outcomes: Outcomes, observer: Recorder, record: list[Outcome]) -> None:
        """Variables that can be sent are no event."""
        assert outcomes.returned(1, HANDLER, MESSAGE, result) == encode_actions(dict(result or {}))
        assert observer.take() == []
        assert record == [Outcome.OK] * 3

    @pytest.mark.parametrize("result", [[1], {"sess.a": 1.0}, {"bad.a": 1}, "text"])
    def test_returned_a_value_that_cannot_be_sent(
        self, result: Any, outcomes: Outcomes, observer: Recorder, record: list[Outcome]
    ) -> None:
        """The event has the exception, whose text says why."""
        assert outcomes.returned(1, HANDLER, MESSAGE, result) == ON_ERROR
        (event,) = observer.take()
        assert isinstance(event, ResultUnsendable)
        assert event.name == "m"
        assert isinstance(event.error, (TypeError, ValueError))
        assert record == [Outcome.OK, Outcome.UNSENDABLE, Outcome.OK]

    def test_failed(self, outcomes: Outcomes, observer: Recorder, record: list[Outcome]) -> None:
        """The event has the Failure."""
        failure = Failure(LookupError("no such row"))
        assert outcomes.failed(0, HANDLER, MESSAGE, failure) == ON_ERROR
        assert observer.take() == [HandlerFailed("m", failure)]
        assert record == [Outcome.ERROR, Outcome.OK, Outcome.OK]

    def test_timed_out(self, outcomes: Outcomes, observer: Recorder, record: list[Outcome]) -> None:
        """The event has the timeout."""
        assert outcomes.timed_out(2, HANDLER, MESSAGE, 0.5) == ON_ERROR
        assert observer.take() == [HandlerTimedOut("m", 0.5)]
        assert record == [Outcome.OK, Outcome.OK, Outcome.TIMEOUT]

    def test_unhandled(self, outcomes: Outcomes, observer: Recorder, record: list[Outcome]) -> None:
        """There is no handler, and so no on_error."""
        assert outcomes.unhandled(1, MESSAGE) == b""
        assert observer.take() == [MessageUnhandled("m")]
        assert record == [Outcome.OK, Outcome.UNHANDLED, Outcome.OK]

    def test_a_canceller_that_raises(self, outcomes: Outcomes, observer: Recorder, record: list[Outcome]) -> None:
        """It changes no outcome: the call has one already."""
        error = LookupError("cannot")

        def canceller(deferred: object) -> None:
            raise error

        outcomes.cancel(Deferred(canceller))
        (event,) = observer.take()
        assert isinstance(event, CancelFailed)
        assert event.failure.value is error
        assert record == [Outcome.OK] * 3

    def test_without_a_record(self, observer: Recorder) -> None:
        """The faults are reported nevertheless. One object serves all NOTIFYs of an agent."""
        outcomes = Outcomes(observer)
        assert outcomes.timed_out(7, HANDLER, MESSAGE, 1) == ON_ERROR
        assert outcomes.unhandled(8, MESSAGE) == b""
        assert len(observer.take()) == 2

    @pytest.mark.parametrize("name", ["proc." + "v" * 40, "sess." + "v" * 40, "txn.a." + "v" * 38])
    def test_a_name_of_40_characters_is_no_event(self, name: str, outcomes: Outcomes, observer: Recorder) -> None:
        """It leaves 17 characters for var-prefix. The scope does not count."""
        assert LONGEST_SAFE_NAME == 40
        outcomes.returned(0, HANDLER, MESSAGE, {name: "x" * 100})
        assert observer.take() == []

    @pytest.mark.parametrize("name", ["proc." + "v" * 41, "sess." + "v" * 41, "txn.a." + "v" * 39])
    def test_a_longer_name_is_an_event(
        self, name: str, outcomes: Outcomes, observer: Recorder, record: list[Outcome]
    ) -> None:
        """The variable is sent nevertheless: the agent does not know whether HAProxy drops it."""
        variables: dict[str, Any] = {"sess.a": 1, name: 1}
        assert outcomes.returned(0, HANDLER, MESSAGE, variables) == encode_actions(variables)
        assert observer.take() == [VariableNameLong(name)]
        assert record == [Outcome.OK] * 3

    def test_a_name_without_a_scope_is_an_event(self, outcomes: Outcomes, observer: Recorder) -> None:
        """Each time that a handler sets it. The variable is sent: HAProxy sets it in proc."""
        variables: dict[str, Any] = {"sess.a": 1, "allowed": 1, "b": None}
        for _ in range(2):
            assert outcomes.returned(0, HANDLER, MESSAGE, variables) == encode_actions(variables)
            assert observer.take() == [VariableWithoutScope("allowed"), VariableWithoutScope("b")]
        outcomes.returned(0, HANDLER, MESSAGE, {"sess.a": 1, "proc.allowed": 1})
        assert observer.take() == []

    def test_a_long_name_without_a_scope_is_two_events(self, outcomes: Outcomes, observer: Recorder) -> None:
        """It has both faults."""
        outcomes.returned(0, HANDLER, MESSAGE, {"v" * 41: 1})
        assert observer.take() == [VariableWithoutScope("v" * 41), VariableNameLong("v" * 41)]

    def test_another_variable_than_declared_is_an_event(self, outcomes: Outcomes, observer: Recorder) -> None:
        """Once for each name. The variable is sent nevertheless, and it may always be unset."""
        handler = Handler("m", lambda: None, None, None, blocking=False)
        handler.declare(Declaration(sets={"txn.known": bool, "txn.a": bytes, "txn.b": int, "txn.c": str | None}))
        right: dict[str, Any] = {"txn.known": True, "txn.a": bytearray(b"a"), "txn.b": Int64(1), "txn.c": "x"}
        for result in (right, None, dict.fromkeys([*right, "txn.other"]), dict.fromkeys(right, NULL)):
            outcomes.returned(0, handler, MESSAGE, result)
        assert observer.take() == []
        wrong: dict[str, Any] = {"txn.knwon": True, "txn.known": 1, "sess.q": "x", "txn.c": "x"}
        for _ in range(2):
            assert outcomes.returned(0, handler, MESSAGE, wrong) == encode_actions(wrong)
        outcomes.returned(0, handler, MESSAGE, {"txn.known": "yes"})
        assert observer.take() == [
            ResultNotAsDeclared("m", "set 'txn.knwon', which its sets does not declare; did you mean 'txn.known'?"),
            ResultNotAsDeclared("m", "set 'txn.known' to an int, and its sets declares bool"),
            ResultNotAsDeclared("m", "set 'sess.q', which its sets does not declare"),
        ]

    def test_only_the_first_results_are_compared_with_the_declaration(
        self, outcomes: Outcomes, observer: Recorder
    ) -> None:
        """To compare takes time. The names may come from a client's data, so their number is limited, too."""
        handler = Handler("m", lambda: None, None, None, blocking=False)
        handler.declare(Declaration(sets={"txn.a": int}))
        outcomes.returned(0, handler, MESSAGE, {f"txn.x{number}": 1 for number in range(100)})
        assert len(observer.take()) == 16
        handler.declare(Declaration(sets={"txn.a": int}))
        for _ in range(RESULTS - 1):
            outcomes.returned(0, handler, MESSAGE, {"txn.a": 1})
        outcomes.returned(0, handler, MESSAGE, {"txn.b": 1})
        outcomes.returned(0, handler, MESSAGE, {"txn.c": 1})
        assert observer.take() == [ResultNotAsDeclared("m", DIFFERENCE)]
        assert handler.undeclared is None

    def test_names_in_on_error_are_events_when_they_are_sent(self, outcomes: Outcomes, observer: Recorder) -> None:
        """Each way to fail sends them."""
        handler = Handler("m", lambda: None, None, {"failed": True, "txn." + "v" * 41: 1}, blocking=False)
        expected = [VariableWithoutScope("failed"), VariableNameLong("txn." + "v" * 41)]
        assert observer.take() == []
        outcomes.failed(0, handler, MESSAGE, Failure(LookupError()))
        assert observer.take()[1:] == expected
        outcomes.timed_out(0, handler, MESSAGE, 1)
        assert observer.take()[1:] == expected
        outcomes.returned(0, handler, MESSAGE, [1])
        assert observer.take()[1:] == expected
        big = encode_actions({"sess.big": "x" * 300})
        outcomes.join([MESSAGE], [big], 200, lambda message: handler)
        assert observer.take()[1:] == expected

    def test_join(self, outcomes: Outcomes, observer: Recorder, record: list[Outcome]) -> None:
        """Actions that need exactly the room fit."""
        parts = [encode_actions({f"sess.{name}": 1}) for name in "abc"]
        messages = [Message(name) for name in "abc"]
        size = len(b"".join(parts))
        assert outcomes.join(messages, parts, size, lambda message: HANDLER) == b"".join(parts)
        assert observer.take() == []
        assert record == [Outcome.OK] * 3

    @pytest.mark.parametrize(
        ("handler", "replacement"),
        [
            (HANDLER, ON_ERROR),
            (None, b""),
            (Handler("b", lambda: None, None, {"sess.e": "x" * 200}, blocking=False), b""),
        ],
        ids=["on_error", "no handler", "on_error too big"],
    )
    def test_join_too_much(
        self,
        handler: Handler | None,
        replacement: bytes,
        outcomes: Outcomes,
        observer: Recorder,
        record: list[Outcome],
    ) -> None:
        """A message whose actions do not fit has its on_error, or no actions. The messages after it keep theirs."""
        big = encode_actions({"sess.small": 1, "sess.big": "x" * 200, "sess.middle": "x" * 10})
        first, last = encode_actions({"sess.a": 1}), encode_actions({"sess.c": 1})
        messages = [Message(name) for name in "abc"]
        found: list[str] = []

        def find(message: Message) -> Handler | None:
            found.append(message.name)
            return handler

        joined = outcomes.join(messages, [first, big, last], 150, find)
        assert joined == first + replacement + last
        assert found == ["b"]
        assert observer.take() == [ResultTooBig("b", len(big), 150 - len(first), "sess.big")]
        assert record == [Outcome.OK, Outcome.TOO_BIG, Outcome.OK]


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
    def test_a_name_that_haproxy_accepts(self, name: str, variable: str, logged: Logged) -> None:
        """Without a scope it is a name of proc, and a warning. It may be an object of a subclass of str."""
        assert answer_of(lambda: {name: 1}) == {variable: 1}
        warnings = [] if "." in name else [f"warn: the variable '{variable[5:]}' has no scope"]
        assert [line.partition(",")[0] for line in logged.take()] == warnings

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
        """Only HAProxy knows its prefix. The log shows the beginning of the name, which may be as long as the frame."""
        name = "sess." + "v" * 16000
        assert answer_of(lambda: {name: 1}) == {name: 1}
        (line,) = logged.take()
        assert line.startswith("warn: the name of the variable 'sess.vvvv")
        assert len(line) < 300

    def test_a_name_longer_than_a_frame_does_not_fit(self, logged: Logged) -> None:
        """The log shows its beginning."""
        assert answer_of(lambda: {"sess." + "v" * LONG: 1}) == {"sess.error": True}
        warning, line = logged.take()
        assert "may be too long: HAProxy drops a variable silently" in warning
        assert f"do not fit in the ACK: they need {LONG + 9} bytes" in line
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
        """Also an INT32, because HAProxy reads every integer as a number of 64 bits."""
        actions = ask(Handlers({"m": lambda: {"txn.v": number}}), Message("m"))
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
        """Only its own message is affected."""
        assert answer_of(lambda: Unreadable(error)) == {"sess.error": True}
        assert f"returned a value that cannot be sent: {text}" in line_of(logged)


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
        """Also objects that are false, and callable objects. The line names the type."""
        assert answer_of(lambda: result) == {"sess.error": True}
        assert f"{name} is no mapping of variables" in line_of(logged)

    @pytest.mark.parametrize("result", [None, {}, UserDict()])
    def test_no_variables(self, result: Any) -> None:
        """None and an empty mapping set none."""
        assert respond(Handlers({"m": lambda: result}), Message("m")) == {}


class TestSizes:
    """An ACK is never fragmented: it must fit in one frame."""

    @pytest.mark.parametrize("size", [1, 16379, 16380, 70_000, LONG])
    @pytest.mark.parametrize("unit", ["x", b"x"], ids=["str", "bytes"])
    def test_a_value_of_any_size(self, size: int, unit: str | bytes, logged: Logged) -> None:
        """It is sent, or a line says how many bytes it needs, how many are left, and which variable is the largest."""
        answer = answer_of(lambda: {"sess.small": 1, "sess.large": unit * size})
        if size == 1:
            assert answer == {"sess.small": 1, "sess.large": unit}
        else:
            assert answer == {"sess.error": True}
            line = line_of(logged)
            assert "do not fit in the ACK" in line
            assert "the largest is sess.large" in line

    def test_a_hundred_thousand_variables(self, logged: Logged) -> None:
        """They do not fit, and only their own message is affected."""
        assert answer_of(lambda: {f"sess.v{number}": number for number in range(100_000)}) == {"sess.error": True}
        assert "do not fit" in line_of(logged)

    def test_an_on_error_that_does_not_fit_either(self, logged: Logged) -> None:
        """The ACK is sent without variables for that message."""
        assert answer_of(lambda: {"sess.large": "x" * LONG}, on_error={"sess.error": "y" * 20_000}) == {}
        assert "the largest is sess.large" in line_of(logged)

    def test_the_smallest_frame(self, logged: Logged) -> None:
        """In 256 bytes there is room for the variables of the other handlers and for on_error."""
        assert answer_of(lambda: {"sess.large": "x" * 250}, size=256) == {"sess.error": True}
        assert "the largest is sess.large" in line_of(logged)

    def test_a_message_that_does_not_fit_is_left_out(self, logged: Logged) -> None:
        """It has its on_error. The messages before and after it keep their variables."""
        handlers = Handlers({"a": lambda: {"sess.a": "x" * 50}, "c": lambda: {"sess.c": "z" * 20}})
        too_big: dict[str, Any] = {"sess.small": 1, "sess.big": "y" * 100}
        handlers.message("b", on_error={"sess.e": 1})(lambda: too_big)
        assert respond(handlers, Message("a"), Message("b"), Message("c"), room=120) == {
            "sess.a": "x" * 50,
            "sess.e": 1,
            "sess.c": "z" * 20,
        }
        (line,) = logged.take()
        assert "the variables of the message 'b' do not fit" in line
        assert "the largest is sess.big" in line

    def test_the_variable_of_an_ack_without_actions_may_not_fit(self, logged: Logged) -> None:
        """A handler may set txn._, the variable that an ACK without actions unsets."""
        handlers = Handlers({"a": lambda: {"sess.a": b"x" * (ROOM - 12)}, "b": lambda: {"txn._": None}})
        assert respond(handlers, Message("a"), Message("b")).keys() == {"sess.a"}
        (line,) = logged.take()
        assert "the variables of the message 'b' do not fit" in line

    def test_one_message_that_does_not_fit(self, logged: Logged) -> None:
        """Nor does its on_error: the ACK is sent without variables."""
        handlers = Handlers({"a": lambda: {"sess.big": b"y" * 100}}, on_error={"sess.error": "x" * 30})
        assert respond(handlers, Message("a"), room=20) == {}
        assert len(logged.take()) == 1

    def test_variables_that_need_exactly_the_room_fit(self) -> None:
        """One byte less, and they would not."""
        variables = {"sess.a": "x" * 50}
        handlers = Handlers({"a": lambda: variables})
        assert respond(handlers, Message("a"), room=len(encode_actions(variables))) == variables

    def test_one_byte_too_much_does_not_fit(self, logged: Logged) -> None:
        """The on_error does."""
        variables = {"sess.a": "x" * 50}
        handlers = Handlers({"a": lambda: variables}, on_error={"sess.e": 1})
        assert respond(handlers, Message("a"), room=len(encode_actions(variables)) - 1) == {"sess.e": 1}
        assert len(logged.take()) == 1
