"""At the user's own frame of a failure: a debugger there, or a traceback with what its variables held."""

import importlib
import os
import pdb
import reprlib
import sysconfig
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType

_ENGINE = ("streams", "operators", "polars")
_PYTHON = tuple(str(Path(sysconfig.get_path(n)).resolve()) + os.sep for n in ("stdlib", "purelib", "platlib"))


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _is_installed(frame: FrameType) -> bool:
    name = frame.f_code.co_filename
    return name.startswith("<frozen") or str(Path(name).resolve()).startswith(_PYTHON)


def _users(frames: Sequence[FrameType]) -> list[int]:
    """Which frames run code of the program; where all of it is installed: of the package that the engine calls."""
    others = [i for i, frame in enumerate(frames) if _package(frame) not in _ENGINE]
    found = [i for i in others if not _is_installed(frames[i])]
    return found or [i for i in others if _package(frames[i]) == _package(frames[others[0]])]


def at_users_frame(error: BaseException) -> TracebackType | None:
    """The error's traceback, ended at the deepest frame of the user's code; None if there is none.

    >>> program = compile("def share(n): return 1 / n", "program.py", "exec")
    >>> scope = {"__name__": "program"}; exec(program, scope)
    >>> try:
    ...     scope["share"](0)
    ... except ZeroDivisionError as error:
    ...     at_users_frame(error).tb_next.tb_frame.f_locals
    {'n': 0}
    """
    last = max(_users([frame for frame, _ in traceback.walk_tb(error.__traceback__)]), default=-1)
    entries: list[TracebackType] = []
    at = error.__traceback__
    while at is not None and len(entries) <= last:
        entries.append(at)
        at = at.tb_next
    made: TracebackType | None = None
    for entry in reversed(entries):
        made = TracebackType(made, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return made


def described(error: BaseException) -> str:
    """The traceback from the first to the last frame of the user's code, the error, and the last frame's variables."""
    tb = at_users_frame(error)
    said = "".join(traceback.format_exception_only(error)).rstrip()
    if tb is None:
        return said
    frames = list(traceback.walk_tb(tb))
    first = _users([frame for frame, _ in frames])[0]
    stack = traceback.StackSummary.extract(iter(frames[first:]))
    lines = ["Traceback (the program's own frames):", *(line.rstrip() for line in stack.format()), said]
    held = frames[-1][0].f_locals
    if held:
        lines.append(f"variables of {frames[-1][0].f_code.co_name}:")
        lines += [f"  {name} = {_short(value)}" for name, value in held.items()]
    return "\n".join(lines)


def _short(value: object) -> str:
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 300
    try:
        return shown.repr(value)
    except Exception as error:
        return f"<{type(value).__name__}, whose repr fails: {type(error).__name__}>"


def post_mortem(error: BaseException, note: Callable[[str], None]) -> None:
    """A debugger at the deepest frame of the user's code; nothing if the error has none.

    PYTHONBREAKPOINT is honoured: `0` is no debugger, `module.function` the debugger of that module if it has a
    function `post_mortem` (ipdb, pudb, ...), else pdb.
    """
    tb = at_users_frame(error)
    wanted = os.environ.get("PYTHONBREAKPOINT", "")
    if tb is None or wanted == "0":
        return
    start: Callable[[TracebackType], object] = pdb.post_mortem
    name = wanted.rpartition(".")[0]
    if name and name != "pdb":
        try:
            start = importlib.import_module(name).post_mortem
        except (ImportError, AttributeError) as missing:
            note(f"PYTHONBREAKPOINT={wanted} cannot look at a failure ({missing}); pdb is used")
    start(tb)
