"""A TCP proxy on loopback, in a thread of its own, that cuts, refuses, delays, and holds back one direction or both."""

import asyncio
import socket
import threading
from dataclasses import dataclass, field
from typing import Self

UP, DOWN = "up", "down"
BOTH = frozenset({UP, DOWN})


@dataclass
class Weather:
    """What the proxy does to traffic. A direction in `stalled` stands still until it is taken out: nothing is lost, as
    in a network that drops packets, since TCP sends them again. `answer`: said to each new request instead of passing
    it on (a server that gives nothing but errors)."""

    delay: float = 0.0
    refusing: bool = False
    stalled: frozenset[str] = field(default_factory=frozenset)
    answer: bytes = b""


class Proxy:
    """Listens on `port` and passes on to `target`, as `weather` allows."""

    def __init__(self, target: int) -> None:
        self.target, self.weather = target, Weather()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Reset every connection there is."""

        def abort() -> None:
            for writer in self._open:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(abort)

    def calm(self) -> None:
        """Pass everything on again."""
        self.weather = Weather()

    def close(self) -> None:
        def stop() -> None:
            for task in self._tasks:
                task.cancel()
            self._loop.stop()

        self._loop.call_soon_threadsafe(stop)
        self._thread.join(30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, sock=self._listening))
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))  # what was aborted is closed in the loop's next round
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        ends = [writer]
        self._open.add(writer)
        try:
            if self.weather.refusing:
                return
            above, below = await asyncio.open_connection("127.0.0.1", self.target)
            ends.append(below)
            self._open.add(below)
            pumps = [
                asyncio.ensure_future(self._pump(reader, below, UP, writer)),
                asyncio.ensure_future(self._pump(above, writer, DOWN, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for end in ends:
                self._open.discard(end)
                end.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str, client: asyncio.StreamWriter
    ) -> None:
        while data := await reader.read(1 << 16):
            if self.weather.delay:
                await asyncio.sleep(self.weather.delay)
            while way in self.weather.stalled:
                await asyncio.sleep(0.05)
            if way == UP and self.weather.answer:
                client.write(self.weather.answer)
                await client.drain()
                client.close()
                return
            writer.write(data)
            await writer.drain()
