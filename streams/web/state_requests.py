"""Questions about state as aiohttp requests. What answers them blocks, so each gets a thread."""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from aiohttp import web

from streams.web.state import Answer, Asked, Refused, answer_of, timeout_of

log = logging.getLogger("streams")
_WRITING = 2.0  # seconds to say what was read, beside the time that the question itself has


async def in_a_thread(answer: Callable[[Asked], Answer], request: web.Request) -> Answer:
    """The answer. It is given up when the client goes away, or when a function of the program that says how entries
    read hangs. The thread is a daemon: no process waits for it at its end."""
    asked, loop = Asked(request.path, request.query), asyncio.get_running_loop()
    found: asyncio.Future[Answer] = loop.create_future()

    def done(answered: Answer) -> None:
        if not found.done():
            found.set_result(answered)

    def run() -> None:
        try:
            answered = answer(asked)
        except Exception as error:
            log.exception("a question about state has failed")
            answered = answer_of(Refused(500, f"{type(error).__name__}: {error}"))
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(done, answered)

    try:
        patience = timeout_of(asked.parameters) + _WRITING
    except Refused as error:
        return answer_of(error)
    threading.Thread(target=run, name="streams-web-state", daemon=True).start()
    try:
        async with asyncio.timeout(patience):
            return await found
    except TimeoutError:
        return answer_of(Refused(503, "the answer was not there in time", where=request.path, fix="ask for less"))
    finally:
        asked.give_up()


def state_response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, body=answer.body, content_type="application/json")
