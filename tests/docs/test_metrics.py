"""docs/reference/metrics.rst has the metrics of the agent."""

from __future__ import annotations

import re

from spoa_twisted.observer import Outcome
from spoa_twisted.status import metrics
from tests.status.metric_names import METRICS
from tests.status.reports import status

from .pages import Page

PAGE = Page("reference/metrics")


def test_the_list() -> None:
    """It has each metric, with its type and its labels."""
    types = {}
    for family in metrics.collect(status()):
        # The name of the series: the format adds _total to that of a counter, and _info to that of an info.
        types[family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")] = family.type
    kinds, labels = {}, {}
    for name, (classifier,), meaning in PAGE.definitions("All metrics"):
        kinds[name], _, listed = classifier.partition(", labels ")
        labels[name] = set(re.findall(r"\w+", listed))
        assert meaning
    assert kinds == types
    assert labels == METRICS


def test_the_values_of_labels() -> None:
    """Each value that an agent may use is named below its label."""
    text = PAGE.text.partition("Values of the labels\n---")[2]
    named = dict(re.findall(r"^(``\w+`` of ``\w+``)\n((?:   .*\n)+)", text, re.MULTILINE))
    for label, values in {
        "``result`` of ``spoa_messages_total``": [outcome.value for outcome in Outcome],
        "``reason`` of ``spoa_dropped_total``": metrics._DROPPED,
        "``reason`` of ``spoa_worker_restarts_total``": metrics._RESTARTS,
        "``result`` of ``spoa_reloads_total``": metrics._RELOADS,
    }.items():
        assert [value for value in values if f"``{value}``" not in named[label]] == []
