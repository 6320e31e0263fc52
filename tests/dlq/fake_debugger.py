"""Stands for a debugger that PYTHONBREAKPOINT names."""

import traceback


def post_mortem(tb) -> None:
    frame = list(traceback.walk_tb(tb))[-1][0]
    print("FAKE", frame.f_code.co_name)
