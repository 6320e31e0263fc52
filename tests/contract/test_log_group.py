"""What every log promises of its groups."""

import time

from streams.log.base import Log
from tests.contract.logs import PATIENCE


class Member:
    """A worker's view of the group."""

    def __init__(self, log: Log, app: str, slot: str, tasks: int, others: "list[Member]") -> None:
        self.group, self.others = log.group(app, slot, tasks), others
        self.tasks: frozenset[int] = frozenset()
        self.revoked: list[frozenset[int]] = []
        others.append(self)

    def on_revoke(self, tasks: frozenset[int], lost: bool) -> None:
        assert not lost
        assert tasks <= self.tasks
        for other in self.others:  # called before they can be with anybody else
            assert other is self or not tasks & other.tasks
        self.revoked.append(tasks)
        self.tasks -= tasks

    def poll(self) -> None:
        self.tasks = self.group.poll(0.05, self.on_revoke)
        for other in self.others:
            assert other is self or not self.tasks & other.tasks

    def leave(self) -> None:
        self.tasks = frozenset()
        self.group.leave()
        self.others.remove(self)


def settle(members: list[Member], reached) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, [sorted(m.tasks) for m in members]
        for member in members:
            member.poll()


def test_one_member_gets_all_tasks(log, app):
    members: list[Member] = []
    only = Member(log, app, "w1", 4, members)
    settle(members, lambda: only.tasks == {0, 1, 2, 3})
    only.poll()
    assert only.tasks == {0, 1, 2, 3}
    assert only.group.members == 1
    assert only.revoked == []
    only.leave()


def test_members_share_come_and_go(log, app):
    members: list[Member] = []
    first = Member(log, app, "w1", 4, members)
    settle(members, lambda: len(first.tasks) == 4)
    second = Member(log, app, "w2", 4, members)
    settle(members, lambda: len(first.tasks) == len(second.tasks) == 2)
    assert first.tasks | second.tasks == {0, 1, 2, 3}
    assert len(frozenset().union(*first.revoked)) == 2
    assert second.revoked == []
    kept = second.tasks
    settle(members, lambda: first.group.members == second.group.members == 2)
    first.leave()
    settle(members, lambda: len(second.tasks) == 4)
    assert kept <= second.tasks
    assert second.revoked == []
    second.leave()


def test_more_members_than_tasks(log, app):
    members: list[Member] = []
    for slot in ("w1", "w2", "w3"):
        Member(log, app, slot, 2, members)
    settle(members, lambda: sorted(len(m.tasks) for m in members) == [0, 1, 1])
    while members:
        members[0].leave()


def test_a_slot_that_left_can_join_again(log, app):
    members: list[Member] = []
    for _ in range(2):
        Member(log, app, "w1", 2, members)
        settle(members, lambda: members[0].tasks == {0, 1})
        members[0].leave()
