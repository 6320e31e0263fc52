"""A thread that serves HTTP: what a worker's server and a supervisor's have in common. Nothing that it answers changes
anything."""

import asyncio
import errno
import logging
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from ipaddress import ip_address
from typing import ClassVar
from urllib.parse import urlsplit

from aiohttp import web

from streams.core.errors import StreamsError

_CLOSING = 5.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "streams",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

log = logging.getLogger("streams")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def parse(address: str) -> tuple[str, int]:
    """Host and port. A bare port, or no host before the colon, is this machine alone.

    >>> parse("9400"), parse(":9400"), parse("0.0.0.0:9400"), parse("[::1]:0")
    (('127.0.0.1', 9400), ('127.0.0.1', 9400), ('0.0.0.0', 9400), ('::1', 0))
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise _wrong(address, f"{port!r} is not a port")
    if int(port) > 65535:
        raise _wrong(address, f"a port is at most 65535, not {port}")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def _wrong(address: str, why: object, example: str = "127.0.0.1:9400") -> StreamsError:
    return StreamsError(
        f"cannot serve on {address!r}: {why}",
        where="--http",
        fix=f"give a free HOST:PORT, e.g. {example}; port 0 takes any that is free",
    )


def _in_use(address: str, host: str, port: int) -> StreamsError:
    """Proposes a port that is free at this moment."""
    shown = f"[{host}]" if ":" in host else host
    free = next((other for other in range(port + 1, min(port + 20, 65536)) if _is_free(host, other)), 0)
    return _wrong(address, "the port is in use by another program", f"{shown}:{free}")


def _is_free(host: str, port: int) -> bool:
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return True
    except OSError:
        return False


def is_loopback(host: str) -> bool:
    """Only programs on this machine can reach it.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("10.0.0.7")
    (True, True, True, False)
    """
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Listener(ABC):
    """Serves on an address. `start` returns once it listens, and raises a StreamsError if it cannot; `close` ends it.

    Bound to loopback it answers requests for loopback names only: a page elsewhere whose name was pointed at 127.0.0.1
    (DNS rebinding) gets nothing. A request whose client has gone away is cancelled.
    """

    endpoints: ClassVar[Mapping[str, str]]
    """What there is, with a word on each."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._host, self._port = parse(address)
        self._listening: Future[int] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="streams-web", daemon=True)

    @property
    def url(self) -> str:
        """Where the page is."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/"

    @property
    def loopback(self) -> bool:
        """Only this machine can reach it."""
        return is_loopback(self._host)

    @abstractmethod
    def handlers(self) -> Mapping[str, Handler]:
        """What answers at each of `endpoints`."""

    def ended(self) -> None:  # noqa: B027 - not every server has something to let go of
        """The server has stopped."""

    def start(self) -> None:
        self._thread.start()
        try:
            self._port = self._listening.result()
        except (OSError, UnicodeError) as error:
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                raise _in_use(self._address, self._host, self._port) from None
            raise _wrong(self._address, error) from None

    def close(self) -> None:
        """End the thread; waits for at most a few seconds."""
        if self._loop is not None and self._ending is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(_CLOSING)

    # ---- the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._listening.done():
                log.exception("the web page has ended; the worker goes on")
            else:
                self._listening.set_exception(error)

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(middlewares=[self._guard])
        for path, handler in self.handlers().items():
            app.router.add_get(path, handler)
        runner = web.AppRunner(
            app, access_log=None, handle_signals=False, handler_cancellation=True, shutdown_timeout=1.0
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
            self._listening.set_result(runner.addresses[0][1])
            await self._ending.wait()
        finally:
            await runner.cleanup()
            self.ended()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What holds for every answer."""
        if self.loopback and not is_loopback(urlsplit(f"//{request.host}").hostname or ""):
            answer: web.StreamResponse = web.Response(
                status=421, text=f"this server is for 127.0.0.1 and localhost, not for {request.host!r}\n"
            )
        else:
            try:
                answer = await handler(request)
            except web.HTTPNotFound:
                listed = "".join(f"  {path:16} {what}\n" for path, what in self.endpoints.items())
                answer = web.Response(status=404, text=f"there is nothing at {request.path}; there are:\n{listed}")
            except web.HTTPMethodNotAllowed as error:
                answer = web.Response(status=405, text="only GET: nothing can be changed here\n", headers=error.headers)
                answer.content_type = "text/plain"
        answer.headers.update(_HEADERS)
        answer.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        return answer
