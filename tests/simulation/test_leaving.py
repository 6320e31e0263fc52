"""A worker that leaves commits twice with one writer, where it has sinks outside the log: also when in doubt?"""

from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from streams.core.clock import ManualClock
from streams.core.stream import with_sinks
from streams.core.topology import cut
from streams.metrics import Metrics
from streams.runtime.plan import prepare
from streams.runtime.tools import Tools
from streams.runtime.worker import Worker
from tests.simulation import program
from tests.simulation.cluster import Late
from tests.simulation.log import SimLog, SimWriter
from tests.simulation.outside import APP, OutsideSchedule, SimSink
from tests.simulation.schedule import SETTINGS
from tests.simulation.store import SimStore
from tests.simulation.world import Process


class Killed(BaseException):
    pass


class Alone(Process):
    """A process that is not interrupted."""

    def point(self) -> None:
        pass

    def spawn(self, call):
        done = Future()
        done.set_result(call())
        return done


def test_nothing_is_appended_after_a_commit_in_doubt_when_a_worker_leaves():
    schedule = OutsideSchedule(1)
    world, cluster, clock = schedule.world, schedule.cluster, ManualClock(program.START)
    world.calm = True
    world.running = process = Alone(world, "a", lambda process: None)
    begun: list[str] = []

    def worker(hook):
        log = SimLog(cluster, None)
        topology = cut(with_sinks(APP.graph, lambda node: SimSink(process, schedule.shelves)))
        plan = prepare(APP.name, topology, log, APP.dead_letters, program.PARTITIONS)
        tools = Tools(
            log,
            plan,
            replace(SETTINGS, slot="a"),
            clock,
            lambda directory: SimStore(process, directory),
            Path("a"),
            lambda text, *_, **__: None,
            lambda directory: world.disks.pop(directory, None),
        )
        return Worker(tools, metrics=Metrics(), clock=clock, hook=hook, wait=0.0)

    def hook(step):
        if step == "begin":
            begun.append(step)
        if step == "flushed" and leaving and len(begun) == 2:
            for late in cluster.late:  # the copy of the first request arrives, and the process is killed
                cluster.end(cluster.open[late.transaction.slot], commit=True)
            cluster.late.clear()
            raise Killed

    def doubted(self, positions, leases, commit=SimWriter.commit):
        transaction = self._opened()
        commit(self, positions, leases)
        if len(begun) == 1:
            cluster.late.append(Late(transaction, duplicate=True))
            self._suspect = True

    def works(made, turns):
        made.start()
        for _ in range(turns):
            made.turn()
            clock.sleep(0.01)
            if any(t.touched and t.outside.rows for t in made.running) and turns > 600:
                break

    def gone():
        cluster.members.clear()
        cluster.assigned.clear()

    leaving: list[bool] = []
    with patch("streams.runtime.leases.begin", world.begin):
        first = worker(hook)
        works(first, 1000)
        begun.clear()
        leaving.append(True)
        with patch.object(SimWriter, "commit", doubted):
            first.leave()  # not killed in a second commit: there is none
        gone()
        second = worker(lambda step: None)
        works(second, 600)
        second.leave()
        second.close()
        gone()
        world.disks.clear()  # the changelog alone must do
        third = worker(lambda step: None)
        works(third, 300)
        assert third.complete
