"""Fuzzing of all code that reads bytes from a peer. README.rst says how to run it."""
