"""The pictures of docs/web.md, from a real run: `python -m docs.screenshots`, from the repository's root.

Starts the demo's pipeline on an embedded log in a temporary directory, feeds it at a steady rate, with some broken
records, waits until every part of the page has something to show, and photographs it with Chromium.
"""

import asyncio
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fraud.feed import AUTH, create_topics, feed
from fraud.generator import Profile
from streams.app import open_log
from streams.core.record import Produced
from streams.settings import Settings
from tests.web.browser import Tab, executable, tab

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
MOST = 200_000  # bytes of a picture in the repository
_DAYS, _PATIENCE, _WIDTH = 120, 120.0, 1120
_PARTS = ("topology", "tasks", "commits", "letters")


def main() -> None:
    try:
        executable()
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="streams-screenshots-") as name, _worker(Path(name)) as url:
        asyncio.run(_shoot(url))


@contextmanager
def _worker(directory: Path) -> Iterator[str]:
    """The pipeline at work, and fed; its page's address."""
    settings = Settings(log_dir=str(directory / "log"))
    log = open_log(settings)
    create_topics(log, 4)
    writer = log.writer("breaker", "0")
    bad = [b"not JSON", b'{"card_id":"c1","at":"yesterday"}', b'{"at":1}']
    writer.append(Produced(AUTH, 0, [None] * len(bad), bad, 1_522_540_800_000))
    writer.commit({}, {})
    writer.close()
    log.close()
    feeder = multiprocessing.get_context("spawn").Process(target=_feed, args=(settings,), daemon=True)
    # Relative directories: the page shows them.
    command = [sys.executable, "-m", "streams", "run", "fraud.pipeline:app", "--http", "127.0.0.1:0"]
    command += ["--log-dir", "log", "--state-dir", "state"]
    output = directory / "worker.log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "POLARS_MAX_THREADS": "1"}
    with output.open("wb") as file:
        worker = subprocess.Popen(command, cwd=directory, env=environment, stdout=file, stderr=file)
    try:
        feeder.start()
        deadline = time.monotonic() + _PATIENCE
        while not (found := re.search(r"http://\S+", output.read_text())):
            if worker.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"error: the worker does not start:\n{output.read_text()}")
            time.sleep(0.1)
        yield found[0]
    finally:
        feeder.terminate()
        feeder.join()
        worker.terminate()
        worker.wait()


def _feed(settings: Settings) -> None:
    log = open_log(settings)
    feed(log, profile=Profile(days=_DAYS), partitions=4, days_a_second=0.5)


async def _shoot(url: str) -> None:
    async with tab() as page:
        await page.open(url, width=_WIDTH, height=900)
        await page.until("document.querySelectorAll('#commits .bar').length >= 25")
        await page.until("document.querySelector('#letters td') && document.querySelector('#application td')")
        await _save(page, "page-dark")
        for part in _PARTS:
            await _save(page, part, f"#{part}")
    async with tab() as page:
        await page.open(url, width=_WIDTH, height=900, scheme="light")
        await _save(page, "page-light")
    async with tab() as page:
        await page.open(url, width=420, height=900)
        await _save(page, "phone")


async def _save(page: Tab, name: str, part: str | None = None) -> None:
    area = None
    if part is not None:
        box = f"document.querySelector({part!r}).getBoundingClientRect()"
        area = {k: await page.evaluate(f"{box}.{k} + {extra}") for k, extra in _AREA.items()}
    data = await page.picture(area)
    if len(data) > MOST:
        sys.exit(f"error: {name}.png has {len(data):,} bytes, more than {MOST:,}")
    (PICTURES / f"{name}.png").write_bytes(data)
    print(f"docs/pictures/{name}.png  {len(data):,} bytes")


_AREA = {"x": "scrollX", "y": "scrollY", "width": "0", "height": "0"}

if __name__ == "__main__":
    main()
