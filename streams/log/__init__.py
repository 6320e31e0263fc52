"""Logs: Kafka and the embedded one, behind one contract (`streams.log.base`)."""
