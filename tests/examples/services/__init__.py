"""Servers that the tests of the examples start."""
