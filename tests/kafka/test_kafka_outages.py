"""The log on a broker that stands still, dies and comes back."""

import os
import signal
import threading
import time
import uuid

import pytest

from streams import broker
from streams.core.errors import LogError, LogUnreachable
from streams.core.record import TopicPartition
from streams.log.base import Committed
from streams.log.kafka import KafkaLog, Timeouts
from streams.protocol import Lease
from tests.kafka.steps import joined, new_topic, produced, stand_still, unused, values_of, wait

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture
def app():
    return f"app-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def own():
    """A broker that the tests of this file may stop and kill."""
    with broker.start() as started:
        yield started


def test_a_broker_that_stands_still_or_dies_during_a_commit_leaves_all_of_it_or_nothing(own, app):
    log = KafkaLog(own.bootstrap)
    topic, writer, done = new_topic(log, 1), log.writer(app, "w1"), []
    for number, pause in enumerate([0.3, 6.0, None]):
        writer.append(produced(topic, f"{number}"))
        if number == 1:
            writer.flush()  # then only offsets and EndTxn meet the standstill
        if pause is None:
            own.kill()
            wake = threading.Thread(target=own.start_again)
        else:
            stand_still(own.pid)
            wake = threading.Timer(pause, os.kill, (own.pid, signal.SIGCONT))
        wake.start()
        try:
            writer.commit({TopicPartition(topic, 0): Committed(number)}, {0: Lease("w1", True, "f", number)})
            print(f"paused {pause}: committed, suspect {writer.suspect}")
        except LogError as error:
            print(f"paused {pause}: {type(error).__name__}")
        wake.join()
        writer.close()
        writer = log.writer(app, "w1")  # settles it
        lease = log.leases(app, [0])[0]
        if lease is not None and lease.sequence == number:
            done.append(b"%d" % number)
        assert values_of(log, topic) == [done]
        assert log.committed(app, [TopicPartition(topic, 0)])[TopicPartition(topic, 0)] == (
            Committed(int(done[-1])) if done else None
        )
    assert len(done) >= 2
    writer.close()
    log.close()


def test_nobody_is_caught_up_while_the_broker_is_silent_or_gone(own, app):
    log = KafkaLog(own.bootstrap)
    places = [TopicPartition(new_topic(log, 2), number) for number in range(2)]
    reader = log.reader()
    reader.assign(dict.fromkeys(places, 0))

    def all_are(state):
        return lambda: reader.poll(10, 0.1) == [] and all(reader.caught_up(place) is state for place in places)

    def stay(state, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert all_are(state)()

    wait(all_are(True))
    stay(True, 5)
    stand_still(own.pid)
    try:
        wait(all_are(False), 15)
        stay(False, 2)
    finally:
        os.kill(own.pid, signal.SIGCONT)
    wait(all_are(True))
    own.kill()
    wait(all_are(False), 15)
    own.start_again()
    wait(all_are(True))
    log.ends(places)  # whose leaders are of another epoch now
    reader.close()
    log.close()


def test_a_count_of_members_that_nobody_answers_does_no_harm_when_the_broker_is_back(own, app):
    log = KafkaLog(own.bootstrap, timeouts=Timeouts(reach_seconds=1.0))
    group = joined(log, app, "w1", 1)
    assert group.members == 1
    stand_still(own.pid)
    try:
        for _ in range(3):  # with a timeout inside librdkafka each of these could end the process later on
            with pytest.raises(LogUnreachable):
                log._admin.members(app)
    finally:
        os.kill(own.pid, signal.SIGCONT)
    until = time.monotonic() + 5
    wait(lambda: group.poll(0.1, unused) is not None and time.monotonic() > until)
    assert log._admin.members(app) == 1
    group.leave()
    log.close()
