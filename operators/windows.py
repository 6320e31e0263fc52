"""Windows: which stretch of event time a row belongs to."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streams.core.errors import WrongType
from streams.core.time import duration, text

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tumbling:
    """Windows of one size behind each other: [offset + n size, offset + (n + 1) size). Milliseconds."""

    size: int
    offset: int = 0

    def starts(self, times: Ints) -> Ints:
        """The start of the window of each instant.

        >>> Tumbling(10).starts(np.array([-1, 0, 9, 10])).tolist()
        [-10, 0, 0, 10]
        """
        shifted = times - self.offset
        starts: Ints = times - shifted % self.size
        return starts

    def last_end(self, instant: int) -> int:
        """The end of the last window that ends at or before an instant.

        >>> Tumbling(10, 3).last_end(12), Tumbling(10, 3).last_end(13)
        (3, 13)
        """
        return instant - (instant - self.offset) % self.size

    def __str__(self) -> str:
        return f"tumbling({text(self.size)})"


def tumbling(size: str | int, offset: str | int = 0) -> Tumbling:
    """Windows that follow each other without overlap: each row is in exactly one.

    `size` and `offset` are durations ("1m", "90s", or milliseconds). Windows begin at whole multiples of the size since
    the epoch in UTC, before it too, moved by the offset: `tumbling("1d", offset="15h")` begins days at midnight in
    Tokyo.

    >>> tumbling("1m").starts(np.array([61_000])).tolist()
    [60000]
    """
    width = duration(size)
    if width <= 0:
        raise WrongType("a window needs a size above 0", where="tumbling", fix='tumbling("1m")')
    return Tumbling(width, duration(offset) % width)
