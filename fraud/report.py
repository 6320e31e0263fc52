"""How good the alerts are, measured against the generator's truth."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from fraud.feed import TRUTH
from streams.log.base import Log
from streams.log.reading import read_all

ALERTS = "fraud.alerts"
FIRST_DAY = 30
"""Quality is measured from this day on, if there are twice as many: before it the rules have too little history."""

_DAY_MS = 86_400_000
SCENARIOS = {1: "large amount", 2: "terminal compromised", 3: "card leaked"}


@dataclass(frozen=True)
class Quality:
    """Figures over the days from `first_day` on; `earlier`: alerts before it. `reasons`: code -> (alerts, precision);
    `scenarios`: number -> (frauds, found); a transaction with several alerts counts once in `alerted` and `hits`."""

    first_day: int
    earlier: int
    alerts: int
    alerted: int
    hits: int
    reasons: Mapping[str, tuple[int, float]]
    scenarios: Mapping[int, tuple[int, int]]

    def text(self) -> str:
        """Two small tables."""
        lines = [f"quality from day {self.first_day} on, against the generator's truth"]
        if self.first_day:
            lines.append(
                f"({self.alerts:,} of {self.alerts + self.earlier:,} alerts: before that day the rules have too little "
                "history)"
            )
        lines += ["", "  reason       alerts  precision"]
        lines += [f"  {code:10}  {count:7,}  {share:9.3f}" for code, (count, share) in sorted(self.reasons.items())]
        precision = self.hits / self.alerted if self.alerted else 0.0
        lines += [
            f"  payments    {self.alerted:7,}  {precision:9.3f}   a payment with several alerts counts once",
            "",
            "  scenario                 frauds   found  recall",
        ]
        for number, (frauds, found) in sorted(self.scenarios.items()):
            recall = found / frauds if frauds else 0.0
            lines.append(f"  {number} {SCENARIOS[number]:22} {frauds:7,} {found:7,}  {recall:6.3f}")
        frauds, found = (sum(v[i] for v in self.scenarios.values()) for i in (0, 1))
        lines.append(f"  all                      {frauds:7,} {found:7,}  {found / frauds if frauds else 0.0:6.3f}")
        return "\n".join(lines)


def measure(log: Log) -> Quality:
    """Read all alerts and the truth, and join them."""
    truth = _rows(log, TRUTH, {"transaction_id": pl.Int64, "at": pl.Int64, "scenario": pl.Int8})
    alerts = _rows(log, ALERTS, {"transaction_id": pl.Int64, "at": pl.Int64, "reason": pl.String})
    days = (truth["at"] // _DAY_MS).unique().sort()
    first_day = FIRST_DAY if len(days) > 2 * FIRST_DAY else 0
    start = (int(days[0]) + first_day) * _DAY_MS if len(days) else 0
    every = alerts.height
    truth, alerts = truth.filter(pl.col("at") >= start), alerts.filter(pl.col("at") >= start)
    joined = alerts.join(truth.select("transaction_id", "scenario"), on="transaction_id", how="left")
    fraud = (pl.col("scenario") > 0).mean()
    reasons = joined.group_by("reason").agg(pl.len().alias("n"), fraud.alias("precision"))
    single = joined.unique("transaction_id")
    frauds = truth.filter(pl.col("scenario") > 0).group_by("scenario").len()
    found = single.filter(pl.col("scenario") > 0).group_by("scenario").len()
    hits = {int(s): int(n) for s, n in found.rows()}
    return Quality(
        first_day,
        every - alerts.height,
        alerts.height,
        single.height,
        sum(hits.values()),
        {r: (int(n), float(p)) for r, n, p in reasons.rows()},
        {int(s): (int(n), hits.get(int(s), 0)) for s, n in frauds.rows()},
    )


def _rows(log: Log, topic: str, schema: Mapping[str, type[pl.DataType]]) -> pl.DataFrame:
    frames = [pl.DataFrame(schema=schema)]
    for records in read_all(log, topic, most=100_000):
        rows = [json.loads(v) for v in records.values() if v]
        frames.append(pl.DataFrame([[r[c] for c in schema] for r in rows], schema=schema, orient="row"))
    return pl.concat(frames)
