"""A dead letter of a program with a sink outside the log is debugged, and nothing is written there."""

from operators import FileSink, MapRows, Running, agg
from streams import App, EventTime, Schema
from streams.app import open_log
from streams.dlq.rehearsal import rehearse
from streams.settings import Settings


class Payment(Schema):
    card: str
    at: EventTime
    amount: int


class Scale:
    by = 0


def ratio(row) -> Payment:
    return Payment(row.card, row.at, 12 // (row.amount + Scale.by))


def test_debug_tells_what_a_sink_would_have_been_given_and_writes_nothing(tmp_path, monkeypatch):
    app = App("shop")
    payments = app.source("payments", Payment, key="card", start="earliest")
    ratios = payments | Running([agg.count().alias("n")]) | MapRows(ratio, returns=Payment)
    ratios | app.write_to(FileSink(tmp_path), name="files")
    with app.test(real_sinks=True) as t:
        t.send("payments", [Payment("c1", 0, 5), Payment("c1", 1, 0)])
        before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("**/*")}
        (letter,) = t.dead_letters()
        monkeypatch.setattr(Scale, "by", 2)
        with open_log(Settings(log_dir=str(t._directory / "log"))) as log:
            outcome = rehearse(app, Settings(), log, letter)
        assert outcome.causes == []
        assert outcome.outputs == [("sink files", '{"card":"c1","at":1,"amount":6}')]
        assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("**/*")} == before
