"""The supervisor's port: the metrics of all workers, and questions about their state."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from streams.supervisor.metrics import Merged, Source
from streams.web.listener import Handler, Listener
from streams.web.state import STATE, Answer, Asked, Refused, answer_of, encoded, refuse_where
from streams.web.state_many import Many, Member
from streams.web.state_requests import in_a_thread, state_response

log = logging.getLogger("streams")


@dataclass(frozen=True)
class Worker:
    """A worker as the server sees it. `ask` blocks, for at most the question's own timeout and a little."""

    source: Source
    ask: Callable[[Asked], Answer]


class SupervisorServer(Listener):
    """Serves what `workers` answer. State as one worker's server does: `http_state` says to whom."""

    endpoints: ClassVar = {"/metrics": "of all workers, for Prometheus", **STATE}

    def __init__(self, workers: Callable[[], Sequence[Worker]], address: str, http_state: str) -> None:
        super().__init__(address)
        self._workers, self._http_state = workers, http_state
        self._registry = CollectorRegistry()
        self._registry.register(Merged(lambda: [worker.source for worker in workers()]))

    def start(self) -> None:
        super().start()
        if self._http_state == "all" and not self.loopback:
            log.warning("whoever reaches port %d can read all state; there is no password", self._port)

    def handlers(self) -> dict[str, Handler]:
        return {"/metrics": self._get_metrics, **dict.fromkeys(STATE, self._get_state)}

    async def _get_metrics(self, request: web.Request) -> web.Response:
        text = await asyncio.to_thread(generate_latest, self._registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _get_state(self, request: web.Request) -> web.Response:
        refused = refuse_where(self._http_state, self.loopback)
        return state_response(answer_of(refused) if refused is not None else await in_a_thread(self._answer, request))

    def _answer(self, asked: Asked) -> Answer:
        members = [Member(w.source.slot, lambda *what, w=w: w.ask(asked.part(*what))) for w in self._workers()]
        try:
            return Answer(200, encoded(Many(members).document(asked.path, asked.parameters)))
        except Refused as error:
            return answer_of(error)
