"""What becomes of a row on which a user's function fails: dead letter, stop, retry."""

import polars as pl
import pytest

from operators import FlatMap, Keyed, MapFrame, MapRows, Retry, Value
from streams import App, EventTime, Schema
from streams.core.errors import BuildError, OperatorError


class Tx(Schema):
    card: str
    at: EventTime
    n: int


class Out(Schema):
    card: str
    at: EventTime
    n: int


ROWS = [Tx("a", 0, 1), Tx("a", 1, 2), Tx("a", 2, 3)]


class Service:
    """Something outside that fails `failures` times at the row `at`."""

    def __init__(self, at: int, failures: int, error: BaseException | None = None) -> None:
        self.at, self.left, self.calls = at, failures, 0
        self.error = error if error is not None else ConnectionError("the service does not answer")

    def __call__(self, n: int) -> None:
        self.calls += 1
        if n == self.at and self.left:
            self.left -= 1
            raise self.error


def operators(service: Service, **how):
    """Each kind of operator around one function that calls the service."""

    def one(row):
        service(row.n)
        return Out(row.card, row.at, row.n)

    def several(row):
        service(row.n)
        yield Out(row.card, row.at, row.n)

    def whole(frame):
        for n in frame["n"].to_list():
            service(n)
        return frame.select("card", "at", "n")

    class Sum(Keyed[Tx, Out]):
        total = Value(int, default=0)
        on_error = how.get("on_error")

        def on_row(self, row, ctx):
            self.total.set(self.total.get() + row.n)  # undone where the call fails afterwards
            service(row.n)
            yield Out(row.card, row.at, self.total.get())

    return {
        "rows": lambda: MapRows(one, returns=Out, **how),
        "flat": lambda: FlatMap(several, returns=Out, **how),
        "frame": lambda: MapFrame(whole, returns=Out, **how),
        "keyed": Sum,
    }


def program(operator, **more) -> App:
    app = App("policy", **more)
    app.source("tx", Tx, key="card", start="earliest") | operator | app.sink("out")
    return app


KINDS = ["rows", "flat", "frame", "keyed"]


def right(kind: str, without: int | None = None) -> list[int]:
    kept = [r.n for r in ROWS if r.n != without]
    return kept if kind != "keyed" else [sum(kept[: i + 1]) for i in range(len(kept))]


@pytest.mark.parametrize("kind", KINDS)
def test_by_default_a_failing_row_is_a_dead_letter(kind):
    service = Service(2, 10**6)
    with program(operators(service)[kind]()).test() as t:
        t.send("tx", ROWS)
        assert [r.n if isinstance(r, Out) else r["n"] for r in t.read("out")] == right(kind, without=2)
        (letter,) = t.dead()
        assert "ConnectionError: the service does not answer" in letter[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [SystemExit(0), pl.exceptions.PanicException("index out of bounds")])
def test_what_is_no_exception_is_a_failure_too(kind, error):
    """`sys.exit(0)` in a function would end the worker as if in good order, and nobody would start it again."""
    with program(operators(Service(2, 10**6, error))[kind]()).test() as t:
        t.send("tx", ROWS)
        assert [r.n if isinstance(r, Out) else r["n"] for r in t.read("out")] == right(kind, without=2)
        (letter,) = t.dead()
        assert f"{type(error).__name__}: {error}" in letter[1]


def test_ctrl_c_in_a_function_is_none():
    app = program(operators(Service(2, 1, KeyboardInterrupt()))["rows"]())
    with app.test() as t, pytest.raises(KeyboardInterrupt):
        t.send("tx", ROWS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["app", "operator"])
def test_stop_ends_the_worker_and_the_row_is_processed_again(kind, where):
    service = Service(2, 1 if kind != "frame" else 3)  # a frame is halved: the row is called once more by itself
    how = {"on_error": "stop"}
    operator = operators(service, **(how if where == "operator" else {}))[kind]()
    app = program(operator, **(how if where == "app" else {}))
    with app.test() as t:
        with pytest.raises(OperatorError, match=r"(?s)stops the worker.*ConnectionError.*record 1 of tx/0"):
            t.send("tx", ROWS)
        assert t.read("out") == []
        t.restart()
        t.work()  # the service answers again
        assert [r.n if isinstance(r, Out) else r["n"] for r in t.read("out")] == right(kind)
        assert t.dead() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["retry", Retry(3, pause="1s")])
def test_a_retry_leaves_no_trace_of_the_calls_that_failed(kind, policy):
    service = Service(2, 2)
    with program(operators(service, on_error=policy)[kind]()).test() as t:
        before = t.clock.monotonic()
        t.crash(at="flushed")
        t.send("tx", ROWS)
        assert t.crashes == 1
        assert [r.n if isinstance(r, Out) else r["n"] for r in t.read("out")] == right(kind)
        assert t.dead() == []
        assert t.clock.monotonic() - before >= (3.0 if policy != "retry" else 0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_retry_that_fails_to_the_end(kind):
    service = Service(2, 10**6)
    with program(operators(service, on_error=Retry(2))[kind]()).test() as t:
        t.send("tx", ROWS)
        assert [r.n if isinstance(r, Out) else r["n"] for r in t.read("out")] == right(kind, without=2)
        assert len(t.dead()) == 1
    service = Service(2, 10**6)
    with (
        program(operators(service, on_error=Retry(2, then="stop"))[kind]()).test() as t,
        pytest.raises(OperatorError, match="stops the worker"),
    ):
        t.send("tx", ROWS)


def test_the_operators_policy_goes_before_the_apps():
    service = Service(2, 10**6)
    with program(operators(service, on_error="dead-letter")["rows"](), on_error="stop").test() as t:
        t.send("tx", ROWS)
        assert len(t.dead()) == 1


def test_a_wrong_result_stops_too():
    operator = MapRows(lambda row: Out(row.card, row.at, "three"), returns=Out, on_error="stop")
    with program(operator).test() as t, pytest.raises(OperatorError, match="stops the worker"):
        t.send("tx", ROWS)


def test_a_timer_stops_with_its_key():
    class Late(Keyed[Tx, Out]):
        on_error = "stop"

        def on_row(self, row, ctx):
            ctx.timer(row.at + 1)

        def on_timer(self, at, ctx):
            raise ValueError("no")

    with program(Late()).test() as t, pytest.raises(OperatorError, match="timer at 1 of key 'a'"):
        t.send("tx", [*ROWS, Tx("a", 100, 1)])


def test_an_input_may_be_called_error():
    class Both(Keyed[Tx, Out]):
        inputs = ("error", "tx")

        def on_error(self, row, ctx):
            yield Out(row.card, row.at, -row.n)

        def on_tx(self, row, ctx):
            raise ValueError("no")

    from streams import connect

    app = App("named")
    errors = app.source("errors", Tx, key="card", start="earliest")
    connect(errors, app.source("tx", Tx, key="card", start="earliest")) | Both() | app.sink("out")
    with app.test() as t:
        t.send("errors", [Tx("a", 1, 5)])
        t.send("tx", [Tx("a", 2, 5)])
        t.sleep(11)
        assert [r.n for r in t.read("out")] == [-5]
        assert len(t.dead()) == 1


def test_wrong_policies_are_refused_when_the_program_is_built():
    with pytest.raises(BuildError, match="on_error='ignore' is no policy"):
        App("a", on_error="ignore")
    with pytest.raises(BuildError, match="no policy"):
        MapRows(lambda row: None, returns=Out, on_error=3)
    with pytest.raises(BuildError, match="times=0"):
        Retry(0)
    with pytest.raises(BuildError, match="then='drop'"):
        Retry(then="drop")

    class Wrong(Keyed[Tx, Out]):
        on_error = "sometimes"

        def on_row(self, row, ctx):
            return None

    with pytest.raises(BuildError, match="no policy"):
        program(Wrong())


def test_polars_frames_are_called_whole_where_nothing_fails():
    sizes = []

    def whole(frame: pl.DataFrame) -> pl.DataFrame:
        sizes.append(frame.height)
        return frame.select("card", "at", "n")

    with program(MapFrame(whole, returns=Out, on_error="retry")).test() as t:
        t.send("tx", ROWS)
        assert sizes == [3]
