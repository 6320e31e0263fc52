"""A checkpoint location on S3: a server, a process of its own, behind a proxy.

moto comes from PyPI, and is what the tests use. versitygw is a server that people run in production, a Go module:

    go install github.com/versity/versitygw/cmd/versitygw@v1.0.14
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Literal

from streams.checkpoint.location import Location
from tests.chaos.proxy import Proxy

Server = Literal["moto", "versitygw"]
BUCKET = "chaos"
URL = f"s3://{BUCKET}/checkpoints"
USER, SECRET = "chaos", "chaos-secret"
SLOW_DOWN = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class S3:
    """Workers reach it through the proxy, the test itself directly."""

    def __init__(self, directory: Path, server: Server = "moto") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        command = self._moto() if server == "moto" else self._versitygw(directory / "s3")
        with (directory / "s3.log").open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, env={**os.environ})
        self.proxy = Proxy(self.port)
        try:
            self._wait()
            if server == "moto":
                self._make_bucket()
        except BaseException:
            self.close()
            raise

    def _moto(self) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def _versitygw(self, directory: Path) -> list[str]:
        program = shutil.which("versitygw") or shutil.which("versitygw", path=str(Path.home() / "go" / "bin"))
        if program is None:
            raise FileNotFoundError(
                f"no versitygw on the PATH or in ~/go/bin; {(__doc__ or '').strip().splitlines()[-1].strip()}"
            )
        (directory / "objects" / BUCKET).mkdir(parents=True)  # a bucket is a directory
        (directory / "attributes").mkdir()
        options = ["--access", USER, "--secret", SECRET, "--port", f"127.0.0.1:{self.port}", "--quiet"]
        return [program, *options, "posix", "--sidecar", str(directory / "attributes"), str(directory / "objects")]

    def options(self, port: int) -> dict[str, str]:
        return {
            "endpoint": f"http://127.0.0.1:{port}",
            "region": "us-east-1",
            "access_key_id": USER,
            "secret_access_key": SECRET,
            "allow_http": "true",
            "timeout": "5s",
        }

    def location(self) -> Location:
        return Location(URL, self.options(self.port))

    def close(self) -> None:
        self.proxy.close()
        self._process.kill()
        self._process.wait()

    def _wait(self) -> None:
        until = time.monotonic() + 60
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5):
                    return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def _make_bucket(self) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{BUCKET}", method="PUT", data=b"")
        key = f"AWS4-HMAC-SHA256 Credential={USER}/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        request.add_header("Authorization", key)
        with urllib.request.urlopen(request, timeout=30):
            pass
