"""ctl.endpoint: the endpoint of an agent, and hints for other texts."""

from __future__ import annotations

import argparse

import pytest

from spoa_twisted.ctl.endpoint import DEFAULT_AGENT, endpoint, is_endpoint
from spoa_twisted.endpoints import DEFAULT_ENDPOINT
from tests.certificates import skip_without_tls

ENDPOINTS = [DEFAULT_AGENT, "tcp:localhost:12345", "unix:/run/agent.sock"]

#: Texts that users write for an endpoint, and the endpoint that they mean.
SUGGESTIONS = [
    ("127.0.0.1:1234", "tcp:127.0.0.1:1234"),
    ("localhost:1234", "tcp:localhost:1234"),
    ("127.0.0.1", "tcp:127.0.0.1:12345"),
    ("agent-1.example.com", "tcp:agent-1.example.com:12345"),
    ("1234", "tcp:127.0.0.1:1234"),
    ("tcp:1234", "tcp:127.0.0.1:1234"),
    ("tcp:1234:interface=192.0.2.1", "tcp:192.0.2.1:1234"),
    (DEFAULT_ENDPOINT, DEFAULT_AGENT),
    ("/run/agent.sock", "unix:/run/agent.sock"),
    ("./agent.sock", "unix:./agent.sock"),
]

OTHERS = ["", "nonsense:x", "tpc:127.0.0.1:12345", "http://127.0.0.1:12345", "tcp:127.0.0.1:x", "[::1]:12345", "::1"]


@pytest.mark.parametrize("text", ENDPOINTS)
def test_an_endpoint(text: str) -> None:
    """A description of an endpoint is returned unchanged."""
    assert endpoint(text) == text
    assert is_endpoint(text)


def test_an_endpoint_with_tls() -> None:
    """It is an endpoint too."""
    skip_without_tls()
    assert endpoint("tls:localhost:12345") == "tls:localhost:12345"


@pytest.mark.parametrize(("text", "meant"), SUGGESTIONS)
def test_a_suggestion(text: str, meant: str) -> None:
    """The error says what to write, and that is an endpoint."""
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        endpoint(text)
    assert str(caught.value) == f"'{text}' is not a Twisted client endpoint: write {meant}"
    assert endpoint(meant) == meant
    assert not is_endpoint(text)


@pytest.mark.parametrize("text", OTHERS)
def test_a_text_without_a_suggestion(text: str) -> None:
    """The error has the text, Twisted's reason, and the usual forms of an endpoint."""
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        endpoint(text)
    error = str(caught.value)
    assert error.startswith(f"'{text}' is not a Twisted client endpoint: ")
    assert error.endswith("; write tcp:HOST:PORT or unix:PATH")
    assert not is_endpoint(text)
