"""Tests of ``docs/``: each block of a page is run, and what a page shows is compared with what is printed."""
