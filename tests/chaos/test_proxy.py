"""The proxy does to a connection what its weather says."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.chaos.proxy import DOWN, UP, Proxy, Weather


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    listening = socket.create_server(("127.0.0.1", 0))
    threads = []

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while data := connection.recv(1000):
                connection.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threads.append(threading.Thread(target=serve, args=(listening.accept()[0],)))
                threads[-1].start()

    threads.append(threading.Thread(target=accept))
    threads[0].start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    for thread in threads:
        thread.join()


@pytest.fixture
def proxy(echo: int) -> Iterator[Proxy]:
    with Proxy(echo) as proxy:
        yield proxy


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=30)


def asked(connection: socket.socket, data: bytes = b"hello") -> bytes:
    connection.sendall(data)
    return connection.recv(1000)


def gone(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_in_fine_weather_all_passes(proxy):
    with connected(proxy) as connection:
        assert asked(connection) == b"hello"


def test_cut_ends_the_connections_that_there_are_and_no_later_ones(proxy):
    with connected(proxy) as connection:
        assert asked(connection) == b"hello"
        proxy.cut()
        assert gone(connection)
    with connected(proxy) as connection:
        assert asked(connection) == b"hello"


def test_refusing_ends_new_connections(proxy):
    proxy.weather = Weather(refusing=True)
    with connected(proxy) as connection:
        assert gone(connection)
    proxy.calm()
    with connected(proxy) as connection:
        assert asked(connection) == b"hello"


@pytest.mark.parametrize("way", [UP, DOWN])
def test_a_direction_that_stands_still_loses_nothing(proxy, way):
    with connected(proxy) as connection:
        assert asked(connection) == b"hello"
        proxy.weather = Weather(stalled=frozenset({way}))
        connection.sendall(b"later")
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1000)
        connection.settimeout(30)
        proxy.calm()
        assert connection.recv(1000) == b"later"


def test_delay_is_at_least_what_it_says(proxy):
    proxy.weather = Weather(delay=0.1)
    with connected(proxy) as connection:
        begun = time.monotonic()
        assert asked(connection) == b"hello"
        assert time.monotonic() - begun >= 0.2  # a piece in each direction


def test_an_answer_of_its_own(proxy):
    proxy.weather = Weather(answer=b"no")
    with connected(proxy) as connection:
        assert asked(connection) == b"no"
        assert gone(connection)
