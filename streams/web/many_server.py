"""The HTTP server of a supervisor: metrics and health of all its workers, and questions about their state."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import ClassVar

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from streams.web.health_many import HEALTH, question, together
from streams.web.listener import Handler, Listener
from streams.web.state import STATE, Answer, Asked, Refused, answer_of, encoded, refuse_where
from streams.web.state_many import Many, Member
from streams.web.state_requests import in_a_thread, state_response

log = logging.getLogger("streams")
Workers = Mapping[str, Callable[[Asked], Answer]]
"""By slot: asks a worker. Blocks, for at most the question's own timeout and a little."""


class ManyServer(Listener):
    """Serves what `workers` answer, and `metrics`, which blocks, too. `http_state` says to whom state is shown."""

    endpoints: ClassVar = {"/metrics": "of all workers, for Prometheus", **HEALTH, **STATE}

    def __init__(
        self, workers: Callable[[], Workers], metrics: Callable[[], bytes], address: str, http_state: str
    ) -> None:
        super().__init__(address)
        self._workers, self._metrics, self._http_state = workers, metrics, http_state

    def start(self) -> None:
        super().start()
        if self._http_state == "all" and not self.loopback:
            log.warning("whoever reaches port %d can read all state; there is no password", self._port)

    def handlers(self) -> dict[str, Handler]:
        asked = dict.fromkeys(HEALTH, self._get_health) | dict.fromkeys(STATE, self._get_state)
        return {"/metrics": self._get_metrics, **asked}

    async def _get_metrics(self, request: web.Request) -> web.Response:
        text = await asyncio.to_thread(self._metrics)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _get_health(self, request: web.Request) -> web.Response:
        slots, asks = zip(*self._workers().items(), strict=True)
        answers = await asyncio.gather(*(asyncio.to_thread(ask, question()) for ask in asks))
        found = together(request.path, dict(zip(slots, answers, strict=True)))
        return web.Response(status=200 if found.ok else 503, text=f"{found.reason}\n")

    async def _get_state(self, request: web.Request) -> web.Response:
        refused = refuse_where(self._http_state, self.loopback)
        return state_response(answer_of(refused) if refused is not None else await in_a_thread(self._answer, request))

    def _answer(self, asked: Asked) -> Answer:
        members = [Member(slot, lambda *what, ask=ask: ask(asked.part(*what))) for slot, ask in self._workers().items()]
        try:
            return Answer(200, encoded(Many(members).document(asked.path, asked.parameters)))
        except Refused as error:
            return answer_of(error)
