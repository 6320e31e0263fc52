"""Panels, queries and dashboards in our ways, on top of grafana-foundation-sdk.

Every query is of one application (the variable `$app`) and gives something as soon as a worker is scraped: a counter
with labels that has no events yet counts as 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, stat, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
)

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
HEIGHT = 8


@dataclass(frozen=True)
class Query:
    """A PromQL query and the name of its series in the legend."""

    text: str
    legend: str = ""


def rate(metric: str, by: str = "", matching: str = "") -> str:
    """Events a second of a counter, in all or by a label; 0 where none has happened yet.

    >>> rate("streams_dead_total", "operator")
    'sum by (operator) (rate(streams_dead_total{app="$app"}[$__rate_interval])) or on () vector(0)'
    """
    return f"{summed(f'rate({of(metric, matching)}[$__rate_interval])', by)} or on () vector(0)"


def of(metric: str, matching: str = "") -> str:
    """The metric of the application.

    >>> of("streams_lag", 'topic="tx"')
    'streams_lag{app="$app", topic="tx"}'
    """
    return f'{metric}{{app="$app"{", " + matching if matching else ""}}}'


def summed(query: str, by: str = "") -> str:
    """The sum, in all or by labels."""
    return f"sum by ({by}) ({query})" if by else f"sum({query})"


def quantiles(histogram: str) -> list[Query]:
    """Median and 99th percentile of a histogram of the application, over the last minutes at least."""
    buckets = f"sum by (le) (rate({of(histogram + '_bucket')}[$__rate_interval]))"
    return [Query(f"histogram_quantile({q}, {buckets})", f"p{q * 100:.0f}") for q in (0.5, 0.99)]


def graph(
    title: str, text: str, *queries: Query, unit: str = "short", stacked: bool = False, width: int = 12
) -> timeseries.Panel:
    """Lines over time. `text` says what one sees."""
    legend = (
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .calcs(["lastNotNull"])
    )
    panel = timeseries.Panel().title(title).description(text).datasource(SOURCE).unit(unit).min(0)
    panel = panel.height(HEIGHT).span(width).legend(legend).show_points(VisibilityMode.NEVER).fill_opacity(10)
    panel = panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        panel = panel.with_target(_target(query, letter))
    return panel


def number(title: str, text: str, query: str, *, unit: str = "short", bad: float | None = None) -> stat.Panel:
    """One number, red from `bad` on."""
    steps = [Threshold(None, "green" if bad is not None else "blue")]
    if bad is not None:
        steps.append(Threshold(bad, "red"))
    limits = build.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
    reduced = common.ReduceDataOptions().calcs(["lastNotNull"])
    panel = stat.Panel().title(title).description(text).datasource(SOURCE).unit(unit).thresholds(limits)
    return panel.height(4).span(4).reduce_options(reduced).with_target(_target(Query(query), "A"))


def dashboard(uid: str, title: str, text: str, rows: Sequence[tuple[str, Sequence[object]]]) -> str:
    """A dashboard as JSON: rows with a title each, and their panels."""
    board = build.Dashboard(title).uid(uid).description(text).tags(["streams"]).readonly().refresh("10s")
    board = board.time("now-1h", "now").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR)
    board = board.with_variable(build.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    board = board.with_variable(
        build.QueryVariable("app")
        .label("application")
        .datasource(SOURCE)
        .query("label_values(streams_commits_total, app)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
    for name, panels in rows:
        board = board.with_row(build.Row(name))
        for panel in panels:
            board = board.with_panel(panel)  # type: ignore[arg-type]
    built = board.build()
    for place, made in enumerate(built.panels or [], start=1):  # links to a panel go by its id
        made.id_val = place
    return JSONEncoder(sort_keys=True, indent=2).encode(built) + "\n"


def _target(query: Query, letter: str) -> Dataquery:
    return Dataquery().expr(query.text).legend_format(query.legend).ref_id(letter).range()
