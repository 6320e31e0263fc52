"""Where embedded logs lie, and what to say where there is none."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from streams.core.errors import LogUnreachable

FILE = "log.db"
USUAL = Path(".streams", "log")


def expect(directory: Path) -> None:
    """LogUnreachable if there is no embedded log in `directory`; it names one that lies nearby. Makes nothing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as name:
    ...     expect(Path(name) / "log")
    Traceback (most recent call last):
    ...
    streams.core.errors.LogUnreachable: there is no log in this place
    ...
    """
    try:
        os.stat(directory / FILE)
    except FileNotFoundError:
        pass
    except OSError:
        return  # opening it says what is wrong
    else:
        return
    fix = "go to the directory in which the program was started: its log lies there in .streams/log. Or name the log: "
    raise LogUnreachable(
        "there is no log in this place",
        where=str(directory.absolute()),
        fix=f"{fix}--log-dir {next(_nearby(directory), 'DIRECTORY')} (Kafka: --brokers HOST:PORT). "
        "`streams topics create NAME` begins a new one",
    )


def _nearby(directory: Path) -> Iterator[Path]:
    """Logs in what was named and above it, above the working directory, and one level below that."""
    here, named = Path.cwd(), directory.absolute()
    with suppress(OSError):
        for base in (named, *named.parents, *here.parents):
            if (base / USUAL / FILE).is_file():
                yield base / USUAL
        for file in sorted((*here.glob(f"*/{USUAL / FILE}"), *here.glob(f".streams/*/log/{FILE}"))):
            yield file.parent.relative_to(here)
