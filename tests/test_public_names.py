"""The public surface: a change of it is a decision, not an accident."""

import operators
import streams


def test_public_names_are_there():  # ruff keeps them sorted
    for module in (streams, operators):
        assert len(set(module.__all__)) == len(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)


def test_streams():
    assert streams.__all__ == [
        "App",
        "Batch",
        "Context",
        "EventTime",
        "KeyValueStore",
        "Operator",
        "Schema",
        "SinkTask",
        "StoreSpec",
        "Stream",
        "StreamsError",
        "TwoPhaseSink",
        "col",
        "connect",
    ]
