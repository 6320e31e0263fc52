"""Rendering, from a status to text."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from fraud.progress import Found
from fraud.view import DemoView
from streams.runtime.reporter import Status
from streams.terminal.figures import Figures, Meter, as_fields, as_line, merged, summary
from streams.terminal.view import WorkerView

STATUS = Status(
    records_in=1_234_567,
    records_out={"fraud.alerts": 4321, "fraud-0-changelog": 99, "fraud-by-terminal-shuffle": 98, "a" * 40: 7},
    late=12,
    dead=34,
    commits=56,
    aborts=2,
    last_commit_seconds=0.045,
    watermark=1_522_540_800_000,
    watermark_delay=86_400.0 * 27,
    state_bytes=12_300_000,
    lag=789,
    tasks={"0/0": "running", "0/1": "running", "1/0": "restoring"},
)
FIGURES = Figures("fraud", "0", "the embedded log in a directory with a long name", 12.0, STATUS, 45_678.9, 321.0)
SHOWN = (
    "1,234,567",
    "45,679",
    "321",
    "789",
    "2018-04-01 00:00",
    "27 d",
    "12.3 MB",
    "45 ms",
    "4,321",
    "12",
    "34",
    "56",
)


def text(view: object, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


@pytest.mark.parametrize("width", [60, 80, 140])
def test_all_figures_fit(width: int) -> None:
    shown = text(WorkerView(FIGURES), width)
    assert max(len(line) for line in shown.splitlines()) <= width
    words = shown.split()
    for figure in SHOWN:
        assert figure in shown if " " in figure else figure in words, (figure, shown)
    assert "tasks running" in shown
    assert "tasks restoring" in shown
    assert "aborted commits" in shown
    assert "changelog" not in shown
    assert "shuffle" not in shown


def test_a_wider_terminal_takes_fewer_lines() -> None:
    heights = [len(text(WorkerView(FIGURES), width).splitlines()) for width in (60, 80, 140)]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == 3


@pytest.mark.parametrize("width", [1, 20, 30])
def test_a_very_narrow_terminal_breaks_nothing(width: int) -> None:
    assert max(len(line) for line in text(WorkerView(FIGURES), width).splitlines()) <= width


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_demo_shows_its_days_and_alerts(width: int) -> None:
    found = Found(days=183, start=1_522_540_800_000 - 86_400_000 * 9)
    found.alerts.update(AMT_ABS=3, TERM_RISK=4)
    found.first = 3.3
    shown = text(DemoView(FIGURES, found), width)
    assert "day 10 of 183" in shown
    assert "3.3 s" in shown
    assert "> AMT_ABS" in shown
    lines = shown.splitlines()
    assert max(len(line) for line in lines) <= width
    bar = next(line for line in lines if "━" in line)
    assert set(bar) <= set("━╸╺ ")


def test_a_line_has_all_figures() -> None:
    line = as_line(FIGURES)
    for figure in SHOWN[:-1]:
        assert figure in line
    assert "2 running, 1 restoring" in line
    assert "changelog" not in line


def test_fields_are_numbers() -> None:
    fields = as_fields(FIGURES)
    assert fields["records_out"] == {"a" * 40: 7, "fraud.alerts": 4321}
    assert fields["tasks"] == {"running": 2, "restoring": 1}
    assert fields["watermark_delay_seconds"] == 86_400 * 27


def test_before_anything_has_happened() -> None:
    figures = Meter("a", "0", "a log").look(Status())
    assert "tasks none" in as_line(figures)
    assert "event at" in text(WorkerView(figures), 80)
    assert summary(figures).startswith("done: 0 records in, 0 out, 0 commits")


def test_rates_are_those_of_the_last_seconds() -> None:
    now = iter([float(second) for second in range(100)])
    meter = Meter("a", "0", "a log", now=lambda: next(now))
    for second in range(1, 11):
        figures = meter.look(Status(records_in=1000 * second, records_out={"x": 10 * second, "a-0-changelog": 9**9}))
    assert (figures.rate_in, figures.rate_out) == (1000, 10)
    for _ in range(10):
        figures = meter.look(Status(records_in=10_000, records_out={"x": 100}))
    assert figures.rate_in == 0
    assert meter.look(Status(records_in=5)).rate_in == 0, "a worker that began anew is not negatively fast"


def test_figures_do_not_change_with_the_status() -> None:
    status = Status(records_out={"x": 1}, tasks={"0/0": "running"})
    figures = Meter("a", "0", "a log").look(status)
    status.records_out["x"] = 2
    assert figures.outputs == {"x": 1}


def test_several_workers_as_one() -> None:
    both = merged([STATUS, Status(records_in=3, records_out={"fraud.alerts": 1}, watermark_delay=1e9, watermark=5)])
    assert both.records_in == 1_234_570
    assert both.records_out["fraud.alerts"] == 4322
    assert (both.watermark, both.watermark_delay) == (5, 1e9)
    assert both.last_commit_seconds == 0.045


def test_old_data_is_no_delay() -> None:
    """Event time is shown; that it is years behind the clock says nothing about the worker."""
    old = replace(FIGURES, status=replace(STATUS, watermark_delay=86_400.0 * 2772))
    assert "event time 2018-04-01 00:00 (old data)" in as_line(old)
    assert "2,772 d" not in text(WorkerView(old), 80)
    assert as_fields(old)["watermark_delay_seconds"] == 86_400 * 2772
