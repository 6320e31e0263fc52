"""What every test can ask for."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import settings

from streams import broker

# pytest-xdist sets them, and programs on a pseudo-terminal of their own would believe them.
for name in ("COLUMNS", "LINES"):
    os.environ.pop(name, None)

# A shared machine can stall for seconds: the time one example takes says nothing here.
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")


@dataclass(frozen=True)
class Kafka:
    """A real Kafka that all tests of a run share: name topics and groups so that nobody else has them."""

    bootstrap: str


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """The one at KAFKA_BOOTSTRAP, or a temporary one. Where it cannot be had, tests fail and say why."""
    given = os.environ.get("KAFKA_BOOTSTRAP")
    if given:
        yield Kafka(given)
        return
    with broker.start() as started:
        yield Kafka(started.bootstrap)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m "not kafka"` leaves out what needs the broker, without a mark on each test."""
    for item in items:
        if "kafka" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kafka)
