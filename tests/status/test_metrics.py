"""The metrics, read by the parsers of ``prometheus_client``, and checked by the rules of ``promtool check metrics``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from spoa_twisted.observer import Outcome
from spoa_twisted.status.metrics import collect, expose
from spoa_twisted.status.report import BOUNDS, Status
from tests.status.metric_names import METRICS
from tests.status.reports import report, status

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def families(made: Status, accept: str = "", others: Any = ()) -> list[Metric]:
    body, content_type = expose(made, accept, others)
    parse = parse_openmetrics if content_type.startswith("application/openmetrics") else parse_text
    return list(parse(body.decode()))


def samples(made: Status, **options: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families(made, **options)
        for sample in family.samples
    }


@pytest.fixture(params=["", OPENMETRICS])
def accept(request: pytest.FixtureRequest) -> str:
    text: str = request.param
    return text


def test_the_format(accept: str) -> None:
    """The one that the client asks for."""
    _, content_type = expose(status(), accept, ())
    assert content_type.startswith("application/openmetrics-text; version=1.0.0" if accept else "text/plain; version=")


def test_names_and_labels(accept: str) -> None:
    """Those that dashboards and alerts rely on, and no others. A histogram has three samples."""
    expected: dict[str, set[str]] = {}
    for name, labels in METRICS.items():
        if name.endswith("_duration_seconds"):
            expected |= {f"{name}_bucket": labels | {"le"}, f"{name}_count": labels, f"{name}_sum": labels}
        else:
            expected[name] = labels
    found: dict[str, set[str]] = {}
    for name, pairs in samples(status(), accept=accept):
        found.setdefault(name, set()).update(label for label, _ in pairs)
    assert found == expected


def test_the_rules_of_promtool(accept: str) -> None:
    """Each metric has a help text and a type; the names of counters end in _total; units are base units."""
    for family in families(status(), accept):
        assert family.documentation
        assert family.type in {"counter", "gauge", "histogram", "info"}
        assert re.fullmatch("spoa_[a-z_]+|spoa", family.name)
        assert not re.search("milli|micro|minutes|kilo|_ms$|_count$|_sum$|_bucket$", family.name)
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name == f"{family.name}_total"
            elif family.type == "gauge":
                assert not sample.name.endswith("_total")


@pytest.mark.parametrize("name", ["spoa_notify_duration_seconds", "spoa_message_duration_seconds"])
def test_histograms(name: str, accept: str) -> None:
    """Buckets are cumulative, and the last one has all."""
    made = status(report(number=5))
    made["totals"]["notify"]["buckets"][0] = 2
    made["totals"]["messages"]["m"]["duration"]["buckets"][0] = 2
    (family,) = [family for family in families(made, accept) if family.name == name]
    buckets = [(sample.labels["le"], sample.value) for sample in family.samples if sample.name.endswith("_bucket")]
    assert [float(bound) for bound, _ in buckets] == [*BOUNDS, float("inf")]
    values = [value for _, value in buckets]
    assert values == sorted(values)
    (count,) = [sample.value for sample in family.samples if sample.name.endswith("_count")]
    assert values[0] == 2.0
    assert values[-1] == count == 7.0


def test_values() -> None:
    made = status(report(1, 2), report(2, 3))
    found = samples(made)
    assert found["spoa_messages_total", (("message", "m"), ("result", "ok"))] == 5.0
    assert found["spoa_disconnects_total", (("by", "agent"), ("code", "0"))] == 5.0
    assert found["spoa_connections", (("worker", "2"),)] == 2.0
    assert found["spoa_blocking_waiting", ()] == 6.0
    assert found["spoa_reactor_stall_seconds_total", ()] == 2.5


def test_series_exist_before_the_first_event() -> None:
    """Without them, rate() would not see the step from nothing to 1."""
    found = samples(status(report(number=0)))
    for outcome in Outcome:
        key = ("spoa_messages_total", (("message", "m"), ("result", outcome.value)))
        assert (found.get(key) == 0.0) is (outcome is not Outcome.UNHANDLED)
    for reason in ("unread", "hello_timeout", "payload"):
        assert found["spoa_dropped_total", (("reason", reason),)] == 0.0


def test_messages_without_a_handler() -> None:
    """They have one result, and no durations."""
    made = status()
    made["totals"]["messages"]["(none)"] = {
        "results": {"unhandled": 3},
        "duration": made["totals"]["notify"],
    }
    found = {key: value for key, value in samples(made).items() if ("message", "(none)") in key[1]}
    assert found == {("spoa_messages_total", (("message", "(none)"), ("result", "unhandled"))): 3.0}


def test_two_processes_of_one_worker() -> None:
    """The old one drains, and the new one starts."""
    found = samples(status(report(1, connections=3, state="draining"), report(1, connections=1)))
    assert found["spoa_connections", (("worker", "1"),)] == 4.0


class TestOfTheApplication:
    def test_they_are_served_too(self, accept: str) -> None:
        registry = CollectorRegistry()
        Counter("lookups", "Lookups in the database.", registry=registry).inc(3)
        assert samples(status(), accept=accept, others=registry.collect())["lookups_total", ()] == 3.0

    def test_a_name_of_ours(self, accept: str) -> None:
        """A name that appears twice makes the whole scrape fail, so ours stays alone."""
        registry = CollectorRegistry()
        Gauge("spoa_in_flight", "The handler's own.", registry=registry).set(12345)
        found = samples(status(), accept=accept, others=registry.collect())
        assert 12345 not in found.values()
        assert found["spoa_in_flight", (("worker", "0"),)] == 1.0

    @pytest.mark.parametrize("kind", ["raises", "surrogate"])
    def test_ours_do_not_depend_on_them(self, kind: str, accept: str, logged: Any) -> None:
        """A collector raises, or a label is no text: the agent's own metrics are still served."""

        def others() -> Iterator[Metric]:
            if kind == "raises":
                raise LookupError("no such database")
            metric = CounterMetricFamily("lookups", "Lookups.", labels=["name"])
            metric.add_metric(["\ud800"], 1)
            yield metric

        assert samples(status(), accept=accept, others=others())["spoa_in_flight", (("worker", "0"),)] == 1.0
        (line,) = logged.take()
        assert "the metrics of the application cannot be exposed" in line

    def test_the_default_registry(self) -> None:
        """Without another one, that of the handlers' own modules."""
        assert b"python_info" in expose(status())[0]


def test_collecting_changes_nothing() -> None:
    made = status()
    before = repr(made)
    list(collect(made))
    assert repr(made) == before
