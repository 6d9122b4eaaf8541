"""Any files are read without an error: bytes, words of the grammar, and configurations with mistakes."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from spoa_twisted.haproxy.configuration import Configuration
from spoa_twisted.haproxy.order import stage_of_event, stage_of_rule
from spoa_twisted.haproxy.reading import read

ENGINE = """\
[e]
spoe-agent a
    messages m
    groups g
    option var-prefix p
    option set-on-error err
    timeout processing 2s
    use-backend agents
.if version_atleast(3.1) || defined(X)
    log global
.else
    no log
.endif
spoe-group g
    messages m
spoe-message m
    args ip=src a=var(txn.a),lower "b=str('x,y')" req.hdr(x)
    acl bad src -f F -i 10.0.0.1
    event on-frontend-http-request if { var(txn.x) -m found } or !bad
[f]
"""
HAPROXY = """\
global
    setenv A "b c"
    default-path config
defaults d
    mode http
    option httpchk
    acl old var(sess.old)
    http-request deny if old
frontend www from d
    bind :80
    filter spoe engine e config spoe.conf
    acl bad var(txn.p.bad) -m bool
    tcp-request inspect-delay 5s
    http-request send-spoe-group e g unless bad
    http-request set-header X "%[var(txn.p.score)] ${A[*]}" if { acl(bad,!old) }
    no option httpchk
    use_backend %[var(txn.p.b)] if { req.hdr(x) -m str a }
backend agents
    mode tcp
    balance hash var(txn.p.score)
"""

#: The parts of which random files are made: words, quotes, spaces and line ends.
PARTS = sorted({*re.findall(r"[\w.:-]+|\s+|.", ENGINE + HAPROXY), "no", "unless", "from", "\0", "\\x00", "$"})

#: One of these is taken for an example.
VERSIONS = ((2, 6), (3, 2))


def read_texts(engine: bytes, haproxy: bytes) -> None:
    """Read two files, and use what is found."""
    with TemporaryDirectory() as folder:
        files = [Path(folder, "spoe.conf"), Path(folder, "haproxy.cfg")]
        for file, data in zip(files, (engine, haproxy), strict=True):
            file.write_bytes(data)
        found = read([files[0]], [files[1]], version=VERSIONS[len(engine) % 2], environment={"X": "1", "Y": ""})
    texts = {Path(each.name).name: str(each).encode("utf-8", "surrogateescape") for each in found.documents}
    assert texts == {"spoe.conf": engine, "haproxy.cfg": haproxy} | texts
    use(found)


def use(found: Configuration) -> None:
    """Ask for the order of all that a configuration has."""
    for proxy in found.proxies:
        for rule in proxy.rules:
            stage_of_rule(rule, proxy)
    for engine in found.engines:
        for message in () if engine.scope is None else engine.scope.messages:
            if message.event is not None:
                stage_of_event(message.event.name, engine.proxy)


@given(st.binary(), st.binary())
def test_any_bytes(engine: bytes, haproxy: bytes) -> None:
    """Files that are no configurations are read."""
    read_texts(engine, haproxy)


@given(st.lists(st.sampled_from(PARTS), max_size=60), st.lists(st.sampled_from(PARTS), max_size=60))
def test_any_parts(engine: list[str], haproxy: list[str]) -> None:
    """Files that are made of a configuration's words are read."""
    read_texts("".join(engine).encode(), "".join(haproxy).encode())


#: A place in a text, as a fraction, the number of parts that are left out there, and what is put in.
MISTAKES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.sampled_from(["", *PARTS])), max_size=6)


def with_mistakes(text: str, mistakes: list[tuple[float, int, str]]) -> bytes:
    """Return a text with some parts exchanged."""
    parts = re.findall(r"[\w.:-]+|\s+|.", text)
    for place, count, part in mistakes:
        start = int(place * len(parts))
        parts[start : start + count] = [part]
    return "".join(parts).encode()


@given(MISTAKES, MISTAKES)
def test_any_mistakes(engine: list[tuple[float, int, str]], haproxy: list[tuple[float, int, str]]) -> None:
    """Configurations with mistakes are read."""
    read_texts(with_mistakes(ENGINE, engine), with_mistakes(HAPROXY, haproxy))


def test_without_mistakes() -> None:
    """The configuration itself has what the other tests change."""
    read_texts(ENGINE.encode(), HAPROXY.encode())
