"""Snapshots of tasks' stores in a place that all workers share: a directory, S3, GCS, Azure."""
