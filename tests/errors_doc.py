"""docs/errors.md: every error class, provoked for real, with the message that was seen.

`python -m tests.errors_doc` writes it (a Kafka is started for one of them); tests/test_errors_doc.py compares.
"""

import importlib
import inspect
import os
import pkgutil
import re
import resource
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

import streams
from operators import Filter, Keyed, Value, Window, agg, tumbling
from streams import App, EventTime, Operator, Schema, TwoPhaseSink, broker, col
from streams.app import make_worker
from streams.broker.errors import BrokerError
from streams.checkpoint.collect import token
from streams.checkpoint.location import Location
from streams.core import errors
from streams.core.errors import StreamsError
from streams.core.record import Produced, TopicPartition
from streams.core.store import StoreSpec
from streams.log.base import Committed, TopicSpec
from streams.log.embedded import EmbeddedLog
from streams.log.kafka import KafkaLog, Timeouts
from streams.programs import find
from streams.runtime.queries import MOST, Queries, Unanswered
from streams.settings import Settings, load
from streams.state.base import Mark
from streams.state.changelog import NotThatHistory, Replay, encode
from streams.state.rocksdb import RocksStore
from streams.topics_cli import topics
from streams.web.state import Refused, refuse_where
from tests.beside import beside, elsewhere

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "errors.md"
HEAD = """\
# Errors

<!-- Made by `python -m tests.errors_doc`; tests/test_errors_doc.py provokes each error and compares. -->

Every error that you can meet is a `StreamsError`. Its message says what happened, where, and the way out; on the
command line it stands without a traceback, and the exit code is 1. Below, each class was provoked, and its message is
what was seen (`DIR`, `PID` and `PORT` stand for what differs from run to run).
"""


class Payment(Schema):
    card: str
    at: EventTime
    amount: int


class Plain(Schema):
    card: str
    amount: int


class Counted(Keyed[Payment, Payment]):
    count = Value(int, default=0)

    def on_row(self, row, ctx):
        self.count.set(self.count.get() + 1)
        yield row


class Divides(Operator):
    def bind(self, *inputs):
        return inputs[0]

    def process(self, batch, port=0):
        raise ZeroDivisionError("division by zero")


@dataclass(frozen=True)
class Case:
    """How an error is provoked: `doing` completes "Seen when ...". `kafka`: it takes a broker."""

    kind: type[StreamsError]
    doing: str
    provoke: Callable[..., object]
    kafka: bool


CASES: dict[type[StreamsError], Case] = {}


def seen_when(kind: type[StreamsError], doing: str, kafka: bool = False) -> Callable[..., Callable[..., object]]:
    def register(provoke: Callable[..., object]) -> Callable[..., object]:
        CASES[kind] = Case(kind, doing, provoke, kafka)
        return provoke

    return register


# ---------------------------------------------------------------- the program and its settings


@seen_when(errors.StreamsError, "a command is given a file instead of MODULE:APP (`streams run pipeline.py`)")
def _not_a_module(directory):
    find("pipeline.py")


@seen_when(errors.BuildError, "a program has no source")
def _no_source(directory):
    App("empty").topology()


@seen_when(errors.UnknownColumn, "a filter names a column that is not there")
def _unknown_column(directory):
    App("shop").source("pay", Payment, start="earliest") | Filter(col("amuont") > 5)


@seen_when(errors.WrongType, "a field of a schema has a type that no column can have")
def _wrong_type(directory):
    class Basket(Schema):
        items: set

    App("shop").source("baskets", Basket, start="earliest")


@seen_when(errors.NoEventTime, "a window is put on a stream without event time")
def _no_event_time(directory):
    plain = App("shop").source("pay", Plain, key="card", start="earliest")
    plain | Window(tumbling("1m"), [agg.count()])


@seen_when(errors.NoKey, "state by key is put on a stream without a key")
def _no_key(directory):
    App("shop").source("pay", Payment, start="earliest") | Counted()


@seen_when(errors.DuplicateId, "one topic is made a source twice")
def _duplicate(directory):
    app = App("shop")
    app.source("pay", Payment, start="earliest")
    app.source("pay", Payment, start="earliest")


@seen_when(errors.SettingsError, "a settings file and the environment are wrong in several places")
def _settings(directory):
    file = directory / "streams.toml"
    file.write_text('comit_interval = "50ms"\npoll_records = "many"\n')
    load({}, {"STREAMS_SLOTT": "a"}, file)


# ---------------------------------------------------------------- the log


@contextmanager
def embedded(directory: Path, **patience: float) -> Iterator[EmbeddedLog]:
    with EmbeddedLog(directory / "log", **patience) as log:
        log.create([TopicSpec("pay", 2, {})])
        yield log


@seen_when(errors.LogError, "the log directory holds a database of another program")
def _strange_log(directory):
    directory.joinpath("log").mkdir()
    elsewhere(f"import sqlite3; sqlite3.connect({str(directory / 'log' / 'log.db')!r}).execute('CREATE TABLE a (b)')")
    EmbeddedLog(directory / "log")


@seen_when(errors.LogUnreachable, "nobody listens at the address of the broker")
def _unreachable(directory):
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        log = KafkaLog(f"127.0.0.1:{closed.getsockname()[1]}", timeouts=Timeouts(reach_seconds=2))
        try:
            log.all_topics()
        finally:
            log.close()


@seen_when(errors.LogLocked, "another process keeps the embedded log's write lock")
def _locked(directory):
    with embedded(directory):
        pass
    file = str(directory / "log" / "log.db")
    holds = f"import sqlite3; db = sqlite3.connect({file!r}, isolation_level=None); db.execute('BEGIN IMMEDIATE')"
    with beside(holds), embedded(directory, patience=0.5) as log:
        log.fence("shop", "a")


@seen_when(errors.TopicMissing, "a program's source names a topic that does not exist")
def _missing(directory):
    app = App("shop")
    app.source("payy", Payment, start="earliest") | app.sink("out")
    with embedded(directory) as log:
        make_worker(app, Settings(state_dir=str(directory / "state")), log)


@seen_when(errors.TopicMismatch, "the changelog of a program has another partition count than its source")
def _mismatch(directory):
    app = App("shop")
    app.source("pay", Payment, key="card", start="earliest") | Counted() | app.sink("out")
    with embedded(directory) as log:
        log.create([TopicSpec("shop-0-changelog", 4, {})])
        make_worker(app, Settings(state_dir=str(directory / "state")), log)


@seen_when(errors.RecordTooLarge, "a record is larger than what is sent to Kafka", kafka=True)
def _too_large(directory, bootstrap):
    log = KafkaLog(bootstrap)
    try:
        log.create([TopicSpec("too-large", 1, {})])
        writer = log.writer("shop-too-large", "a")
        try:
            writer.append(Produced("too-large", 0, [None], [bytes(17_000_000)], 0))
        finally:
            writer.close()
    finally:
        log.close()


@seen_when(errors.Fenced, "a worker commits after another one has taken its slot over")
def _fenced(directory):
    with embedded(directory) as log:
        old = log.writer("shop", "a")
        log.writer("shop", "a")
        old.commit({TopicPartition("pay", 0): Committed(1)}, {})


@seen_when(errors.SlotTaken, "a second worker is started with the same --slot")
def _slot_taken(directory):
    with embedded(directory) as log:
        joins = (
            "from pathlib import Path; from streams.log.embedded import EmbeddedLog; "
            f"log = EmbeddedLog(Path({str(directory / 'log')!r})); group = log.group('shop', 'a', 2)"
        )
        with beside(joins):
            log.group("shop", "a", 2)


# ---------------------------------------------------------------- state


def store(directory: Path) -> RocksStore:
    return RocksStore(directory / "state", cache_bytes=1 << 20)


def filled(directory: Path, count: int = 10) -> None:
    made = store(directory)
    try:
        made.map(StoreSpec("values")).put_many([b"%d" % i for i in range(count)], [os.urandom(1000)] * count)
        made.commit(Mark(1, "topic", count))
    finally:
        made.close()


@seen_when(errors.StateError, "a snapshot is taken to a directory that exists already")
def _snapshot(directory):
    made = store(directory)
    try:
        made.snapshot(directory)
    finally:
        made.close()


@seen_when(errors.StateInUse, "another process works on the same state directory")
def _in_use(directory):
    opens = (
        "from pathlib import Path; from streams.state.rocksdb import RocksStore; "
        f"store = RocksStore(Path({str(directory / 'state')!r}), cache_bytes=1 << 20)"
    )
    with beside(opens):
        store(directory)


@seen_when(errors.StateCorrupt, "a file of a store was deleted (a worker makes the store anew by itself)")
def _corrupt(directory):
    filled(directory)
    (directory / "state" / "CURRENT").unlink()
    store(directory)


@seen_when(
    NotThatHistory, "a store stands at a commit that the changelog does not know (a worker makes it anew by itself)"
)
def _lost_history(directory):
    filled(directory)
    made = store(directory)
    try:
        Replay(made, "topic").add(encode([], 7, b"position")[0], 1)
    finally:
        made.close()


@seen_when(errors.StateMismatch, "a program reads another topic than it did when its state was made")
def _changed(directory):
    def work(topic: str) -> None:
        app = App("shop")
        app.source(topic, Payment, key="card", start="earliest") | Counted() | app.sink("out")
        settings = Settings(state_dir=str(directory / "state"), commit_interval=1)
        with embedded(directory) as log:
            log.create([TopicSpec("payments", 2, {})])
            feeder = log.writer("feeder", "0")
            feeder.append(Produced("pay", 0, [b"c"], [b'{"card":"c","at":1,"amount":5}'], 0))
            feeder.commit({}, {})
            feeder.close()
            worker = make_worker(app, settings, log)
            try:
                worker.start()
                while worker.status.commits < 2:
                    worker.turn()
                worker.leave()
            finally:
                worker.close()

    work("pay")
    work("payments")


@seen_when(errors.DiskFull, "a state directory reaches the limit of what may be written (here: ulimit -f)")
def _disk_full(directory):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    made = store(directory)
    try:
        made.map(StoreSpec("values")).put_many([b"%d" % i for i in range(1000)], [os.urandom(1000)] * 1000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        made.commit(Mark(1, "topic", 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        made.close()


# ---------------------------------------------------------------- operators and records


@seen_when(errors.OperatorError, "an operator raises while it works on a batch")
def _operator(directory):
    app = App("shop")
    app.source("pay", Payment, start="earliest") | Divides() | app.sink("out")
    with app.test() as test:
        test.send("pay", [Payment("c", 1, 5)])


@seen_when(errors.SinkError, "a sink outside the log cannot reach what it writes to, twelve times in a row")
def _sink(directory):
    class Table(TwoPhaseSink):
        def prepare(self, task, sequence, frame):
            raise ConnectionRefusedError("nobody listens at db:5432")

        def publish(self, task, token):
            pass

    app = App("shop")
    app.source("pay", Payment, start="earliest") | app.write_to(Table(), name="table")
    with app.test(real_sinks=True) as test:
        test.send("pay", [Payment("c", 1, 5)])


@seen_when(errors.RecordError, "`streams topics write --key card` is given a line that has no such field")
def _record(directory):
    with embedded(directory):
        pass
    arguments = ["write", "pay", "--key", "card", "--log-dir", str(directory / "log")]
    raised = CliRunner().invoke(topics, arguments, input='{"amount": 5}\n').exception
    assert raised is not None
    raise raised


@seen_when(Unanswered, "a question about the state of a worker comes while eight others wait")
def _many_questions(directory):
    queries = Queries()
    for _ in range(MOST + 1):
        queries.ask(lambda tasks: iter(()))


@seen_when(Refused, "the state of a worker is asked for from another machine")
def _state_elsewhere(directory):
    raise refuse_where("local", loopback=False)


@seen_when(BrokerError, "a temporary broker is told to use a directory that has files of another one")
def _broker(directory):
    (directory / "broker" / "data").mkdir(parents=True)
    broker.start(directory / "broker", keep=False)


# ---------------------------------------------------------------- the checkpoint location


@seen_when(errors.CheckpointError, "the checkpoint location is a directory in which a file is in the way")
def _location(directory):
    (directory / "checkpoints").mkdir()
    (directory / "checkpoints" / "shop").write_text("not a directory")
    token(Location(str(directory / "checkpoints")), "shop")


@seen_when(errors.LocationUnreachable, "nobody listens at the endpoint of the checkpoint location")
def _location_unreachable(directory):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        options = {"endpoint": f"http://127.0.0.1:{closed.getsockname()[1]}", "allow_http": "true"}
        options |= {"access_key_id": "x", "secret_access_key": "x", "region": "x"}
        token(Location("s3://snapshots/shop", options, retries=0), "shop")


# ---------------------------------------------------------------- the document


def classes() -> list[type[StreamsError]]:
    """The tree, each class behind the one it is derived from. Every module of the engine is imported for that."""
    for module in pkgutil.walk_packages(streams.__path__, "streams."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(kind: type[StreamsError]) -> Iterator[type[StreamsError]]:
        yield kind
        found = [each for each in kind.__subclasses__() if each.__module__.startswith("streams.")]
        # The tree's own in their order; the others' would depend on which module was imported first.
        for each in sorted(found, key=lambda each: "" if each.__module__ == errors.__name__ else each.__module__):
            yield from below(each)

    return list(below(StreamsError))


def section(kind: type[StreamsError], bootstrap: str = "") -> str:
    """What the document says of a class: provokes it. AssertionError where another error, or none, comes."""
    case = CASES[kind]
    with tempfile.TemporaryDirectory() as name, pytest.raises(StreamsError) as raised:
        case.provoke(Path(name), *([bootstrap] if case.kafka else []))
    assert type(raised.value) is kind, raised.value
    message = _constant(str(raised.value), name, bootstrap)
    base = kind.__mro__[1]
    derived = f" Derived from `{base.__name__}`." if base is not Exception else ""
    return (
        f"## {kind.__name__}\n\n{_text(kind)}{derived}\n\nSeen when {case.doing}:\n\n"
        f"```text\n{kind.__name__}: {message}\n```\n"
    )


def _text(kind: type[StreamsError]) -> str:
    """The class's docstring up to its first example."""
    text = inspect.getdoc(kind) or ""
    return " ".join(text.partition(">>>")[0].split())


def _constant(message: str, directory: str, bootstrap: str) -> str:
    message = message.replace(directory, "DIR").replace(str(Path.cwd()), "DIR")
    if bootstrap:
        message = message.replace(bootstrap, "127.0.0.1:PORT")
    message = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", message)
    message = re.sub(r"\bprocess \d+( \([^)]*\))?", "process PID", message)
    message = re.sub(r"\(after \d+ms in state \w+(, [^)]*)?\)", "(after N ms)", message)
    message = re.sub(r"\bkill (-\w+) \d+", r"kill \1 PID", message)
    return re.sub(r"\b\d{6}\.(log|sst)\b", r"NNNNNN.\1", message)


def sections(document: str) -> dict[str, str]:
    """The document's sections by the name of their class."""
    parts = re.split(r"^(?=## )", document, flags=re.MULTILINE)[1:]
    return {part.partition("\n")[0].removeprefix("## "): part.rstrip("\n") + "\n" for part in parts}


def write(bootstrap: str) -> None:
    DOCUMENT.write_text("\n".join([HEAD, *(section(kind, bootstrap) for kind in classes())]))


if __name__ == "__main__":
    if given := os.environ.get("KAFKA_BOOTSTRAP"):
        write(given)
    else:
        with broker.start() as started:
            write(started.bootstrap)
