"""The HTTP server of a worker: a thread and an event loop of its own, and nothing that changes anything."""

import asyncio
import errno
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from streams.core.clock import SystemClock
from streams.core.errors import StreamsError
from streams.log.base import Log
from streams.runtime.worker import Worker
from streams.web import health
from streams.web.holders import Holders
from streams.web.page import Page, title
from streams.web.status import Status, program_version, redacted, topology_document

ENDPOINTS = {
    "/": "the page",
    "/metrics": "for Prometheus",
    "/healthz": "200 while the worker's loop turns, else 503; ?within=SECONDS",
    "/readyz": "200 once the worker's tasks run, else 503",
    "/api/status": "what the page shows, as JSON",
    "/api/topology": "the program, as JSON",
}
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


class Server:
    """Serves one worker. `start` returns once it listens, and raises a StreamsError if it cannot; `close` ends it.

    It reads what the worker publishes, and the lease records through a log of its own, which `open` opens. Bound to
    loopback it answers requests for loopback names only: a page elsewhere whose name was pointed at 127.0.0.1 (DNS
    rebinding) gets nothing.
    """

    def __init__(self, worker: Worker, address: str, open: Callable[[], Log]) -> None:
        self._address = address
        self._host, self._port = parse(address)
        self._worker, self._reporter = worker, worker.reporter
        plan = worker.plan
        self._holders = Holders(plan, open)
        self._page = Page(plan.topology, plan, worker.settings.commit_interval / 1000)
        self._settings, self._version = redacted(worker.settings), program_version()
        self._topology = msgspec.json.encode(topology_document(plan.topology, plan))
        self._log_name = worker.log.name.removeprefix(f"{Path.cwd()}/")  # a file near by: its short name
        self._clock = SystemClock()
        self._listening: Future[int] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="streams-web", daemon=True)

    @property
    def url(self) -> str:
        """Where the page is."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self._port}/"

    def start(self) -> None:
        self._thread.start()
        try:
            self._port = self._listening.result()
        except (OSError, UnicodeError) as error:
            if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
                raise _in_use(self._address, self._host, self._port) from None
            raise _wrong(self._address, error) from None
        if self._host in ("0.0.0.0", "::"):
            log.warning(
                "the web page listens on every address of this machine: whoever reaches port %d sees topics, causes of "
                "dead letters and settings; there is no password",
                self._port,
            )

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
        for path in ENDPOINTS:
            app.router.add_get(path, self._handlers[path])
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
            self._listening.set_result(runner.addresses[0][1])
            await self._ending.wait()
        finally:
            await runner.cleanup()
            self._holders.close()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """What holds for every answer."""
        if is_loopback(self._host) and not is_loopback(urlsplit(f"//{request.host}").hostname or ""):
            answer: web.StreamResponse = web.Response(
                status=421, text=f"this server is for 127.0.0.1 and localhost, not for {request.host!r}\n"
            )
        else:
            try:
                answer = await handler(request)
            except web.HTTPNotFound:
                listed = "".join(f"  {path:14} {what}\n" for path, what in ENDPOINTS.items())
                answer = web.Response(status=404, text=f"there is nothing at {request.path}; there are:\n{listed}")
            except web.HTTPMethodNotAllowed as error:
                answer = web.Response(status=405, text="only GET: nothing can be changed here\n", headers=error.headers)
                answer.content_type = "text/plain"
        answer.headers.update(_HEADERS)
        answer.headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
        return answer

    # ---- the endpoints

    @property
    def _handlers(self) -> dict[str, Handler]:
        return {
            "/": self._get_page,
            "/metrics": self._get_metrics,
            "/healthz": self._get_healthz,
            "/readyz": self._get_readyz,
            "/api/status": self._get_status,
            "/api/topology": self._get_topology,
        }

    async def _get_page(self, request: web.Request) -> web.Response:
        page = self._page.whole(await self._status())
        headers = {"Content-Security-Policy": self._page.policy}
        return web.Response(text=page, content_type="text/html", headers=headers)

    async def _get_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._worker.metrics.expose(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _get_healthz(self, request: web.Request) -> web.Response:
        try:
            within = float(request.query.get("within", health.WITHIN))
        except ValueError:
            return web.Response(status=400, text="within=SECONDS must be a number\n")
        return _answer(health.alive(self._reporter.pulse, within))

    async def _get_readyz(self, request: web.Request) -> web.Response:
        return _answer((await self._status()).ready)

    async def _get_status(self, request: web.Request) -> web.Response:
        status = await self._status()
        document = msgspec.to_builtins(status)
        if "page" in request.query:
            document |= {"page": self._page.live(status), "title": title(status)}
        return web.Response(body=msgspec.json.encode(document), content_type="application/json")

    async def _get_topology(self, request: web.Request) -> web.Response:
        return web.Response(body=self._topology, content_type="application/json")

    async def _status(self) -> Status:
        known, report = await self._holders.known(), self._reporter.report
        living = health.alive(self._reporter.pulse)
        slot = self._worker.settings.slot
        return Status(
            self._worker.plan.app,
            slot,
            self._log_name,
            self._version,
            self._clock.now(),
            living,
            health.ready(report, living, slot, known.tasks),
            report,
            known,
            self._settings,
        )


def _answer(found: health.Health) -> web.Response:
    lines = [found.reason, *(f"  {call}" for call in found.calls), ""]
    return web.Response(status=200 if found.ok else 503, text="\n".join(lines))
