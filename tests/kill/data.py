"""The input of the kill tests: transactions and labels, with disorder, in four partitions, from a seed."""

import random

import polars as pl

from streams.codec.json import encode
from streams.core.record import Produced
from streams.log.base import Log, TopicSpec

PARTITIONS = 4
TX, LABELS = "kill.tx", "kill.labels"
START = 1_700_000_000_000
FAR = 10 * 86_400_000


def fill(log: Log, count: int, seed: int) -> None:
    """Write the whole input: `count` transactions, a label for every third, then an end mark in each partition."""
    feed = Feed(log, seed)
    feed.more(count)
    feed.end()


class Feed:
    """Writes the input piece by piece, so that it lasts as long as it is needed. Equal calls write equal input."""

    def __init__(self, log: Log, seed: int) -> None:
        log.create([TopicSpec(t, PARTITIONS, {"retention.ms": "-1"}) for t in (TX, LABELS)])
        self.count = 0
        self._rng = random.Random(seed)
        self.writer = log.writer("kill-feed", "feeder")

    def more(self, count: int) -> None:
        """`count` transactions and a label for every third of them."""
        rng, tx, labels = self._rng, [], []
        first, self.count = self.count, self.count + count
        for number in range(first, self.count):
            at = START + number * 150 + (-rng.randrange(20_000) if rng.random() < 0.05 else 0)
            terminal = f"t{rng.randrange(60):03d}"
            row = {"id": number, "at": at, "card": f"c{rng.randrange(300):03d}", "terminal": terminal}
            tx.append({**row, "amount": rng.randrange(1, 500)})
            if number % 3 == 0:
                labels.append({"id": number, "at": at + 30_000, "terminal": terminal, "bad": rng.random() < 0.3})
        labels.sort(key=lambda r: (r["at"], r["id"]))
        for topic, rows, key in ((TX, tx, "card"), (LABELS, labels, "terminal")):
            for start in range(0, len(rows), 5000):
                frame = pl.DataFrame(rows[start : start + 5000])
                keys = frame[key].cast(pl.Binary).to_list()
                values = encode(frame)
                if topic == TX:  # now and then a bad record
                    values = [b"broken " + v if i % 997 == 5 else v for i, v in enumerate(values, first + start)]
                self.writer.append(Produced(topic, None, keys, values, frame["at"].to_list()))
                self.writer.commit({}, {})

    def end(self) -> None:
        """The end marks; nothing comes after them."""
        end = START + self.count * 150 + FAR
        for partition in range(PARTITIONS):
            mark = {"id": -1 - partition, "at": end, "card": f"end{partition}", "terminal": f"end{partition}"}
            values = encode(pl.DataFrame([{**mark, "amount": 0}]))
            self.writer.append(Produced(TX, partition, [None], values, [end]))
            label = encode(pl.DataFrame([{**mark, "bad": False}]))
            self.writer.append(Produced(LABELS, partition, [None], label, [end]))
        self.writer.commit({}, {})
        self.writer.close()
