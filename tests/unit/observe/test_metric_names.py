"""Every metric that the alert rules, the dashboard and the docs name is one that ``/metrics`` shows."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from kateway.observe.families import FAMILIES

ROOT = Path(__file__).resolve().parents[3]
NAME = re.compile(r"\b(?:kateway|process)_[a-z0-9_]+\b")
LABEL = re.compile(r"\{([^{}]*)\}")
OF_PROMETHEUS = {"job", "instance", "le"}


def series() -> dict[str, set[str]]:
    """Returns the labels of each name that a sample may have."""
    found: dict[str, set[str]] = {}
    for family in FAMILIES.values():
        endings = ("_bucket", "_sum", "_count") if family.kind == "histogram" else ("",)
        for ending in endings:
            found[family.name + ending] = set(family.labels)
    return found


def expressions() -> list[str]:
    rules = (ROOT / "conf/prometheus-alerts.yml").read_text()
    # an expression stands behind "expr:", on its line or on those below it that are indented further
    alerts = re.findall(r"^ {8}expr: (?:>-\n((?: {10}.*\n)+)|(.*)\n)", rules, re.MULTILINE)
    board: Any = json.loads((ROOT / "conf/grafana-dashboard.json").read_text())
    targets = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    queries = [each["query"]["query"] for each in board["templating"]["list"] if isinstance(each["query"], dict)]
    marks = [each["expr"] for each in board["annotations"]["list"]]
    return [first or second for first, second in alerts] + targets + queries + marks


def test_every_metric_of_alerts_and_dashboard_is_there() -> None:
    known = series()
    asked = expressions()
    assert len(asked) > 60
    assert {name for each in asked for name in NAME.findall(each)} - known.keys() == set()


def test_every_label_that_a_metric_is_chosen_by_is_one_of_its_own() -> None:
    known = series()
    for expression in expressions():
        for name, selected in re.findall(r"\b((?:kateway|process)_[a-z0-9_]+)\{([^{}]*)\}", expression):
            chosen = {each.strip() for each in re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", selected)}
            assert chosen <= known[name] | OF_PROMETHEUS, expression


def test_every_label_in_an_alerts_text_is_one_of_its_metrics() -> None:
    rules = (ROOT / "conf/prometheus-alerts.yml").read_text()
    known = series()
    for rule in rules.split("- alert: ")[1:]:
        named = set().union(*(known[name] for name in NAME.findall(rule)))
        assert set(re.findall(r"\$labels\.([a-z_]+)", rule)) <= named | OF_PROMETHEUS, rule


def test_page_lists_every_family_once_in_order() -> None:
    page = (ROOT / "docs/metrics.rst").read_text(encoding="utf-8")
    lines = re.findall(r'^   ("``.*")$', page, re.MULTILINE)
    rows = [tuple(row) for row in csv.reader(lines, skipinitialspace=True)]
    assert rows == [
        (f"``{family.name}``", family.kind, ", ".join(family.labels), family.help) for family in FAMILIES.values()
    ]
