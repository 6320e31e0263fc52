"""Which location a worker works with, also while it does not answer: the token, and a copy of it beside the state."""

import json
import os
import threading
from pathlib import Path

from streams.checkpoint.collect import token
from streams.checkpoint.location import Location
from streams.core.errors import CheckpointError, LocationUnreachable, StreamsError

PATIENCE = 1.0
"""Seconds that a worker which knows the token waits at its start for the location to confirm it."""


class Identity:
    """The token of a location, as one worker knows it.

    1. The location is asked, aside. A worker that has never had an answer waits for it; one that has waits `PATIENCE`.
    2. If none has come, `token` is the one that was kept in the file, and `confirmed` is False.
    3. `confirm` asks again, aside, until there is an answer. That is the token from then on.

    So a worker starts from its local state while the location cannot be reached. Until it is confirmed a token must not
    be committed, nor a snapshot written.

    Raises what the location raises if it cannot be asked and no token is kept, or if waiting will not help.
    """

    def __init__(self, location: Location, app: str, kept: Path) -> None:
        self._location, self._app, self._kept = location, app, kept
        self._found = ""
        self.error: StreamsError | None = None
        """Why the location did not answer."""
        self.token, self.confirmed = self._read(), False
        self._ask()
        self._thread.join(PATIENCE if self.token else None)
        self.confirm()
        self._give_up_if_hopeless()

    def confirm(self) -> bool:
        """Whether the location has answered. Never waits."""
        if not self.confirmed and self._found:
            self.token, self.confirmed = self._found, True
            self._write()
        return self.confirmed

    def ask_again(self) -> None:
        """If no question is under way."""
        if not self._thread.is_alive():
            self._ask()

    def _give_up_if_hopeless(self) -> None:
        passes = self.token and isinstance(self.error, LocationUnreachable)
        if not self.confirmed and self.error is not None and not passes:
            raise self.error

    def _ask(self) -> None:
        self._thread = threading.Thread(target=self._work, name="token", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            self._found = token(self._location, self._app)
        except StreamsError as error:
            self.error = error
        except Exception as error:
            self.error = CheckpointError(f"the token cannot be read: {error!r}", where=self._location.url)

    def _read(self) -> str:
        """The token that is kept for this location; empty if there is none."""
        try:
            found = json.loads(self._kept.read_text())
            return str(found["token"]) if found["location"] == self._location.url else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def _write(self) -> None:
        """Where it cannot be written, a start while the location is away fails, and no more."""
        if self._read() == self.token:
            return
        new = self._kept.with_suffix(".new")
        try:
            new.write_text(json.dumps({"location": self._location.url, "token": self.token}))
            os.replace(new, self._kept)
        except OSError:
            new.unlink(missing_ok=True)
