"""What the documents show runs, and their links lead somewhere."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.tutorial import PATIENCE, Reader

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *PAGES]
ELSEWHERE = {"tutorial.md", "testing.md", "tools.md", "savepoints.md"}  # run as their readers do


def python_blocks(path: Path) -> list[str]:
    text = path.read_text()
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return ["\n".join(line.removeprefix(indent) for line in block.splitlines()) for indent, block in blocks]


def test_the_readmes_quick_start_works(tmp_path):
    """As its reader does it: both blocks saved under the names that it gives, its commands typed, pytest run."""
    text = (ROOT / "README.md").read_text()
    here = tmp_path / "here"
    here.mkdir()
    for name, block in zip(["program.py", "test_program.py"], python_blocks(ROOT / "README.md"), strict=True):
        assert f"ave as `{name}`" in text
        (here / name).write_text(block)
    commands = re.search(r"^( +streams topics create payments\n( +.*\n)+)", text, re.MULTILINE)[1]
    before, run, after = re.split(r"^( +streams run .*\n)", commands, flags=re.MULTILINE)
    with Reader(here, {}) as reader:
        assert reader.type(before) == "payments: 4 partitions\n3 records\n"
        reader.type(run.partition("#")[0].rstrip() + " --quiet &\n")
        deadline = time.monotonic() + PATIENCE
        while (said := reader.type(after)).count("{") < 2 and time.monotonic() < deadline:
            pass
        reader.type("kill $!; wait\n")
        assert reader.type(after) == said
        tested = reader.type("python -m pytest -q -W error\n")
    assert [json.loads(line) for line in said.splitlines()] == [
        {"card_id": "c1", "at": 1700000030000, "amount": 7},
        {"card_id": "c1", "window_start": 1699999980000, "window_end": 1700000040000, "spent": 12},
    ]
    assert "1 passed" in tested, tested


def test_the_operator_of_contributing_works_in_a_program():
    from streams import App, EventTime, Schema

    scope = {"__name__": "bucket"}
    for block in python_blocks(ROOT / "CONTRIBUTING.md"):
        exec(compile(block, "CONTRIBUTING.md", "exec"), scope)

    class Payment(Schema):
        card: str
        at: EventTime
        amount: int

    app = App("shop")
    app.source("pay", Payment, start="earliest") | scope["Bucket"]("amount", 100) | app.sink("out")
    with app.test() as t:
        t.send("pay", [Payment("c", 1, 250)])
        assert t.read("out") == [{"card": "c", "at": 1, "amount": 250, "bucket": 200}]


@pytest.mark.parametrize(
    "path", [p for p in PAGES if p.name not in ELSEWHERE and python_blocks(p)], ids=lambda p: p.name
)
def test_the_programs_of_a_page_run_in_order_and_in_one_namespace(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope = {"__name__": path.stem}
    for block in python_blocks(path):
        exec(compile(block, path.name, "exec"), scope)
    for name in [n for n in scope if n.startswith("test_")]:
        if not scope[name].__code__.co_argcount:  # those with fixtures are shown, not run
            scope[name]()


def test_the_guide_to_testing_runs(tmp_path):
    """Each block belongs to the file that its first line names."""
    for block in python_blocks(ROOT / "docs" / "testing.md"):
        named = re.match(r"# (\w+\.py)\n", block)
        assert named, f"a block does not name its file: {block[:60]!r}"
        with (tmp_path / named[1]).open("a") as file:
            file.write(block + "\n\n\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "streams.pytest_plugin", "--strict-markers", "-W", "error"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_to_elsewhere_are_well_formed(path):
    for target in re.findall(r"\]\((\w+://[^)]*)\)", path.read_text()):
        parts = urlsplit(target)
        assert parts.scheme == "https", target
        assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), target
        assert " " not in target, target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_make_targets_that_documents_name_exist(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`|^ +make ([a-z-]+)", path.read_text(), re.MULTILINE))
    assert {a or b for a, b in named} <= targets
