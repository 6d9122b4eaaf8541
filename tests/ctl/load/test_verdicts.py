"""ctl.load.verdicts: which ACKs are good."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor

from spoa_twisted.ctl import bench
from spoa_twisted.ctl.load.verdicts import Verdicts
from spoa_twisted.ctl.variables import canonical
from spoa_twisted.spop.actions import Variables, encode_actions
from spoa_twisted.spop.typeddata import NULL, Int32
from tests.ctl.agents import GOOD, Agent, ack


def test_the_first_ack_sets_what_is_expected() -> None:
    """A later ACK with other variables is an error. The first one of these is kept for the report."""
    verdicts = Verdicts(None, varying=False)
    payloads = [encode_actions({"txn.n": number}) for number in (1, 2, 3, 2, 1)]
    other = "other variables"
    assert [verdicts.check(payload) for payload in payloads] == [None, other, other, other, None]
    assert verdicts.first == canonical({"txn.n": 1})
    assert verdicts.first_other == canonical({"txn.n": 2})


def test_an_ack_that_cannot_be_decoded() -> None:
    """It is an error, also when ACKs may vary, and it does not count as the first one."""
    verdicts = Verdicts(None, varying=True)
    assert verdicts.check(GOOD[:-1]) == verdicts.check(GOOD[:-1]) == "undecodable ACK"
    assert verdicts.first is None
    assert verdicts.check(GOOD) is None
    assert verdicts.first == canonical({"sess.score": 20})


def test_unset_and_null_are_equal() -> None:
    """HAProxy takes both as unset."""
    verdicts = Verdicts(None, varying=False)
    assert verdicts.check(encode_actions({"txn.a": None})) is None
    assert verdicts.check(encode_actions({"txn.a": NULL})) is None


@pytest.mark.parametrize(
    ("arguments", "errors"),
    [
        (["--expect=sess.score=20"], False),
        (["--expect=sess.score=20", "--expect=txn._=null"], False),
        (["--expect=sess.score=int32:20"], True),
        (["--expect=sess.score=20", "--expect=sess.other=1"], True),
        (["--expect=sess.score=null"], True),
    ],
)
@pytest_twisted.ensureDeferred
async def test_expected_variables(arguments: list[str], errors: bool, run_bench: Any, listen: Any) -> None:
    """Each ACK is compared with --expect, also the first one."""
    agent = Agent(lambda ids, n: ack(ids))
    listen(agent)
    result = await run_bench(*arguments)
    assert result.errors == ({"other variables": agent.notifys} if errors else {})
    assert result.status == errors
    assert result.report["other_variables"] == ({"sess.score": "int64:20"} if errors else None)


@pytest_twisted.ensureDeferred
async def test_an_expected_variable_without_a_scope(run_bench: Any, listen: Any) -> None:
    """Its scope is proc, as for a variable that a handler returns."""
    listen(Agent(lambda ids, n: ack(ids, encode_actions({"score": 20}))))
    result = await run_bench("--expect=score=20")
    assert result.errors == {}
    assert result.report["expected"] == result.report["variables"] == {"proc.score": "int64:20"}


@pytest.mark.parametrize(
    ("arguments", "answers", "expected", "received"),
    [
        (["--expect=sess.score=20"], [{"sess.score": Int32(20)}], "sess.score=int64:20", "sess.score=int32:20"),
        (["--expect=score=20"], [{"sess.score": 20}], "proc.score=int64:20", "sess.score=int64:20"),
        (["--expect=txn.user=str:a", "--expect=txn.b=1"], [{}], "txn.b=int64:1, txn.user=str:a", "no variables"),
        (["--expect=txn.user=null"], [{"txn.user": "\x1b[31m"}], "txn.user=null", "txn.user=str:\\x1b[31m"),
        ([], [{"txn.n": 1}, {"txn.n": 1}, {"txn.n": 2}, {"txn.n": 3}], "txn.n=int64:1", "txn.n=int64:2"),
        (["--expect=txn.n=1"], [{"txn.text": "x" * 1000}], "txn.n=int64:1", f"txn.text=str:{'x' * 487}..."),
    ],
)
@pytest_twisted.ensureDeferred
async def test_other_variables_are_shown(
    arguments: list[str],
    answers: list[Variables],
    expected: str,
    received: str,
    endpoint: str,
    listen: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The text has the variables of the first wrong ACK, with their types, and the expected ones."""
    listen(Agent(lambda ids, n: ack(ids, encode_actions(answers[min(n, len(answers)) - 1]))))
    options = ["--duration=0.1", "--warm-up=0", "--connections=1", "--in-flight=4"]
    with pytest.raises(SystemExit):
        await bench.run(reactor, bench.parser().parse_args(["--agent", endpoint, *options, *arguments]))
    lines = capsys.readouterr().out.splitlines()
    errors = next(i for i, line in enumerate(lines) if line.startswith("errors "))
    assert lines[errors + 1 : errors + 3] == [f"expected   {expected}", f"received   {received}"]


@pytest_twisted.ensureDeferred
async def test_answers_may_vary(run_bench: Any, listen: Any) -> None:
    """With --varying, ACKs with different variables are good. Without it, only those like the first one are."""
    agent = Agent(lambda ids, n: ack(ids, encode_actions({"sess.count": n})))
    listen(agent)
    result = await run_bench("--varying")
    assert result.errors == {}
    assert result.report["expected"] is result.report["other_variables"] is None
    before = agent.notifys
    assert (await run_bench()).errors == {"other variables": agent.notifys - before - 1}
