"""Dashboards: their JSON is up to date, and every query names what the engine declares."""

import json
import re
from pathlib import Path

import pytest
import yaml

from dashboards import catalogue, promql
from dashboards.__main__ import GRAFANA, generated
from streams.app import App

BOARDS = sorted(GRAFANA.glob("*.json"))


def queries(path: Path) -> list[tuple[str, str]]:
    """(panel's title, PromQL) of every target."""
    panels = json.loads(path.read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]


ALL = [(f"{path.stem}: {title}", text) for path in BOARDS for title, text in queries(path)]


@pytest.mark.parametrize("path", generated(), ids=lambda p: p.name)
def test_the_files_are_up_to_date(path):
    assert path.read_text() == generated()[path], "out of date: run python -m dashboards"


def test_no_dashboard_is_left_over():
    assert set(BOARDS) == {path for path in generated() if path.suffix == ".json"}


@pytest.mark.parametrize(("title", "text"), ALL, ids=[title for title, _ in ALL])
def test_a_query_names_metrics_and_labels_that_exist(title, text):
    named = promql.metrics(text)
    assert named
    assert named <= catalogue.names()
    labels = {label for metric in catalogue.declared() for label in metric.labels}
    grouped = {word for group in re.findall(r"\bby \(([^)]*)\)", text) for word in re.split(r",\s*", group)}
    assert grouped <= labels | {"app", "instance", "le", "sub"}  # sub: made by label_replace


@pytest.mark.parametrize(("title", "text"), ALL, ids=[title for title, _ in ALL])
def test_a_query_is_of_the_chosen_application(title, text):
    assert text.count('app="$app"') == len(re.findall(r"\bstreams_\w+", text))


def test_each_declared_metric_is_shown_or_alerted_on():
    rules = yaml.safe_load((GRAFANA.parent / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    used = set().union(*(promql.metrics(text) for _, text in ALL), *(promql.metrics(r["expr"]) for r in rules))
    assert [m.name for m in catalogue.declared() if not used.intersection(m.series)] == []


@pytest.mark.parametrize("path", BOARDS, ids=lambda p: p.name)
def test_panels_have_a_description_and_a_place_of_their_own(path):
    board = json.loads(path.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        assert panel["type"] == "row" or panel["description"], panel["title"]
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_dashboards_have_names_of_their_own():
    boards = [json.loads(path.read_text()) for path in BOARDS]
    assert len({board["uid"] for board in boards}) == len({board["title"] for board in boards}) == len(boards)


def test_the_fraud_dashboard_shows_the_pipelines_topics():
    from fraud.pipeline import app

    assert isinstance(app, App)
    text = (GRAFANA / "fraud.json").read_text()
    nodes = app.topology().graph.nodes.values()
    for topic in [n.sink.topic for n in nodes if n.sink] + [n.source.topic for n in nodes if n.source]:
        assert f'topic=\\"{topic}\\"' in text


@pytest.mark.parametrize("path", sorted(GRAFANA.glob("provisioning/*/*.yml")), ids=lambda p: p.name)
def test_provisioning_files_are_yaml_of_the_version_that_grafana_reads(path):
    assert yaml.safe_load(path.read_text())["apiVersion"] == 1
