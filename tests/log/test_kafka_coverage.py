"""Which member mends a hole in the group's assignment, and when."""

from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from confluent_kafka import ConsumerGroupState, KafkaError, KafkaException

from streams.log.kafka_coverage import EVERY, GIVEN_UP, Coverage


class Admin:
    """Answers what it was told to."""

    def __init__(self):
        self.answers, self.lost = [], 0

    def asked_for_group(self, group):
        assert group == "shop"
        return self.answers.pop(0)

    def lost_coordinator(self):
        self.lost += 1


def group(state=ConsumerGroupState.STABLE, **owned):
    places = {name: [SimpleNamespace(topic="shop-tasks", partition=t) for t in tasks] for name, tasks in owned.items()}
    answer = Future()
    answer.set_result(
        SimpleNamespace(
            state=state,
            members=[
                SimpleNamespace(
                    group_instance_id=f"shop-{name}", member_id="", assignment=SimpleNamespace(topic_partitions=tasks)
                )
                for name, tasks in places.items()
            ],
        )
    )
    return answer


def looked(answers, slot="a"):
    """What each answer leads to."""
    admin = Admin()
    admin.answers = list(answers)
    coverage, found, now = Coverage(admin, "shop", f"shop-{slot}", 4), [], 100.0
    assert not coverage.look(now)  # it has just joined
    while admin.answers:
        now += EVERY
        assert not coverage.look(now)  # it asks
        found.append(coverage.look(now))
    return found


def test_all_tasks_have_an_owner():
    assert looked([group(a=[0, 1], b=[2, 3])] * 3) == [False] * 3


def test_a_hole_is_mended_when_it_was_seen_twice_by_who_has_the_fewest_tasks():
    answers = [group(a=[], b=[2, 3])] * 3
    assert looked(answers) == [False, True, False]
    assert looked(answers, "b") == [False] * 3


def test_of_equals_the_first_name_mends():
    answers = [group(a=[0], b=[2])] * 2
    assert looked(answers) == [False, True]
    assert looked(answers, "b") == [False, False]


@pytest.mark.parametrize(
    "between", [group(a=[0], b=[2]), group(ConsumerGroupState.PREPARING_REBALANCING, a=[], b=[2, 3])]
)
def test_a_group_that_moves_is_left_alone(between):
    assert looked([group(a=[], b=[2, 3]), between, group(a=[], b=[2, 3])]) == [False] * 3


def test_an_error_says_nothing():
    failed = Future()
    failed.set_exception(KafkaException(KafkaError(KafkaError.NOT_COORDINATOR)))
    assert looked([group(a=[], b=[2]), failed, group(a=[], b=[2])]) == [False] * 3


def test_an_answer_that_never_comes_is_given_up():
    admin = Admin()
    admin.answers = [Future(), group(a=[0, 1, 2, 3])]
    coverage = Coverage(admin, "shop", "shop-a", 4)
    assert not any(coverage.look(now) for now in (0.0, EVERY, EVERY + GIVEN_UP))
    assert not admin.lost
    assert not coverage.look(EVERY + GIVEN_UP + 1)
    assert admin.lost == 1
    assert not coverage.look(EVERY + GIVEN_UP + 1)  # it asks again
    assert not admin.answers
