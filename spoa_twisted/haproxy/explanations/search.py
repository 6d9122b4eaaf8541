"""Find in a text what can be explained: lines of HAProxy's log, statuses, and DISCONNECT codes and words."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from spoa_twisted.haproxy.explanations.checks import (
    CHECKS,
    CODES,
    DOWN,
    NO_APPLET,
    NO_SERVER,
    RESULTS,
    UP,
    explain_check,
)
from spoa_twisted.haproxy.explanations.disconnects import DISCONNECTS, MAX_CODE, explain_code
from spoa_twisted.haproxy.explanations.meaning import Explanation, Generation
from spoa_twisted.haproxy.explanations.statuses import CONNECTION, explain_status
from spoa_twisted.spop.errors import with_words

#: The names of the times in a line of HAProxy <= 3.0, in their order, each with what it is.
TIMES: Final[Mapping[str, str]] = {
    "encode": "until the NOTIFY was made",
    "queue": "until it was sent",
    "wait": "until its ACK came, or the connection ended",
    "response": "until its variables were set",
    "process": "in all",
}


@dataclass(frozen=True)
class Meaning:
    """One explanation, and for what it holds."""

    #: "HAProxy <= 3.0", "DISCONNECT 4, invalid frame received", or "health check L7TOUT".
    of: str
    explanation: Explanation


@dataclass(frozen=True)
class Found:
    """Something in a text that can be explained."""

    #: The text in which it was found, in one line.
    text: str
    meanings: tuple[Meaning, ...]
    #: What the text says besides, for programs and to be shown: names, numbers, and mappings from names to numbers.
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> object:
        """Equal for lines that have the same explanation."""
        return self.facts.get("status"), self.meanings

    @property
    def name(self) -> str:
        """What the text is about: "iprep on-client-session", "agents/agent1", or "" if it names nothing."""
        names = ("agent", "event", "group", "server", "backend")
        return " ".join([self.facts[name] for name in names if name in self.facts])


_NAME: Final = r"[^\]\[<>\n]{1,200}"
_NUMBER: Final = r"[0-9]{1,20}"
_TIME: Final = rf"-?{_NUMBER}"

# The line of a NOTIFY. The shape after st= tells the generation.
_NOTIFY: Final = re.compile(
    rf"(?:SPOE:\s*)?\[(?P<agent>{_NAME})\]\s*<(?P<kind>EVENT|GROUP):(?P<name>{_NAME})>\s*"
    rf"sid=(?P<sid>{_NUMBER})\s+st=(?P<status>{_NUMBER})\s+"
    rf"(?:(?P<times>{_TIME}(?:/{_TIME}){{4}})\s+(?P<idle>{_NUMBER})/(?P<applets>{_NUMBER})"
    rf"\s+(?P<sending>{_NUMBER})/(?P<waiting>{_NUMBER})|(?P<process>{_TIME}))\s+"
    rf"(?P<errors>{_NUMBER})/(?P<processed>{_NUMBER})"
)
# HAProxy <= 1.8, and a line that is cut off.
_OLD_FAILURE: Final = re.compile(
    rf"SPOE:\s*\[(?P<agent>{_NAME})\]\s*failed to process [^\n]{{0,200}}?code=(?P<status>{_NUMBER})"
)
_CUT_NOTIFY: Final = re.compile(rf"SPOE:[^\n]{{1,500}}?\bst=(?P<status>{_NUMBER})")
_APPLET: Final = re.compile(rf"SPOE:\s*\[(?P<agent>{_NAME})\]\s*failed to create SPOE applet")

_CHECK: Final = re.compile(
    r"(?:(?:Health check for )?(?:[Bb]ackup )?[Ss]erver (?P<server>[^\s,]{1,200}) [^\n]{1,60}?)?"
    rf"\breason: (?P<result>{'|'.join(RESULTS.values())})(?P<rest>[^\n]{{0,300}})"
)
_INFO: Final = re.compile(r'info: "([^"]{0,200})"')
_CHECK_NAME: Final = re.compile(rf"\b(?P<result>{'|'.join(RESULTS)})\b(?P<rest>[^\n]{{0,300}})")
_SERVER: Final = re.compile(
    r"(?:[Bb]ackup )?\bServer (?P<server>[^\s/]{1,200}/[^\s,]{1,200}) (?:is|was|is going) (?P<state>UP|DOWN)\b"
)
_NO_SERVER: Final = re.compile(r"(?:backend|proxy) '?(?P<backend>[^\s']{1,200})'? has no server available")

# A status code in the log of an agent: "status code 4", "status-code=4", "AGENT-DISCONNECT 4".
_CODE: Final = re.compile(rf"(?:\bstatus[ _-]?code\W{{1,3}}|DISCONNECT )(?P<code>{_NUMBER})\b(?!:)", re.IGNORECASE)
_WORDS: Final = re.compile("|".join(re.escape(words) for words in sorted(CODES, key=len, reverse=True)), re.IGNORECASE)
# Words are looked for in a longer text only if it is about SPOE. Some are common ones: "unsupported version".
_ABOUT_SPOE: Final = re.compile(r"spo[aep]|disconnect|L7RSP|Layer7", re.IGNORECASE)

# A longer text without any of these has nothing to explain. Most lines of a log are so, and to look for these takes a
# fraction of the time that all patterns take.
_ANYTHING: Final = re.compile(
    rf"{_ABOUT_SPOE.pattern}|<(?:EVENT|GROUP):|reason: |\bServer |has no server|L[467]|SOCKERR|status[ _-]?code",
    re.IGNORECASE,
)
# Characters. The longest value is a variable of 63 characters with its number.
_MAX_VALUE_LENGTH: Final = 80

# A single value: 257, st=257, 256 + 1, error 257, -1.
_VALUE: Final = re.compile(
    rf"(?:(?:[\w.-]{{0,100}}[._-])?(?P<of>st|status|error|err|code)\s*[=: ]\s*)?(?P<number>-?{_NUMBER})", re.IGNORECASE
)
_SUM: Final = re.compile(rf"256\s*\+\s*(?P<number>{_NUMBER})")

_COLOUR: Final = re.compile(r"\x1b\[[0-9;]{0,20}m")


def search(text: str, generation: Generation | None = None) -> list[Found]:
    """Return what can be explained in ``text``, in its order: a value, or one or more lines.

    :param generation: the one of a status whose text does not tell it; ``None`` explains both.
    """
    text = text.strip()
    if len(text) > _MAX_VALUE_LENGTH and not _ANYTHING.search(text):
        return []
    text = _plain(text)
    value = _whole(text.strip("'\"`.,;()[]").strip(), generation)
    if value is not None:
        return [value]
    found: list[tuple[int, Found]] = []
    codes: set[int] = set()
    for pattern, explain in _PATTERNS:
        for match in pattern.finditer(text):
            result = explain(match, generation)
            # An agent may log the number and the words of the same DISCONNECT.
            code = None if result is None else result.facts.get("code")
            if result is not None and code not in codes:
                codes.update([] if code is None else [code])
                found.append((match.start(), result))
        # What has been found is not found again as a part of something else.
        text = pattern.sub(lambda match: "\n" * len(match[0]), text)
    return [result for _, result in sorted(found, key=lambda pair: pair[0])]


def _plain(text: str) -> str:
    """Return ``text`` without the escapes of JSON, of HTML, and of terminals."""
    text = text.replace('\\"', '"').replace("\\/", "/").replace("\\u003c", "<").replace("\\u003e", ">")
    return _COLOUR.sub("", html.unescape(text))


def _whole(text: str, generation: Generation | None) -> Found | None:
    """Return what ``text`` means if it is one value, and nothing else."""
    number = _VALUE.fullmatch(text)
    if number is not None:
        value, of = int(number["number"]), number["of"]
        if of is not None and of.lower() == "code":
            return _of_code(text, value) if 0 <= value <= MAX_CODE else None
        # "st=4" and "error 4" are no codes of a DISCONNECT, but "4" may be one.
        return _of_number(text, value, generation, maybe_code=of is None)
    total = _SUM.fullmatch(text)
    if total is not None:
        return _of_number(text, CONNECTION + int(total["number"]), generation, maybe_code=False)
    if text.lower() in _CODES_LOWER:
        return _of_code(text, _CODES_LOWER[text.lower()])
    if text.upper() in CHECKS or text.upper() == "L7RSP":
        return _of_check(text, text.upper(), "")
    for result, words in RESULTS.items():
        if text.lower() == words.lower():
            return _of_check(text, result, "")
    return None


_CODES_LOWER: Final = {words.lower(): code for words, code in CODES.items()}

_NOT_REACHED: Final = Explanation(
    "In a line of HAProxy <= 3.0, a time of -1 means that HAProxy did not get to this step. queue is -1: the NOTIFY was"
    " not sent. wait is -1: no ACK came. response is -1: no variables were set."
)


def _of_number(text: str, number: int, generation: Generation | None, *, maybe_code: bool) -> Found | None:
    if number == -1:
        return Found(_line(text), (Meaning("time -1", _NOT_REACHED),))
    meanings = _status_meanings(number, generation)
    if not meanings:
        return None
    if maybe_code and number in DISCONNECTS:
        hint = Explanation(f'{DISCONNECTS[number].first_sentence}. "spoactl explain code={number}" says more.')
        meanings += (Meaning(f"status code of a DISCONNECT: {with_words(number)}", hint),)
    return Found(_line(text), meanings, {"status": number})


def _status_meanings(status: int, generation: Generation | None) -> tuple[Meaning, ...]:
    """Return what a status means in ``generation``, or in both. If it means the same in both, that is said once."""
    generations = tuple(Generation) if generation is None else (generation,)
    meanings: dict[Explanation, list[str]] = {}
    for each in generations:
        explanation = explain_status(status, each)
        if explanation is not None:
            meanings.setdefault(explanation, []).append(each.value)
    names = {len(Generation): "all versions of HAProxy"}
    return tuple([Meaning(names.get(len(of), of[0]), explanation) for explanation, of in meanings.items()])


def _of_code(text: str, code: int) -> Found:
    return Found(_line(text), (Meaning(f"DISCONNECT {with_words(code)}", explain_code(code)),), {"code": int(code)})


def _of_check(text: str, result: str, info: str, server: str | None = None) -> Found:
    facts = {"server": server, "check": result, "info": info}
    of = f"health check {result}: {RESULTS[result]}" + (f", {info}" if info else "")
    return Found(
        _line(text),
        (Meaning(of, explain_check(result, info)),),
        {name: value for name, value in facts.items() if value},
    )


def _notify(match: re.Match[str], generation: Generation | None) -> Found | None:
    status = int(match["status"])
    old = match["times"] is not None
    generation = Generation.OLD if old else Generation.NEW
    explanation = explain_status(status, generation)
    if explanation is None:
        return None
    numbers = match["times"].split("/") if old else [match["process"]]
    times = dict(zip(TIMES if old else ["process"], map(int, numbers), strict=True))
    facts: dict[str, Any] = {
        "agent": match["agent"],
        match["kind"].lower(): match["name"],
        "stream": int(match["sid"]),
        "status": status,
        "milliseconds": times,
    }
    if old:
        facts["connections"] = {"idle": int(match["idle"]), "all": int(match["applets"])}
        facts["notifies"] = {"queued": int(match["sending"]), "waiting": int(match["waiting"])}
    explanation = explanation.of(times)
    facts["total"] = {"errors": int(match["errors"]), "notifies": int(match["processed"])}
    return Found(_line(match[0]), (Meaning(generation.value, explanation),), facts)


def _old_failure(match: re.Match[str], generation: Generation | None) -> Found | None:
    meanings = _status_meanings(int(match["status"]), Generation.OLD)
    facts = {"agent": match["agent"], "status": int(match["status"])}
    return Found(_line(match[0]), meanings, facts) if meanings else None


def _cut_notify(match: re.Match[str], generation: Generation | None) -> Found | None:
    meanings = _status_meanings(int(match["status"]), generation)
    return Found(_line(match[0]), meanings, {"status": int(match["status"])}) if meanings else None


def _applet(match: re.Match[str], generation: Generation | None) -> Found:
    return Found(_line(match[0]), (Meaning("all versions of HAProxy", NO_APPLET),), {"agent": match["agent"]})


def _check(match: re.Match[str], generation: Generation | None) -> Found:
    (result,) = [name for name, words in RESULTS.items() if words == match["result"]]
    info = _INFO.search(match["rest"])
    return _of_check(match[0], result, info[1] if info else "", match["server"])


def _check_name(match: re.Match[str], generation: Generation | None) -> Found:
    words = _WORDS.search(match["rest"])
    return _of_check(match[0], match["result"], words[0].lower().replace("i/o", "I/O") if words else "")


def _server(match: re.Match[str], generation: Generation | None) -> Found:
    up = match["state"] == "UP"
    meaning = Meaning(f"server {match['state']}", UP if up else DOWN)
    return Found(_line(match[0]), (meaning,), {"server": match["server"]})


def _no_server(match: re.Match[str], generation: Generation | None) -> Found:
    return Found(_line(match[0]), (Meaning("no server", NO_SERVER),), {"backend": match["backend"]})


def _code(match: re.Match[str], generation: Generation | None) -> Found | None:
    code = int(match["code"])
    return _of_code(match[0], code) if code <= MAX_CODE else None


def _words(match: re.Match[str], generation: Generation | None) -> Found | None:
    # "normal" and "I/O error" are too common, and are found as a status code, or alone.
    about = _ABOUT_SPOE.search(match.string)
    code = _CODES_LOWER[match[0].lower()]
    return _of_code(match[0], code) if about and code > 1 else None


_PATTERNS: Final[tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Generation | None], Found | None]], ...]] = (
    (_NOTIFY, _notify),
    (_OLD_FAILURE, _old_failure),
    (_CUT_NOTIFY, _cut_notify),
    (_APPLET, _applet),
    (_CHECK, _check),
    (_SERVER, _server),
    (_NO_SERVER, _no_server),
    (_CHECK_NAME, _check_name),
    (_CODE, _code),
    (_WORDS, _words),
)


def _line(text: str) -> str:
    return " ".join(text.split())
