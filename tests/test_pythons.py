"""`make pythons` finds interpreters that really run, and says so where there is none."""

import os
import subprocess
import sys

import pytest

from tests import pythons

OURS = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_the_running_version_is_found():
    found = pythons.find(OURS)
    assert found is not None
    said = subprocess.run([found, "-c", pythons._CHECK], capture_output=True, text=True)
    assert said.stdout.strip() == OURS


def test_a_shim_that_fails_is_passed_over(tmp_path, monkeypatch):
    for directory, script in (("shims", "exit 127"), ("real", "echo 3.99")):
        (tmp_path / directory).mkdir()
        file = tmp_path / directory / "python3.99"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join(str(tmp_path / d) for d in ("missing", "shims", "real")))
    assert pythons.find("3.99") == str(tmp_path / "real" / "python3.99")
    assert pythons.find("3.98") is None


@pytest.mark.parametrize("path", pythons.PART)
def test_the_part_of_the_tests_is_there(path):
    assert (pythons.ROOT / path).exists()


def test_an_unsupported_version_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pythons", "3.9"])
    with pytest.raises(SystemExit):
        pythons.main()
    assert "not supported: 3.9" in capsys.readouterr().err
