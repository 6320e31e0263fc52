"""Where rows leave a task for a sink outside the log: prepared before the commit, published after it."""

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from streams.core.batch import Batch
from streams.core.errors import SinkError, StateMismatch, StreamsError
from streams.core.failures import FAILURES
from streams.core.sinks import MOST_TOKEN, SinkTask, TwoPhaseSink
from streams.core.stream import Node
from streams.runtime.watchdog import Place


class OutsideSinks:
    """The sinks of one task that are outside the log. `tokens`: what the last `prepare` gave, by the sink's name."""

    def __init__(self, nodes: Iterable[Node], app: str, task: str, partition: int, place: Place) -> None:
        self._sinks: dict[str, tuple[TwoPhaseSink, SinkTask, list[str]]] = {
            n.id: (n.outside.sink, SinkTask(app, n.id, partition), list(n.type.fields))
            for n in nodes
            if n.outside is not None
        }
        self._task, self._place = task, place
        self._frames: dict[str, list[pl.DataFrame]] = {}
        self.tokens: dict[str, bytes] = {}
        self.rows = 0
        """That wait for the next `prepare`."""
        self.prepared: dict[str, int] = {}
        """Rows of the last `prepare`, by the sink's name."""
        self.seconds: dict[str, float] = {}
        """Spent in each sink since this was last emptied."""

    def __contains__(self, node: str) -> bool:
        return node in self._sinks

    def __bool__(self) -> bool:
        return bool(self._sinks)

    def write(self, node: str, batch: Batch) -> None:
        """Rows of the commit to come."""
        self._frames.setdefault(node, []).append(batch.frame.select(self._sinks[node][2]))
        self.rows += batch.count

    def open(self, sequence: int, tokens: Mapping[str, bytes]) -> None:
        """The task begins at this commit: publish what it had prepared, and let the sinks clean up.

        Raises StateMismatch if the program no longer has such a sink, and SinkError.
        """
        if gone := sorted(set(tokens) - set(self._sinks)):
            raise StateMismatch(
                f"the program has changed: task {self._task} has prepared rows for a sink that is not there any more",
                where=f"sinks {', '.join(gone)}, commit {sequence}",
                fix="put the sink back under its name, start the program and stop it with SIGTERM or Ctrl-C: a clean "
                "stop leaves nothing to be published; then it can go",
            )
        self.publish(tokens)
        for node in self._sinks:
            self._call(node, "recover", sequence, tokens.get(node))

    def prepare(self, sequence: int) -> None:
        """The rows of this commit become durable; `tokens` is what its position must hold."""
        frames, self._frames, self.rows = self._frames, {}, 0
        self.tokens, self.prepared = {}, {}
        for node, parts in frames.items():
            frame = pl.concat(parts)
            self.prepared[node] = frame.height
            token = self._call(node, "prepare", sequence, frame)
            if not isinstance(token, bytes) or len(token) > MOST_TOKEN:
                what = f"{len(token):,} bytes" if isinstance(token, bytes) else type(token).__name__
                raise SinkError(
                    f"the token of sink {node!r} is {what}",
                    where=f"{type(self._sinks[node][0]).__name__}.prepare, task {self._task}",
                    fix=f"return bytes, at most {MOST_TOKEN}: the name of what was prepared, not its content",
                )
            self.tokens[node] = token

    def publish(self, tokens: Mapping[str, bytes] | None = None) -> None:
        """The commit with these tokens has succeeded; by default those of the last `prepare`."""
        for node, token in (self.tokens if tokens is None else tokens).items():
            self._call(node, "publish", token)

    def _call(self, node: str, method: str, *arguments: Any) -> Any:
        sink, task, _ = self._sinks[node]
        try:
            with self._place.running(self._task, node, self.seconds):
                return getattr(sink, method)(task, *arguments)
        except StreamsError:
            raise
        except FAILURES as error:
            when = "the commit is rolled back" if method == "prepare" else "nothing is lost"
            raise SinkError(
                f"sink {node!r} failed in {method}: {type(error).__name__}: {error}",
                where=f"{type(sink).__name__}, task {self._task}",
                fix=f"{when}, and it is tried again; if it lasts, mend the sink or what it writes to",
            ) from error
