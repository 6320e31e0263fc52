"""What was done and found, and the table of it."""

from collections import Counter
from dataclasses import dataclass, field
from statistics import median


@dataclass
class Line:
    """Of one fault. `recoveries`: seconds until all was at work again."""

    count: int = 0
    violations: int = 0
    exits: int = 0
    recoveries: list[float] = field(default_factory=list)
    skipped: str = ""


@dataclass
class Report:
    """`wrong`: the violations. `exits` of a line: workers that ended by themselves and were started again."""

    log: str
    seed: int
    brokers: int
    lines: dict[str, Line] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    inside: int = 0
    wiped: int = 0
    seconds: float = 0.0
    outputs: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def all_kills(self) -> int:
        return self.kills.total()

    def text(self) -> str:
        """The table, for a terminal."""
        where = f"{self.log}, {self.brokers} broker{'s' * (self.brokers != 1)}" if self.brokers else self.log
        rows = [("fault", "count", "violations", "ended by itself", "median s", "longest s")]
        for name, line in self.lines.items():
            if line.skipped:
                rows.append((name, "-", "", "", "", f"left out: {line.skipped}"))
                continue
            times = line.recoveries
            shown = (f"{median(times):.1f}", f"{max(times):.1f}") if times else ("-", "-")
            rows.append((name, f"{line.count}", f"{line.violations}", f"{line.exits}", *shown))
        widths = [max(len(row[column]) for row in rows if len(row[5]) < 12) for column in range(6)]
        steps = ", ".join(f"{step} {n}" for step, n in sorted(self.kills.items()))
        share = self.inside / max(1, self.all_kills)
        lines = [
            f"{where}: seed {self.seed}, {self.seconds:.0f} s",
            *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
            f"worker kills: {self.all_kills}, {share:.0%} inside a commit ({steps}); state lost with {self.wiped}",
            "records that must have come out: " + ", ".join(f"{k} {v:,}" for k, v in sorted(self.outputs.items())),
            *(f"VIOLATION {each}" for each in self.wrong),
            "no violation" if not self.wrong else f"{len(self.wrong)} violations",
        ]
        return "\n".join(lines)
