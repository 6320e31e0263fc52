"""What the tests of snapshots share: locations, stores to snapshot, and a proxy that spoils a connection."""

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streams.checkpoint.location import Location
from streams.checkpoint.snapshotter import Job, Outcome, Snapshotter
from streams.core.store import StoreSpec
from streams.state.base import Mark
from streams.state.rocksdb import RocksStore

APP, TASK, TOPIC = "app", "0-1", "topic-id"


def s3_options(endpoint: str) -> dict[str, str]:
    return {
        "endpoint": endpoint,
        "region": "us-east-1",
        "access_key_id": "test",
        "secret_access_key": "test",
        "allow_http": "true",
        "timeout": "5s",
    }


def copy_of(directory: Path, files: dict[str, bytes]) -> Path:
    """A directory as a store's snapshot makes one."""
    directory.mkdir(parents=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


def make_files_older(directory: Path, seconds: float) -> None:
    """All files below it."""
    for file in directory.rglob("*"):
        if file.is_file():
            then = file.stat().st_mtime - seconds
            os.utime(file, (then, then))


def job(directory: Path, sequence: int, *, offset: int | None = None, **more: Any) -> Job:
    mark = Mark(sequence, TOPIC, sequence * 10 if offset is None else offset, b"position")
    return Job(TASK, directory, mark, "fingerprint", **more)


def finish(snapshotter: Snapshotter, seconds: float = 60.0) -> Outcome:
    """The next outcome."""
    until = time.monotonic() + seconds
    while not (found := snapshotter.poll()):
        assert time.monotonic() < until, "no outcome"
        time.sleep(0.005)
    assert len(found) == 1
    return found[0]


def upload(location: Location, work: Path, sequence: int, files: dict[str, bytes], **more: Any) -> Outcome:
    """One snapshot by a snapshotter of its own."""
    snapshotter = Snapshotter(location, APP, keep=more.pop("keep", 3))
    try:
        copy = work / f"copy-{random.getrandbits(60):x}"
        assert snapshotter.submit(job(copy_of(copy, files), sequence, **more))
        outcome = finish(snapshotter)
        assert not copy.exists()
        return outcome
    finally:
        assert snapshotter.close()


class Filled:
    """A RocksDB store that gets commits."""

    def __init__(self, directory: Path) -> None:
        self.store = RocksStore(directory, cache_bytes=1 << 20)
        self.map = self.store.map(StoreSpec("m"))
        self.random = random.Random(1)

    def commit(self, entries: int) -> Mark:
        """Write that many random entries of a kilobyte."""
        numbers = [self.random.randrange(10**6) for _ in range(entries)]
        self.map.put_many([b"%06d" % n for n in numbers], [self.random.randbytes(1000) for _ in numbers])
        sequence = self.store.mark.sequence + 1
        mark = Mark(sequence, TOPIC, sequence * 10, b"position %d" % sequence)
        self.store.commit(mark)
        return mark


def content(directory: Path) -> tuple[Mark, dict[bytes, bytes]]:
    """What a store's directory holds."""
    store = RocksStore(directory, cache_bytes=1 << 20)
    try:
        return store.mark, dict(store.map(StoreSpec("m")).scan())
    finally:
        store.close()


class Proxy:
    """A TCP proxy on loopback: `delay` seconds a piece; every `cut`th piece cuts its connection (0: none)."""

    def __init__(self, port: int) -> None:
        self.target, self.delay, self.cut, self.pieces, self.port = port, 0.0, 0, 0, 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # what was aborted is closed in the loop's next round

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        ends = [writer]
        try:
            above, below = await asyncio.open_connection("127.0.0.1", self.target)
            ends.append(below)
            pumps = [asyncio.ensure_future(self._pump(reader, below)), asyncio.ensure_future(self._pump(above, writer))]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            pass
        except asyncio.CancelledError:  # nobody is there any more to read what is left
            for end in ends:
                end.transport.abort()
            raise
        for end in ends:
            end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            await asyncio.sleep(self.delay)
            self.pieces += 1
            if self.cut and self.pieces % self.cut == 0:
                writer.transport.abort()
                return
            writer.write(data)
            await writer.drain()

    @contextmanager
    def running(self) -> Iterator["Proxy"]:
        self._thread.start()
        assert self._ready.wait(30)
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(30)


def longest(calls: list[Callable[[], object]]) -> float:
    """The longest that one of the calls took, in seconds."""
    most = 0.0
    for call in calls:
        started = time.perf_counter()
        call()
        most = max(most, time.perf_counter() - started)
    return most
