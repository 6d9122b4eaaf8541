"""Tests of the agent with real HAProxy binaries, one of each branch found."""
