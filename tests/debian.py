"""Programs that come from Debian's packages, not from PyPI."""

import os
import shutil

import pytest


def program(name: str, package: str) -> str:
    """The path of a program. Where it is missing the test is skipped, and says how to get it; but it fails where
    TESTS_NEED_ALL is set, as it is in CI: there nothing passes by skipping."""
    found = shutil.which(name)
    if found is not None:
        return found
    missing = f"{name} is missing: apt-get install {package}"
    if os.environ.get("TESTS_NEED_ALL"):
        pytest.fail(missing)
    pytest.skip(missing)
