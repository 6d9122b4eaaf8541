"""What is written about the programs, from the parsers of their command lines: as ``--help`` is.

``python -m tests.program_pages`` writes the manual pages, the reference page of the documentation, and the scripts for
the completion of shells. Run it after a change of a command line; ``tests/test_program_pages.py`` fails until then.

:mod:`programs` reads the parsers. :mod:`manual`, :mod:`reference`, :mod:`bash` and :mod:`zsh` write one kind of file
each.
"""
