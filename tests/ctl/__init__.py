"""Tests of ``spoactl``: a file for each module of ``spoa_twisted.ctl``."""
