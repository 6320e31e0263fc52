"""Logging of a process of ours: text for people, or one JSON object a line for machines."""

import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TextIO


class TextFormatter(logging.Formatter):
    """Time, level, message; before the message the slot of the worker that it came from, if that is another process."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        if slot := getattr(record, "slot", ""):
            record.message = f"[{slot}] {record.message}"
        return super().formatMessage(record)


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time (ISO 8601, UTC), level, logger, message; then `app` and `slot`, `task` where it is
    known, `error` with the traceback if there is one, and whatever stands in the record's attribute `fields`.

    >>> record = logging.LogRecord("streams", logging.INFO, "", 0, "task %s", ("0/1",), None)
    >>> record.created, record.task = 1_522_540_800.25, "0/1"
    >>> JsonFormatter({"app": "spending"}).format(record)  # doctest: +NORMALIZE_WHITESPACE
    '{"time": "2018-04-01T00:00:00.250Z", "level": "INFO", "logger": "streams", "message": "task 0/1",
      "app": "spending", "task": "0/1"}'
    """

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.known = dict(known or {})

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        made: dict[str, Any] = {
            "time": when.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self.known,
        }
        for name in ("slot", "task"):
            if value := getattr(record, name, ""):
                made[name] = value
        made.update(getattr(record, "fields", {}))
        if record.exc_info:
            made["error"] = self.formatException(record.exc_info)
        return json.dumps(made, ensure_ascii=False, default=str)


def set_up(*, quiet: bool, as_json: bool, stream: TextIO | None = None) -> logging.Handler:
    """Send the log to `stream` (stderr): INFO and above, or with `quiet` WARNING and above. Returns the handler."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    logging.basicConfig(level=logging.WARNING if quiet else logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(as_json)
    return handler


def know(**fields: str) -> None:
    """From now on every JSON line carries these fields."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonFormatter):
            handler.formatter.known.update(fields)
