"""One Kafka broker or three, each behind a proxy: workers reach it through that, the test itself directly.

Each broker has a second listener, which advertises its proxy's address, so that clients that come through the proxy
stay behind it.
"""

import base64
import os
import signal
import time
import uuid
from pathlib import Path

from streams.broker import server, settings
from streams.broker.jars import class_path
from streams.broker.process import Lifeline, Process, spawn
from tests.chaos.proxy import Proxy


class Node:
    """A broker: a process, its data and its proxy."""

    def __init__(self, directory: Path, number: int, cluster: str) -> None:
        self.directory, self.number, self._cluster = directory, number, cluster
        self.port, self.hidden, self.controller = (server._free_port() for _ in range(3))
        self.proxy = Proxy(self.hidden)
        self.process: Process | None = None
        self._lifeline: Lifeline | None = None

    def write(self, nodes: "list[Node]") -> None:
        """The configuration: that of `streams.broker`, with the second listener; with several brokers replicas."""
        (self.directory / "tmp").mkdir(parents=True, exist_ok=True)
        (self.directory / "log4j2.xml").write_text(settings.LOGGING)
        text = settings.SERVER.format(port=self.port, controller_port=self.controller)
        properties = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and line[0] != "#")
        own, proxied = f"PLAINTEXT://127.0.0.1:{self.port}", "PROXIED://127.0.0.1"
        properties |= {
            "node.id": f"{self.number}",
            "controller.quorum.voters": ",".join(f"{n.number}@127.0.0.1:{n.controller}" for n in nodes),
            "listeners": f"{own},{proxied}:{self.hidden},CONTROLLER://127.0.0.1:{self.controller}",
            "advertised.listeners": f"{own},{proxied}:{self.proxy.port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT",
        }
        if len(nodes) > 1:
            replicated = ("default", "offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
            properties |= {f"{name}.replication.factor": f"{len(nodes)}" for name in replicated}
            properties |= {"min.insync.replicas": "2", "transaction.state.log.min.isr": "2"}
            properties |= {"share.coordinator.state.topic.min.isr": "2"}
        (self.directory / "server.properties").write_text("".join(f"{k}={v}\n" for k, v in properties.items()))

    def start(self) -> None:
        """Start it; `wait` says when it answers."""
        jars = ":".join(map(str, class_path()))
        command = [server._java(), *settings.JVM, "-cp", jars]
        environment = server._environment()
        if not (self.directory / "data" / "meta.properties").exists():
            form = ["kafka.tools.StorageTool", "format", "--cluster-id", self._cluster, "--config", "server.properties"]
            done = spawn([*command, *form], self.directory, self.directory / "format.log", environment)
            while done.alive:
                time.sleep(0.05)
        log = self.directory / "broker.log"
        self.process = spawn([*command, "kafka.Kafka", "server.properties"], self.directory, log, environment)
        self._lifeline = Lifeline.tie(self.process, self.directory / "tmp")

    @property
    def answers(self) -> bool:
        return server._answers(self.port) and server._answers(self.hidden)

    def end(self, number: signal.Signals) -> None:
        """By SIGTERM (orderly, by force after 30 s) or SIGKILL."""
        if self.process is None:
            return
        if not self.process.end(number, 30):
            self.process.end(signal.SIGKILL, 30)
        if self._lifeline is not None:
            self._lifeline.cut()
        self.process, self._lifeline = None, None

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.alive:
            os.kill(self.process.pid, number)


class Cluster:
    """`size` brokers; with three of them every topic has three replicas, of which two must have a record."""

    def __init__(self, directory: Path, size: int) -> None:
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22].replace("-", "_")
        self.nodes = [Node(directory / f"broker-{n}", n, cluster) for n in range(1, size + 1)]
        for node in self.nodes:
            node.write(self.nodes)

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    @property
    def proxied(self) -> str:
        """For workers."""
        return ",".join(f"127.0.0.1:{node.proxy.port}" for node in self.nodes)

    @property
    def direct(self) -> str:
        """For the test itself."""
        return ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @property
    def answers(self) -> bool:
        return all(node.process is not None and node.answers for node in self.nodes)

    def close(self) -> None:
        for node in self.nodes:
            node.signal(signal.SIGCONT)
            node.end(signal.SIGKILL)
            node.proxy.close()
