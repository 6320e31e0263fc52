"""Programs that come from Debian's packages, not from PyPI."""

import os
import shutil

import pytest


def program(package: str, *names: str) -> str:
    """The path of a program, by any of its names.

    Where it is missing the test is skipped, and says how to get it; but it fails where TESTS_NEED_ALL is set, as it is
    in CI: there nothing passes by skipping.
    """
    for name in names:
        if found := shutil.which(name):
            return found
    missing = f"{' or '.join(names)} is missing: apt-get install {package}"
    if os.environ.get("TESTS_NEED_ALL"):
        pytest.fail(missing)
    pytest.skip(missing)
