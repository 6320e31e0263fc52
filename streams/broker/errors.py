"""What can go wrong with a broker of our own."""

from streams.core.errors import StreamsError

MISSING_EXTRA = "pip install 'streams[broker]'"


class BrokerError(StreamsError):
    """The broker cannot be had, started or stopped."""
