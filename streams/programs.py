"""Programs as the command line names them: MODULE:APP, found, imported, and what to say where that fails."""

import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from streams.core.errors import BuildError, StreamsError
from streams.core.schema import nearest

if TYPE_CHECKING:
    from streams.app import App

_APP = re.compile(r"^(\w+)\s*(?::[^=\n]+)?=\s*(?:\w+\.)?App\(", re.MULTILINE)
_FRAMES = 8  # the last calls of a program's own that are shown
_ENGINE = ("streams", "operators")


def find(program: str) -> "App":
    """The App that MODULE:NAME names; the current directory is searched first, as `python -m` does.

    Raises StreamsError that names what was looked for, where, and what there is; BuildError with the program's own
    lines, none of the engine's, where it fails while it is imported.
    """
    from streams.app import App

    module_name, _, name = program.partition(":")
    if module_name.endswith(".py") or "/" in module_name:
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        raise StreamsError(
            f"{program!r} names a file, not a module", fix=f"write MODULE:NAME, e.g. {dotted}:{name or 'app'}"
        )
    if not name:
        here = [n for n in programs(Path.cwd()) if n.startswith(f"{module_name}:")]
        fix = f"write MODULE:NAME, e.g. {here[0] if here else 'fraud.pipeline:app'}"
        raise StreamsError(f"{program!r} does not name an app", fix=fix)
    sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name and not module_name.startswith(f"{error.name}."):
            raise _broken(module_name, error) from None
        modules = {n.partition(":")[0] for n in programs(Path.cwd())}
        raise StreamsError(
            f"no module {module_name!r}{nearest(module_name, modules)}",
            where=os.getcwd(),
            fix="run from the directory that holds it, or install it",
        ) from None
    except StreamsError as error:
        for frame in _own(error.__traceback__)[-1:]:
            error.add_note(f"  line:  {frame.filename}, line {frame.lineno}: {frame.line}")
        raise
    except Exception as error:
        raise _broken(module_name, error) from None
    found = getattr(module, name, None)
    if not isinstance(found, App):
        apps = [n for n, v in vars(module).items() if isinstance(v, App)]
        raise StreamsError(
            f"{name!r} is not an App in {module_name}{nearest(name, apps)}",
            where=str(getattr(module, "__file__", module_name)),
            fix=f"it has: {', '.join(apps) or 'no App'}",
        )
    return found


def programs(directory: Path) -> list[str]:
    """MODULE:APP of the apps in a directory and its packages, from a look at the text alone: nothing is imported.

    >>> "fraud.pipeline:app" in programs(Path(__file__).parents[1])
    True
    """
    return sorted(
        f"{module}:{app}" for module, file in _modules(directory) for app in _APP.findall(_text(file)) if app != "_"
    )


def _modules(directory: Path) -> Iterator[tuple[str, Path]]:
    for file in directory.glob("*.py"):
        yield file.stem, file
    for package in directory.iterdir():
        if package.is_dir() and package.name.isidentifier() and package.name != "__pycache__":
            for file in package.glob("*.py"):
                yield f"{package.name}.{file.stem}", file


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


# ---------------------------------------------------------------- programs that fail


def _broken(module: str, error: Exception) -> BuildError:
    """The error of a program that fails while it is imported, with its own lines and the reason."""
    frames = _own(error.__traceback__)
    reason = "".join(traceback.format_exception_only(error)).rstrip()
    if isinstance(error, SyntaxError):
        where = f"{error.filename}, line {error.lineno}"
        fix = "mend the syntax there"
    else:
        where = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else module
        fix = "mend the program there"
        if isinstance(error, ModuleNotFoundError):
            fix = f"install what provides {error.name!r} into this environment ({sys.prefix}), or correct the import"
    shown = "".join(traceback.format_list(frames[-_FRAMES:])) + reason
    indented = "\n".join(f"    {line}" for line in shown.splitlines())
    return BuildError(f"the program {module!r} fails while it is imported\n{indented}", where=where, fix=fix)


def _own(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    """The calls that are neither the import machinery's nor the engine's.

    The engine is known by the names of its packages, not by one path: where a program is started in a clone of the
    engine, `streams` may come from where it is installed and `operators` from the clone.
    """
    own = [
        (frame, line)
        for frame, line in traceback.walk_tb(trace)
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in _ENGINE
        and not frame.f_code.co_filename.startswith(("<frozen", importlib.__file__))
    ]
    return list(traceback.StackSummary.extract(iter(own)))
