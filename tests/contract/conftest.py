"""What the contract suites run over."""

import uuid

import pytest

from streams.log.base import Log
from tests.contract.logs import new_topic


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def log(request, tmp_path):
    if request.param == "embedded":
        from streams.log.embedded import EmbeddedLog

        made: Log = EmbeddedLog(tmp_path)
    else:
        from streams.log.kafka import KafkaLog, Timeouts

        # A machine under load can stand still for longer than a message waits by default.
        patient = Timeouts(transaction_ms=60_000, commit_seconds=60.0)
        made = KafkaLog(request.getfixturevalue("kafka").bootstrap, timeouts=patient)
    yield made
    made.close()


@pytest.fixture
def app():
    return f"app-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def topic(log):
    return new_topic(log, 1)


@pytest.fixture
def reader(log):
    made = log.reader()
    yield made
    made.close()
