"""Tests of ``examples/``: each example runs with real HAProxys and, where it asks a service, with the real service."""
