"""Tests with a real HAProxy take the fixtures of ``tests/haproxy``: ``start_haproxy``, ``serve`` and so on."""

from __future__ import annotations

from tests.haproxy.conftest import (
    agent_log,
    figures,
    processes,
    pytest_runtest_makereport,
    serve,
    start_agent,
    start_haproxy,
)

__all__ = [
    "agent_log",
    "figures",
    "processes",
    "pytest_runtest_makereport",
    "serve",
    "start_agent",
    "start_haproxy",
]
