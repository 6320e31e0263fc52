"""How a task's store comes to the commit that its lease names.

local store -> usable? -> its changelog's tail
            -> else a snapshot, the newest that fits -> the changelog's tail
            -> else the whole changelog
"""

import logging
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

from streams import protocol
from streams.core.errors import Fenced, LogError, StateCorrupt, StateInUse, StateMismatch
from streams.core.record import TopicPartition
from streams.core.topology import TaskId
from streams.log.base import Committed
from streams.protocol import Lease
from streams.runtime.position import TaskPosition, goes_on, mark_of
from streams.runtime.progress import Progress
from streams.runtime.tools import Tools
from streams.state.base import StateStore
from streams.state.changelog import NotThatHistory, Replay, decode

T = TypeVar("T")

_SNAPSHOTS = 4  # how many are tried whose stores turn out to be damaged when they are opened
STEP = 0.01  # seconds about which a step takes: other tasks work between two
_WAIT = 0.002  # seconds for blocks that are on their way
_LAST = 100  # how far from a changelog's end its last block is looked for at first
_NO_PROGRESS = 60.0  # seconds without anything to replay, far above the timeout of a transaction
_IN_USE = 10.0  # seconds for a tool that looks at a store, and holds it while it copies


def check_lease(id: TaskId, lease: Lease, tools: Tools) -> None:
    """Something does not fit the lease: has another worker taken it meanwhile, and gone on? Then Fenced."""
    found = tools.log.leases(tools.plan.app, [id.number])[id.number]
    if found != lease:
        raise Fenced(f"task {id} was taken over while it was restored (its lease is {found} now)")


class Recovery:
    """The store of one stateful task, and how it was brought to its commit.

    `entries`: changelog blocks that were read; `began_at`: the commit at which the store, or the snapshot, was found.
    """

    def __init__(self, id: TaskId, lease: Lease, tools: Tools, changelog: TopicPartition) -> None:
        self._id, self._lease, self._tools, self._changelog = id, lease, tools, changelog
        self.store: StateStore | None = None
        self.entries = self.began_at = 0
        self._last_block: int | None = None
        self._damaged = False

    def run(self, known: Committed | None) -> Iterator[None]:
        """Steps 2 to 4 of `Task.open`. `known`: what is committed of the task's first input; its note names the commit.

        Yields while there is more to do; then `store` stands at the lease's commit. Raises StateMismatch if that cannot
        be reached, Fenced if another worker has taken the task over meanwhile.
        """
        try:
            yield from self._run(known)
        except StateMismatch:
            check_lease(self._id, self._lease, self._tools)
            raise

    def close(self) -> None:
        """Let go of the store; what is uncommitted is forgotten."""
        if self.store is not None:
            self.store.rollback()
            self.store.close()
            self.store = None

    def _run(self, known: Committed | None) -> Iterator[None]:
        log, lease = self._tools.log, self._lease
        topic_id = self._tools.plan.topics[self._changelog.topic].id
        self.store = yield from self._patiently(self._open_store)
        mark = self.store.mark
        same = known is None or known.note in ("", mark_of(mark.position))
        if lease.sequence and mark.sequence == lease.sequence and mark.topic_id == topic_id and same:
            return  # the usual restart: the store stands exactly where the lease does
        start = log.starts([self._changelog])[self._changelog]
        usable = protocol.local_state_usable(
            store_sequence=mark.sequence,
            lease_sequence=lease.sequence,
            store_offset=mark.offset,
            changelog_start=start,
            same_topic=mark.topic_id in ("", topic_id),
        ) and (same or mark.sequence < lease.sequence)
        if usable and mark.sequence:
            try:
                yield from self._bring_forward(start, topic_id, known)
                return
            except NotThatHistory:
                check_lease(self._id, self._lease, self._tools)
                usable = same = False
        if not usable and mark.sequence:
            yield from self._check_log(start)
            if mark.topic_id not in ("", topic_id):
                why = f"is of another log, or of a changelog {self._changelog.topic} that was deleted"
            elif mark.sequence > lease.sequence or (mark.sequence == lease.sequence and not same):
                why = f"stands at a commit {mark.sequence} that the log does not have (it is at {lease.sequence})"
            elif mark.offset < start:
                why = f"stands at commit {mark.sequence}, which lies before the beginning of its changelog"
            else:
                why = f"stands at a commit {mark.sequence} that its changelog does not go on from"
            self._say(f"local state {why}: it is made anew from the log")
            self.store = yield from self._patiently(self._new_store)
        most = lease.sequence
        while True:
            yield from self._download(topic_id, start, most)
            found = self.store.mark.sequence
            try:
                yield from self._bring_forward(start, topic_id, known)
                return
            except NotThatHistory as error:
                check_lease(self._id, self._lease, self._tools)
                if not found:
                    raise
                self._say(f"the snapshot at commit {found} does not fit the log: {error.what}; an older one is taken")
                self.store, most = (yield from self._patiently(self._new_store)), found - 1

    def _check_log(self, start: int) -> Iterator[None]:
        """Before a local store is dropped, which may be all that is left: StateMismatch if the log has evidently lost
        what it would be made anew from, its changelog or the lease record, or one of them does not fit the other."""
        end = self._tools.log.ends([self._changelog])[self._changelog]
        if self._lease.sequence and not end:
            protocol.check_restored(str(self._id), self._lease.sequence, None, 0)
        reader, back, found = self._tools.log.reader(), _LAST, None
        try:
            while found is None and start < end:  # what was never committed may lie there, too
                at = max(start, end - back)
                reader.assign({self._changelog: at})
                moved, position = self._tools.clock.monotonic(), -1
                while position < end:
                    for records in reader.poll(1000, 0.02):
                        found = decode(records.values()[-1] or b"").sequence
                    now = self._tools.clock.monotonic()
                    if reader.position(self._changelog) > position:
                        moved, position = now, reader.position(self._changelog)
                    elif now - moved > _NO_PROGRESS:
                        raise self._stuck(position, end)
                    yield
                if at == start:
                    break
                back *= 10
        finally:
            reader.close()
        if found is not None:
            protocol.check_restored(str(self._id), self._lease.sequence, found, found)

    def _bring_forward(self, start: int, topic_id: str, known: Committed | None) -> Iterator[None]:
        """From where the store stands now to the lease's commit; NotThatHistory if that place is not in the log."""
        assert self.store is not None
        found = self.began_at = self.store.mark.sequence
        self._last_block = None
        end = self._tools.log.ends([self._changelog])[self._changelog]
        if end > start:  # at sequence 0 too: a missing lease record beside a changelog must be found
            yield from self._replay(max(self.store.mark.offset, start), end, topic_id)
        try:
            protocol.check_restored(str(self._id), self._lease.sequence, self._last_block, self.store.mark.sequence)
        except StateMismatch as error:
            # Where the changelog went on from the store, it is the log that does not agree with itself.
            if found and self.store.mark.sequence == found:
                raise NotThatHistory(error.what, where=error.where, fix=error.fix) from error
            raise
        if found and known is not None and known.note not in ("", mark_of(self.store.mark.position)):
            raise NotThatHistory(f"commit {self._lease.sequence} of the store is another one than the log's")

    def _download(self, topic_id: str, start: int, most: int) -> Iterator[None]:
        """An empty store: begin with the newest snapshot up to commit `most`, if there is a place for them."""
        assert self.store is not None
        if self._tools.download is None or not most:
            return
        for _ in range(_SNAPSHOTS):
            self.store.close()
            yield from self._patiently(lambda: self._tools.drop_state(self._directory()))
            yield from self._tools.download(self._id, self._directory(), topic_id, start, most)
            self._damaged = False
            self.store = yield from self._patiently(self._open_store)
            if not self._damaged:
                return  # else the next one is another one

    def _replay(self, offset: int, end: int, topic_id: str) -> Iterator[None]:
        assert self.store is not None
        reader = self._tools.log.reader()
        replay = Replay(self.store, topic_id, trimmed=True, follows=goes_on(self.store.mark.position))
        try:
            reader.assign({self._changelog: offset})
            moved, position, read = self._tools.clock.monotonic(), -1, 0
            progress = Progress("replaying the changelog", lambda t: self._say(t, logging.INFO), self._tools.clock)
            resumed = self._tools.clock.monotonic()
            while self.store.mark.sequence < self._lease.sequence or not self._lease.sequence:
                for records in reader.poll(5000, _WAIT):
                    for value, at in zip(records.values(), records.offsets(), strict=True):
                        replay.add(value or b"", at + 1)
                        read += len(value or b"")
                        if self._tools.clock.monotonic() - resumed > STEP:
                            yield
                            resumed = self._tools.clock.monotonic()
                    self.entries += len(records)
                replay.flush()
                # Not before the end that was seen after the lease was taken: the marker of the last transaction may be
                # written late, and until then its blocks are held back.
                now, at_last = self._tools.clock.monotonic(), reader.position(self._changelog)
                progress.at(at_last - offset, end - offset, read)
                if at_last >= end:
                    break
                if at_last > position:
                    moved, position = now, at_last
                elif now - moved > _NO_PROGRESS:
                    raise self._stuck(at_last, end)
                yield
                resumed = self._tools.clock.monotonic()
            replay.flush()
            if replay.first:
                made = TaskPosition.decode(self.store.mark.position)
                protocol.check_whole(str(self._id), replay.first, made.tail.base, bool(made.location))
            self._last_block = self.store.mark.sequence or None
        finally:
            reader.close()

    def _stuck(self, at: int, end: int) -> LogError:
        return LogError(
            f"task {self._id}: its changelog cannot be read on at {at} of {end}",
            where=f"topic {self._changelog.topic}, partition {self._changelog.partition}",
            fix="see whether the brokers have a transaction that hangs there, or are not reachable",
        )

    def _directory(self) -> Path:
        return self._tools.state_dir / f"{self._id.sub}-{self._id.partition}"

    def _patiently(self, do: Callable[[], T]) -> Generator[None, None, T]:
        """Try again for some seconds while another process holds the store: `streams state` and `verify` do while they
        copy one. Other tasks go on meanwhile."""
        end, told = self._tools.clock.monotonic() + _IN_USE, False
        while True:
            try:
                return do()
            except StateInUse as error:
                if self._tools.clock.monotonic() >= end:
                    raise
                if not told:
                    told = True
                    self._say(f"{error.what}: waiting up to {_IN_USE:.0f} s for its end", logging.INFO)
            yield

    def _open_store(self) -> StateStore:
        try:
            return self._tools.open_state(self._directory())
        except StateCorrupt as error:
            self._say(f"{error.what}; the store is made anew from the changelog")
            self._damaged = True
            if self._tools.corrupted is not None:
                self._tools.corrupted(self._id)
            self._tools.drop_state(self._directory())
            return self._tools.open_state(self._directory())

    def _new_store(self) -> StateStore:
        if self.store is not None:
            self.store.close()
            self.store = None
        self._tools.drop_state(self._directory())
        return self._tools.open_state(self._directory())

    def _say(self, text: str, level: int = logging.WARNING) -> None:
        self._tools.note(f"task {self._id}: {text}", level, task=str(self._id))
