"""The documentation site: it builds without a warning, and shows docstrings and commands as they are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs._extensions.docstrings import converted
from docs.draw_pictures import PLACE, pictures

ROOT = Path(__file__).parent.parent


def test_docstrings_become_restructured_text():
    assert converted(["Use `a|b`, x|y and NAME_:", "", "    x = 1", "", "    y = 2", "", "- `b`: one", "  two"]) == [
        "Use ``a|b``, x\\|y and NAME\\_:",
        "",
        ".. code-block:: python",
        "",
        "    x = 1",
        "",
        "    y = 2",
        "",
        "- ``b``: one",
        "  two",
    ]


def test_code_that_is_broken_over_two_lines_is_joined():
    assert converted(["gone (`self.x =", "...`) at", "once"]) == ["gone (``self.x = ...``) at", "once"]


def test_examples_stay_as_they_are():
    example = [">>> f(`x`)", "... # more", "'`a`'", "", "Text `b`."]
    assert converted(example)[:3] == example[:3]
    assert converted(example)[-1] == "Text ``b``."


def test_the_pictures_are_those_that_the_script_draws():
    assert {name: (PLACE / name).read_text() for name in pictures()} == pictures()


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="the extra `docs` is not installed")
    site = tmp_path / "site"
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(site)]
    made = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    pages = {p.stem for p in (ROOT / "docs").glob("*.md")}
    assert {p.stem for p in site.glob("*.html")} >= pages

    assert (site / "concepts.html").read_text().count('<svg xmlns="http://www.w3.org/2000/svg" class="drawing"') == 4

    reference = _words((site / "reference.html").read_text())
    for name in ("streams.App", "streams.Operator.process", "streams.testing.TestRun.crash"):
        assert f'id="{name}"' in (site / "reference.html").read_text()
    for command in ("streams run", "streams topics write", "streams broker start", "streams demo"):
        assert command in reference
    operators = (site / "operators.html").read_text()
    import operators as vocabulary

    unseen = [
        n for n in vocabulary.__all__ if n not in ("agg", "col", "lit") and f'id="operators.{n}"' not in operators
    ]
    assert unseen == []


def _words(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html))
