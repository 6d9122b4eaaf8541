"""Tests of an agent in a separate process, with peers, handlers and a machine that misbehave.

Each test checks that the fault costs the agent a bounded amount of memory, and that the same agent still answers.
"""
