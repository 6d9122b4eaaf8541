"""Tests of the load: on a clock and without sockets, or against an agent in this process."""
