"""What RocksDB does not tell of its own files: a manifest that has lost its end, damage on which it hangs, who has them
open, and what its errors mean to an operator. Plain files, without RocksDB."""

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from streams.core.errors import DiskFull, StateCorrupt, StateError, StateInUse

DAMAGED = "DAMAGED"
"""The file that says a store was found damaged."""


class Manifest:
    """The manifest in use: its name, and length and CRC32 of what was seen of it."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._name, self._size, self._crc = directory, "", 0, 0

    def seen(self) -> tuple[str, int, int]:
        """Read on: it only grows, and RocksDB starts another one when writing it has failed."""
        with suppress(OSError):
            name = (self._directory / "CURRENT").read_text().strip()
            if name != self._name:
                self._name, self._size, self._crc = name, 0, 0
            with (self._directory / name).open("rb") as file:
                file.seek(self._size)
                added = file.read()
            self._size, self._crc = self._size + len(added), crc32(added, self._crc)
        return self._name, self._size, self._crc


def manifest_of(directory: Path) -> tuple[str, bytes]:
    """The name and the content of the manifest."""
    with suppress(OSError, UnicodeDecodeError):
        name = (directory / "CURRENT").read_text().strip()
        return name, (directory / name).read_bytes()
    return "", b""


def endless(file: Path) -> bool:
    """Whether RocksDB would read this log or manifest for ever, holding the GIL: it does if the type of a record is
    one that only files in reuse have. Records: CRC (4 bytes), size (2), type (1), data; blocks of 32 KB."""
    data, at = file.read_bytes(), 0
    while at + 7 <= len(data):
        size, kind, left = data[at + 4] | data[at + 5] << 8, data[at + 6], 32768 - at % 32768
        if left < 7 or size == kind == 0:
            at += left
        elif kind in (5, 6, 7, 8, 11):
            return True
        else:
            at += 7 + size
    return False


def link(source: Path | str, target: Path | str) -> None:
    """The same file under another name; a copy of it on a file system without links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def corrupt(directory: Path, what: str) -> StateCorrupt:
    """The error; also a note in the directory, so that damage met while reading is known at the next open."""
    with suppress(OSError):
        (directory / DAMAGED).write_text(what)
    fix = "delete the directory: it is only a cache, and is rebuilt from the changelog"
    return StateCorrupt(f"the files of a store are damaged: {what}", where=str(directory), fix=fix)


def named(error: Exception, directory: Path, doing: str) -> StateError:
    """RocksDB's errors are texts: what each means to an operator."""
    text, where = str(error), str(directory)
    if isinstance(error, StateError):
        return error
    if "lock hold by current process" in text:
        return StateInUse("this process has the store open already", where=where, fix="close it first")
    if "While lock file" in text:
        pid = holder_of(directory)
        who = f"process {pid}" if pid else "another process"
        fix = "stop it, or give each worker a slot and a state directory of its own"
        return StateInUse(f"{who} holds the state directory", where=where, fix=fix)
    if re.search("No space left|File too large|quota exceeded", text):
        fix = "make room; nothing is lost, the store goes on from its last commit"
        return DiskFull(f"no space left ({doing}): {text}", where=where, fix=fix)
    if "Write stall" in text:
        what = "no write was possible for a minute: flushes and compactions wait for the disk"
        return StateError(what, where=where, fix="give the state directory a faster disk")
    if re.search("Permission denied|Read-only file system|not permitted", text):
        return StateError(f"no permission ({doing}): {text}", where=where, fix="let this user own the directory")
    if re.search("Corruption|No such file|checksum", text):
        return corrupt(directory, f"{doing}: {text}")
    return StateError(f"{doing} failed: {text}", where=where)


def holder_of(directory: Path) -> int:
    """The process that holds the LOCK, 0 if unknown (Linux only). The file itself is not opened: closing it would drop
    the lock of a store that this very process has open."""
    with suppress(OSError, ValueError, LookupError):
        lock = (directory / "LOCK").stat().st_ino
        for fields in map(str.split, Path("/proc/locks").read_text().splitlines()):
            if fields[1] == "POSIX" and int(fields[5].rpartition(":")[2]) == lock:
                return max(0, int(fields[4]))
    return 0
