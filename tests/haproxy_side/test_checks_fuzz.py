"""No file makes a check raise an exception: mutations of a good configuration, lines of known words, and any bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spoa_twisted import Handlers
from spoa_twisted.ctl.check.report import as_json, as_text
from spoa_twisted.haproxy import reading
from spoa_twisted.haproxy.answers import answers
from spoa_twisted.haproxy.checks import BY_ID, find
from spoa_twisted.haproxy.joined import GENERATIONS, Version, join

from .configurations import HAPROXY, NEW, SPOE

handlers = Handlers(on_error={"txn.error": 1})


@handlers.message("lookup", args={"ip": "src"}, event="on-frontend-http-request", sets={"txn.allowed": bool})
async def lookup(ip: str, ua: str = "") -> dict[str, bool]:
    return {"txn.allowed": bool(ip or ua)}


@handlers.message("scan", rule="http-request if { method POST }", sets={"txn.infected": bool})
def scan(**kwargs: object) -> None: ...


ANSWERS = answers(handlers, 1.0)

#: A configuration with a group and a body, beside that of the tests.
SPOE_LINES = [
    *SPOE.splitlines(),
    "    groups scan",
    "    register-var-names hits txn.x",
    "    max-frame-size 1000",
    "    maxerrrate 2",
    "    option set-total-time total",
    "spoe-group scan",
    "    messages scan",
    "spoe-message scan",
    "    args body=req.body ua=req.hdr(user-agent),lower id=unique-id x=var(txn.rep.allowed) src",
    "    acl api path_beg /api",
    "    event on-http-response unless api or { status 200 }",
    '    args "${UNSET}"',
]
HAPROXY_LINES = [
    *HAPROXY.splitlines(),
    "defaults named",
    "listen both from named",
    "    option http-buffer-request",
    "    http-request wait-for-body time 1s",
    "    http-request send-spoe-group rep scan if { method POST }",
    "    http-request set-var(txn.x) var(sess.rep.score),add(txn.rep.y)",
    "    http-request set-header x-user %[var(txn.rep.user)]",
    "    http-response set-header x-y %[var(req.rep.y)]",
    "    tcp-request inspect-delay 1s",
    "    tcp-request content reject unless { var(sess.rep.ok) -m found }",
    "    acl bad var(txn.rep.bad) -m str true",
    "    use_backend rep-agents if bad or !bad",
    '    log-format "%ci %[var(req.rep.z)]"',
    "    default-server check send-proxy inter 1s",
    "    server-template a 1-3 agents:12345",
    "    option httpchk",
    "    filter spoe config spoe.conf",
    "healthcheck spop",
    "    type spop-check",
]

#: All words of both, and what may stand where a word is expected.
WORDS = sorted({word for line in (*SPOE_LINES, *HAPROXY_LINES) for word in line.split()})
ODD = [
    "",
    "'",
    '"',
    "\\",
    "#",
    "{",
    "}",
    "!",
    "%[",
    "var(",
    "var()",
    "req.hdr(",
    ",",
    "=",
    "ip=",
    "=src",
    "999999999999d",
    "\0",
    "é",
    "\x1b",
]
word = st.sampled_from(WORDS) | st.sampled_from(ODD)
new_line = st.lists(word, max_size=8).map(" ".join)


def mutated(lines: list[str]) -> st.SearchStrategy[bytes]:
    """Return texts like that of ``lines``, in which some lines are removed, repeated, moved or changed."""

    @st.composite
    def build(draw: st.DrawFn) -> bytes:
        text = list(lines)
        for _ in range(draw(st.integers(0, 8))):
            at = draw(st.integers(0, len(text)))
            match draw(st.sampled_from(["remove", "repeat", "move", "word", "line"])):
                case "remove":
                    del text[at : at + 1]
                case "repeat":
                    text[at:at] = text[at : at + 1]
                case "move":
                    moved = text[at : at + 1]
                    del text[at : at + 1]
                    to = draw(st.integers(0, len(text)))
                    text[to:to] = moved
                case "word":
                    for line in text[at : at + 1]:
                        words = line.split(" ")
                        words[draw(st.integers(0, len(words) - 1))] = draw(word)
                        text[at] = " ".join(words)
                case "line":
                    text.insert(at, draw(new_line))
        end = draw(st.sampled_from(["\n", "\r\n"]))
        return "".join([line + end for line in text]).encode()

    return build()


@pytest.fixture(scope="module", autouse=True)
def in_memory() -> Iterator[dict[str, bytes]]:
    """The files, by their names."""
    files: dict[str, bytes] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "load", lambda path: files[path])
        yield files


How: TypeAlias = tuple[Version, bool, bool]
how = st.tuples(st.sampled_from(GENERATIONS), st.booleans(), st.booleans())


def check(
    files: dict[str, bytes],
    spoe: bytes,
    haproxy: bytes,
    how: How,
) -> None:
    """Run all checks.

    :param how: for which version, whether with handlers, and whether with haproxy.cfg.
    """
    files |= {"spoe.conf": spoe, "haproxy.cfg": haproxy}
    version, with_handlers, with_haproxy = how
    names = ["haproxy.cfg"] if with_haproxy else []
    configuration = reading.read(["spoe.conf"], names, version=version, environment={})
    for item in join({version: find(configuration, ANSWERS if with_handlers else None)}):
        place = item.finding.place
        assert item.finding.id in BY_ID
        assert 1 <= place.line <= files[place.file].count(b"\n") + 1
        assert as_text(item).isprintable()
        as_json(item)


@given(spoe=mutated(SPOE_LINES), haproxy=mutated(HAPROXY_LINES), how=how)
def test_mutations(in_memory: dict[str, bytes], spoe: bytes, haproxy: bytes, how: How) -> None:
    check(in_memory, spoe, haproxy, how)


@given(spoe=st.lists(new_line, max_size=12), haproxy=st.lists(new_line, max_size=12), how=how)
def test_lines_of_known_words(in_memory: dict[str, bytes], spoe: list[str], haproxy: list[str], how: How) -> None:
    check(in_memory, "\n".join(spoe).encode(), "\n".join(haproxy).encode(), how)


@given(spoe=st.binary(max_size=300), haproxy=st.binary(max_size=300), how=how)
@example(
    spoe=b"[x]\nspoe-agent\nspoe-message\nspoe-group\n",
    haproxy=b"frontend\nbackend\ndefaults\nlisten\n",
    how=(NEW, True, True),
)
def test_any_bytes(in_memory: dict[str, bytes], spoe: bytes, haproxy: bytes, how: How) -> None:
    check(in_memory, spoe, haproxy, how)


@pytest.mark.parametrize("lines", [SPOE_LINES, HAPROXY_LINES], ids=["spoe.conf", "haproxy.cfg"])
def test_lines_that_end_at_each_word(in_memory: dict[str, bytes], lines: list[str]) -> None:
    """A line may be cut anywhere: a keyword without its value is an error of HAProxy's, and no exception."""
    for number, line in enumerate(lines):
        words = line.split()
        for count in range(len(words)):
            cut = "\n".join([*lines[:number], " ".join(words[:count]), *lines[number + 1 :]]).encode() + b"\n"
            spoe, haproxy = (cut, HAPROXY.encode()) if lines is SPOE_LINES else (SPOE.encode(), cut)
            check(in_memory, spoe, haproxy, (GENERATIONS[count % 2], True, True))
