"""An embedded log, and processes beside it."""

import pytest

from streams.log.base import TopicSpec
from streams.log.embedded import EmbeddedLog
from tests.log.embedded_support import PARTITIONS, TOPIC, Child


@pytest.fixture
def start():
    children: list[Child] = []

    def begin(*arguments: str) -> Child:
        children.append(Child(*arguments))
        return children[-1]

    yield begin
    for child in children:
        child.end()


@pytest.fixture
def log(tmp_path):
    with EmbeddedLog(tmp_path, patience=5.0) as made:
        made.create([TopicSpec(TOPIC, PARTITIONS, {})])
        yield made
