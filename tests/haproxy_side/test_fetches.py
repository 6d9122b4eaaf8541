"""The table of fetches is that of HAProxy."""

from __future__ import annotations

from pathlib import Path

import pytest

from spoa_twisted.haproxy.fetches import COMMON, EVENT_PLACES, PLACES, fetches, find_fetch, parse_fetches
from spoa_twisted.haproxy.order import EVENTS
from tests.haproxy.branches import Branch


def test_common_fetches(branch: Branch) -> None:
    """HAProxy knows each fetch of the table, with the same type, and in the same places."""
    known = fetches(str(branch.executable))
    assert len(known) > 400
    for name, fetch in COMMON.items():
        assert known[name].places == fetch.places
        type_ = "ipv4" if fetch.type == "addr" and branch.version < (3, 0) else fetch.type
        assert known[name].type == type_


def test_without_haproxy(tmp_path: Path) -> None:
    """Without a HAProxy that answers there is the table."""
    silent = tmp_path / "haproxy"
    silent.write_text("#!/bin/sh\n")
    silent.chmod(0o755)
    assert fetches() is COMMON
    assert fetches(str(tmp_path / "none")) is COMMON
    assert fetches("a\0b") is COMMON
    assert fetches(str(silent)) is COMMON


def test_places() -> None:
    """A fetch knows where HAProxy accepts it."""
    text = f"# [ Y . ] comment\n[ {'Y . ' * (len(PLACES) // 2)}] lua.a(string[,string]): str\n"
    (fetch,) = parse_fetches(text).values()
    assert (fetch.name, fetch.type, fetch.places) == ("lua.a", "str", frozenset(PLACES[::2]))
    assert EVENT_PLACES.keys() == EVENTS.keys()
    assert EVENT_PLACES["on-client-session"] not in COMMON["req.hdr"].places
    assert EVENT_PLACES["on-frontend-http-request"] in COMMON["req.hdr"].places
    assert EVENT_PLACES["on-http-response"] not in COMMON["req.hdr"].places


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("path", "path"),
        ("path_beg", "path"),
        ("hdr_dom", "hdr"),
        ("url_param", "url_param"),
        ("nope", None),
        ("_beg", None),
    ],
)
def test_find(name: str, found: str | None) -> None:
    """An ACL keyword is a fetch with a matching method."""
    fetch = find_fetch(name)
    assert (fetch and fetch.name) == found


def test_type_on_the_wire() -> None:
    """HAProxy sends req.hdrs as a STRING, though it lists it as ``bin``."""
    assert (COMMON["req.hdrs"].type, COMMON["req.hdrs"].wire_type, COMMON["src"].wire_type) == ("bin", "str", "addr")
