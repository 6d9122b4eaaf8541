"""The status of an agent: what it does now, what it has counted since its start, and what is wrong.

:mod:`report` has the types of all data in this package. The agent's process fills in a :class:`~report.Report`. The
process that serves the status makes a :class:`~report.Status` of one report, or of the reports of all workers.
"""
