"""`streams state --http`: the state of living workers, asked over HTTP."""

import http.client
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlencode

from streams.core.errors import SettingsError, StateError
from streams.runtime.shown import Shown
from streams.web.listener import parse
from streams.web.state import LARGEST, LONGEST, Answer, Parameters, Refused
from streams.web.state_many import Many, Member

_BESIDE = 5.0  # seconds for the network and for writing the answer down, beside the question's own timeout


class Workers:
    """The workers of an application at these addresses (HOST:PORT), for each question as if they were one."""

    def __init__(self, app: str, addresses: Sequence[str], tasks: Sequence[str], timeout: float) -> None:
        self._app, self._tasks, self._timeout = app, tasks, timeout
        if not 0 < timeout <= LONGEST:
            raise SettingsError(f"timeout = {timeout:g} is not valid", where="--timeout", fix=f"at most {LONGEST:g} s")
        self._many = Many([Member(address, _asker(address)) for address in addresses])
        self.missing: set[str] = set()
        """Tasks that none of the workers asked so far has."""

    def stats(self) -> list[dict[str, Any]]:
        """Each task's stores, as `streams state stats --json` shows them."""
        return [found for answer in self._each("/api/state/stats", {}) for found in answer["tasks"]]

    def get(self, store: str, key: str) -> list[Shown]:
        """The entries of a key."""
        answers = self._each("/api/state/get", {"store": store, "key": key})
        return [Shown(**entry) for answer in answers for entry in answer["entries"]]

    def scan(self, store: str, prefix: str, start: str, most: int) -> Iterator[Shown]:
        """Entries, task by task, at most so many; a page at a time, as they are wanted."""
        given = {"store": store, "prefix": prefix, "from": start}
        for task in sorted(self._tasks, key=lambda t: (len(t), t)) or [""]:
            next: str | None = ""
            while most > 0 and next is not None:
                page = {**given, "limit": str(min(most, LARGEST)), "next": next} | ({"task": task} if task else {})
                answer = self._ask("/api/state/scan", page)
                yield from (Shown(**entry) for entry in answer["entries"])
                most, next = most - len(answer["entries"]), answer["next"]

    def _each(self, path: str, given: Parameters) -> list[dict[str, Any]]:
        return [self._ask(path, {**given, "task": task} if task else given) for task in self._tasks or [""]]

    def _ask(self, path: str, given: Parameters) -> dict[str, Any]:
        try:
            answer = self._many.document(path, {**given, "timeout": f"{self._timeout:g}"})
        except Refused as error:
            raise StateError(error.what, where=error.where, fix=error.fix) from None
        if answer["app"] != self._app:
            raise StateError(
                f"the workers run {answer['app']}, not {self._app}",
                where="--http",
                fix="name their program, or other addresses",
            )
        self.missing |= set(answer["missing"])
        return answer


def _asker(address: str) -> Any:
    host, port = parse(address)

    def ask(path: str, given: Parameters) -> Answer:
        # No proxy of the environment is asked: it would not reach what is meant.
        timeout = float(given["timeout"]) + _BESIDE
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.request("GET", f"{path}?{urlencode({k: v for k, v in given.items() if v})}")
            answer = connection.getresponse()
            return Answer(answer.status, answer.read())
        except (OSError, http.client.HTTPException) as error:
            raise Refused(
                503,
                f"no answer from {address}: {str(error) or type(error).__name__}",
                where=f"--http {address}",
                fix="give the HOST:PORT of a worker that runs with --http; of a stopped one leave --http away",
            ) from None
        finally:
            connection.close()

    return ask
