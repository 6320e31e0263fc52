"""The dashboard "card fraud": what the demo's pipeline reads and finds. The topics come from the program itself."""

from dashboards.panels import Query, dashboard, graph, number, of, quantiles, rate
from fraud.pipeline import alerts, app


def fraud_found() -> str:
    """The dashboard as JSON."""
    nodes = app.topology().graph.nodes.values()
    sources = [node.source.topic for node in nodes if node.source is not None]
    sinks = sorted({node.sink.topic for node in nodes if node.sink is not None})
    found = alerts.topic
    read = [Query(rate("streams_records_in_total", matching=f'topic="{topic}"'), topic) for topic in sources]
    others = [topic for topic in sinks if topic != found]
    alert_rate = rate("streams_records_out_total", matching=f'topic="{found}"')
    paid = of("streams_records_in_total", f'topic="{sources[0]}"')
    payments = f"sum(rate({paid}[$__rate_interval]))"
    numbers = [
        number("Payments", f"Records of {sources[0]} read a second", read[0].text, unit="reqps"),
        number("Alerts", f"Records written to {found} a second", alert_rate, unit="reqps"),
        number(
            "Bad records",
            f"Records sent to {app.dead_letters}, a second",
            rate("streams_dead_total"),
            unit="reqps",
            bad=0.001,
        ),
    ]
    flow = [
        graph("Read", "Payments, and labels as they become known", *read, unit="reqps"),
        graph("Alerts", "Committed, all reasons together", Query(alert_rate, found), unit="reqps"),
        graph(
            "Alerts a payment",
            "Share of payments that raise an alert, while there are any",
            Query(f"({alert_rate}) / ({payments} > 0) or on () vector(0)", "alerts a payment"),
            unit="percentunit",
        ),
        graph(
            "Other results",
            "Committed, by topic",
            *(Query(rate("streams_records_out_total", matching=f'topic="{topic}"'), topic) for topic in others),
            unit="reqps",
        ),
    ]
    timing = [
        graph("Late rows", "By operator", Query(rate("streams_late_total", "operator"), "{{operator}}"), unit="reqps"),
        graph(
            "Bad records", "By operator", Query(rate("streams_dead_total", "operator"), "{{operator}}"), unit="reqps"
        ),
        graph(
            "Watermark delay",
            "By task. The demo's data is years old: what counts is that it shrinks",
            Query(f"max by (task) ({of('streams_watermark_delay_seconds')})", "{{task}}"),
            unit="s",
        ),
        graph("End-to-end latency", "As large as the data is old", *quantiles("streams_latency_seconds"), unit="s"),
    ]
    return dashboard(
        "streams-fraud",
        "streams: card fraud",
        "What the demo's pipeline reads and finds",
        [("Now", numbers), ("Found", flow), ("Time and quality", timing)],
    )
