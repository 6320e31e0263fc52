import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from streams.checkpoint.location import Location
from tests.checkpoint.s3 import make_s3_older
from tests.checkpoint.support import make_files_older, s3_options

ROOT = Path(__file__).parents[2]
_buckets = count(1)


@pytest.fixture(scope="session")
def s3_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A moto server, a process of its own: an S3 over real HTTP on a free port of the loopback interface."""
    log = tmp_path_factory.mktemp("moto") / "log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with log.open("wb") as out:
        command = [sys.executable, "-W", "ignore", "-m", "tests.checkpoint.s3", str(port)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=5):
                    break
            except OSError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def bucket(s3_port: int) -> str:
    """The name of a new bucket."""
    name = f"bucket-{next(_buckets)}"
    request = urllib.request.Request(f"http://127.0.0.1:{s3_port}/{name}", method="PUT", data=b"")
    key = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
    request.add_header("Authorization", key)
    with urllib.request.urlopen(request, timeout=30):
        return name


@pytest.fixture(params=["directory", "s3"])
def opened(request: pytest.FixtureRequest, tmp_path) -> Callable[[], Location]:
    """Opens a location, the same each time."""
    if request.param == "directory":
        return lambda: Location(str(tmp_path / "location"))
    port, name = request.getfixturevalue("s3_port"), request.getfixturevalue("bucket")
    return lambda: Location(f"s3://{name}/some/prefix", s3_options(f"http://127.0.0.1:{port}"))


@pytest.fixture
def location(opened: Callable[[], Location]) -> Location:
    return opened()


@pytest.fixture
def make_older(location: Location, request: pytest.FixtureRequest) -> Callable[[float], None]:
    """Makes all that lies in the location older by some seconds, by the location's own clock."""

    def make(seconds: float) -> None:
        if location.directory is not None:
            make_files_older(location.directory, seconds)
            return
        port, bucket = request.getfixturevalue("s3_port"), urlsplit(location.url).netloc
        make_s3_older(port, bucket, seconds)

    return make
