"""Tests of ``spoactl bench``."""
