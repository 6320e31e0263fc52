"""A Kafka log that was closed: whoever still asks it is told so, and no client is made anew. No broker is needed."""

import pytest

from streams.core.errors import LogError
from streams.core.record import TopicPartition
from streams.log.kafka import KafkaLog
from streams.log.kafka_settings import Timeouts

CALLS = {
    "topics": lambda log: log.topics(["a"]),
    "leases": lambda log: log.leases("a", [0]),
    "holders": lambda log: log.holders("a", [0]),
    "committed": lambda log: log.committed("a", [TopicPartition("a", 0)]),
    "reader": lambda log: log.reader(),
    "writer": lambda log: log.writer("a", "s"),
    "claim": lambda log: log.claim("a", 0),
    "ends": lambda log: log.ends([TopicPartition("a", 0)]),
    "members": lambda log: log._admin.members("a"),
    "group": lambda log: log._admin.asked_for_group("a"),
}


@pytest.mark.parametrize("call", CALLS)
def test_it_says_that_it_was_closed(call):
    log = KafkaLog("127.0.0.1:1", timeouts=Timeouts(reach_seconds=5.0))
    log.close()
    with pytest.raises(LogError, match="the log was closed"):
        CALLS[call](log)
