"""What operators of the service look at: Grafana dashboards, Prometheus alerts. `python -m dashboards` writes the files.

catalogue.py   the metrics that the engine declares, and the table of them in docs/operations.md
promql.py      which metrics a query names
prometheus/    scrape configuration, alerts and their tests
"""
