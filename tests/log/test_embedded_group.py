"""Members of the embedded log's groups: processes that die, stop and share."""

import random
import signal
import sqlite3
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.core.clock import ManualClock
from streams.core.errors import Fenced, SlotTaken
from streams.log.embedded import EmbeddedLog
from streams.log.embedded_group import shares
from streams.log.embedded_process import birth, gone
from tests.log.embedded_support import APP, PATIENCE


def test_a_dead_members_tasks_move_at_once(tmp_path, start):
    log = EmbeddedLog(tmp_path, session=3600.0)  # so it is not the heartbeat that tells
    child = start("member", str(tmp_path), "w1", "4", "3600")
    child.wait_for("has [0, 1, 2, 3]")
    group = log.group(APP, "w2", 4)
    poll_until(group, {2, 3})
    assert group.members == 2
    child.signal(signal.SIGKILL)  # and it is not waited for: it stays as a zombie of the system
    poll_until(group, {0, 1, 2, 3})
    assert group.members == 1
    log.close()


def test_a_stopped_member_loses_its_tasks_and_is_told(tmp_path, start):
    log = EmbeddedLog(tmp_path, session=3.0)
    child = start("member", str(tmp_path), "w1", "2", "3")
    child.wait_for("has [0, 1]")
    child.signal(signal.SIGSTOP)
    group = log.group(APP, "w2", 2)
    poll_until(group, {0, 1})
    child.signal(signal.SIGCONT)
    child.wait_for("lost [0, 1]")
    revoked: list[tuple[frozenset[int], bool]] = []
    poll_until(group, {0}, lambda tasks, lost: revoked.append((tasks, lost)))
    assert revoked == [(frozenset({1}), False)]
    child.wait_for("has [1]")
    log.close()


def poll_until(group, tasks: set[int], on_revoke=lambda tasks, lost: None) -> None:
    deadline = time.monotonic() + PATIENCE
    while (now := group.poll(0.05, on_revoke)) != tasks:
        assert time.monotonic() < deadline, sorted(now)


def test_one_slot_is_for_one_living_process(log, tmp_path, start):
    child = start("member", str(tmp_path), "w1", "2", "10")
    child.wait_for("has [0, 1]")
    with pytest.raises(SlotTaken, match=rf"'w1'.*process {child.pid} \(python"):
        log.group(APP, "w1", 2)
    log.group("other", "w1", 2).leave()
    child.end()
    group = log.group(APP, "w1", 2)
    assert group.poll(0.0, fail) == {0, 1}


def test_the_one_whose_slot_was_taken_meanwhile_is_told(tmp_path):
    clock = ManualClock(1_000_000)
    with EmbeddedLog(tmp_path, clock=clock) as log:
        old = log.group(APP, "w1", 2)
        assert old.poll(0.0, fail) == {0, 1}
        new = log.group(APP, "w1", 2)  # a restart within one process
        assert new.poll(0.0, fail) == {0, 1}
        clock.sleep(1.0)
        lost: list[tuple[frozenset[int], bool]] = []
        with pytest.raises(SlotTaken, match="this one"):
            old.poll(0.0, lambda tasks, late: lost.append((tasks, late)))
        assert lost == [(frozenset({0, 1}), True)]


def test_a_restart_moves_nothing(tmp_path):
    clock = ManualClock(1_000_000)
    with EmbeddedLog(tmp_path, clock=clock) as log:
        late, early = None, log.group(APP, "w2", 4)
        for _ in range(3):  # the second to join has what the first gives up
            early.poll(0.0, lambda tasks, lost: None)
            late = late or log.group(APP, "w1", 4)
            late.poll(0.0, fail)
            clock.sleep(1.0)
        late, early = log.group(APP, "w1", 4), log.group(APP, "w2", 4)
        assert late.poll(0.0, fail) == {2, 3}
        assert early.poll(0.0, fail) == {0, 1}


def fail(tasks: frozenset[int], lost: bool) -> None:
    raise AssertionError(f"nothing was to be revoked: {sorted(tasks)}")


def test_many_processes_may_make_it_at_once(tmp_path, start):
    children = [start("member", str(tmp_path / "new"), f"w{i}", "3", "30") for i in range(3)]
    for child in children:
        while len(child.line().split()) != 2:  # "has [n]": one task each
            pass


# ---- the group, with a clock moved by hand


@given(st.integers(0, 12), st.dictionaries(st.sampled_from("abcdefg"), st.frozensets(st.integers(0, 14)), min_size=1))
def test_shares_are_even_whole_and_sticky(tasks, held):
    found = shares(tasks, held)
    assert found.keys() == held.keys()
    assert sorted(t for share in found.values() for t in share) == list(range(tasks))
    assert {len(share) for share in found.values()} <= {tasks // len(held), -(-tasks // len(held))}
    assert shares(tasks, found) == found
    distinct: dict[str, frozenset[int]] = {}
    for slot, share in held.items():
        distinct[slot] = share.intersection(range(tasks)).difference(*distinct.values())
    found = shares(tasks, distinct)
    for slot, share in distinct.items():  # each keeps all it has, or is full with what it had
        assert share <= found[slot] or found[slot] <= share
    assert shares(tasks, dict(reversed(held.items()))) == shares(tasks, held)


@pytest.mark.parametrize("seed", range(6))
def test_members_that_come_go_and_stall_never_overlap_while_in_time(tmp_path, seed):
    """Random schedules: tasks are with one member at a time, as long as each polls within its session."""
    draw, clock, tasks = random.Random(seed), ManualClock(1_000_000), 7
    with EmbeddedLog(tmp_path, clock=clock, session=10.0) as log:
        groups, has, polled = {}, {}, {}

        def revoke(slot: str):
            def on_revoke(given: frozenset[int], lost: bool) -> None:
                assert lost == (clock.monotonic() - polled[slot] > 10.0)
                assert given <= has[slot]
                has[slot] -= given

            return on_revoke

        def poll(slot: str) -> None:
            has[slot] = groups[slot].poll(0.0, revoke(slot))
            polled[slot] = clock.monotonic()
            in_time = [s for s in groups if clock.monotonic() - polled[s] <= 10.0]
            assert len(frozenset().union(*(has[s] for s in in_time))) == sum(len(has[s]) for s in in_time)

        for _ in range(300):
            slot = draw.choice("abcd")
            step = draw.random()
            if slot not in groups:
                groups[slot], has[slot], polled[slot] = log.group(APP, slot, tasks), frozenset(), clock.monotonic()
            elif step < 0.05:
                groups.pop(slot).leave()
            elif step < 0.08:
                clock.sleep(11.0)  # all have stalled; whoever looks first takes over
                for each in list(groups):
                    poll(each)
            else:
                poll(slot)
            clock.sleep(draw.choice([0.01, 0.1, 0.5]))
        for _ in range(6):
            for slot in groups:
                poll(slot)
            clock.sleep(0.2)
        assert sorted(t for slot in groups for t in has[slot]) == list(range(tasks))
        assert max(map(len, has.values())) - min(len(has[s]) for s in groups) <= 1
        assert {g.members for g in groups.values()} == {len(groups)}


def test_an_error_while_giving_up_keeps_the_tasks(tmp_path):
    clock = ManualClock(1_000_000)
    with EmbeddedLog(tmp_path, clock=clock) as log:
        first = log.group(APP, "w1", 2)
        first.poll(0.0, fail)
        second = log.group(APP, "w2", 2)
        clock.sleep(1.0)

        def refuse(tasks: frozenset[int], lost: bool) -> None:
            raise Fenced("by somebody")

        with pytest.raises(Fenced):
            first.poll(0.0, refuse)
        assert second.poll(0.0, fail) == frozenset()
        clock.sleep(1.0)
        revoked: list[frozenset[int]] = []
        assert first.poll(0.0, lambda tasks, lost: revoked.append(tasks)) == {0}
        assert revoked == [{1}]
        clock.sleep(1.0)
        assert second.poll(0.0, fail) == {1}


def test_heartbeats_are_written_at_most_once_a_second(tmp_path):
    clock = ManualClock(1_000_000)
    with EmbeddedLog(tmp_path, clock=clock) as log, sqlite3.connect(tmp_path / "log.db") as watcher:
        group = log.group(APP, "w1", 2)
        group.poll(0.0, fail)
        versions = set()
        for _ in range(50):
            clock.sleep(0.1)
            group.poll(0.0, fail)
            versions.add(watcher.execute("PRAGMA data_version").fetchone())
        assert 4 <= len(versions) <= 6
    watcher.close()


def test_a_process_is_told_from_a_later_one_of_its_number(start):
    with subprocess.Popen(["sleep", "600"]) as process:
        born = birth(process.pid)
        assert not gone(process.pid, born)
        assert gone(process.pid, born + "1")
        assert not gone(process.pid, "another-namespace 1")
        process.kill()
        while not gone(process.pid, born):
            time.sleep(0.01)
    assert gone(process.pid, born)
