"""For commands of the tests that start processes: SIGTERM ends them in order, too."""

import signal
import sys


def end_in_order() -> None:
    """SIGTERM raises, and Ctrl-C also in the background of a shell, where it is ignored.

    So what was started is stopped, and what was mounted is unmounted, on the way out.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    signal.signal(signal.SIGINT, signal.default_int_handler)
