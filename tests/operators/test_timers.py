"""The timer queue against a sorted set, with a memory too small for it."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from operators.stored_keys import instant_bytes
from operators.timers import EXPIRY, USER, TimerQueue
from streams.core.store import DictStore
from streams.core.time import FOREVER

TIMES = st.integers(-20, 20)
KEYS = st.sampled_from([b"", b"a", b"\xff\xff", b"b"])
KINDS = st.sampled_from([USER, EXPIRY])


class Queue(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.store = DictStore()
        self.queue = TimerQueue(self.store, 3)
        self.model = {}

    @rule(at=TIMES, key=KEYS, kind=KINDS)
    def add(self, at, key, kind):
        self.queue.add(at, key, kind)
        self.model.setdefault((at, key), set()).add(kind)

    @rule(at=TIMES, key=KEYS, kind=KINDS)
    def remove(self, at, key, kind):
        self.queue.remove(at, key, kind)
        kinds = self.model.get((at, key), set())
        kinds.discard(kind)
        if not kinds:
            self.model.pop((at, key), None)

    @rule(before=TIMES)
    def pop(self, before):
        first = min(self.model, default=(FOREVER, b""))
        if first[0] >= before:
            assert self.queue.pop(before) is None
            return
        at, key, kinds = self.queue.pop(before)
        assert (at, key) == first
        assert {bytes([k]) for k in kinds} == self.model.pop(first)

    @rule(reopen=st.booleans())
    def drain(self, reopen):
        self.queue.drain()
        want = {instant_bytes(at) + key: kinds for (at, key), kinds in self.model.items()}
        assert set(self.store.data) == set(want)
        assert len(self.queue._kinds) <= 3
        if reopen:
            self.queue = TimerQueue(self.store, 3)

    @invariant()
    def first_is_no_later_than_the_first(self):
        assert self.queue.first <= min(self.model, default=(FOREVER, b""))[0]


TestQueue = Queue.TestCase
TestQueue.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_timer_that_is_set_and_fires_between_two_drains_is_not_written():
    store = DictStore()
    writes = []
    store.put_many = lambda keys, values: writes.extend(keys)
    queue = TimerQueue(store, 10)
    queue.add(5, b"a", USER)
    queue.add(9, b"a", USER)
    assert queue.pop(6) == (5, b"a", USER)
    queue.drain()
    assert writes == [instant_bytes(9) + b"a"]
