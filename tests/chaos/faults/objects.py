"""Damage to snapshots: objects and manifests in the checkpoint location, right before a worker needs them."""

import shutil
import time
from random import Random

from streams.checkpoint.collect import verify
from streams.checkpoint.manifest import list_manifests, object_key, tasks
from tests.chaos.faults.damage import spoil
from tests.chaos.world import SLOTS, Fault, World

KEPT = 3  # snapshots of each task, by the settings


def candidates(world: World) -> list[str]:
    """What only newer snapshots of a task need: the oldest one that is kept stays whole, or the state would be lost for
    good, since the changelog is trimmed up to it. Tasks with damage from before are left alone."""
    app = world.fleet.app
    spoilt = {finding.key.split("/")[1] for finding in verify(world.location, app)}
    keys: set[str] = set()
    for task in tasks(world.location, app):
        if task in spoilt:
            continue
        listed = [each for each in list_manifests(world.location, app, task) if each.manifest is not None]
        oldest, *newer = sorted(listed, key=lambda each: each.number)[-KEPT:] or [None]
        needed = {f.hash for f in oldest.manifest.files} if oldest is not None and oldest.manifest else set()
        for each in newer:
            assert each is not None
            assert each.manifest is not None
            keys.add(each.key)
            keys |= {object_key(app, task, f) for f in each.manifest.files if f.hash not in needed}
    return sorted(keys)


def damage(world: World, rng: Random) -> list[float]:
    """One object is changed, cut short or deleted; then a worker loses its state."""
    for _ in range(10):  # until some task has two snapshots
        if candidates(world):
            break
        world.pass_time(2)
    # The snapshots must not turn over between the choice and the restore: nobody works meanwhile.
    since = time.monotonic()
    for slot in SLOTS:
        world.fleet.kill(slot, Random(0))
    found = candidates(world)
    by_task = {key.split("/")[1]: [k for k in found if k.split("/")[1] == key.split("/")[1]] for key in found}
    for task in sorted(by_task):
        key = rng.choice(by_task[task])
        data = world.location.read(key)
        if not data:
            continue
        world.location.delete([key])
        how = rng.choice(("spoilt", "deleted"))
        if how == "spoilt" and (rest := spoil(data, rng)):
            world.location.write(key, iter([rest]), len(rest))
        world.damaged.add(key)
        world.fleet.note("damaged", key=key, how=how)
    for slot in SLOTS:
        shutil.rmtree(world.fleet.state(slot), ignore_errors=True)
    return [world.fleet.recovered(*SLOTS, since=since)]


FAULTS = (Fault("damaged snapshot, state lost", damage),)
