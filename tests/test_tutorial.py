"""The tutorial, as its reader works through it."""

import pytest

from tests.tutorial import KAFKA, PAGE, Reader


@pytest.fixture
def here(tmp_path):
    directory = tmp_path / "spending"
    directory.mkdir()
    return directory


@pytest.mark.slow
def test_the_tutorial_on_the_embedded_log(here):
    before, _, _ = PAGE.read_text().partition(KAFKA)
    with Reader(here, {}) as reader:
        assert reader.follow(before) >= 10


@pytest.mark.slow
@pytest.mark.kafka
def test_the_tutorial_on_a_kafka_that_it_starts(here):
    before, _, after = PAGE.read_text().partition(KAFKA)
    with Reader(here, {}) as reader:
        reader.follow(before)
        try:
            assert reader.follow(after) >= 3
        finally:
            reader.type("streams broker stop\n")
