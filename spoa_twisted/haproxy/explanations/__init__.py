"""What the numbers, words and lines mean by which HAProxy says that something went wrong with an agent.

:mod:`meaning` has the parts of an explanation. :mod:`statuses` explains the status of a NOTIFY (``st=`` in the log, and
the variable of ``option set-on-error``), :mod:`disconnects` the status codes of DISCONNECT frames, and :mod:`checks`
the results of health checks and the other lines about servers. :mod:`search` finds all these in a text.

``docs/reference/errors.rst`` is made from this data. A test fails until it is, and says how.
"""
