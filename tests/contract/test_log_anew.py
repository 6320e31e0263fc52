"""What every log promises of starting an application anew: `living`, `forget`, `delete`."""

import time

import pytest

from streams.core.errors import Fenced, LogError, TopicMissing
from streams.core.record import TopicPartition
from streams.log.base import Committed, TopicSpec
from streams.protocol import Lease
from tests.contract.logs import PATIENCE, new_topic, produced, read_topic, with_group, write


def wait_for_nobody(log, app) -> None:
    deadline = time.monotonic() + PATIENCE
    while log.living(app) and time.monotonic() < deadline:  # a member that left may count until its session is over
        time.sleep(0.1)
    assert log.living(app) == []


def test_forgetting_takes_leases_and_positions_of_this_application_alone(log, app, topic):
    place, other = TopicPartition(topic, 0), f"{app}-other"
    for name in (app, other):
        with_group(log, name, 2)
        writer = log.writer(name, "w1")
        writer.append(produced(topic, "a"))
        writer.commit({place: Committed(7, "note")}, {1: Lease("w1", True, "f", 3)})
        writer.close()
    wait_for_nobody(log, app)
    log.forget(app)
    log.forget(app)  # nothing is left: nothing happens
    assert log.committed(app, [place]) == {place: None}
    assert log.leases(app, [0, 1]) == {0: None, 1: None}
    assert log.committed(other, [place]) == {place: Committed(7, "note")}
    assert log.leases(other, [1]) == {1: Lease("w1", True, "f", 3)}


def test_an_unknown_application_is_forgotten_without_a_word(log, app):
    assert log.living(app) == []
    log.forget(app)


def test_a_member_that_lives_is_told_and_nothing_is_forgotten(log, app, topic):
    group = log.group(app, "w1", 1)
    deadline = time.monotonic() + PATIENCE
    while not group.poll(0.1, lambda tasks, lost: None) and time.monotonic() < deadline:
        pass
    (member,) = log.living(app)
    assert member.slot == "w1"
    assert member.at
    with pytest.raises(LogError, match="is working"):
        log.forget(app)
    group.leave()
    wait_for_nobody(log, app)
    log.forget(app)


def test_who_was_fenced_stays_so(log, app, topic):
    with_group(log, app, 1)
    writer = log.writer(app, "w1")
    writer.append(produced(topic, "a"))
    log.fence(app, "w1")
    wait_for_nobody(log, app)
    log.forget(app)
    later = log.writer(app, "w1")
    with pytest.raises(Fenced):
        _try(writer, topic)
    later.append(produced(topic, "c"))
    later.commit({}, {0: Lease("w1", True, "f", 1)})
    assert read_topic(log, topic, 1)[0].text == ["c"]
    writer.close()
    later.close()


def test_a_deleted_topic_can_be_made_anew_and_is_another_one(log, app):
    name, kept = new_topic(log, 2), new_topic(log, 1)
    write(log, app, produced(name, "old", partition=1), produced(kept, "kept"))
    before = log.topics([name])[name].id
    log.delete([name, "no-such-topic"])
    assert log.topics([name]) == {}
    with pytest.raises(TopicMissing):
        log.ends([TopicPartition(name, 0)])
    log.create([TopicSpec(name, 3, {})])
    after = log.topics([name])[name]
    assert after.partitions == 3
    assert after.id != before
    places = [TopicPartition(name, p) for p in range(3)]
    assert log.ends(places) == log.starts(places) == dict.fromkeys(places, 0)
    write(log, app, produced(name, "new", partition=2))
    assert read_topic(log, name, 1, partitions=3)[2].text == ["new"]
    assert read_topic(log, kept, 1)[0].text == ["kept"]


def _try(writer, topic) -> None:
    writer.append(produced(topic, "b"))
    writer.commit({}, {0: Lease("w1", True, "f", 1)})
