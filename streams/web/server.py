"""The HTTP server of a worker: a thread and an event loop of its own, and nothing that changes anything."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from streams.core.clock import SystemClock
from streams.log.base import Log
from streams.runtime.worker import Worker
from streams.web import health
from streams.web.holders import Holders
from streams.web.listener import Handler, Listener
from streams.web.page import Page, title
from streams.web.state import STATE, StateAnswers, answer_of, not_here, refuse_where
from streams.web.state_requests import in_a_thread, state_response
from streams.web.status import Status, program_version, redacted, topology_document

ENDPOINTS = {
    "/": "the page",
    "/metrics": "for Prometheus",
    "/healthz": "200 while the worker's loop turns, else 503; ?within=SECONDS",
    "/readyz": "200 once the worker's tasks run, else 503",
    "/api/status": "what the page shows, as JSON",
    "/api/topology": "the program, as JSON",
    **STATE,
}

log = logging.getLogger("streams")


class Server(Listener):
    """Serves one worker: what it publishes, the lease records through a log of its own, which `open` opens, and, to
    those who may (`http_state`), what is committed in its stores."""

    endpoints: ClassVar = ENDPOINTS

    def __init__(self, worker: Worker, address: str, open: Callable[[], Log]) -> None:
        super().__init__(address)
        self._worker, self._reporter = worker, worker.reporter
        plan = worker.plan
        self._holders = Holders(plan, open)
        self._page = Page(plan.topology, plan, worker.settings.commit_interval / 1000)
        self._settings, self._version = redacted(worker.settings), program_version()
        self._topology = msgspec.json.encode(topology_document(plan.topology, plan))
        self._log_name = worker.log.name.removeprefix(f"{Path.cwd()}/")  # a file near by: its short name
        self._clock = SystemClock()
        self._state = StateAnswers(worker)

    def start(self) -> None:
        super().start()
        if self._host in ("0.0.0.0", "::"):
            state = ", all state" if self._worker.settings.http_state == "all" else ""
            log.warning(
                "the web page listens on every address of this machine: whoever reaches port %d sees topics, causes of "
                "dead letters and settings%s; there is no password",
                self._port,
                state,
            )

    def ended(self) -> None:
        self._holders.close()

    # ---- the endpoints

    def handlers(self) -> dict[str, Handler]:
        return {
            "/": self._get_page,
            "/metrics": self._get_metrics,
            "/healthz": self._get_healthz,
            "/readyz": self._get_readyz,
            "/api/status": self._get_status,
            "/api/topology": self._get_topology,
            **dict.fromkeys(STATE, self._get_state),
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

    async def _get_state(self, request: web.Request) -> web.Response:
        refused = refuse_where(self._worker.settings.http_state, self.loopback)
        if refused is not None:
            return state_response(answer_of(refused))
        answer = await in_a_thread(self._state.answer, request)
        if answer.missing:
            holders = {task.task: task.slot for task in (await self._holders.known()).tasks if task.held}
            answer = answer_of(not_here(answer.missing, self._worker.settings.slot, holders.get(answer.missing) or ""))
        return state_response(answer)

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
