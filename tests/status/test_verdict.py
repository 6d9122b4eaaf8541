"""status.verdict: one sentence about an agent, and its problems, the worst first."""

from __future__ import annotations

import pytest

from spoa_twisted.status.report import MAX_ENDINGS
from spoa_twisted.status.verdict import ENOUGH, Level, Verdict, assess, count_ready

from .examples import EXAMPLES, NOW, crash, example, message, problem, process, totals


@pytest.mark.parametrize(
    ("name", "level", "sentence"),
    [
        ("all well", "ok", "All is well: 1,234 NOTIFYs/s"),
        ("all well, without workers", "ok", "All is well: 1,234 NOTIFYs/s"),
        ("handler failing", "critical", "The handler of 'check-token' fails: 62 % of its calls in the last minute"),
        ("handler slow", "critical", "The handler of 'check-dnsbl' times out: 18 % of its calls in the last minute"),
        (
            "handler slow, in time",
            "warning",
            "The handler of 'check-dnsbl' is slow: 42 % of its calls in the last minute took over 500 ms",
        ),
        ("standing still", "critical", "Worker 1 stands still for 3.2 s in iprep.py, line 33, in get_score"),
        (
            "stood still",
            "warning",
            "The agent stood still for 3.4 s of the last minute, in the handler of 'get-ip-reputation'",
        ),
        ("worker lost", "warning", "Worker 3 has ended and is not replaced yet: it was ended by the signal SIGSEGV"),
        ("worker starting", "warning", "Worker 3 has ended, a new one is starting: it was ended by the signal SIGSEGV"),
        (
            "workers crashing",
            "critical",
            "Workers crash again and again, 4 times in 5 min: it was ended by the signal SIGSEGV in db.py, line 9",
        ),
        ("all workers lost", "critical", "No process is ready, requests wait: it ended with exit status 1"),
        (
            "reload refused",
            "warning",
            "The reload failed, the old code still runs: SyntaxError: expected ':' (iprep.py, line 12)",
        ),
        ("no HAProxy", "warning", "No HAProxy is connected, and none has tried for a minute"),
        ("idle", "ok", "All is well: health checks, but no NOTIFYs in the last minute"),
        (
            "disconnected",
            "ok",
            "All is well, but no HAProxy is connected now: 1,234 NOTIFYs/s in the last minute",
        ),
        ("draining", "warning", "Draining: 12 NOTIFYs in flight on 8 connections"),
        ("starting", "warning", "Starting for 2.2 s: no process is ready yet"),
        ("just started", "ok", "Started 9 s ago; no HAProxy has connected yet"),
    ],
)
def test_the_sentence_names_the_worst_problem(name: str, level: str, sentence: str) -> None:
    """Each state has its level, and its sentence is also that of the first problem, unless all is well."""
    verdict = assess(example(name))
    assert (verdict.level.value, verdict.sentence) == (level, sentence)
    severities = [finding.level.severity for finding in verdict.problems]
    assert severities == sorted(severities, reverse=True)
    if verdict.level is not Level.OK:
        assert verdict.problems[0].what == sentence


def test_each_example_is_named_above() -> None:
    """A new state needs a line in the table."""
    (mark,) = test_the_sentence_names_the_worst_problem.pytestmark  # type: ignore[attr-defined]
    assert [row[0] for row in mark.args[1]] == list(EXAMPLES)


def with_results(**results: int) -> Verdict:
    """Return the verdict about an agent whose only message had ``results`` in the last minute."""
    status = example("all well")
    status["recent"] = totals({"m": message((0.001, sum(results.values())), **results)})
    status["problems"] = []
    return assess(status)


@pytest.mark.parametrize(
    ("ok", "failed", "level"),
    [
        # Few requests: one that fails is not 100 % of anything.
        (0, 1, "ok"),
        (1, ENOUGH - 1, "ok"),
        (0, ENOUGH, "critical"),
        # One in a hundred, and one in ten.
        (991, 9, "ok"),
        (990, 10, "warning"),
        (910, 90, "warning"),
        (900, 100, "critical"),
    ],
)
def test_a_failure_needs_a_number_and_a_share(ok: int, failed: int, level: str) -> None:
    """A handler that fails now and then changes no verdict, with many requests or with few."""
    assert with_results(ok=ok, error=failed).level.value == level


@pytest.mark.parametrize(
    ("results", "sentence"),
    [
        ({"error": 6, "ok": 3}, "The handler of 'm' fails: 6 of its 9 calls in the last minute"),
        ({"error": 999, "ok": 1}, "The handler of 'm' fails: 99 % of its calls in the last minute"),
        ({"error": 50}, "The handler of 'm' fails: 100 % of its calls in the last minute"),
        ({"unsendable": 50}, "The handler of 'm' returns what SPOP cannot send: 100 % of its calls in the last minute"),
        ({"too_big": 50}, "The answers to 'm' do not fit in the ACK: 100 % of its calls in the last minute"),
        (
            {"cancelled": 10, "ok": 90},
            "HAProxy closes connections before 'm' is answered: 10 % of its calls in the last minute",
        ),
    ],
)
def test_each_result_has_its_words(results: dict[str, int], sentence: str) -> None:
    """The share is a number of requests if there were few."""
    assert with_results(**results).sentence == sentence


def test_what_is_no_handlers_fault_is_a_warning() -> None:
    """Connections that HAProxy closes, and messages without a handler, are never critical."""
    assert with_results(cancelled=100).level is Level.WARNING
    status = example("all well")
    status["recent"]["messages"]["(none)"] = message(unhandled=600)
    status["problems"] = [problem("MessageUnhandled", "get-ip-reptation", "", 700, 90, 0)]
    verdict = assess(status)
    assert verdict.level is Level.WARNING
    assert verdict.sentence == (
        "HAProxy sends messages that have no handler ('get-ip-reptation'): 600 in the last minute"
    )
    assert [finding.count for finding in verdict.problems] == [700]


def test_a_problem_comes_once() -> None:
    """A problem of the status with the failures of the last minute is one problem, with its text and times."""
    status = example("handler failing")
    failing, timing_out = assess(status).problems
    assert failing.count == 41_230
    assert failing.last == NOW - 0.1
    assert failing.text.startswith("ConnectionRefusedError: 192.0.2.7:5432")
    assert (timing_out.level, timing_out.what) == (Level.NOTE, "The handler of 'check-token' timed out")


def test_the_message_with_most_failures_comes_first() -> None:
    """Also if another one fails more often in proportion."""
    status = example("all well")
    status["recent"] = totals({"few": message((0.01, 20), error=20), "many": message((0.01, 900), ok=700, error=200)})
    assert [finding.what for finding in assess(status).problems[:2]] == [
        "The handler of 'many' fails: 22 % of its calls in the last minute",
        "The handler of 'few' fails: 20 of its 20 calls in the last minute",
    ]


def test_a_failure_counts_without_a_problem() -> None:
    """The list of problems is bounded, and may have forgotten one. The results of the message are enough."""
    status = example("handler failing")
    status["problems"] = []
    (finding,) = assess(status).problems
    assert (finding.level, finding.count, finding.last) == (Level.CRITICAL, 41_233, 0)


def test_a_default_handler_has_no_name() -> None:
    """It answers all messages that have no handler of their own."""
    status = example("all well")
    status["recent"]["messages"]["(default)"] = message(error=50)
    assert assess(status).sentence == "The handler of all other messages fails: 100 % of its calls in the last minute"


def test_the_problems_of_other_messages_are_left() -> None:
    """A problem of a message with a handler is none of the messages without one. Long names are cut in problems."""
    status = example("all well")
    status["messages"] = ["m" * 70, "known"]
    status["recent"] = totals({"(default)": message(error=60), "m" * 70: message(error=50)})
    status["problems"] = [
        problem("HandlerFailed", "known", "of another message", 1, 1, 0),
        problem("HandlerFailed", "unknown", "of the default", 2, 1, 1),
        problem("HandlerFailed", "m" * 64, "of the long one", 3, 1, 2),
    ]
    assert [(finding.text, finding.level.value) for finding in assess(status).problems] == [
        ("of the default", "critical"),
        ("of the long one", "critical"),
        ("of another message", "note"),
    ]


@pytest.mark.parametrize(("timeout", "level"), [("0.5", "warning"), ("2", "ok"), ("0", "warning"), ("?", "warning")])
def test_slow_is_half_of_the_timeout(timeout: str, level: str) -> None:
    """An agent that is started with a longer timeout may be slower. 0 is no timeout: the default stands in."""
    status = example("handler slow, in time")
    status["options"]["handler-timeout"] = timeout
    assert assess(status).level.value == level


def test_the_longest_may_be_unknown() -> None:
    """A handler whose slowest call is beyond all buckets has no percentile."""
    status = example("all well")
    status["recent"]["messages"]["check-dnsbl"] = message((9.0, 10), ok=10)
    status["longest"] = {}
    assert assess(status).problems[0].hint == "Find out what the handler waits for."


def test_standing_still_for_long_is_critical() -> None:
    """From a tenth of the last minute on. Without a problem that tells more, the seconds are enough."""
    status = example("stood still")
    status["recent"]["stall_seconds"] = 6.0
    status["problems"] = []
    verdict = assess(status)
    assert (verdict.level, verdict.sentence) == (Level.CRITICAL, "The agent stood still for 6 s of the last minute")


def test_a_busy_process_does_not_stand_still() -> None:
    """One second without a sign of life is the limit. A process that starts gives none."""
    status = example("all well")
    status["processes"] = [process(1, age=1.0), process(2, "starting", age=20.0)]
    assert assess(status).level is Level.OK
    status["processes"] = [process(1, age=1.1)]
    assert assess(status).sentence == "Worker 1 stands still for 1.1 s"


def test_an_agent_without_workers_has_no_number() -> None:
    """A second request finds it if the first one waits."""
    status = example("all well, without workers")
    status["processes"] = [process(age=2.0)]
    assert assess(status).sentence == "The agent stands still for 2 s"


def test_no_process_is_ready() -> None:
    """At the start of the agent that is no fault. Later, requests wait."""
    status = example("all well")
    status["processes"] = [process(1, "lost")]
    assert assess(status).sentence == "No process is ready, requests wait"
    status["processes"] = [process(1, "starting"), process(2, "starting")]
    assert (assess(status).level, assess(status).sentence) == (Level.CRITICAL, "No process is ready, requests wait")
    assert assess(status).problems[0].hint == "The log says why. New workers are starting."
    status = example("starting")
    status["processes"] = [process(1, "lost", "exit status 1")]
    assert assess(status).sentence == "No process is ready, requests wait: exit status 1"


def test_a_reload_is_no_problem() -> None:
    """The old process of a worker drains, and others have not been replaced yet. Two processes are one worker."""
    status = example("all well")
    status["processes"] = [process(1, "draining"), process(1), process(2), process(2, "starting")]
    assert assess(status).level is Level.OK
    assert count_ready(status["processes"]) == (2, 2)


def test_a_worker_that_was_replaced_is_a_note() -> None:
    """The next one is ready within a second, so that nothing else tells. Reloads are no problem."""
    status = example("all well")
    status["problems"] = []
    status["restarts"] = {"reload": 8, "signal": 2, "exit": 1, "stall": 0}
    verdict = assess(status)
    assert verdict.level is Level.OK
    (finding,) = verdict.problems
    assert (finding.level, finding.what, finding.count) == (
        Level.NOTE,
        "Workers have ended and were replaced: 2 were ended by a signal, 1 exited",
        3,
    )
    assert (finding.text, finding.last) == ("", 0)
    status["endings"] = [crash(2, 900), crash(1, 400, "it ended with exit status 1")]
    (finding,) = assess(status).problems
    assert (finding.text, finding.last) == ("the last one: it ended with exit status 1", NOW - 400)


@pytest.mark.parametrize(
    ("seconds", "level"),
    [
        ([], "ok"),
        ([100, 3], "ok"),
        ([200, 100, 3], "critical"),
        # The first one is too long ago.
        ([301, 100, 3], "ok"),
        # Somebody has killed all workers with one command, twice.
        ([100.9, 100.6, 100.3, 100, 3.9, 3.6, 3.3, 3], "ok"),
    ],
)
def test_workers_that_crash_again_and_again(seconds: list[float], level: str) -> None:
    """Three times within five minutes are critical, also if all workers are ready at the moment."""
    status = example("all well")
    status["problems"] = []
    status["endings"] = [crash(number % 4 + 1, ago) for number, ago in enumerate(seconds)]
    verdict = assess(status)
    assert verdict.level.value == level
    if level == "critical":
        assert verdict.sentence == (
            "Workers crash again and again, 3 times in 5 min: it was ended by the signal SIGSEGV"
        )
        (finding,) = verdict.problems
        assert (finding.count, finding.first, finding.last) == (3, NOW - 200, NOW - 3)
        assert finding.hint.startswith("The last one was worker 3. ")


def test_workers_that_are_stopped_do_not_crash() -> None:
    """Somebody may stop one after the other with SIGTERM."""
    status = example("workers crashing")
    for each in status["endings"]:
        each["crashed"] = False
    assert assess(status).level is Level.OK


def test_very_many_crashes_are_not_counted() -> None:
    """The status keeps the last hundred."""
    status = example("all well")
    status["endings"] = [crash(1, 200 - number) for number in range(MAX_ENDINGS)]
    assert assess(status).sentence.startswith("Workers crash again and again, at least 100 times in 5 min: ")


def test_a_hold_up_is_the_last_one_of_several() -> None:
    """Its seconds are not those of the sentence."""
    status = example("stood still")
    assert assess(status).problems[0].text.startswith("the last one: it held the agent up for 1.90 s; ")
    status["problems"][-1]["count"] = 1
    assert assess(status).problems[0].text.startswith("it held the agent up for 1.90 s; ")


@pytest.mark.parametrize(
    ("kind", "hint"), [("HandlerFailed", "The log has the traceback."), ("ArgumentMissing", "The log says more.")]
)
def test_the_log_has_a_traceback_of_an_exception(kind: str, hint: str) -> None:
    """No handler was called without its argument, so there is none."""
    status = example("handler failing")
    status["problems"] = [problem(kind, "check-token", "", 1, 1, 1)]
    assert assess(status).problems[0].hint == f"HAProxy gets the variables of on_error. {hint}"


def test_a_refused_reload_says_who_answers() -> None:
    """The cause may be the environment and not the code, and a restart would not help."""
    hint = assess(example("reload refused")).problems[0].hint
    assert hint == (
        "The old code answers the requests. A restart of the agent would probably fail for the same reason."
        " Correct what the reason names, and reload again."
    )


def test_a_worker_may_answer_late() -> None:
    """The master calls it silent after half a second. It stands still after one."""
    status = example("all well")
    status["processes"] = [process(1, "silent", age=0.8)]
    assert assess(status).level is Level.OK
    assert count_ready(status["processes"]) == (1, 1)


def test_connections_are_refused_or_dropped() -> None:
    """Refused connections and NOTIFYs, and peers that do not read, are warnings. Now and then one is none."""
    status = example("all well")
    status["recent"]["refused"] = 1
    status["totals"]["refused"] = 7
    status["recent"]["dropped"] = {"payload": ENOUGH, "unread": ENOUGH, "hello_timeout": 1000}
    findings = assess(status).problems
    assert [(finding.level, finding.what, finding.count) for finding in findings[:3]] == [
        (Level.WARNING, "Connections are refused: 1 in the last minute", 7),
        (Level.WARNING, "NOTIFYs that exceed a limit are refused: 5 in the last minute", ENOUGH),
        (Level.WARNING, "HAProxy does not read its ACKs: 5 connections dropped in the last minute", ENOUGH),
    ]
    status["recent"]["refused"] = 0
    status["recent"]["dropped"] = {"payload": ENOUGH - 1, "unread": ENOUGH - 1}
    assert assess(status).level is Level.OK


def test_no_haproxy_has_ever_connected() -> None:
    """After a minute that is a warning, which says where the agent listens."""
    status = example("just started")
    status["started"] = NOW - 180
    verdict = assess(status)
    assert (verdict.level, verdict.sentence) == (
        Level.WARNING,
        "No HAProxy has connected for 3 min, since the start",
    )
    assert verdict.problems[0].hint == (
        "The agent listens on tcp:12345:interface=192.0.2.10: compare the server line in haproxy.cfg."
    )


def test_idle_with_a_connection() -> None:
    """A HAProxy that is connected and sends nothing is no problem."""
    status = example("all well")
    status["recent"] = totals(health_checks=0)
    assert assess(status).sentence == "All is well: no NOTIFYs in the last minute"


def test_other_problems_are_notes() -> None:
    """The latest comes first. Life-cycle functions that failed in the last minute are a warning."""
    status = example("all well")
    status["problems"] = [
        problem("LifeCycleFailed", "iprep.refresh", "OSError", 4, 900, 61),
        problem("SomethingNew", "{x}", "y", 1, 5, 5),
        problem("SomethingElse", "", "", 1, 6, 6),
    ]
    verdict = assess(status)
    assert verdict.level is Level.OK
    assert [finding.what for finding in verdict.problems] == [
        "SomethingNew: '{x}'",
        "SomethingElse",
        "The function 'iprep.refresh' failed",
    ]
    status["problems"][0]["last"] = NOW - 59
    assert assess(status).sentence == "The function 'iprep.refresh' failed"


def test_a_factory_without_a_service() -> None:
    """It does not know where the application listens."""
    status = example("just started")
    status["started"], status["listen"] = NOW - 180, []
    assert assess(status).problems[0].hint.startswith("The agent listens on ports of the application: ")


def test_texts_are_escaped() -> None:
    """Also those of an agent of another version, which has not done it."""
    status = example("standing still")
    status["processes"][0]["detail"] = "a\x1b[2Jb\u202e"
    assert assess(status).sentence == "Worker 1 stands still for 3.2 s in a\\x1b[2Jb\\u202e"
