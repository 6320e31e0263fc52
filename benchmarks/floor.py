"""The floor, frozen: consume, and produce as many bytes as a job does, exactly once, with no processing at all.

    python -m benchmarks.floor BROKERS JOB IN OUT

It uses confluent-kafka alone. Jobs A and B write a third of the records, cut to 90 bytes; job C writes all of them.
Do not change it: figures over time are ratios to it.
"""

import signal
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition


def main(brokers: str, job: str, topic: str, out: str) -> None:
    app = f"floor-{out}"
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": app,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.message.max.bytes": 1_000_000,
            "queued.min.messages": 100_000,
            "queued.max.messages.kbytes": 131_072,
            "fetch.queue.backoff.ms": 5,
        }
    )
    partitions = len(consumer.list_topics(topic, 10).topics[topic].partitions)
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    producer = Producer(
        {
            "bootstrap.servers": brokers,
            "transactional.id": app,
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "compression.type": "lz4",
            "queue.buffering.max.messages": 2_000_000,
            "queue.buffering.max.kbytes": 2_000_000,
            "partitioner": "murmur2_random",
            "delivery.report.only.error": True,
            "retry.backoff.ms": 10,
        }
    )
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    producer.init_transactions()
    producer.begin_transaction()
    committed, positions = time.time(), {}
    produce = producer.produce
    while not stopped:
        batch = consumer.consume(1000, 0.05)
        if job == "C":
            for message in batch:
                produce(out, message.value(), message.key())
        else:
            for message in batch[::3]:
                produce(out, message.value()[:90], message.key())
        for message in batch[-1:]:
            positions[message.partition()] = message.offset() + 1
        if time.time() - committed > 1:
            producer.flush()
            if positions:
                offsets = [TopicPartition(topic, p, o) for p, o in positions.items()]
                producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
            producer.commit_transaction()
            producer.begin_transaction()
            committed, positions = time.time(), {}


if __name__ == "__main__":
    main(*sys.argv[1:])
