"""Docstrings for autodoc: they are plain text with `code` and indented programs; Sphinx wants reStructuredText.

- `code` becomes ``code``; `**` and `*` of signatures in it stay as they are.
- A block that is indented by four or more after a blank line is a program (or a drawing).
- So is a paragraph that is an ASCII tree (lines that begin with `+--`).
"""

import re
from collections.abc import Sequence
from typing import Any

_CODE = re.compile(r"(?<![`:\w])`([^`\n]+)`(?!`)")
_BULLET = re.compile(r"( *)(?:[-*]|\d+\.) ")


def converted(lines: Sequence[str]) -> list[str]:
    """The same in reStructuredText.

    >>> converted(["Use `a`:", "", "    x = 1", "", "- `b`: one", "  two"])
    ['Use ``a``:', '', '.. code-block:: python', '', '    x = 1', '', '- ``b``: one', '  two']
    """
    made: list[str] = []
    margin, literal, example = (
        0,
        False,
        False,
    )  # where text stands; in a program; in an example, which a blank line ends
    after_blank = True
    for line in _joined(_drawn(lines)):
        indent = len(line) - len(line.lstrip())
        if not line.strip():
            made.append("")
            after_blank, example = True, False
            continue
        if literal and indent >= margin + 4:
            made.append(line)
            continue
        literal = False
        example = example or line.lstrip().startswith(">>>")
        if example:
            made.append(line)
        elif after_blank and indent >= margin + 4:
            literal = True
            made += [f"{' ' * margin}.. code-block:: {_language(line)}", "", line]
        else:
            bullet = _BULLET.match(line)
            margin = len(bullet[0]) if bullet else indent if indent <= margin else margin
            made.append(_text(line))
        after_blank = False
    return made


def _joined(lines: Sequence[str]) -> list[str]:
    """With `code` that was broken over two lines on one."""
    made: list[str] = []
    for line in lines:
        if made and made[-1].count("`") % 2 and not made[-1].lstrip().startswith(">>>") and line.strip():
            made[-1] = f"{made[-1]} {line.lstrip()}"
        else:
            made.append(line)
    return made


def _text(line: str) -> str:
    """Code marked as such, and nothing else taken for markup.

    >>> _text("`a|b` or c|d, STREAMS_ and on")
    '``a|b`` or c\\\\|d, STREAMS\\\\_ and on'
    """
    parts = _CODE.split(line)  # text and code in turn
    return "".join(f"``{p}``" if i % 2 else re.sub(r"([|*]|_(?!\w))", r"\\\1", p) for i, p in enumerate(parts))


def _drawn(lines: Sequence[str]) -> list[str]:
    """With the paragraphs that are trees indented.

    >>> _drawn(["text", "", "a", "+-- b"])
    ['text', '', '    a', '    +-- b']
    """
    paragraphs = [p.split("\n") for p in "\n".join(lines).split("\n\n")]
    trees = [any(line.startswith("+--") for line in p) for p in paragraphs]
    indented = [[f"    {line}" for line in p] if t else p for p, t in zip(paragraphs, trees, strict=True)]
    return "\n\n".join("\n".join(p) for p in indented).split("\n")


def _language(line: str) -> str:
    text = line.strip()
    if text.startswith(("$ ", "streams ", "python ", "pip ", "make ")):
        return "console"
    if re.match(r"\w+$", text) or ("->" in text and "def " not in text):
        return "text"  # a drawing
    return "python"


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = converted(lines)


def setup(app: Any) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
