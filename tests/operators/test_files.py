"""The sink that writes files."""

import json
from pathlib import Path

import polars as pl
import pytest

from operators import FileSink, Filter, Running, agg
from streams import App, EventTime, Schema, SinkTask, col
from streams.core.errors import BuildError, SinkError, StateMismatch, WrongType
from streams.testing import CRASHES, check_sink

TASK = SinkTask("shop", "files", 0)


class Tx(Schema):
    card: str
    at: EventTime
    amount: int
    raw: bytes = b""


def read(directory: Path, partition: str = "*") -> list[dict]:
    rows = []
    for file in sorted(p for p in directory.glob(f"{partition}/*") if not p.name.startswith(".")):
        if file.suffix == ".parquet":
            rows += pl.read_parquet(file).to_dicts()
        else:
            rows += map(json.loads, file.read_text().splitlines())
    return rows


def names(directory: Path) -> list[str]:
    return sorted(str(p.relative_to(directory)) for p in directory.glob("*/*"))


def program(directory: Path, **more) -> App:
    app = App("shop")
    tx = app.source("tx", Tx, key="card", start="earliest")
    tx | Filter(col("amount") > 0) | app.write_to(FileSink(directory, **more), name="files")
    tx | Running([agg.count().alias("n")]).named("counts") | app.sink("counts")
    return app


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_it_keeps_the_contract(tmp_path, format):
    check_sink(lambda: FileSink(tmp_path / "out", format=format), lambda: read(tmp_path / "out"))


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("step", CRASHES)
def test_each_row_once_with_a_crash_at_each_step(tmp_path, step, format):
    sent = [[Tx(f"c{n % 5}", n, n) for n in range(k * 10, k * 10 + 10)] for k in range(3)]
    with program(tmp_path, format=format).test(partitions=2, crash_at=step, real_sinks=True) as t:
        for rows in sent:
            t.send("tx", rows)
        t.restart()
        t.work()
    found = read(tmp_path)
    assert sorted(r["at"] for r in found) == list(range(1, 30))
    assert not [name for name in names(tmp_path) if name.endswith(".part")]
    for partition in ("0", "1"):  # the order of a partition, too
        at = [r["at"] for r in read(tmp_path, partition)]
        assert at == sorted(at)


def test_names_and_content(tmp_path):
    with program(tmp_path).test(real_sinks=True) as t:
        t.send("tx", [Tx("é", 1, 5, b"\xff"), Tx("b", 2, 6)])
        t.send("tx", [Tx("b", 3, 7)])
    assert names(tmp_path) == [
        "0/.of-shop-files",
        "0/.published-000000000003",
        "0/000000000001.jsonl",
        "0/000000000003.jsonl",
    ]
    assert (tmp_path / "0" / "000000000001.jsonl").read_text() == (
        '{"card":"é","at":1,"amount":5,"raw":"/w=="}\n{"card":"b","at":2,"amount":6,"raw":""}\n'
    )


def test_readers_may_take_files_away_while_publishing_is_repeated(tmp_path):
    sink = FileSink(tmp_path)
    token = sink.prepare(TASK, 1, pl.DataFrame({"n": [1]}))
    sink.publish(TASK, token)
    (tmp_path / "0" / "000000000001.jsonl").unlink()
    sink.publish(TASK, token)
    sink.recover(TASK, 1, token)
    assert read(tmp_path) == []


def test_what_was_prepared_and_is_gone_is_told(tmp_path):
    token = FileSink(tmp_path / "here").prepare(TASK, 1, pl.DataFrame({"n": [1]}))
    with pytest.raises(SinkError, match=r"which was prepared, is gone(.|\n)*all workers must see the same directory"):
        FileSink(tmp_path / "there").publish(TASK, token)


def test_nothing_that_is_there_is_overwritten(tmp_path):
    sink = FileSink(tmp_path)
    token = sink.prepare(TASK, 1, pl.DataFrame({"n": [1]}))
    theirs = tmp_path / "0" / "000000000001.jsonl"
    theirs.write_text("theirs")
    with pytest.raises(SinkError, match="is there already, from somebody else"):
        sink.publish(TASK, token)
    assert theirs.read_text() == "theirs"


def test_an_application_that_begins_anew_is_refused_its_old_directory(tmp_path):
    for _ in range(2):  # another log each time, as after a reset
        with program(tmp_path).test(real_sinks=True) as t:
            if not (tmp_path / "0").exists():
                t.send("tx", [Tx("a", 1, 1)])
                continue
            with pytest.raises(StateMismatch, match=r"holds rows up to commit 1, but the task stands at commit 0"):
                t.work()
    assert len(read(tmp_path)) == 1


def test_after_a_lost_end_the_advice_leads_on(tmp_path):
    sink = FileSink(tmp_path)
    for sequence in (1, 2, 3):
        sink.publish(TASK, sink.prepare(TASK, sequence, pl.DataFrame({"n": [sequence]})))
    with pytest.raises(
        StateMismatch, match=r"above 000000000002(.|\n)*published-000000000003 to .published-000000000002"
    ):
        sink.recover(TASK, 2, None)
    (tmp_path / "0" / "000000000003.jsonl").rename(tmp_path / "lost")
    (tmp_path / "0" / ".published-000000000003").rename(tmp_path / "0" / ".published-000000000002")
    sink.recover(TASK, 2, None)
    sink.publish(TASK, sink.prepare(TASK, 3, pl.DataFrame({"n": [30]})))
    assert [row["n"] for row in read(tmp_path)] == [1, 2, 30]


def test_a_directory_belongs_to_one_sink_of_one_application(tmp_path):
    FileSink(tmp_path).recover(TASK, 0, None)
    with pytest.raises(StateMismatch, match=r"belongs to another sink \(shop-files\)"):
        FileSink(tmp_path).recover(SinkTask("other", "files", 0), 0, None)


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / "0").mkdir()
    strange = [tmp_path / "0" / name for name in (".rsync.part", ".1-2.part", "notes.txt")]
    for each in strange:
        each.touch()
    FileSink(tmp_path).recover(TASK, 9, None)
    assert all(each.exists() for each in strange)


@pytest.mark.parametrize(
    ("wrong", "error", "told"),
    [
        (lambda app, s: s | app.write_to(FileSink, name="files"), WrongType, "is not a sink outside the log"),
        (lambda app, s: s | app.write_to("out", name="files"), WrongType, "topics are written with app.sink"),
        (lambda app, s: s | FileSink("out"), WrongType, r'app.write_to\(FileSink\(...\), name="..."\)'),
        (lambda app, s: s | app.write_to(FileSink("out"), name="a/b"), BuildError, "'a/b' is not a name for a sink"),
        (lambda app, s: FileSink("out", format="csv"), WrongType, "format='csv'"),
        (lambda app, s: FileSink(""), BuildError, "without a directory"),
        (
            lambda app, s: [s | app.write_to(FileSink(d), name=n) for d, n in (("out", "a"), ("./out", "b"))],
            BuildError,
            "the sinks 'a' and 'b' write to the same place",
        ),
        (
            lambda app, s: [s | app.write_to(FileSink(d), name="a") for d in ("out", "in")],
            BuildError,
            "two operators have the id 'a'",
        ),
        (
            lambda app, s: [[s | app.write_to(FileSink(str(n)), name=f"f{n}") for n in range(5)], app.topology()],
            BuildError,
            "5 sinks outside the log in a sub-topology without state",
        ),
    ],
)
def test_mistakes_are_found_while_the_program_is_built(wrong, error, told):
    app = App("shop")
    stream = app.source("tx", Tx, start="earliest")
    with pytest.raises(error, match=told):
        wrong(app, stream)
