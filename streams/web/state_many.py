"""The state of several workers as one: for `streams state --http A --http B`, and for a supervisor."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from streams.runtime.committed import number_of
from streams.web.state import Answer, Parameters, Refused, check, limit_of, since

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Member:
    """A worker, or a supervisor. `ask` blocks; it raises `Refused` if there is no answer at all."""

    name: str
    ask: Callable[[str, Parameters], Answer]

    def document(self, path: str, given: Parameters) -> Document:
        """Its answer. `Refused` as it says."""
        answer = self.ask(path, given)
        try:
            found: dict[str, Any] = json.loads(answer.body)
            if answer.status == 200 and "covers" in found:
                return found
            error = found["error"]
            raise Refused(
                answer.status, error["what"], where=error["where"], fix=error["fix"], task=error.get("task", "")
            )
        except (ValueError, KeyError, TypeError):
            raise Refused(
                502,
                f"{self.name} does not answer as a worker does (status {answer.status})",
                where=self.name,
                fix="give the HOST:PORT that a worker, or `streams run --workers`, serves with --http",
            ) from None


class Many:
    """Asks all members at once, and makes one answer of theirs. A task that two of them tell of, since it is moving, is
    taken from the one that has seen the later commit."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members

    def document(self, path: str, given: Parameters) -> dict[str, Any]:
        """What one worker with all their tasks would answer. Raises `Refused`: for a question that is wrong, for a task
        that no member has, and if a member does not answer that might have what is asked for."""
        check(path, given)
        if path == "/api/state/scan":
            return self._scan(given)
        documents = [document for _, document in self._each(path, given)]
        out = _head(documents)
        if path == "/api/state":
            out["stores"] = {task: d["stores"][task] for d in documents for task in d["stores"]}
            out["of"] = documents[0]["of"]
            out["restoring"] = sorted({task for d in documents for task in d["restoring"]}, key=number_of)
        elif path == "/api/state/stats":
            out["tasks"] = _newest(documents, "tasks")
        else:
            out |= {"store": documents[0]["store"], "entries": _newest(documents, "entries"), "next": None}
        return out

    def _each(self, path: str, given: Parameters) -> list[tuple[Member, Document]]:
        def ask(member: Member) -> Document | Refused:
            try:
                return member.document(path, given)
            except Refused as error:
                return error

        with ThreadPoolExecutor(len(self._members)) as pool:
            answers = list(zip(self._members, pool.map(ask, self._members), strict=True))
        found = [(member, answer) for member, answer in answers if not isinstance(answer, Refused)]
        refused = [answer for _, answer in answers if isinstance(answer, Refused)]
        if given.get("task") and found:
            return found  # whoever has the task has answered
        if found and not _head([d for _, d in found])["missing"] and all(e.status == 503 for e in refused):
            return found  # a worker that is down, and whose tasks others have
        for error in sorted(refused, key=lambda e: bool(e.task)):  # "not here" only where nobody knows better
            raise error
        return found

    def _scan(self, given: Parameters) -> dict[str, Any]:
        """Task by task, each from the member that has it, until the limit is reached."""
        if given.get("task"):
            answers = self._each("/api/state/scan", given)
            return dict(max(answers, key=_commits)[1])
        limit, begin = limit_of(given), since(given)
        listed = self._each("/api/state", {k: v for k, v in given.items() if k == "timeout"})
        owners = {task: member for member, d in sorted(listed, key=_commits) for task in d["stores"]}
        stores: dict[str, Sequence[str]] = {task: d["stores"][task] for _, d in listed for task in d["stores"]}
        store, of = given["store"], listed[0][1]["of"]
        if store not in of:  # a short name, or a wrong one: those who know the program say which
            store = self._each("/api/state/scan", {**given, "limit": "1", "next": ""})[0][1]["store"]
        out = _head([d for _, d in listed])
        out |= {"covers": {}, "store": store, "entries": [], "next": None}
        out["missing"] = [task for task in of[store] if task not in owners]
        for task in sorted(owners, key=number_of):
            if store not in stores[task] or (begin is not None and number_of(task) < number_of(begin[0])):
                continue
            left = limit - len(out["entries"])
            asked = {**given, "store": store, "task": task, "limit": str(left or 1), "next": ""}
            if begin is not None and begin[0] == task:
                asked["next"] = given["next"]
            answer = owners[task].document("/api/state/scan", asked)
            if not left and answer["entries"]:
                out["next"] = f"{task}:"
            elif left:
                out["entries"] += answer["entries"]
                out["covers"] |= answer["covers"]
                out["next"] = answer["next"]
            if out["next"]:
                break
        return out


def _commits(listed: tuple[Member, Document]) -> int:
    return max((seen["commit"] for seen in listed[1]["covers"].values()), default=0)


def _head(documents: Iterable[Document]) -> dict[str, Any]:
    """App, slots, tasks covered, and those that no member has."""
    documents = list(documents)
    covers: dict[str, Any] = {}
    for document in documents:
        for task, seen in document["covers"].items():
            if task not in covers or seen["commit"] > covers[task]["commit"]:
                covers[task] = seen
    missing = set.intersection(*(set(d["missing"]) for d in documents)) - covers.keys()
    return {
        "app": documents[0]["app"],
        "slot": ", ".join(d["slot"] for d in documents),
        "covers": {task: covers[task] for task in sorted(covers, key=number_of)},
        "missing": sorted(missing, key=number_of),
    }


def _newest(documents: Sequence[Document], what: str) -> list[Any]:
    """The items of each task, from the member that has seen its latest commit; task by task."""
    best: dict[str, tuple[int, list[Any]]] = {}
    for document in documents:
        for task, seen in document["covers"].items():
            if task not in best or seen["commit"] > best[task][0]:
                best[task] = seen["commit"], [item for item in document[what] if item["task"] == task]
    return [item for task in sorted(best, key=number_of) for item in best[task][1]]
