"""The status as metrics of Prometheus, in the text format or in that of OpenMetrics.

This module needs the package ``prometheus-client``, which the extra ``metrics`` installs. Other modules import it only
when somebody asks for metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, final

from prometheus_client import REGISTRY
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from twisted.logger import Logger

from spoa_twisted.observer import Outcome
from spoa_twisted.status.report import BOUNDS, NONE, Histogram, MessageTotals, Process, Status

# The labels that exist from the start, with the value 0. Without the 0, rate() would not see the first failure.
_RESULTS: Final = tuple(outcome.value for outcome in Outcome if outcome is not Outcome.UNHANDLED)
_DROPPED: Final = ("unread", "hello_timeout", "payload")
_RELOADS: Final = ("ok", "failed")
_RESTARTS: Final = ("exit", "signal", "stall", "reload")

_log = Logger()


def expose(status: Status, accept: str = "", others: Iterable[Metric] | None = None) -> tuple[bytes, str]:
    """Return the metrics and their content type. This takes milliseconds: call it in a thread.

    :param accept: the header ``Accept`` of the request. It chooses the format.
    :param others: metrics of the application. Without it, those in ``prometheus_client.REGISTRY``, where the handlers'
        modules register theirs.
    """
    encode, content_type = choose_encoder(accept)
    own = list(collect(status))
    try:
        return encode(_Families([*own, *_foreign(own, others)])), content_type
    except Exception:
        # For example a label that is no Unicode text.
        _log.failure("the metrics of the application cannot be exposed; those of the agent can")
        return encode(_Families(own)), content_type


def collect(status: Status) -> Iterator[Metric]:
    """Yield the metrics of ``status``."""
    totals = status["totals"]
    versions = {name: status[name] for name in ("version", "python", "twisted")}
    yield InfoMetricFamily("spoa", "The versions of spoa_twisted, Python and Twisted.", versions)
    yield from _messages(totals["messages"])
    notify = HistogramMetricFamily("spoa_notify_duration_seconds", "From the last byte of a NOTIFY to its ACK.")
    _add_histogram(notify, [], totals["notify"])
    yield notify
    yield _counter("connections_made", "Connections that were made, health checks included.", totals["connections"])
    yield _counter("connections_refused", "Connections closed at once, by max_connections.", totals["refused"])
    yield _counter("health_checks", "Connections that were health checks of HAProxy.", totals["health_checks"])
    disconnects = CounterMetricFamily("spoa_disconnects", "DISCONNECT frames, by sender.", labels=["by", "code"])
    for key, count in sorted({"agent 0": 0, "haproxy 0": 0, **totals["disconnects"]}.items()):
        disconnects.add_metric(key.split(" ", 1), count)
    yield disconnects
    yield _counters("dropped", "Connections or NOTIFYs that the agent dropped.", "reason", totals["dropped"], _DROPPED)
    yield _counter("reactor_stalls", "How often the reactor stood still for a second.", totals["stalls"])
    yield _counter("reactor_stall_seconds", "For how long the reactor stood still.", totals["stall_seconds"])
    yield from _processes(status["processes"])
    reloads = status["reloads"]
    yield _counters("reloads", "Reloads of the workers.", "result", reloads["results"], _RELOADS)
    yield GaugeMetricFamily("spoa_last_reload_success", "0 if the last reload failed.", int(reloads["last_ok"]))
    yield _counters("worker_restarts", "Workers that were replaced.", "reason", status["restarts"], _RESTARTS)


def _messages(messages: Mapping[str, MessageTotals]) -> Iterator[Metric]:
    results = CounterMetricFamily("spoa_messages", "Messages of NOTIFYs.", labels=["message", "result"])
    durations = HistogramMetricFamily(
        "spoa_message_duration_seconds", "How long the handlers of a message took.", labels=["message"]
    )
    for name, totals in sorted(messages.items()):
        zeros = {} if name == NONE else dict.fromkeys(_RESULTS, 0)
        for result, count in {**zeros, **totals["results"]}.items():
            results.add_metric([name, result], count)
        if name != NONE:
            _add_histogram(durations, [name], totals["duration"])
    yield results
    yield durations


def _processes(processes: Iterable[Process]) -> Iterator[Metric]:
    processes = list(processes)

    def gauge(name: str, text: str, values: Mapping[int, float]) -> Metric:
        metric = GaugeMetricFamily(f"spoa_{name}", text, labels=["worker"])
        for worker, value in sorted(values.items()):
            metric.add_metric([str(worker)], value)
        return metric

    # While a worker is replaced, two processes may have its number.
    def sums(values: Iterable[float]) -> dict[int, float]:
        result: dict[int, float] = {}
        for process, value in zip(processes, values, strict=True):
            result[process["worker"]] = result.get(process["worker"], 0) + value
        return result

    connections = sums(process["connections"] for process in processes)
    yield gauge("connections", "Open connections.", connections)
    yield gauge("in_flight", "NOTIFYs whose handlers have not finished.", sums(p["in_flight"] for p in processes))
    waiting = sum(process["blocking_waiting"] for process in processes)
    yield GaugeMetricFamily("spoa_blocking_waiting", "Calls that wait for one of the blocking_threads.", waiting)
    held_back = sum(process["held_back"] for process in processes)
    yield GaugeMetricFamily("spoa_held_back_bytes", "ACKs that wait until HAProxy has read others.", held_back)
    lag: dict[int, float] = {}
    for process in processes:
        lag[process["worker"]] = max(process["lag"], lag.get(process["worker"], 0.0))
    yield gauge("reactor_lag_seconds", "How late the last timer came.", lag)
    memory = sums(process["resident_memory"] for process in processes)
    yield gauge("worker_resident_memory_bytes", "Resident memory.", memory)
    cpu = CounterMetricFamily("spoa_worker_cpu_seconds", "CPU time.", labels=["worker"])
    for worker, seconds in sorted(sums(process["cpu_seconds"] for process in processes).items()):
        cpu.add_metric([str(worker)], seconds)
    yield cpu


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"spoa_{name}", text, value)


def _counters(name: str, text: str, label: str, values: Mapping[str, int], known: Sequence[str]) -> Metric:
    """Return a counter with one label. Its ``known`` values exist also if they are 0."""
    metric = CounterMetricFamily(f"spoa_{name}", text, labels=[label])
    for key, value in {**dict.fromkeys(known, 0), **values}.items():
        metric.add_metric([key], value)
    return metric


def _add_histogram(metric: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    bounds = [*map(str, BOUNDS), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram["buckets"]), strict=True))
    metric.add_metric(labels, buckets=buckets, sum_value=histogram["sum"])


def _foreign(own: Sequence[Metric], others: Iterable[Metric] | None) -> list[Metric]:
    """Return the metrics of the application, without names that are the agent's: a name must not appear twice."""
    names = {metric.name for metric in own}
    return [metric for metric in (REGISTRY.collect() if others is None else others) if metric.name not in names]


@final
class _Families:
    """A registry as the encoders of ``prometheus_client`` need it."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Any:
        """Return the metrics."""
        return self._families
