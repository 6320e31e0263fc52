"""Alert rules: Prometheus takes them, they fire when they should, and each has its section in docs/operations.md."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from dashboards import catalogue, promql
from tests.debian import program

ROOT = Path(__file__).parent.parent.parent
PROMETHEUS = ROOT / "dashboards" / "prometheus"
PAGE = (ROOT / "docs" / "operations.md").read_text()
RULES = [r for g in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"] for r in g["rules"]]


def promtool(*arguments: str) -> None:
    found = program("prometheus", "promtool")
    done = subprocess.run([found, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules():
    promtool("check", "rules", "alerts.yml")


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-local.yml"])
def test_prometheus_takes_the_configuration(name):
    promtool("check", "config", name)


def test_alerts_fire_when_they_should():
    promtool("test", "rules", "alerts_test.yml")


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r["alert"])
def test_an_alert_says_what_to_do(rule):
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert {"summary", "description", "runbook_url"} <= rule["annotations"].keys()
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page == "docs/operations.md"
    assert anchor == rule["alert"].lower()
    assert anchor in anchors(PAGE)


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r["alert"])
def test_an_alert_names_metrics_that_exist(rule):
    named = promql.metrics(rule["expr"])
    assert named
    assert named <= catalogue.names() | {"up"}


def test_a_metric_that_does_not_exist_is_found():
    assert promql.metrics("rate(streams_comits_total[5m])") - catalogue.names() == {"streams_comits_total"}


def test_the_pages_sections_are_those_of_the_alerts():
    sections = re.findall(r"^### (Streams\w+)$", PAGE, re.MULTILINE)
    assert sections == [rule["alert"] for rule in RULES]


def test_the_pages_table_of_metrics_is_up_to_date():
    assert catalogue.in_page(PAGE) == PAGE, "out of date: run python -m dashboards"


def test_the_metrics_that_the_page_names_exist():
    known = catalogue.names() | {metric.name for metric in catalogue.declared()}
    for name in re.findall(r"\bstreams_[a-z_]+[a-z]\b(?!\.)", PAGE):
        assert name in known or any(k.startswith(name + "_") for k in known), name


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#{1,3} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def commands() -> list[str]:
    """The page's lines `streams ...`: in blocks, in text, in the unit file."""
    blocks = re.findall(r"^(?: {4}|ExecStart=\S*/)(streams .+)$", PAGE, re.MULTILINE)
    return sorted({*blocks, *re.findall(r"`(streams [a-z][^`]*)`", PAGE)})


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_page_exists(line):
    """Its name and options are checked by the command line itself; nothing is run."""
    from streams.cli import assembled

    command: click.Command = assembled()
    words = shlex.split(line)[1:]
    context = click.Context(command, info_name="streams")
    while isinstance(command, click.Group):
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        context, command = click.Context(found, parent=context), found
        if not words:
            return  # named without arguments, in a sentence
    command.make_parser(context).parse_args([word for word in words if word != "..."])
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known


def test_commands_are_found_in_the_page():
    assert len(commands()) >= 10


def test_the_systemd_unit_waits_longer_for_the_supervisor_than_it_waits_for_its_workers():
    from streams.cli import assembled
    from streams.core.time import duration

    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", PAGE, re.MULTILINE)
    run = assembled().commands["run"]
    timeout = next(p for p in run.params if p.name == "stop_timeout")
    assert int(stop) * 1000 > duration(str(timeout.default))


def test_python_runs_the_catalogue():
    done = subprocess.run([sys.executable, "-m", "dashboards", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
