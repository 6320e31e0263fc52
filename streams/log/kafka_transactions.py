"""One transactional producer: opened (which fences), its transactions, and what becomes of errors."""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka import TopicPartition as Place

from streams.core.errors import Fenced, LogError, LogUnreachable
from streams.log.kafka_errors import CONNECTION, translate, unreachable
from streams.log.kafka_settings import RAISED, UNSAID, Connection, Notices, Patience, kafka_error

STEP = 0.05  # seconds between looks while a producer is opened
SLOW = 5.0  # seconds: a commit that took longer is suspect
AGAIN = 5.0  # seconds after which an unanswered commit is asked for again
MARGIN = 2.0  # seconds by which the offsets may outlast their timeout
LOOK = 0.2  # seconds between looks at connections while they are sent
LOST = 3.0  # seconds that they get after a connection was lost meanwhile, or after UNANSWERED
UNANSWERED = 2.0  # seconds after which other questions are asked: if those are answered, the offsets may be forgotten
AFTERMATH = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT, KafkaError._STATE})


class Deliveries:
    """The first record of the open transaction that did not reach the log, and why."""

    def __init__(self) -> None:
        self.failed: tuple[KafkaError, str] | None = None

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and (self.failed is None or self.failed[0].code() in AFTERMATH):
            self.failed = error, message.topic() or ""


class Helper:
    """A thread that makes one call at a time and can be left behind in it.

    send_offsets_to_transaction does not keep its timeout: it was seen to take 10 s longer, and never to return at all
    when the broker was killed during it.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[[], None], queue.SimpleQueue[BaseException | None]] | None]
        self._calls = queue.SimpleQueue()
        threading.Thread(target=self._work, name="offsets", daemon=True).start()

    def call(self, function: Callable[[], None], seconds: float, lost: Callable[[], bool]) -> None:
        """TimeoutError if it does not return in time, nor soon after `lost`, which is asked now and then."""
        done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._calls.put((function, done))
        end, noticed = time.monotonic() + seconds, False
        while True:
            try:
                raised = done.get(timeout=min(LOOK, max(end - time.monotonic(), 0.0)))
                break
            except queue.Empty:
                if time.monotonic() >= end:
                    raise TimeoutError from None
                if not noticed and lost():
                    noticed, end = True, min(end, time.monotonic() + LOST)
        if raised is not None:
            raise raised

    def end(self) -> None:
        """Let the thread end."""
        self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            function, done = call
            try:
                function()
            except BaseException as error:
                done.put(error)
            else:
                done.put(None)
            del call, function, done  # or the producer would live until the next call


class Transactions:
    """A transactional producer under one id. Opening it fences the id's earlier holder and ends what that one had open.

    After any abnormal path but a local `abort` it is broken: each later call raises the same error, and whoever uses it
    opens a new one.

    `suspect`: the last commit was slow, or asked for twice, or the coordinator was lost since the one before. It did
    succeed; but a copy of a request may still be under way and hit a later transaction, so open a new one. And so if
    brokers wait longer for this one than is needed any more.
    """

    def __init__(
        self, connection: Connection, transactional_id: str, name: str, patience: Patience | None = None
    ) -> None:
        self._connection, self._id, self._name = connection, transactional_id, name
        self._patience = patience or Patience(connection.transaction_ms)
        self._deadline_seconds = connection.timeouts.commit_seconds
        self.notices, self._deliveries = Notices(), Deliveries()
        self._broken: Callable[[], LogError] | None = None
        self.open, self._begun = False, 0.0
        self.suspect = False
        self._helper: Helper | None = None
        self._producer: Producer | None = None
        self._producer = self._initialise()
        self._losses = self.notices.coordinator_losses  # those before the last commit
        self._all_losses = self.notices.losses

    # ---- opening and closing

    def _initialise(self) -> Producer:
        """The protocol's InitProducerId.

        1. Build a producer and initialise it, looking every 50 ms.
        2. The broker is still ending the earlier holder's transaction: librdkafka would ask again after 500 ms. Since
           that request has been answered, none is under way: start with a new producer (0.15 instead of 0.57 s).
        3. The brokers do not let transactions be open for so long as it has become: ask for less.
        4. Give up when no answer comes in time.
        """
        deadline = time.monotonic() + self._connection.timeouts.reach_seconds
        while True:
            ours = self._connection.producer(self._id, self._patience.milliseconds)
            settings = {**ours, "on_delivery": self._deliveries}
            producer = self._connection.build(Producer, self.notices, settings)
            while True:
                try:
                    producer.init_transactions(STEP)
                    return producer
                except RAISED as error:
                    reason = kafka_error(error)
                    self.notices.hear(producer)
                    late = time.monotonic() > deadline
                    if reason.code() == KafkaError.CONCURRENT_TRANSACTIONS and not late:
                        break
                    if reason.code() == KafkaError.INVALID_TRANSACTION_TIMEOUT and self._patience.refused():
                        self.notices.fatal = None
                        break
                    if late and reason.code() in CONNECTION:
                        raise unreachable(
                            self._connection, f"{self._name} is opened", self.notices, reason.str()
                        ) from None
                    if late or reason.fatal() or not reason.retriable():
                        raise self._translated(reason, "is opened") from error

    def drop(self) -> None:
        """Let go of the producer, whatever it has open; the broker ends that when the id is used again."""
        self._producer = None
        if self._helper is not None:
            self._helper.end()
            self._helper = None
        if self._broken is None:
            name = self._name
            self._broken = lambda: LogError(f"{name} was closed")

    @property
    def producer(self) -> Producer:
        """The producer, if it may be used."""
        if self._broken is not None or self._producer is None:
            raise self._broken() if self._broken is not None else LogError(f"{self._name} was closed")
        return self._producer

    # ---- a transaction

    def begin(self) -> Producer:
        """Open a transaction unless one is open."""
        producer = self.producer
        if not self.open:
            try:
                producer.begin_transaction()
            except RAISED as error:
                raise self.broken(kafka_error(error), "begins a transaction") from error
            self.open, self._begun = True, time.monotonic()
        return producer

    def serve(self) -> None:
        """Callbacks; raises what has become known: being fenced, records that did not arrive."""
        self.notices.hear(self.producer)
        self._check()

    def flush(self, deadline: float | None = None) -> None:
        """Bring everything to the log, uncommitted."""
        deadline = deadline or time.monotonic() + self._deadline_seconds
        try:
            left = self.producer.flush(max(deadline - time.monotonic(), 0.0))
        except RAISED as error:
            raise self.broken(kafka_error(error), "appends") from error
        self._check()
        if left:
            raise self._set_broken(
                unreachable(self._connection, f"{left} records of {self._name} have not arrived", self.notices)
            )

    def end(self, offsets: Sequence[Place], metadata: Any) -> None:
        """Commit the open transaction with these offsets.

        1. Flush.
        2. Add the offsets, in the name of a group (`metadata`).
        3. EndTxn. No answer in time: ask for the commit again, never abort; give up at the deadline, in doubt.
        """
        producer, start = self.begin(), time.monotonic()
        deadline = start + self._deadline_seconds
        self.suspect = False
        # 1. Flush.
        self.flush(deadline)
        # 2. Add the offsets.
        if offsets:
            self._send(producer, list(offsets), metadata, deadline)
        # 3. EndTxn.
        again = self._commit(producer, deadline)
        self.open = False
        self.notices.hear(producer)
        lost, self._losses = self.notices.coordinator_losses > self._losses, self.notices.coordinator_losses
        self._all_losses = self.notices.losses
        eased = self._patience.kept(time.monotonic() - self._begun)
        self.suspect = again or lost or eased or time.monotonic() - start > SLOW

    def abort(self) -> None:
        """Drop what is open. If that fails the producer is broken, which the next call says."""
        if not self.open or self._broken is not None:
            return
        self.open = False
        try:
            self.producer.abort_transaction(AGAIN)
        except RAISED as error:
            self.broken(kafka_error(error), "aborts")
        self._deliveries.failed = None

    def broken(self, error: KafkaError, doing: str) -> LogError:
        """From now on each call raises this."""
        return self._set_broken(self._translated(self._cause(error), doing))

    # ---- inside

    def _send(self, producer: Producer, offsets: list[Place], metadata: Any, deadline: float) -> None:
        """Under a watchdog. After a failure, even one that is called retriable, a commit would succeed without the
        offsets: hence broken."""
        left = max(deadline - time.monotonic(), 0.1)
        if self._helper is None:
            self._helper = Helper()

        asked, topic = time.monotonic(), offsets[0].topic

        def lost() -> bool:
            """A connection, since the last commit; or librdkafka has let go of this request and waits for nothing: seen
            when the group's coordinator was not available three times in a row, for 30 ms."""
            self.notices.hear(producer)
            if self.notices.losses > self._all_losses:
                return True
            return time.monotonic() - asked > UNANSWERED and _answers(producer, topic)

        try:
            send = producer.send_offsets_to_transaction
            self._helper.call(lambda: send(offsets, metadata, left), left + MARGIN, lost)
        except TimeoutError:
            self._helper = None  # left behind
            raise self._set_broken(
                unreachable(self._connection, f"the offsets of {self._name} were not taken", self.notices)
            ) from None
        except RAISED as error:
            raise self.broken(kafka_error(error), "commits its offsets") from error

    def _commit(self, producer: Producer, deadline: float) -> bool:
        """Whether it had to be asked for more than once."""
        again = False
        while True:
            try:
                producer.commit_transaction(min(AGAIN, max(deadline - time.monotonic(), 0.1)))
                return again
            except RAISED as error:
                reason = kafka_error(error)
                self._check()
                if reason.fatal() or reason.txn_requires_abort() or not reason.retriable():
                    raise self.broken(reason, "commits") from error
                if time.monotonic() >= deadline:
                    raise self._set_broken(
                        LogUnreachable(
                            f"a commit of {self._name} is in doubt: asked for, and not answered in "
                            f"{self._deadline_seconds:.0f} s ({reason.name()})",
                            where=f"brokers {self._connection.brokers}",
                            fix="a new writer of this slot settles it",
                        )
                    ) from error
            again = True
            time.sleep(STEP)

    def _check(self) -> None:
        if self.notices.fatal is not None:
            raise self.broken(self.notices.fatal, "works")
        if self._deliveries.failed is not None:
            error, topic = self._deliveries.failed
            raise self.broken(error, f"appends to {topic!r}")

    def _cause(self, error: KafkaError) -> KafkaError:
        """Why, where a record was merely dropped for it or the reason was lost: librdkafka says it to whoever tries to
        begin another transaction."""
        if self._producer is not None and (error is UNSAID or (self.open and error.code() in AFTERMATH)):
            try:
                self._producer.begin_transaction()
            except RAISED as raised:
                cause = kafka_error(raised)
                return error if cause.code() == KafkaError._STATE else cause
        return error

    def _translated(self, error: KafkaError, doing: str) -> LogError:
        if self._producer is not None and self._broken is None:
            self.notices.hear(self._producer)
        made = translate(error, f"{self._name} {doing}", self._connection, self.notices)
        spent, limit = time.monotonic() - self._begun, self._patience.milliseconds / 1000
        if isinstance(made, Fenced) and self.open and spent > limit:
            # The coordinator ends such a transaction as a new holder would, and says the same of it.
            self._patience.exceeded(spent)
            return LogError(
                f"the brokers ended a commit of {self._name}: it was open for {spent:.0f} s, longer than {limit:.0f} s "
                f"(the next one may take {self._patience.milliseconds / 1000:.0f} s)",
                where=made.where,
                fix="if that happens often: one call of a function, the rows of one poll (poll_records), or what one "
                "moment of event time gives takes long: make them fewer or quicker; or the machine has too little CPU",
            )
        if error.code() == KafkaError._MSG_TIMED_OUT and self.open and spent > 0.9 * limit:
            # A record waits no longer than its transaction may be open: the brokers are away, or it was a long queue.
            self._patience.exceeded(spent)
        return made

    def _set_broken(self, error: LogError) -> LogError:
        kind: type[LogError] = Fenced if isinstance(error, Fenced) else type(error)
        self._broken = lambda: kind(error.what, where=error.where, fix=error.fix)
        self.open = False
        return error


def _answers(producer: Producer, topic: str) -> bool:
    """Some broker answers this producer."""
    try:
        producer.list_topics(topic, LOOK)
    except RAISED:
        return False
    return True
