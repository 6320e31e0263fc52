"""The input of the jobs: JSON transactions in event-time order, and a closing record in each partition."""

import numpy as np
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 4
_START = 1_700_000_000_000


def fill(brokers: str, topic: str, count: int) -> int:
    """Make the topic, write `count` transactions of 20,000 cards, 1,000 a second of event time; the number written."""
    admin = AdminClient({"bootstrap.servers": brokers})
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1, config={"retention.ms": "-1"})]).values():
        future.result()
    rng = np.random.default_rng(7)
    cards = rng.integers(0, 20_000, count).tolist()
    terminals = rng.integers(0, 10_000, count).tolist()
    amounts = np.maximum(1, rng.lognormal(8, 1, count)).astype(int).tolist()
    modes, countries = (b"chip", b"contactless", b"ecom", b"mag"), (b"US", b"DE", b"FR", b"GB", b"JP")
    producer = Producer(
        {
            "bootstrap.servers": brokers,
            "partitioner": "murmur2_random",
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 2_000_000,
        }
    )
    line = (
        b'{"transaction_id":"t%010d","event_ts_ms":%d,"card_id":"%s","terminal_id":"m%06d","amount_minor":%d,'
        b'"currency":"USD","mcc":"%04d","entry_mode":"%s","merchant_country":"%s"}'
    )
    for i in range(count):
        key = b"c%07d" % cards[i]
        at = _START + i
        value = line % (i, at, key, terminals[i], amounts[i], 5000 + cards[i] % 900, modes[i & 3], countries[i % 5])
        _produce(producer, topic, value, key, at)
    end = _START + count + 3_600_000
    for partition in range(PARTITIONS):
        key = b"zend%d" % partition
        value = line % (count + partition, end, key, 0, 1, 0, b"chip", b"US")
        _produce(producer, topic, value, key, end, partition)
    producer.flush()
    return count + PARTITIONS


def _produce(producer: Producer, topic: str, value: bytes, key: bytes, at: int, partition: int = -1) -> None:
    while True:
        try:
            producer.produce(topic, value, key, partition, timestamp=at)
            return
        except BufferError:
            producer.poll(0.05)
