"""The status of an agent: what it does now, what it has counted since its start, and what is wrong.

:mod:`report` has the types of all data in this package. These modules make and serve the data, in this order::

    counters     the numbers that the agent changes with each NOTIFY
    recorder     counts the events of the agent, and keeps its problems
    problems     each problem once
    local        the Report of one process
    totals       adds up Reports
    history      the last minute
    merged       the Status: of one Report, or of those of all workers
    metrics      the Status for Prometheus
    site         the Status by HTTP
    service      an endpoint for the site
"""
