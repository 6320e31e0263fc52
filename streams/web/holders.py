"""Who holds which task of the whole application: read from the log, apart from the worker."""

import asyncio
import threading
import time
from collections.abc import Callable

import msgspec

from streams.core.errors import StreamsError
from streams.log.base import Log
from streams.runtime.inspect import Holding, holdings
from streams.runtime.plan import Plan

_FRESH = 4.0
_PATIENCE = 1.0


class Known(msgspec.Struct, frozen=True):
    """What was read last. `read_at`: seconds since the epoch, 0: nothing yet; `error`: why the last attempt failed."""

    read_at: float = 0.0
    error: str = ""
    tasks: tuple[Holding, ...] = ()


class Holders:
    """Reads the lease records while somebody asks, at most every four seconds, on a log of its own.

    A log that does not answer holds nobody up: whoever asks gets what was read last, with its age. Reading happens in a
    daemon thread, so that a process which ends need not wait for a broker's timeout.
    """

    def __init__(self, plan: Plan, open: Callable[[], Log]) -> None:
        self._plan, self._open = plan, open
        self._log: Log | None = None
        self._known = Known()
        self._reading: threading.Thread | None = None
        self._asked = float("-inf")

    async def known(self) -> Known:
        """What is known now; waits up to a second for the very first reading."""
        now = time.monotonic()
        if not self._busy() and now - self._asked >= _FRESH:
            self._asked = now
            self._reading = threading.Thread(target=self._read, name="streams-web-log", daemon=True)
            self._reading.start()
        while self._busy() and not self._known.read_at and time.monotonic() - now < _PATIENCE:
            await asyncio.sleep(0.02)
        return self._known

    def close(self) -> None:
        """Give the log back; a reading that hangs is left to the end of the process."""
        if self._reading is not None:
            self._reading.join(_PATIENCE)
        if not self._busy():
            self._close_log()

    def _busy(self) -> bool:
        return self._reading is not None and self._reading.is_alive()

    def _read(self) -> None:
        try:
            if self._log is None:
                self._log = self._open()
            self._known = Known(time.time(), "", tuple(holdings(self._plan, self._log)))
        except StreamsError as error:
            self._known = Known(self._known.read_at, error.what, self._known.tasks)
            self._close_log()

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None
