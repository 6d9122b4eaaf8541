"""Fixtures for the tests of the documentation."""

from tests.machine import load_text, machine

__all__ = ["load_text", "machine"]
