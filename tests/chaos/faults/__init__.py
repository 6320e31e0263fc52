"""All faults."""

from tests.chaos.faults import broker, damage, disk, kills, network, objects, standstill, storage, storm

ALL = (
    *kills.FAULTS,
    *standstill.FAULTS,
    *storm.FAULTS,
    *damage.FAULTS,
    *objects.FAULTS,
    *storage.FAULTS,
    *disk.FAULTS,
    *network.FAULTS,
    *broker.FAULTS,
)
