"""The pytest plugin, in a pytest of its own: as its user has it, and as one who does not use it."""

import subprocess
import sys
from pathlib import Path

import pytest

# Loaded here once: a pytest within pytest forgets the modules that it has imported, and NumPy cannot be loaded twice.
import operators  # noqa: F401

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
PLUGIN = "streams.pytest_plugin"

PROGRAM = """
import pytest
from operators import Keyed, Value
from streams import App, EventTime, Schema


class Payment(Schema):
    card: str
    at: EventTime
    amount: int


class Total(Schema):
    card: str
    total: int


class Totals(Keyed[Payment, Total]):
    total = Value(int, default=0)

    def on_row(self, row, ctx):
        if row.amount < 0:
            raise ValueError("negative")
        self.total.set(self.total.get() + row.amount)
        yield Total(row.card, self.total.get())


app = App("shop")
app.source("payments", Payment, key="card", start="earliest") | Totals() | app.sink("totals")


@pytest.fixture
def t(run_app):
    return run_app(app)
"""

GOOD = """
@pytest.mark.streams_crashes
def test_marked(t, crash_step):
    t.send("payments", [Payment("a", 1, 5), Payment("a", 2, 6)])
    t.send("payments", [Payment("a", 3, 7)])
    t.expect("totals", [Total("a", 5), Total("a", 11), Total("a", 18)])
    assert t.crashes == (0 if crash_step is None else 2)


@pytest.mark.streams_crashes("flushed", "committed")
def test_two_steps(t):
    t.send("payments", [Payment("a", 1, 5)])
    t.expect("totals", [Total("a", 5)])


def test_plain(t):
    assert t.read("totals") == []
"""


@pytest.fixture
def run(pytester):
    def run(source: str, *arguments: str):
        pytester.makepyfile(PROGRAM + source)
        return pytester.runpytest_inprocess("-p", PLUGIN, "-p", "no:cacheprovider", *arguments)

    return run


@pytest.mark.parametrize(
    ("arguments", "passed"), [([], 9 + 3 + 1), (["--streams-crashes"], 9 + 3 + 9), (["--no-streams-crashes"], 3)]
)
def test_which_tests_are_repeated(run, arguments, passed):
    run(GOOD, "--strict-markers", *arguments).assert_outcomes(passed=passed)


def test_a_failure_shows_the_outputs_and_the_dead_letters(run):
    result = run(
        """
def test_wrong(t):
    t.send("payments", [Payment("a", 1, 5), Payment("a", 2, -1)])
    t.expect("totals", [Total("a", 6)])
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *topic 'totals' has 1 rows, 1 were expected:",
            'E *differs     {"card": "a", "total": 5}: total is 5, expected 6',
            "E *1 dead letter:",
            "*streams: run of 'shop'*",
            "totals: 1 rows",
            '  {"card": "a", "total": 5}',
            "  payments/0/1, totals-1: totals-1: ValueError: negative",
        ]
    )
    assert "differences.py" not in result.stdout.str()


def test_a_run_that_cannot_be_read_does_not_hide_the_failure(run):
    result = run(
        """
def test_wrong(t):
    t._log.close()
    assert 1 == 2
"""
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E *assert 1 == 2", "cannot be read: *"])


def test_a_wrong_step_is_named(run):
    run('@pytest.mark.streams_crashes("comitted")\ndef test(t): pass').stdout.fnmatch_lines(
        ["*no step 'comitted'; did you mean 'committed'?*"]
    )


def test_who_does_not_use_it_does_not_load_the_engine():
    code = f"import sys, {PLUGIN}; print([m for m in ('polars', 'numpy', 'msgspec', 'click') if m in sys.modules])"
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert made.stdout.strip() == "[]"
