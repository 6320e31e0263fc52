"""Stores on RocksDB for tests, and processes that have one."""

import random
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from streams.core.store import StoreSpec
from streams.state.base import Mark
from streams.state.rocksdb import RocksStore

ROOT = Path(__file__).parents[2]
SPEC = StoreSpec("m")


def open_store(directory, cache_bytes=1 << 20):
    return RocksStore(directory, cache_bytes=cache_bytes)


def filled(directory, count=2000):
    """A closed store with `count` entries in files."""
    store, rnd = open_store(directory), random.Random(1)
    store.map(SPEC).put_many([b"%06d" % i for i in range(count)], [rnd.randbytes(100) for _ in range(count)])
    store.commit(Mark(1, "t", 1))
    store.close()


@contextmanager
def child(code, *arguments):
    """A process that runs the code with what it needs imported; killed at the end."""
    head = (
        "import os, resource, sys; from pathlib import Path; from streams.core.errors import *;"
        "from streams.core.store import StoreSpec; from streams.state.base import *;"
        "from streams.state.rocksdb import *\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", head + code, *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def damage(file, at, count=64):
    with file.open("r+b") as opened:
        opened.seek(at)
        old = opened.read(count)
        opened.seek(at)
        opened.write(bytes(byte ^ 0xFF for byte in old))
