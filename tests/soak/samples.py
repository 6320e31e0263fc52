"""What a soak looks at every few seconds: resident memory of each worker, and bytes on disk."""

import os
from collections import defaultdict
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
MB = 1e6


def resident(pid: int) -> int | None:
    """Bytes; None if the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None


def size(directory: Path) -> int:
    """Bytes that the files below take; those that vanish meanwhile do not count. A hard link counts once."""
    found: dict[int, int] = {}
    for place, _, names in os.walk(directory):
        for name in names:
            try:
                stat = os.stat(os.path.join(place, name))
            except FileNotFoundError:
                continue
            found[stat.st_ino] = stat.st_blocks * 512
    return sum(found.values())


def partition_sizes(data: Path, topic: str) -> dict[str, int]:
    """Bytes of each partition of a topic in a broker's data directory; of its records alone, not of indexes, which
    Kafka makes large and sparse."""
    return {
        place.name: sum(file.stat().st_size for file in place.glob("*.log"))
        for place in data.glob(f"{topic}-*")
        if place.name.removeprefix(f"{topic}-").isdigit()
    }


def slope(times: list[float], values: list[float]) -> float:
    """Least squares: how much the value grows in a unit of time.

    >>> slope([0, 1, 2], [5, 7, 9])
    2.0
    """
    count = len(times)
    middle, mean = sum(times) / count, sum(values) / count
    spread = sum((t - middle) ** 2 for t in times)
    return sum((t - middle) * (v - mean) for t, v in zip(times, values, strict=True)) / spread


class Memory:
    """Resident memory of workers over time: minutes and MB, by slot and process."""

    def __init__(self) -> None:
        self.lives: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)

    def add(self, slot: str, pid: int, minutes: float) -> None:
        if (bytes_ := resident(pid)) is not None:
            self.lives[slot, pid].append((minutes, bytes_ / MB))

    def growth(self, slot: str, since: float) -> float | None:
        """MB a minute of the slot's longest life, from this minute on; None with fewer than 3 samples there."""
        of_slot = [life for (name, _), life in self.lives.items() if name == slot]
        late = [sample for sample in max(of_slot, key=len, default=[]) if sample[0] >= since]
        return slope([t for t, _ in late], [v for _, v in late]) if len(late) > 2 else None

    def peak(self) -> float:
        return max((value for life in self.lives.values() for _, value in life), default=0.0)
