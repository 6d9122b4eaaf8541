"""haproxy.explanations: each value of HAProxy has one, and each is found in a text of any shape."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spoa_twisted.haproxy.explanations.checks import CHECKS, EMPTY_ANSWER, NO_APPLET, RESULTS, explain_check
from spoa_twisted.haproxy.explanations.disconnects import DISCONNECTS, MAX_CODE, OWN_CODE, explain_code
from spoa_twisted.haproxy.explanations.meaning import Explanation, Generation
from spoa_twisted.haproxy.explanations.search import Found, search
from spoa_twisted.haproxy.explanations.statuses import STATUSES, explain_status, show_sum
from spoa_twisted.spop.errors import STATUS_WORDS, StatusCode, with_words
from tests.docs.pages import read

from .errors_document import DOCUMENT, document

OLD, NEW = Generation.OLD, Generation.NEW

#: Statuses that a generation does not set. They have no causes.
NEVER = {OLD: {255}, NEW: {5, 255, 256}}

OLD_LINE = "SPOE: [iprep] <EVENT:on-frontend-http-request> sid=7 st=257 0/8/0/-1/8 1/2 3/4 5/6"
NEW_LINE = "SPOE: [iprep] <GROUP:scan-body> sid=7 st=257 8 5/6"
DOWN_LINE = (
    "Server agents/agent1 is DOWN, reason: Layer7 invalid response,"
    ' info: "version value not found", check duration: 1ms. 0 active and 0 backup servers left.'
)


def all_explanations() -> Iterator[tuple[str, Explanation]]:
    for generation in Generation:
        for status in [*STATUSES[generation], 7, *[256 + code for code in (*STATUS_WORDS, 200)]]:
            explanation = explain_status(status, generation)
            assert explanation is not None
            yield f"{generation.value}: {status}", explanation
    for code in (*STATUS_WORDS, 200):
        yield f"DISCONNECT {code}", explain_code(code)
    for result in RESULTS:
        yield result, explain_check(result)
    for words in (*STATUS_WORDS.values(), "TCPCHK got an empty response at step 2"):
        yield f"L7RSP {words}", explain_check("L7RSP", words)


@pytest.mark.parametrize("explanation", [pytest.param(each, id=name) for name, each in all_explanations()])
def test_an_explanation_is_whole(explanation: Explanation) -> None:
    """It is made of sentences, and each cause has something to look at or to change."""
    texts = [explanation.text, *[text for cause in explanation.causes for text in (cause.text, cause.advice)]]
    for text in texts:
        assert text.endswith("."), text
        assert text[0].isupper() or text[0] == '"', text
        assert len(text) < 300, text
        assert "  " not in text
        assert text.count('"') % 2 == 0, text
    assert len({cause.text for cause in explanation.causes}) == len(explanation.causes) <= 6
    assert explanation.first_sentence in explanation.text


@pytest.mark.parametrize("generation", Generation)
def test_each_status_has_causes(generation: Generation) -> None:
    """Those that HAProxy sets."""
    for status in [*range(4), 4, *([5] if generation is OLD else []), *range(257, 270), 355, 456, 256 + MAX_CODE]:
        explanation = explain_status(status, generation)
        assert explanation is not None
        assert explanation.causes, status
    for status in NEVER[generation]:
        explanation = explain_status(status, generation)
        assert explanation is not None
        assert not explanation.causes
        assert "not" in explanation.text


@pytest.mark.parametrize("generation", Generation)
def test_no_such_status(generation: Generation) -> None:
    for status in (-1, -256, 256 + MAX_CODE + 1, 10**19):
        assert explain_status(status, generation) is None
    for status in range(6, 256):
        explanation = explain_status(status, generation)
        assert explanation is not None
        assert explanation.text.startswith("HAProxy does not set this status."), status


def test_each_code_has_words_and_an_explanation() -> None:
    assert set(STATUS_WORDS) == set(DISCONNECTS) == set(StatusCode)
    assert with_words(3) == with_words(StatusCode.FRAME_TOO_BIG) == "3, frame is too big"
    assert with_words(200) == "200"
    assert explain_code(200) is OWN_CODE


def test_how_a_status_is_made() -> None:
    assert [show_sum(status) for status in (255, 256, 260, 456)] == [
        "",
        "256 + 0, normal",
        "256 + 4, invalid frame received",
        "256 + 200",
    ]


def test_the_document_has_the_same_texts() -> None:
    """docs/reference/errors.rst is made from the explanations, and valid."""
    assert DOCUMENT.read_text() == document(), "run python -m tests.haproxy_side.errors_document"
    read(document())


def only(text: str, generation: Generation | None = None) -> Found:
    (found,) = search(text, generation)
    return found


def of(text: str, generation: Generation | None = None) -> list[str]:
    """Return for what the meanings of a text hold."""
    return [meaning.of for meaning in only(text, generation).meanings]


def test_a_line_of_the_old_generation() -> None:
    found = only(OLD_LINE)
    assert found.facts == {
        "agent": "iprep",
        "event": "on-frontend-http-request",
        "stream": 7,
        "status": 257,
        "milliseconds": {"encode": 0, "queue": 8, "wait": 0, "response": -1, "process": 8},
        "connections": {"idle": 1, "all": 2},
        "notifies": {"queued": 3, "waiting": 4},
        "total": {"errors": 5, "notifies": 6},
    }
    assert [meaning.of for meaning in found.meanings] == [OLD.value]


def test_a_line_of_the_new_generation() -> None:
    found = only(NEW_LINE)
    assert found.facts == {
        "agent": "iprep",
        "group": "scan-body",
        "stream": 7,
        "status": 257,
        "milliseconds": {"process": 8},
        "total": {"errors": 5, "notifies": 6},
    }
    assert [meaning.of for meaning in found.meanings] == [NEW.value]


@pytest.mark.parametrize("line", [OLD_LINE, NEW_LINE])
@pytest.mark.parametrize(
    "shape",
    [
        "{}",
        "  {}\r\n",
        "Mar  4 11:02:01 localhost haproxy[308642]: {}",
        "<132>Mar  4 11:02:01 haproxy[308642]: {}",
        "<132>1 2026-11-29T20:40:47.153078+00:00 host haproxy 308642 - - {}",
        "2026-11-29T20:40:47Z host haproxy[1]: {}#012",
        "haproxy-1  | {}",
        "\x1b[36mhaproxy-1  |\x1b[0m {}",
        "[WARNING]  (123) : {}",
        "Nov 30 01:00:00 host haproxy[1]: prefix '{}'",
    ],
)
def test_the_prefix_of_a_line_does_not_matter(line: str, shape: str) -> None:
    found = only(shape.format(line))
    assert found.facts == only(line).facts
    assert found.text == line


@pytest.mark.parametrize("line", [OLD_LINE, NEW_LINE, DOWN_LINE])
def test_a_line_in_json_or_html(line: str) -> None:
    """Docker and Go escape the brackets of an event, PHP the slashes, and JSON the quotation marks."""
    log = json.dumps({"log": f"{line}\n", "stream": "stdout", "time": "2026-11-29T20:40:47Z"})
    brackets = log.replace("<", "\\u003c").replace(">", "\\u003e")
    for text in (log, brackets, log.replace("/", "\\/"), line.replace("<", "&lt;").replace(">", "&gt;")):
        assert only(text).facts == only(line).facts


@pytest.mark.parametrize("line", [OLD_LINE, NEW_LINE])
def test_a_line_that_is_wrapped(line: str) -> None:
    before, _, after = line.partition(" st=")
    assert only(f"{before}\n        st={after}").facts == only(line).facts


def test_several_lines_in_one_text() -> None:
    assert [found.facts["status"] for found in search(f"{OLD_LINE}\n{NEW_LINE} {OLD_LINE}")] == [257, 257, 257]


@pytest.mark.parametrize("text", [OLD_LINE[: OLD_LINE.index(" 0/8") + 5], NEW_LINE[: NEW_LINE.index(" 8 ")]])
def test_a_line_that_is_cut_off(text: str) -> None:
    """Its status is explained for both generations, because its shape is not known."""
    assert of(text) == [OLD.value, NEW.value]
    assert of(text, NEW) == [NEW.value]


def test_a_line_of_haproxy_1_8() -> None:
    line = "Sep  3 03:29:46 127.0.0.1 haproxy[15289]: SPOE: [auth-agents] failed to process messages: code=1"
    assert of(line) == [OLD.value]
    assert only(line).facts == {"agent": "auth-agents", "status": 1}


def test_the_cause_is_one_of_the_place() -> None:
    """A status has no cause that only a health check has, nor one of a HELLO, nor one of HAProxy's own DISCONNECT."""
    for status, code in ((261, 5), (258, 2)):
        explanation = explain_status(status, OLD)
        assert explanation is not None
        (cause,) = explanation.causes
        assert cause not in DISCONNECTS[code].causes
    assert len(explain_check("L7RSP", "version value not found").causes) == len(DISCONNECTS[5].causes)


def test_an_applet_that_cannot_be_made() -> None:
    found = only("SPOE: [iprep] failed to create SPOE applet")
    assert found.meanings[0].explanation is NO_APPLET


def test_the_times_choose_the_causes() -> None:
    """Of the causes of status 1, a line has those that fit its times. So has one of HAProxy >= 3.1."""
    line = "SPOE: [a] <EVENT:on-client-session> sid=0 st=1 0/{}/-1/-1/301 0/1 0/0 1/1"

    def causes(queue: int) -> list[str]:
        (meaning,) = only(line.format(queue)).meanings
        return [cause.text for cause in meaning.explanation.causes]

    assert "could not connect" in causes(-1)[0]
    assert "handler is slow" in causes(4)[0]
    everything = explain_status(1, OLD)
    assert everything is not None
    assert {cause.text for cause in everything.causes} == {*causes(-1), *causes(4)}
    assert not set(causes(-1)) & set(causes(4))

    new = "SPOE: [a] <EVENT:on-client-session> sid=0 st=257 {} 1/1"
    everything = explain_status(257, NEW)
    assert everything is not None
    (at_once,) = only(new.format(8)).meanings
    (late,) = only(new.format(3016)).meanings
    assert at_once.explanation.causes[0].text.startswith("No server")
    assert {*at_once.explanation.causes} == {*everything.causes}
    assert late.explanation.causes[0].text.startswith("Nothing listens")
    assert {*late.explanation.causes} == {*everything.causes[1:]}


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("257", 257),
        ("st=257", 257),
        ("ST: 257.", 257),
        ("error 257", 257),
        ("256 + 1", 257),
        ("'256+1'", 257),
        ("txn.iprep.error=257", 257),
    ],
)
def test_a_number(text: str, status: int) -> None:
    assert only(text).facts == {"status": status}
    assert of(text) == [OLD.value, NEW.value]


def test_a_number_that_means_the_same_in_both_generations() -> None:
    assert of("265") == ["all versions of HAProxy"]
    assert of("265", OLD) == [OLD.value]


def test_a_small_number_may_be_a_code() -> None:
    """It is not if "st=" stands before it, and it is surely one after "code"."""
    assert of("4") == [OLD.value, NEW.value, "status code of a DISCONNECT: 4, invalid frame received"]
    assert of("code 4") == of("status-code=4") == ["DISCONNECT 4, invalid frame received"]
    assert of("code 200") == ["DISCONNECT 200"]
    assert of("st=4") == of("256 + 4") == [OLD.value, NEW.value]
    assert of("st=4", OLD) == [OLD.value]
    assert of("-1") == ["time -1"]


@pytest.mark.parametrize(("code", "words"), STATUS_WORDS.items())
def test_the_words_of_a_disconnect(code: int, words: str) -> None:
    for text in (words, f'"{words}"', f"  {words.upper()}.\n"):
        assert of(text) == [f"DISCONNECT {with_words(code)}"]
    for text in (
        f'Health check for server agents/a failed, reason: Layer7 invalid response, info: "{words}", status: 0/1 DOWN.',
        f'Server agents/a is DOWN, reason: Layer7 invalid response, info: "{words}", check duration: 1ms.',
        f"agents,a,0,0,L7RSP,,{words},",
    ):
        found = only(text)
        assert found.facts["check"] == "L7RSP"
        assert found.facts["info"] == words
        assert found.meanings[0].of == f"health check L7RSP: Layer7 invalid response, {words}"


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1:5: HAPROXY-DISCONNECT: status code 3, 'frame is too big'",
        "127.0.0.1:5: broke the protocol: the frame is long (status code 3, frame is too big)",
        "spoactl: the agent disconnected: no (status code 3, frame is too big)",
        'AGENT-DISCONNECT 0:0 FIN, 37 bytes: status-code=3 message="no"',
        "disconnect frame received: frame is too big",
        'level=error msg="spop: Frame is too big"',
    ],
)
def test_a_code_in_the_log_of_an_agent(text: str) -> None:
    assert {meaning.of for found in search(text) for meaning in found.meanings} == {"DISCONNECT 3, frame is too big"}


@pytest.mark.parametrize(("result", "words"), RESULTS.items())
def test_a_health_check(result: str, words: str) -> None:
    line = f"Health check for backup server agents/a1 failed, reason: {words}, code: 0, check duration: 0ms."
    assert only(line).facts == {"server": "agents/a1", "check": result}
    for text in (result, result.lower(), words, f"agents,a1,{result},x"):
        assert only(text).meanings == only(line).meanings


def test_a_check_that_got_no_answer() -> None:
    line = 'reason: Layer7 invalid response, info: "TCPCHK got an empty response at step 2", check duration: 11ms'
    assert only(line).meanings[0].explanation is EMPTY_ANSWER
    assert set(CHECKS) == set(RESULTS) - {"L7RSP"}


def test_the_lines_of_a_backend() -> None:
    assert of("[WARNING] (1) : Server agents/agent1 is UP, 1 active and 0 backup servers online.") == ["server UP"]
    assert of("Server agents/agent1 is going DOWN for maintenance. 0 active") == ["server DOWN"]
    assert of("[ALERT]    (27161) : backend 'agents' has no server available!") == ["no server"]
    assert of("proxy agents has no server available!") == ["no server"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "-5",
        "99999999999",
        "st=",
        "test 5",
        "code -1",
        "code 99999999999",
        "st=x",
        "٣",
        "1e3",
        "PR--",
        "SPOE",
        "SPOE: [a] <EVENT:x> sid=1 st=99999999999 1 1/1",
        "SPOE: [a] failed to process messages: code=99999999999",
        "SPOE: st=99999999999",
        "status code 99999999999",
        "127.0.0.1:1 [30/Nov/2026:01:00:00.000] web web/<NOSRV> 0/-1/-1/-1/0 403 192 - - PR-- 1/1/0/0/0 0/0 st=3",
        "blk_update_request: I/O error, dev sda",
        "ssl: unsupported version",
        "spoa is normal",
    ],
)
def test_what_is_not_known(text: str) -> None:
    """Above all: words and numbers of logs that are not about SPOE."""
    assert search(text) == []


@pytest.mark.parametrize("text", ["st=1", *STATUS_WORDS.values(), *RESULTS, "-1", "256 + 3"])
def test_a_value_in_a_long_text(text: str) -> None:
    """Blanks do not hide it."""
    assert search(f"{'':150}{text}{'':40}") == search(text)


PIECES = st.sampled_from(
    [
        *("SPOE: [", "a", "] ", "<EVENT:", "<GROUP:", "> ", "sid=", "st=", "/", "-1", "0", "257", " ", "\n", '"', "\\"),
        *(
            "Server ",
            "agents/a ",
            "is DOWN",
            "reason: ",
            "Layer7 invalid response",
            ", info: ",
            "L7RSP",
            "status code ",
        ),
        *("DISCONNECT", *STATUS_WORDS.values(), OLD_LINE, NEW_LINE, DOWN_LINE, "failed to process ", "code=", "&lt;"),
        *("9" * 20, "9" * 5000, "\0", "\x1b[31m", "٣", "\ud800"),
    ]
)


@given(st.one_of(st.text(), st.lists(PIECES, max_size=30).map("".join)), st.sampled_from([None, *Generation]))
@example("SPOE: [" * 2_000, None)
@example("SPOE: [a] <EVENT:x> sid=" * 600, None)
@example("server x " * 1_500, None)
@example('reason: Layer7 timeout, info: "' * 500, None)
def test_any_text(text: str, generation: Generation | None) -> None:
    """No text is an error. What is found has a meaning, and can be written as JSON."""
    for found in search(text, generation):
        assert found.meanings
        assert hash(found.key) is not None
        json.dumps(found.facts)
