"""What operators of the service look at: Grafana dashboards and Prometheus alerts.

`python -m dashboards` writes the generated files.

    catalogue.py   the metrics that the engine declares, and the table of them in docs/operations.md
    promql.py      which metrics a query names
    panels.py      panels and queries in our ways; health.py, recovery.py, fraud_found.py: a dashboard each
    prometheus/    scrape configurations, alerts and their tests
    grafana/       dashboards as JSON (generated), provisioning
"""
