"""Tests of ``examples/monitoring``: it names only metrics and labels that exist, and each alert can fire."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.needs import load_yaml, needs_program
from tests.programs import ROOT
from tests.status.metric_names import METRICS

FOLDER = ROOT / "examples" / "monitoring"

#: Prometheus adds these labels to each metric, and ``le`` to the buckets of a histogram.
ADDED = {"instance", "job", "le"}

#: The results and reasons that the expressions name.
VALUES = {"result": {"ok", "error", "unsendable", "too_big", "timeout", "unhandled"}, "reason": {"reload"}}


def alerts() -> list[dict[str, Any]]:
    (group,) = load_yaml(FOLDER / "alerts.yaml")["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return found


def check_names(expression: str, legend: str = "") -> Iterator[str]:
    """Yield the metrics in ``expression``, and fail for one, for a label or for a value that does not exist."""
    names = set(re.findall(r"\bspoa_\w+", expression))
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)) | set(re.findall(r"\{\{(\w+)\}\}", legend))
    for group in re.findall(r"\bby \(([^)]*)\)", expression):
        labels.update(group.split(", "))
    known = set(ADDED)
    for name in names:
        metric = re.sub(r"(?<=_seconds)_(bucket|sum|count)$", "", name)
        assert metric in METRICS, name
        known |= METRICS[metric]
        yield metric
    assert labels <= known, expression
    for label, values in VALUES.items():
        for match in re.findall(rf"\b{label}\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"", expression):
            assert set(match.split("|")) <= values, expression


def test_the_alerts_name_what_exists() -> None:
    """Each has a severity, a summary and an action, and reads metrics of the agent."""
    for rule in alerts():
        names = set(check_names(rule["expr"]))
        assert names or rule["expr"] == 'up{job="spoa"} == 0'
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "action"}


def test_the_dashboard_names_what_exists() -> None:
    """Each panel has expressions with metrics of the agent, and panels do not overlap."""
    covered: set[tuple[int, int]] = set()
    for panel in panels():
        for target in panel["targets"]:
            assert set(check_names(target["expr"], target["legendFormat"]))
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not covered & cells
        covered |= cells
    assert max(x for x, _ in covered) < 24
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)


def test_the_options_in_texts_exist() -> None:
    """The name of an option in an action is one of ``twistd spoa``."""
    from spoa_twisted.tap import Options

    options: Any = Options()
    known = {option.rstrip("=") for option in options.longOpt}
    text = (FOLDER / "alerts.yaml").read_text() + (FOLDER / "prometheus.yaml").read_text()
    assert set(re.findall(r"--([a-z-]+)", text)) <= known


def test_a_name_that_does_not_exist_is_found() -> None:
    """A wrong metric, label or value in an expression makes these tests fail."""
    for expression in (
        "rate(spoa_message_total[5m])",
        'spoa_connections{engine="a"}',
        "sum by (code) (spoa_in_flight)",
    ):
        with pytest.raises(AssertionError):
            list(check_names(expression))
    with pytest.raises(AssertionError):
        list(check_names('spoa_messages_total{result="failed"}'))


@needs_program("promtool", "prometheus")
@pytest.mark.parametrize(
    "arguments", ["check config prometheus.yaml", "test rules alerts_test.yaml"], ids=["syntax", "behaviour"]
)
def test_prometheus_accepts_the_alerts(arguments: str) -> None:
    """Each alert fires for a sick agent, and none for a healthy one."""
    ended = subprocess.run(["promtool", *arguments.split()], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_each_alert_is_tried() -> None:
    """``alerts_test.yaml`` expects each of them to fire."""
    text = (FOLDER / "alerts_test.yaml").read_text()
    expected = re.findall(r'alertname="(\w+)"', text)
    assert sorted(expected) == sorted(rule["alert"] for rule in alerts())
