"""The pytest plugin: runs of programs as a fixture, repeated with a crash at each step, and shown where they fail.

    def test_burst(run_app):
        t = run_app(app)
        t.send("payments", [Payment("c1", 0, 5), Payment("c1", 30_000, 7)])
        t.expect("alerts", [Alert("c1", 30_000, "BURST")])

`@pytest.mark.streams_crashes` repeats such a test without a crash and with one at each step; the option
`--streams-crashes` repeats all tests that use `run_app`, `--no-streams-crashes` none. A failure's report shows what lay
in the outputs.

pytest loads this module wherever the package is installed: it imports nothing of the engine before it is asked to.
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from streams.app import App
    from streams.testing import TestRun

_RUNS: "pytest.StashKey[list[TestRun]]" = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The two options."""
    group = parser.getgroup("streams", "programs of the stream processor")
    group.addoption(
        "--streams-crashes",
        action="store_true",
        dest="streams_crashes",
        default=None,
        help="repeat every test that uses `run_app` with a crash at each step of the commit",
    )
    group.addoption(
        "--no-streams-crashes",
        action="store_false",
        dest="streams_crashes",
        help="repeat none, not even those marked with streams_crashes",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    config.addinivalue_line(
        "markers",
        "streams_crashes(*steps): repeat the test without a crash and with one at each of these steps of the commit "
        "(by default all of streams.protocol.STEPS)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat tests with a crash at each step."""
    if "crash_step" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("streams_crashes")
    wanted = metafunc.config.getoption("streams_crashes")
    if wanted is False or (marker is None and not wanted):
        return
    from streams.testing import CRASHES

    steps = (None, *marker.args) if marker is not None and marker.args else CRASHES
    metafunc.parametrize("crash_step", steps, indirect=True, ids=[step or "no-crash" for step in steps])


@pytest.fixture
def crash_step(request: pytest.FixtureRequest) -> str | None:
    """The step of the commit at which workers of this test die; None where it is not repeated with crashes."""
    return getattr(request, "param", None)


@pytest.fixture
def run_app(request: pytest.FixtureRequest, crash_step: str | None) -> "Generator[Callable[..., TestRun]]":
    """Starts a run of a program that ends with the test: `t = run_app(app)`, with the arguments of `app.test`."""
    runs: list[TestRun] = request.node.stash.setdefault(_RUNS, [])
    with ExitStack() as stack:

        def start(app: "App", **options: Any) -> "TestRun":
            run = app.test(**{"crash_at": crash_step, **options})
            runs.append(stack.enter_context(run))
            return run

        yield start
        runs.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test's report says what lay in the outputs of its runs, which still exist now."""
    report = yield
    if report.when == "call" and report.failed:
        for run in item.stash.get(_RUNS, []):
            try:
                text = run.report()
            except Exception as error:  # the run may be what failed
                text = f"cannot be read: {type(error).__name__}: {error}"
            report.sections.append((f"streams: run of {run.app.name!r}", text))
    return report
