"""librdkafka's own mock cluster, which confluent_kafka ships but does not offer: brokers that fail as they are told."""

import ctypes
import glob
import os
from types import TracebackType
from typing import Self

import confluent_kafka

PRODUCE, INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, END_TXN, TXN_OFFSET_COMMIT = 0, 22, 24, 25, 26, 28
FIND_COORDINATOR = 10
"""The protocol's numbers."""
TRANSPORT = -195  # the connection breaks before the request is carried out
_BROKER = 1
_Pointer = ctypes.c_void_p


def _load() -> ctypes.CDLL:
    package = os.path.dirname(confluent_kafka.__file__)
    places = ("../confluent_kafka.libs/librdkafka*.so*", ".dylibs/librdkafka*.dylib")
    found = [file for place in places for file in glob.glob(os.path.join(package, place))]
    assert found, f"no librdkafka beside {package}"
    library = ctypes.CDLL(found[0])
    signatures: dict[str, tuple[object, list[object]]] = {
        "rd_kafka_conf_new": (_Pointer, []),
        "rd_kafka_conf_set": (ctypes.c_int, [_Pointer, *[ctypes.c_char_p] * 3, ctypes.c_size_t]),
        "rd_kafka_new": (_Pointer, [ctypes.c_int, _Pointer, ctypes.c_char_p, ctypes.c_size_t]),
        "rd_kafka_destroy": (None, [_Pointer]),
        "rd_kafka_mock_cluster_new": (_Pointer, [_Pointer, ctypes.c_int]),
        "rd_kafka_mock_cluster_destroy": (None, [_Pointer]),
        "rd_kafka_mock_cluster_bootstraps": (ctypes.c_char_p, [_Pointer]),
        "rd_kafka_mock_topic_create": (ctypes.c_int, [_Pointer, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]),
        "rd_kafka_mock_broker_set_down": (ctypes.c_int, [_Pointer, ctypes.c_int32]),
        "rd_kafka_mock_start_request_tracking": (None, [_Pointer]),
        "rd_kafka_mock_get_requests": (ctypes.POINTER(_Pointer), [_Pointer, ctypes.POINTER(ctypes.c_size_t)]),
        "rd_kafka_mock_request_api_key": (ctypes.c_int16, [_Pointer]),
        "rd_kafka_mock_request_destroy_array": (None, [ctypes.POINTER(_Pointer), ctypes.c_size_t]),
    }
    for name, (result, arguments) in signatures.items():
        getattr(library, name).restype, getattr(library, name).argtypes = result, arguments
    return library


class MockCluster:
    """One broker with the given topics, four partitions each."""

    def __init__(self, *topics: str) -> None:
        self._library = _load()
        said = ctypes.create_string_buffer(512)
        settings = self._library.rd_kafka_conf_new()
        self._library.rd_kafka_conf_set(settings, b"log_level", b"0", said, len(said))
        self._handle = self._library.rd_kafka_new(0, settings, said, len(said))
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._handle, 1)
        self.bootstrap: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        for topic in topics:
            self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), 4, 1)
        self._library.rd_kafka_mock_start_request_tracking(self._cluster)

    def answer(self, request: int, *answers: tuple[int, int]) -> None:
        """The next requests of this kind are answered with these error codes after so many milliseconds."""
        head = [
            _Pointer(self._cluster),
            ctypes.c_int32(_BROKER),
            ctypes.c_int16(request),
            ctypes.c_size_t(len(answers)),
        ]
        tail = [ctypes.c_int(number) for answer in answers for number in answer]
        assert self._library.rd_kafka_mock_broker_push_request_error_rtts(*head, *tail) == 0

    def stop(self) -> None:
        """Connections break, and nobody listens any more."""
        self._library.rd_kafka_mock_broker_set_down(self._cluster, _BROKER)

    def requests(self, kind: int) -> int:
        """How many requests of this kind came."""
        count = ctypes.c_size_t()
        found = self._library.rd_kafka_mock_get_requests(self._cluster, ctypes.byref(count))
        kinds = [self._library.rd_kafka_mock_request_api_key(found[i]) for i in range(count.value)]
        self._library.rd_kafka_mock_request_destroy_array(found, count)
        return kinds.count(kind)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._handle)
