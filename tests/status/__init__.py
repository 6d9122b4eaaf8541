"""Tests of the status: a file for each module of ``spoa_twisted.status``, and :mod:`examples` of statuses."""
