"""One worker of a job: python -m benchmarks.worker BROKERS JOB IN OUT STATE_DIR SLOT"""

import sys

from benchmarks.jobs import JOBS
from streams.settings import load


def main(brokers: str, job: str, topic: str, out: str, state_dir: str, slot: str) -> None:
    app = JOBS[job](topic, out, f"job-{out}")
    app.run(load({"brokers": brokers, "state_dir": state_dir, "slot": slot}, {}))


if __name__ == "__main__":
    main(*sys.argv[1:])
