"""What a worker lends its tasks."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from streams.core.clock import Clock
from streams.core.topology import TaskId
from streams.log.base import Log
from streams.runtime.notes import Note
from streams.runtime.plan import Plan
from streams.runtime.watchdog import Place
from streams.settings import Settings
from streams.state.base import StateStore


@dataclass(frozen=True)
class Tools:
    """What a worker lends its tasks."""

    log: Log
    plan: Plan
    settings: Settings
    clock: Clock
    open_state: Callable[[Path], StateStore]
    state_dir: Path
    note: Note
    drop_state: Callable[[Path], None] = shutil.rmtree
    download: Callable[[TaskId, Path, str, int, int], Iterator[None]] | None = None
    """Brings the newest snapshot that fits into a directory; None without a checkpoint location. Topic id, start of the
    changelog, the newest commit to take."""
    corrupted: Callable[[TaskId], None] | None = None
    """Told that a task's local store is damaged."""
    location: Callable[[], str] | None = None
    """What commits name as the token of the checkpoint location; None without one."""
    place: Place = field(default_factory=Place)
    """Which operator runs now."""
