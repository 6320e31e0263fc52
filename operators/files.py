"""Files of rows in a directory: a sink outside the log."""

import json
import os
import re
import secrets
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from streams.core.errors import BuildError, SinkError, StateMismatch, WrongType
from streams.core.schema import StreamType
from streams.core.sinks import SinkTask, TwoPhaseSink

Format = Literal["jsonl", "parquet"]

_PUBLISHED = ".published-"
_PART = ".part"
_OF = ".of-"
_ATTEMPT = re.compile(r"\.(\d{12,})-[0-9a-f]{16}\.\w+\.part")


class FileSink(TwoPhaseSink):
    """Writes each commit's rows of a task to one file: `directory/<partition>/<commit sequence, 12 digits>.jsonl`.

    A file appears under its name all at once, complete and synced to the disk; read it, move it or delete it as you
    like. Together the files hold each row once, a partition's in the order of their names. Names that begin with a dot
    are the sink's own: rows of commits that have not succeeded, a mark of how far it has published, and whose they are.

    `format`: "jsonl" (an object a line, as in topics: NaN is null, bytes are base64), or "parquet". There is a file for
    each commit with rows, so for files of a good size set `commit_interval` to seconds.

    The directory belongs to one sink of one application. Workers on several machines must see the same directory.
    Where it is ahead of the application (`streams reset`, a log that lost its end in a power failure, another log) the
    worker refuses to start, with what to do: nothing that was published is ever overwritten or deleted.

    >>> import tempfile
    >>> from streams import App, Schema
    >>> class Payment(Schema):
    ...     card: str
    ...     amount: int
    >>> directory = tempfile.mkdtemp()
    >>> app = App("shop")
    >>> payments = app.source("payments", Payment, start="earliest")
    >>> payments | app.write_to(FileSink(directory), name="files")
    >>> with app.test(real_sinks=True) as t:
    ...     t.send("payments", [Payment("c1", 5), Payment("c2", 7)])
    >>> print(*[file.read_text() for file in sorted(Path(directory).glob("*/*.jsonl"))], end="")
    {"card":"c1","amount":5}
    {"card":"c2","amount":7}
    """

    def __init__(self, directory: str | os.PathLike[str], *, format: Format = "jsonl") -> None:
        if format not in get_args(Format):
            raise WrongType(f"format={format!r}", where="FileSink", fix=" or ".join(map(json.dumps, get_args(Format))))
        if not os.fspath(directory):
            raise BuildError("a sink of files without a directory", where="FileSink", fix='FileSink("out")')
        self.directory, self.format = Path(directory), format
        self.target = os.path.abspath(directory)

    def bind(self, input: StreamType) -> None:
        if not input.fields:
            raise BuildError("rows without columns cannot be written", where=f"FileSink {self.directory}")

    def prepare(self, task: SinkTask, sequence: int, frame: pl.DataFrame) -> bytes:
        # A random part: an attempt must not touch another one's file, nor another worker's.
        name = f"{sequence:012d}-{secrets.token_hex(8)}.{self.format}"
        place = self._place(task)
        with (place / f".{name}{_PART}").open("xb") as file:
            if self.format == "parquet":
                frame.write_parquet(file)
            else:
                file.write(_lines(frame))
            file.flush()
            os.fsync(file.fileno())
        _sync(place)
        return name.encode()

    def publish(self, task: SinkTask, token: bytes) -> None:
        """1. Note that this commit is published, as an empty file. 2. Rename the part. 3. Sync the directory.

        The note comes first: whoever finds no part knows by it that readers have taken the file away.
        """
        name, place = token.decode(), self._place(task)
        part, sequence = place / f".{name}{_PART}", int(name.split("-")[0])
        final = place / f"{sequence:012d}.{name.rsplit('.')[-1]}"
        if final.exists() and part.exists():
            raise SinkError(
                f"{final} is there already, from somebody else",
                where=f"sink {task.sink!r}, partition {task.partition}",
                fix=f"give each sink a directory of its own; move that file away: the rows are in {part}",
            )
        if not part.exists():
            if not final.exists() and self._published(place) < sequence:
                raise SinkError(
                    f"{part}, which was prepared, is gone",
                    where=f"sink {task.sink!r}, partition {task.partition}",
                    fix="all workers must see the same directory; if it was moved, put it back",
                )
            return
        (place / f"{_PUBLISHED}{sequence:012d}").touch()
        try:
            part.rename(final)
        except FileNotFoundError:
            return  # another worker was faster
        _sync(place)
        for older in place.glob(f"{_PUBLISHED}*"):
            if int(older.name.removeprefix(_PUBLISHED)) < sequence:
                older.unlink(missing_ok=True)

    def recover(self, task: SinkTask, sequence: int, token: bytes | None) -> None:
        place = self._place(task)
        owner = f"{_OF}{task.app}-{task.sink}"
        if others := sorted(each.name for each in place.glob(f"{_OF}*") if each.name != owner):
            raise StateMismatch(
                f"{place} belongs to another sink ({others[0].removeprefix(_OF)})",
                where=f"sink {task.sink!r} of application {task.app!r}",
                fix="give each sink of each application a directory of its own. A sink that was renamed, or an "
                "application that was restored from a savepoint, may go on in the old one's, if that one has ended for "
                f"good: delete {place / others[0]}",
            )
        (place / owner).touch()
        published = self._published(place)
        if published > sequence:
            ahead = (
                f". After a lost end, what is above {sequence:012d} is written again: move these files away, and "
                f"rename {_PUBLISHED}{published:012d} to {_PUBLISHED}{sequence:012d}"
            )
            raise StateMismatch(
                f"{place} holds rows up to commit {published}, but the task stands at commit {sequence}",
                where=f"sink {task.sink!r} of application {task.app!r}",
                fix="the application was reset, works on another log, or its log lost its end in a power failure: give "
                "the sink an empty directory, or move that one away; then what the log still has is written anew"
                + (ahead if sequence else ""),
            )
        for part in place.glob(f".*{_PART}"):
            attempt = _ATTEMPT.fullmatch(part.name)
            if attempt and int(attempt[1]) <= sequence:
                part.unlink(missing_ok=True)

    def _place(self, task: SinkTask) -> Path:
        place = self.directory / str(task.partition)
        if not place.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            _sync(self.directory)
            _sync(self.directory.parent)
        return place

    def _published(self, place: Path) -> int:
        """The newest commit that was published there, whether or not its file still is; 0 if none was."""
        noted = [int(each.name.removeprefix(_PUBLISHED)) for each in place.glob(f"{_PUBLISHED}*")]
        return max(noted, default=0)


def _lines(frame: pl.DataFrame) -> bytes:
    columns = [pl.col(n).bin.encode("base64") if t == pl.Binary else pl.col(n) for n, t in frame.schema.items()]
    rows = frame.select(pl.struct(columns).struct.json_encode()).to_series()
    return ("\n".join(rows) + "\n").encode()


def _sync(directory: Path) -> None:
    """Make the names in a directory durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
