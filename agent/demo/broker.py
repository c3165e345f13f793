"""A Kafka cluster inside this process: librdkafka's mock cluster, by ctypes.

The library comes with the confluent-kafka wheel (extra `inferometer[demo]`). Clients reach the
cluster over loopback TCP with the real wire protocol: produce, fetch, groups, commits, headers, all
codecs. It speaks plaintext only and keeps nothing on disk.

Limits that callers must know
* Per partition the newest 5 MiB of compressed batches, or 100,000 batches, are kept; a reader that
  falls behind further loses records.
* No offsets by time, no CreateTopics (use `create_topic`), no DescribeGroups, no SASL or TLS, no
  read_committed.
* When two members join one group, a leader whose SyncGroup comes before the follower's is refused;
  such a test delays the leader (`tests/support/kafka_embedded.py`, which also injects faults).

Invariants
1. The C handles are used only between construction and `close`, under one lock.
2. The cluster is destroyed before the client instance that hosts its threads.
"""

import ctypes
import importlib.util
import threading
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from agent.errors import ConfigError, SourceError

_RD_KAFKA_PRODUCER: Final = 0
_ERROR_SIZE: Final = 512

_HANDLE = ctypes.c_void_p
_TEXT = ctypes.c_char_p
_SIZE = ctypes.c_size_t
_I16, _I32, _I64, _INT = ctypes.c_int16, ctypes.c_int32, ctypes.c_int64, ctypes.c_int

#: Name without the prefix `rd_kafka_` -> result, arguments; from rdkafka.h and rdkafka_mock.h.
Signatures = dict[str, tuple[type | None, list[type]]]

_SIGNATURES: Final[Signatures] = {
    "conf_new": (_HANDLE, []),
    "conf_set": (_INT, [_HANDLE, _TEXT, _TEXT, _TEXT, _SIZE]),
    "conf_destroy": (None, [_HANDLE]),
    "new": (_HANDLE, [_INT, _HANDLE, _TEXT, _SIZE]),
    "destroy": (None, [_HANDLE]),
    "err2str": (_TEXT, [_INT]),
    "mock_cluster_new": (_HANDLE, [_HANDLE, _INT]),
    "mock_cluster_destroy": (None, [_HANDLE]),
    "mock_cluster_bootstraps": (_TEXT, [_HANDLE]),
    "mock_topic_create": (_INT, [_HANDLE, _TEXT, _INT, _INT]),
    "mock_group_initial_rebalance_delay_ms": (None, [_HANDLE, _I32]),
}

_library: ctypes.CDLL | None = None


class EmbeddedBroker:
    """`n_brokers` brokers on loopback ports of their own, until `close`.

    Memory: what its partitions keep (see above) and one thread. Raises ConfigError when
    confluent-kafka is not installed, SourceError when the cluster cannot start or refuses a call.
    """

    def __init__(self, n_brokers: int = 1, *, rebalance_delay_ms: int = 100) -> None:
        self._lib = _load()
        self._lock = threading.Lock()
        self._client: int | None = None
        self._cluster: int | None = None
        reason = ctypes.create_string_buffer(_ERROR_SIZE)
        settings = self._lib.rd_kafka_conf_new()
        # The host instance never connects: port 1 is nobody's, and it must not log about that.
        for name, value in ((b"bootstrap.servers", b"127.0.0.1:1"), (b"log_level", b"0")):
            self._lib.rd_kafka_conf_set(settings, name, value, reason, _ERROR_SIZE)
        self._client = self._lib.rd_kafka_new(_RD_KAFKA_PRODUCER, settings, reason, _ERROR_SIZE)
        if not self._client:
            self._lib.rd_kafka_conf_destroy(settings)
            raise SourceError(f"the embedded broker cannot start: {reason.value.decode()}")
        self._cluster = self._lib.rd_kafka_mock_cluster_new(self._client, n_brokers)
        if not self._cluster:
            self.close()
            raise SourceError(
                f"the embedded broker cannot open {n_brokers} loopback ports; "
                "check the limit of open files"
            )
        self._lib.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, rebalance_delay_ms)
        addresses = self._lib.rd_kafka_mock_cluster_bootstraps(self._cluster)
        self.bootstrap: str = addresses.decode()

    def create_topic(self, name: str, partitions: int = 1, replicas: int = 1) -> str:
        """Create a topic; return its name. Partition p is led by one of the brokers 1..n."""
        self._call("mock_topic_create", name.encode(), partitions, replicas)
        return name

    def close(self) -> None:
        """End the cluster; a second call does nothing."""
        with self._lock:
            cluster, self._cluster = self._cluster, None
            client, self._client = self._client, None
        if cluster:
            self._lib.rd_kafka_mock_cluster_destroy(cluster)
        if client:
            self._lib.rd_kafka_destroy(client)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, function: str, *arguments: object) -> None:
        with self._lock:
            if self._cluster is None:
                raise SourceError("the embedded broker is closed")
            code = getattr(self._lib, f"rd_kafka_{function}")(self._cluster, *arguments)
        if code:
            text = self._lib.rd_kafka_err2str(code).decode()
            raise SourceError(f"the embedded broker refused {function}{arguments}: {text}")


def _load() -> ctypes.CDLL:
    """The library of the confluent-kafka wheel, its functions typed; loaded once."""
    global _library
    if _library is None:
        library = ctypes.CDLL(str(_library_path()))
        declare(library, _SIGNATURES)
        _library = library
    return _library


def declare(library: ctypes.CDLL, signatures: Signatures) -> None:
    """Type functions of the library. Raises ConfigError when it has not all of them."""
    for name, (result, arguments) in signatures.items():
        try:
            function = getattr(library, f"rd_kafka_{name}")
        except AttributeError:
            raise ConfigError(
                f"this confluent-kafka has no rd_kafka_{name}; install inferometer[demo]"
            ) from None
        function.restype = result
        function.argtypes = arguments


def _library_path() -> Path:
    """Where a wheel keeps librdkafka: `confluent_kafka.libs/` (Linux), `.dylibs/` (macOS)."""
    found = importlib.util.find_spec("confluent_kafka")
    if found is None or found.origin is None:
        raise ConfigError(
            "the embedded broker needs confluent-kafka; install it with: "
            "pip install 'inferometer[demo]'"
        )
    package = Path(found.origin).parent
    places = [
        (package.parent / "confluent_kafka.libs", "librdkafka-*.so*"),
        (package / ".dylibs", "librdkafka*.dylib"),
    ]
    for folder, pattern in places:
        for path in sorted(folder.glob(pattern)):
            return path
    looked = " and ".join(str(folder) for folder, _ in places)
    raise ConfigError(
        f"confluent-kafka is installed without its own librdkafka (looked in {looked}); "
        "install the wheel with: pip install --only-binary :all: 'inferometer[demo]'"
    )
