"""What the shell completes: by click's own protocol, and by bash itself where it is there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAUNCHER = """#!{python}
import sys

sys.argv[0] = "streams"
from streams.cli import main

main()
"""


@pytest.fixture
def directory(tmp_path):
    """One with a program, and the command `streams` of this very checkout."""
    (tmp_path / "shop.py").write_text("from streams import App\n\napp = App('shop')\nother: App = App('other')\n")
    (tmp_path / "streams").write_text(LAUNCHER.format(python=sys.executable))
    (tmp_path / "streams").chmod(0o755)
    return tmp_path


def environment(directory, **more):
    path = f"{directory}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path, **more}


def completed(directory, *words):
    """What click is asked by every shell's script; a line is TYPE,WORD."""
    more = {"_STREAMS_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [directory / "streams"], cwd=directory, env=environment(directory, **more), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_options_and_programs(directory):
    assert completed(directory, "streams", "se") == ["settings"]
    assert completed(directory, "streams", "topics", "cre") == ["create"]
    assert completed(directory, "streams", "run", "--commit") == ["--commit-interval"]
    assert completed(directory, "streams", "run", "sh") == ["shop:app", "shop:other"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_says_how_to_install_it(directory, shell):
    command = [directory / "streams", "completion", shell]
    done = subprocess.run(command, env=environment(directory), capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith(f"# To keep it:  streams completion {shell} > ")
    assert "_STREAMS_COMPLETE" in done.stdout


def test_bash_takes_the_script(directory):
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    script = """
    . <(streams completion bash)
    COMP_WORDS=(streams run sho); COMP_CWORD=2
    _streams_completion streams
    echo "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script], cwd=directory, env=environment(directory), capture_output=True, text=True
    )
    assert done.stdout.split() == ["shop:app", "shop:other"], done.stderr
