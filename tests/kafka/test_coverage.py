"""A member that dies while it gives tasks up, and comes back at once: no task stays without an owner."""

import os
import signal
import subprocess
import sys
import time
import uuid

import pytest

from streams.log.kafka import KafkaLog
from tests.contract.logs import PATIENCE

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

TASKS = 8
DIES = """
import os, signal, sys
from streams.log.kafka import KafkaLog

def die(tasks, lost):
    os.kill(os.getpid(), signal.SIGKILL)  # half a rebalance is done

group = KafkaLog(sys.argv[1]).group(sys.argv[2], "b", int(sys.argv[3]))
held = frozenset()
while True:
    now = group.poll(0.1, die)
    if now != held:
        held = now
        print(len(held), flush=True)
"""


def nothing(tasks, lost):
    pass


def until(groups, done):
    """Poll all of them until that is so."""
    deadline, held = time.monotonic() + PATIENCE, {}
    while not done(held):
        assert time.monotonic() < deadline, held
        held = {slot: group.poll(0.05, nothing) for slot, group in groups.items()}
    return held


def test_a_member_that_died_while_it_gave_tasks_up_leaves_none_without_an_owner(kafka):
    app, log = f"cover-{uuid.uuid4().hex[:8]}", KafkaLog(kafka.bootstrap)
    b = subprocess.Popen([sys.executable, "-c", DIES, kafka.bootstrap, app, str(TASKS)], stdout=subprocess.PIPE)
    groups = {}
    try:
        assert b.stdout is not None
        while b.stdout.readline() != b"%d\n" % TASKS:
            assert b.poll() is None
        groups["a"] = log.group(app, "a", TASKS)
        until(groups, lambda held: b.poll() is not None)
        assert b.returncode == -signal.SIGKILL
        groups["b"] = log.group(app, "b", TASKS)
        held = until(groups, lambda held: held and len(frozenset().union(*held.values())) == TASKS)
        assert {slot: len(tasks) for slot, tasks in held.items()} == {"a": TASKS // 2, "b": TASKS // 2}
    finally:
        if b.poll() is None:
            os.kill(b.pid, signal.SIGKILL)
        b.communicate()
        for group in groups.values():
            group.leave()
        log.close()
