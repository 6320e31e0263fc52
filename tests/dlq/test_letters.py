"""Finding and showing dead letters."""

import pytest

from streams.core.clock import ManualClock
from streams.core.errors import SettingsError, StreamsError
from streams.core.record import Produced
from streams.dlq import letters
from streams.log.embedded import EmbeddedLog
from tests.dlq.letters import STAMP, dead, fill, source


@pytest.fixture
def log(tmp_path):
    with EmbeddedLog(tmp_path / "log") as made:
        yield made


def test_what_a_letter_tells(log):
    fill(log, "shop", 4)
    found = letters.find(log, dead("shop"), "1:0")
    assert (found.value, found.key, found.cause, found.operator) == (
        b"v1",
        b"k1",
        "maprows-1: ValueError: 1",
        "maprows-1",
    )
    assert (found.topic, found.partition, found.offset, found.timestamp) == (source("shop"), 1, 1, STAMP + 1)
    assert (found.name, found.source, found.headers) == ("1:0", "shop-in/1/1", [("trace", b"t1")])
    assert (found.row, found.cut_from) == (-1, None)


def test_filters(log):
    fill(log, "shop", 8)

    def names(**fields):
        return [each.value.decode() for each in letters.read(log, dead("shop"), letters.Choice(**fields))]

    assert names() == ["v0", "v2", "v4", "v6", "v1", "v3", "v5", "v7"]
    assert names(cause="valueerror: 1") == ["v1", "v5"]
    assert names(since=STAMP + 6) == ["v6", "v7"]
    assert names(operator="maprows-2") == names(topic="other") == []


def test_no_topic_is_no_letters(log):
    assert list(letters.read(log, "none")) == []


def test_names_of_letters(log):
    fill(log, "shop", 3)
    assert letters.find(log, dead("shop"), "1").value == b"v2"
    with pytest.raises(SettingsError, match="0:0, 1:0"):
        letters.find(log, dead("shop"), "0")
    for name in ("2", "1:1", "7:0"):
        with pytest.raises(StreamsError, match="no dead letter"):
            letters.find(log, dead("shop"), name)
    with pytest.raises(SettingsError, match="does not name"):
        letters.find(log, dead("shop"), "first")


def test_a_record_of_somebody_else_is_shown_all_the_same(log):
    fill(log, "shop", 0)
    writer = log.writer("other", "w")
    writer.append(Produced(dead("shop"), 0, [None], [None], -1, [[("topic", b"\xff"), ("offset", b"many")]]))
    writer.commit({}, {})
    [found] = letters.read(log, dead("shop"))
    assert (found.value, found.offset, found.operator) == (b"", -1, "")
    assert "not written by this engine" in found.cause


def test_a_cause_cannot_steer_the_terminal(log):
    fill(log, "shop", 0)
    writer = log.writer("other", "w")
    writer.append(Produced(dead("shop"), 0, [None], [b""], -1, [[("cause", b"a\x1b[2Jb")]]))
    writer.commit({}, {})
    [found] = letters.read(log, dead("shop"))
    assert found.cause == "a\ufffd[2Jb"


def test_since():
    assert letters.since("1h", ManualClock(STAMP)) == STAMP - 3_600_000
    assert letters.since("2023-11-14T22:13:20Z") == STAMP
    with pytest.raises(SettingsError, match="--since"):
        letters.since("yesterday")


def test_bytes_are_text_or_a_dump():
    assert letters.text_of("größe\t1".encode()) == "größe\t1"
    assert letters.text_of(b"\xff" * 17).splitlines()[1] == f"00000010  ff{' ' * 45}  |.|"
    assert letters.text_of(b"a" * 10, most=4) == "aaaa\n... 6 more bytes"


def test_counts_of_causes():
    assert letters.counts({"a": 1, "b": 1200, "c": 1}, most=2) == [
        "  1,200  b",
        "      1  a",
        "      1  of 1 other causes",
    ]
