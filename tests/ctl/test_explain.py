"""ctl.explain: say what an error in HAProxy's log means."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spoa_twisted.ctl import explain, main
from spoa_twisted.ctl.explain import parser, show, to_json
from spoa_twisted.haproxy.explanations.search import Found, search
from spoa_twisted.haproxy.explanations.statuses import STATUSES
from spoa_twisted.spop.errors import STATUS_WORDS

OLD = "SPOE: [iprep] <EVENT:on-frontend-http-request> sid={} st=257 0/8/0/-1/8 0/0 0/0 1/1"
NEW = "SPOE: [iprep] <GROUP:scan-body> sid={} st=1 301 1/1"

Run = Callable[..., tuple[list[str], str, int]]


def finished(coroutine: Any) -> None:
    """Run a coroutine that never waits."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs ``spoactl explain``, and returns the lines of stdout, the text of stderr, and the status."""

    def run(*arguments: str, stdin: bytes = b"") -> tuple[list[str], str, int]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = 0
        try:
            finished(explain.run(None, parser().parse_intermixed_args(arguments)))
        except SystemExit as error:
            assert isinstance(error.code, int)
            status = error.code
        captured = capsys.readouterr()
        return captured.out.splitlines(), captured.err, status

    return run


def test_a_line_of_the_old_generation(run: Run) -> None:
    """Its fields have names and units, and -1 is explained."""
    lines, err, status = run(OLD.format(7))
    assert (err, status) == ("", 0)
    assert lines[:13] == [
        "SPOE: [iprep] <EVENT:on-frontend-http-request> sid=7 st=257 0/8/0/-1/8 0/0 0/0",
        "    1/1",
        "  agent iprep, event on-frontend-http-request, stream 7",
        "  encode      0 ms      until the NOTIFY was made",
        "  queue       8 ms      until it was sent",
        "  wait        0 ms      until its ACK came, or the connection ended",
        "  response    -1        until its variables were set",
        "  process     8 ms      in all",
        "              (-1: HAProxy did not get to this step)",
        "  connections 0 to the agent, 0 of them idle",
        "  NOTIFYs     0 in the queue, 0 sent and without ACK",
        "  total       1 of 1 NOTIFYs failed since HAProxy started",
        "status 257 = 256 + 1, I/O error (HAProxy <= 3.0):",
    ]


def test_a_line_of_the_new_generation(run: Run) -> None:
    lines, err, status = run(NEW.format(7))
    assert (err, status) == ("", 0)
    assert lines[:6] == [
        "SPOE: [iprep] <GROUP:scan-body> sid=7 st=1 301 1/1",
        "  agent iprep, group scan-body, stream 7",
        "  process     301 ms    in all",
        "  total       1 of 1 NOTIFYs failed since HAProxy started",
        "              (HAProxy 3.2.26 and >= 3.3 count good NOTIFYs as failed, too)",
        "status 1 (HAProxy >= 3.1):",
    ]


def test_a_number_means_one_thing_in_each_generation(run: Run) -> None:
    lines, _, _ = run("st=2")
    assert [line for line in lines if line.startswith("status")] == [
        "status 2 (HAProxy <= 3.0):",
        "status 2 (HAProxy >= 3.1):",
    ]
    for version, generation in (("2.6", "<= 3.0"), ("3.0.11", "<= 3.0"), ("3.1", ">= 3.1"), ("3.4.7-1", ">= 3.1")):
        lines, _, _ = run("--version", version, "st=2")
        assert [line for line in lines if line.startswith("status")] == [f"status 2 (HAProxy {generation}):"]


def test_the_signs_of_causes(run: Run) -> None:
    """Of a number, the user must look for them; of a line, those that are left fit."""
    lines, _, _ = run("--version=2.8", "st=1")
    assert "  1. (if queue is not -1) A handler is slow, or waits for something that is" in lines
    lines, _, _ = run("SPOE: [a] <EVENT:on-client-session> sid=0 st=1 0/-1/-1/-1/301 0/1 0/0 1/1")
    assert "  1. HAProxy could not connect: nothing listens on the server's port." in lines


@pytest.mark.parametrize("version", ["3", "x", "", "3.", "3.1234567", "-1"])
def test_no_version(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["explain", f"--version={version}", "1"])
    assert caught.value.code == 2
    assert "is not a version of HAProxy, such as 3.2" in capsys.readouterr().err


def test_words_without_quotation_marks(run: Run) -> None:
    """They come as several arguments. So do the words of a line."""
    assert run(*["version", "value", "not", "found"])[0][:2] == [
        "version value not found",
        "DISCONNECT 5, version value not found:",
    ]
    assert run(*OLD.format(7).split()) == run(OLD.format(7))


def test_several_values(run: Run) -> None:
    """A value that is not known does not hide the others."""
    lines, err, status = run("st=265", "nonsense\x1b", "frame is too big")
    assert lines[0] == "status 265 = 256 + 9, max-frame-size too big or too small (all versions of"
    assert "DISCONNECT 3, frame is too big:" in lines
    assert (err, status) == ("spoactl: 'nonsense\\x1b' is not known\n", 1)


@pytest.mark.parametrize("arguments", [["nonsense"], ["-"], []])
def test_what_is_understood(arguments: list[str], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """If nothing can be explained, the error says what can be."""
    with pytest.raises(ValueError, match=r"give a status such as 257, a line of HAProxy's log") as caught:
        run(*arguments, stdin=b"Nov 30 haproxy[1]: Proxy web started.\n")
    assert str(caught.value).startswith(
        "'nonsense' is not known: " if arguments == ["nonsense"] else "nothing to explain"
    )


def test_a_long_text_is_cut(run: Run) -> None:
    with pytest.raises(ValueError, match=r"^'x{80}\.\.\.' is not known: "):
        run("x" * 5000)


def test_a_log_on_stdin(run: Run) -> None:
    """Lines that have the same explanation are explained once. Other lines are skipped, and bytes may be anything."""
    log = b"".join(
        [
            *[f"Nov 30 haproxy[1]: {OLD.format(i)}\n".encode() for i in range(1500)],
            *[f"{OLD.format(i).replace('iprep', f'agent{i}')}\n".encode() for i in (1, 1, 2, 3, 4, 5, 6)],
            b"Nov 30 haproxy[1]: 127.0.0.1:5 web web/<NOSRV> 0/-1 403 - - PR-- \xff\xfe\n",
            f"{NEW.format(1)}\r\n".encode(),
            b"Health check for server agents/a failed, reason: Layer7 timeout, check duration: 400ms",
        ]
    )
    for arguments in ([], ["-"]):
        lines, err, status = run(*arguments, stdin=log)
        assert (err, status) == ("", 0)
        assert lines[2:5] == [
            "(1,507 lines like this one: iprep on-frontend-http-request 1,500, agent1",
            "    on-frontend-http-request 2, agent2 on-frontend-http-request 1, agent3",
            "    on-frontend-http-request 1, agent4 on-frontend-http-request 1, 2 more names)",
        ]
        assert [line for line in lines if line.startswith(("status", "health"))] == [
            "status 257 = 256 + 1, I/O error (HAProxy <= 3.0):",
            "status 1 (HAProxy >= 3.1):",
            "health check L7TOUT: Layer7 timeout:",
        ]


def test_a_wrapped_line_on_stdin(run: Run) -> None:
    wrapped = OLD.format(7).replace(" st=", "\n      st=").encode()
    assert run(stdin=wrapped + b"\n") == run(OLD.format(7))
    lines, _, _ = run("--json", stdin=b"SPOE: nothing\n" + OLD.format(7).encode() + b"\n" + NEW.format(8).encode())
    assert [json.loads(line)["stream"] for line in lines] == [7, 8]


def test_a_line_without_end(run: Run) -> None:
    """It is read in pieces."""
    lines, _, _ = run("--json", stdin=b"x" * 200_000 + b"\n" + NEW.format(1).encode())
    assert [json.loads(line)["status"] for line in lines] == [1]


class Terminal(io.TextIOWrapper):
    """A terminal in which the user types a line."""

    def isatty(self) -> bool:
        return True


def test_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The user is told how to end."""
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(b"st=1\n")))
    finished(explain.run(None, parser().parse_args([])))
    captured = capsys.readouterr()
    assert captured.out.startswith("status 1 ")
    assert captured.err == "spoactl: paste lines of HAProxy's log, and end with Ctrl-D\n"


def test_json(run: Run) -> None:
    lines, _, _ = run("--json", OLD.format(7), "frame is too big")
    line, words = map(json.loads, lines)
    assert list(line) == [
        *("text", "lines", "agent", "event", "stream", "status", "milliseconds", "connections", "notifies", "total"),
        "meanings",
    ]
    assert line["milliseconds"]["response"] == -1
    assert line["lines"] == {"iprep on-frontend-http-request": 1}
    (meaning,) = line["meanings"]
    assert meaning["of"] == "HAProxy <= 3.0"
    assert list(meaning["causes"][0]) == ["text", "sign", "advice"]
    assert words["code"] == 3


def everything() -> list[Found]:
    numbers = sorted({*STATUSES_OF_ALL, *[256 + code for code in STATUS_WORDS], 456})
    texts = [*map(str, numbers), *STATUS_WORDS.values(), "L4CON", "L7TOUT", "L7RSP", OLD.format(1), NEW.format(2**32)]
    return [found for text in texts for found in search(text)]


STATUSES_OF_ALL = {status for statuses in STATUSES.values() for status in statuses}


def test_all_fits_in_80_columns() -> None:
    for found in everything():
        for line in show(found, Counter({found.name: 12345, "another name": 3})):
            assert len(line) <= 80, line
            assert line == line.rstrip()


def test_names_are_escaped() -> None:
    """A line of a log may come from anybody."""
    (found,) = search("SPOE: [a\x07\u202e] <EVENT:x\x9b> sid=1 st=1 2 3/4")
    names = Counter({found.name: 2})
    assert all(character.isprintable() for line in show(found, names) for character in line)
    json.dumps(to_json(found, names))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.text(), st.sampled_from([OLD, NEW, "st=1", "-", "SPOE: [", "L7RSP"]))), st.binary())
def test_any_input(run: Run, values: Sequence[str], stdin: bytes) -> None:
    """No input ends with another exception than ValueError, which becomes one line."""
    for arguments in (["--", *values], ["--json", "--", *values]):
        try:
            run(*arguments, stdin=stdin)
        except ValueError as error:
            assert str(error).isprintable()


def test_what_is_no_error_comes_last(run: Run) -> None:
    good, bad = NEW.format(1).replace("st=1", "st=0"), NEW.format(1)
    lines, _, _ = run("--json", stdin=f"{good}\n{bad}\n".encode())
    assert [json.loads(line)["status"] for line in lines] == [1, 0]


def test_a_server_may_be_another_one(run: Run) -> None:
    """HAProxy's log does not say which backends are those of agents."""
    lines, _, _ = run("Server agents/a1 is DOWN, reason: Layer7 timeout, check duration: 400ms.")
    assert lines[1:3] == ["  (if agents/a1 is an agent)", "health check L7TOUT: Layer7 timeout:"]


def test_texts_without_a_name(run: Run) -> None:
    lines, _, _ = run(stdin=b"L7RSP\nL7RSP\n")
    assert "(2 lines like this one: others 2)" in lines
