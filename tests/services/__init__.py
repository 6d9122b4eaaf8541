"""Servers that tests start. Benchmarks start some of them too, so the modules of those do not import pytest."""
