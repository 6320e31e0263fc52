"""Replay: each letter once, whatever dies and however many run."""

import random
import signal
import subprocess
import sys
import time
import uuid

import pytest

from streams.core.errors import StreamsError
from streams.core.record import TopicPartition
from streams.dlq import letters, replay
from streams.log.embedded import EmbeddedLog
from streams.log.reading import read_all
from tests.dlq.letters import STAMP, dead, expected, fill, in_source, letter, run, source

COUNT = 10


class Died(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def log(tmp_path):
    with EmbeddedLog(tmp_path / "log") as made:
        yield made


def test_bytes_key_headers_and_timestamp_are_those_of_the_record(log):
    fill(log, "shop", 4)
    assert run(log, "shop").replayed == 4
    found = {}
    for records in read_all(log, source("shop")):
        for value, key, stamp, headers in zip(
            records.values(), records.keys(), records.timestamps(), records.headers(), strict=True
        ):
            found[value] = (key, stamp, headers)
    assert found[b"v1"] == (
        b"k1",
        STAMP + 1,
        [
            ("trace", b"t1"),
            ("streams-replay-of", b"shop-in/1/1"),
            ("streams-replay-letter", b"shop-dead/1/0"),
        ],
    )
    assert found[b"v0"][0] is None


def test_a_second_replay_does_nothing(log):
    fill(log, "shop", COUNT)
    assert run(log, "shop").replayed == COUNT
    again = run(log, "shop")
    assert (again.replayed, again.before) == (0, COUNT)
    assert in_source(log, "shop") == expected(COUNT)
    assert set(replay.replayed(log, "shop", dead("shop"))) == {(p, o) for p in (0, 1) for o in range(COUNT // 2)}


def test_a_letter_that_is_named_twice_is_replayed_once(log):
    fill(log, "shop", 1)
    one = letters.find(log, dead("shop"), "0:0")
    assert replay.replay(log, "shop", dead("shop"), [one, one], {source("shop"): 2}).replayed == 1
    assert in_source(log, "shop") == expected(1)


@pytest.mark.parametrize("count", range(1, 11))
def test_dying_at_every_step(log, count):
    fill(log, "shop", COUNT)
    left = [count]

    def hook(step):
        left[0] -= 1
        if not left[0]:
            raise Died

    with pytest.raises(Died):
        run(log, "shop", hook)
    run(log, "shop")
    assert in_source(log, "shop") == expected(COUNT)


def test_a_process_that_is_killed(log, tmp_path):
    fill(log, "shop", COUNT)
    kill(log, "shop", "--log-dir", str(tmp_path / "log"))


def test_a_process_that_is_killed_at_any_instant(log, tmp_path):
    fill(log, "shop", 600)
    places, rng = [TopicPartition(source("shop"), p) for p in (0, 1)], random.Random(1)
    for _ in range(5):
        before = log.ends(places)
        command = [sys.executable, "-m", "tests.dlq.letters", "shop", "never:1", "--log-dir", str(tmp_path / "log")]
        process = subprocess.Popen(command)
        while log.ends(places) == before and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.wait()  # on a machine that stalls it may have come to its end: then this round says nothing
    run(log, "shop")
    assert in_source(log, "shop") == expected(600)


@pytest.mark.kafka
def test_on_kafka(kafka):
    from streams.log.kafka import KafkaLog

    log, app = KafkaLog(kafka.bootstrap, {}), f"app-{uuid.uuid4().hex[:12]}"
    try:
        fill(log, app, COUNT)
        kill(log, app, "--brokers", kafka.bootstrap)
        fill(log, app, COUNT)
        overtake(log, app)
        assert in_source(log, app) == sorted(2 * expected(COUNT))
    finally:
        log.close()


def kill(log, app, *where):
    """Replay again and again, each time killed a little later; then to the end."""
    for step in ("opened:1", "appended:1", "committed:1", "appended:2", "known:1", "committed:1"):
        process = subprocess.run([sys.executable, "-m", "tests.dlq.letters", app, step, *where], capture_output=True)
        assert process.returncode == -signal.SIGKILL, process.stderr.decode()
    assert 0 < len(in_source(log, app)) < COUNT
    outcome = run(log, app)
    assert outcome.replayed + outcome.before == COUNT
    assert in_source(log, app) == expected(COUNT)


def overtake(log, app):
    """While one replay has records in its open commit, a second one runs to its end."""
    others = []

    def hook(step):
        if step == "appended" and not others:
            others.append(run(log, app))

    with pytest.raises(StreamsError, match="another replay"):
        run(log, app, hook)
    assert others[0].replayed > 0


def test_two_at_a_time(log):
    fill(log, "shop", COUNT)
    overtake(log, "shop")
    assert in_source(log, "shop") == expected(COUNT)


def test_a_dead_letter_topic_that_was_made_again_begins_anew(log):
    fill(log, "shop", 2)
    run(log, "shop")
    assert replay.replayed(log, "shop", source("shop")) == {}  # another topic with other letters at those places


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"topic": "shop-keyby-1-shuffle", "row": 3}, "behind a shuffle"),
        ({"topic": ""}, "made itself"),
        ({"topic": "elsewhere"}, "no source of the program"),
        ({"partition": 5}, "no partition 5"),
    ],
)
def test_what_cannot_be_replayed_is_refused_with_the_way_out(log, fields, said):
    fill(log, "shop", 1)
    letter(log, "shop", b"{}", **fields)
    outcome = run(log, "shop")
    assert outcome.replayed == 1
    [(name, why)] = outcome.refused
    assert name == "0:1"
    assert said in why
    assert "streams topics write" in why


def test_a_record_that_was_cut_is_refused(log, monkeypatch):
    monkeypatch.setattr("streams.runtime.letters.MOST_BYTES", 10)
    fill(log, "shop", 1)
    letter(log, "shop", b"x" * 11)
    [(_, why)] = run(log, "shop").refused
    assert "10 of its 11 bytes" in why


def test_nothing_of_the_application_is_touched(log):
    fill(log, "shop", 2)
    writer = log.writer("shop", "replay")  # a worker of the application that has the same slot
    run(log, "shop")
    writer.commit({}, {})
    assert log.leases("shop", [0]) == {0: None}
