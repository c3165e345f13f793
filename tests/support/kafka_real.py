"""A real Apache Kafka for tests: one node, broker and controller in one process (KRaft).

The jars come through Maven (`tests/support/kafka/pom.xml`), once per checkout. A run has its own
ports, data folder, certificates and cluster id; nothing of it outlives the test run.

Listeners, all on 127.0.0.1
    PLAINTEXT       `bootstrap`
    SSL             `ssl_bootstrap`: server certificate only
    SSL             `mtls_bootstrap`: a client certificate of the same authority is required
    SSL             `expired_bootstrap`: the server's certificate is out of date
    SASL_PLAINTEXT  `sasl_plaintext_bootstrap`
    SASL_SSL        `sasl_bootstrap`
SASL mechanisms: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 (user `USER`, password `PASSWORD`) and
OAUTHBEARER with unsecured tokens (`unsecured_token`).
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import KafkaException

from tests.support.built import built_once
from tests.support.certificates import Authority, KeyPair
from tests.support.kafka_topics import Topics, unique
from tests.support.process import OwnedProcess, StartFailed, accepts_connections, free_ports

__all__ = ["KafkaUnavailable", "RealKafka", "unique", "unsecured_token"]

POM = Path(__file__).parent / "kafka" / "pom.xml"
USER = "inferometer"
PASSWORD = "test-only-password"
START_TIMEOUT_S = 60.0
START_ATTEMPTS = 3

# name of the listener -> security protocol; the order is the order of the ports
LISTENERS = {
    "PLAINTEXT": "PLAINTEXT",
    "SSL": "SSL",
    "MTLS": "SSL",
    "EXPIRED": "SSL",
    "SASL_PLAINTEXT": "SASL_PLAINTEXT",
    "SASL_SSL": "SASL_SSL",
    "CONTROLLER": "PLAINTEXT",
}
_NODE_ID = 1
_PORT_TAKEN = "Address already in use"
# Quick start on few cores matters more than the last bit of speed: first-tier compiler, one-thread
# collector, and the JVM's own class archive.
_JVM = [
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
]


_ARCHIVE = "kafka.jsa"


class KafkaUnavailable(RuntimeError):
    """Java or Maven is missing, or the jars cannot be had; the message says what to install."""


def kafka_jars() -> Path:
    """The folder with Kafka's jars; Maven fetches them the first time."""
    java, maven = shutil.which("java"), shutil.which("mvn")
    if java is None or maven is None:
        missing = " and ".join(n for n, found in (("java", java), ("mvn", maven)) if not found)
        raise KafkaUnavailable(f"install Java 17 and Maven: no {missing} on the PATH")
    return built_once("kafka", [POM], lambda folder: _copy_jars(maven, folder))


def _copy_jars(maven: str, folder: Path) -> None:
    command = [maven, "-q", "-B", "-f", POM, "dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired:
        raise KafkaUnavailable("Maven did not bring Kafka's jars in 600 s") from None
    if run.returncode != 0 or not any(folder.glob("kafka_2.13-*.jar")):
        tail = "\n".join((run.stdout + run.stderr).splitlines()[-15:])
        raise KafkaUnavailable(f"Maven cannot bring Kafka's jars:\n{tail}")


def class_archive() -> Path | None:
    """The broker's classes as the JVM keeps them in memory: a start costs a third less CPU.

    Dumped by a first broker; the JVM leaves aside an archive that does not fit. None when that
    broker does not start: the next one will say why.
    """
    jars = kafka_jars()
    java = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)

    def dump(folder: Path) -> None:
        broker = RealKafka(jvm=[f"-XX:ArchiveClassesAtExit={folder / _ARCHIVE}"])
        try:
            broker.start().stop()
        finally:
            broker.close()

    try:
        folder = built_once("kafka-classes", [POM, java.stderr, str(jars), " ".join(_JVM)], dump)
    except StartFailed:
        return None
    archive = folder / _ARCHIVE
    return archive if archive.exists() else None


def unsecured_token(subject: str = USER, *, lifetime_s: float = 3600.0) -> str:
    """An unsigned JSON web token that the broker's unsecured OAUTHBEARER validator accepts."""
    now = time.time()
    # A minute ago: the broker's clock, cut to milliseconds, must not read as earlier.
    claims = {"sub": subject, "iat": int(now) - 60, "exp": int(now + lifetime_s)}

    def encoded(part: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()

    return f"{encoded({'alg': 'none'})}.{encoded(claims)}."


class RealKafka(Topics):
    """One broker. Synchronous; call it from a thread, or between awaits, where that matters.

    `folder` holds everything of this broker and goes with it; default: a temporary one. `overrides`
    are settings of server.properties, `jvm` arguments of the broker's Java.

    `start` raises StartFailed with the tail of the log. Not thread-safe.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        overrides: dict[str, str] | None = None,
        jvm: Sequence[str] | None = None,
    ) -> None:
        self._jars = kafka_jars()
        if jvm is None:
            archive = class_archive()
            jvm = [] if archive is None else [f"-XX:SharedArchiveFile={archive}"]
        self._jvm = list(jvm)
        self._overrides = overrides or {}
        self._node_id = int(self._overrides.get("node.id", _NODE_ID))
        self.folder = folder or Path(tempfile.mkdtemp(prefix="inferometer-kafka-"))
        self.log_path = self.folder / "broker.log"
        self._properties = self.folder / "server.properties"
        authority = Authority(self.folder)
        self.ca_path = authority.path
        self.other_ca_path = Authority(self.folder, "other-ca").path
        self.server = authority.issue("server")
        self.expired = authority.issue("expired", expired=True)
        self.client = authority.issue("client")
        self._ports: dict[str, int] = {}
        self._process: OwnedProcess | None = None

    @property
    def bootstrap(self) -> str:
        return self._address("PLAINTEXT")

    @property
    def ssl_bootstrap(self) -> str:
        return self._address("SSL")

    @property
    def mtls_bootstrap(self) -> str:
        return self._address("MTLS")

    @property
    def expired_bootstrap(self) -> str:
        return self._address("EXPIRED")

    @property
    def sasl_plaintext_bootstrap(self) -> str:
        return self._address("SASL_PLAINTEXT")

    @property
    def sasl_bootstrap(self) -> str:
        return self._address("SASL_SSL")

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def nodes(self) -> "list[RealKafka]":
        """The brokers, each to be stopped and started by itself."""
        return [self]

    def start(self) -> "RealKafka":
        """Start; the first time format the storage. A restart keeps ports, data and certificates."""
        if self.running:
            return self
        fresh = not self._ports
        for attempt in range(START_ATTEMPTS):
            if fresh:
                self.configure(dict(zip(LISTENERS, free_ports(len(LISTENERS)), strict=True)))
            try:
                self.launch()
                self.await_ready()
            except StartFailed as failure:
                if _PORT_TAKEN in str(failure) and attempt + 1 < START_ATTEMPTS:
                    continue
                raise
            return self
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """A controlled shutdown, as SIGTERM asks for."""
        if self._process is not None:
            self._process.terminate()
            self._process = None

    def kill(self) -> None:
        """A crash: SIGKILL. `start` brings it back with what reached the disk."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the broker (SIGSTOP): connections stay open, nothing answers."""
        self._running().signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().signal(signal.SIGCONT)

    def close(self) -> None:
        """End the broker at once and remove its folder."""
        self._admin = None
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    # Starting

    def _address(self, listener: str) -> str:
        return f"127.0.0.1:{self._ports[listener]}"

    def _running(self) -> OwnedProcess:
        if self._process is None:
            raise RuntimeError("the broker is not running")
        return self._process

    def _java(self, main: str, *arguments: str) -> list[str]:
        return ["java", *_JVM, *self._jvm, "-cp", f"{self._jars}/*", main, *arguments]

    def configure(
        self, ports: dict[str, int], quorum: Sequence[str] = ("--standalone",), cluster: str = ""
    ) -> None:
        """Write the settings and format the storage. `quorum`: how to find the first controllers."""
        self._ports = ports
        data = self.folder / "data"
        shutil.rmtree(data, ignore_errors=True)
        properties = self._base_properties(data) | self._security_properties() | self._overrides
        self._properties.write_text("".join(f"{k}={v}\n" for k, v in properties.items()))
        self._properties.chmod(0o600)
        credentials = f"[name={USER},password={PASSWORD}]"
        command = self._java(
            "kafka.tools.StorageTool",
            # One argument: an id may begin with a dash, which would read as an option.
            *("format", *quorum, f"--cluster-id={cluster or random_id()}"),
            *("--config", str(self._properties)),
            *("--add-scram", f"SCRAM-SHA-256={credentials}"),
            *("--add-scram", f"SCRAM-SHA-512={credentials}"),
        )
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False
        )
        if run.returncode != 0:
            raise StartFailed(f"the storage cannot be formatted:\n{run.stdout}{run.stderr}")

    def launch(self) -> None:
        """Begin to start; `await_ready` says when it is done."""
        self._process = OwnedProcess(
            self._java("kafka.Kafka", str(self._properties)),
            log_path=self.log_path,
            cwd=self.folder,
            env=os.environ | {"LC_ALL": "C"},
        )

    def await_ready(self) -> None:
        """Raises StartFailed."""
        assert self._process is not None
        try:
            self._process.wait_ready(self._ready, timeout_s=START_TIMEOUT_S)
        except StartFailed:
            self._process = None
            raise

    def _ready(self) -> bool:
        """Every listener accepts, and the broker's metadata name it."""
        if not all(accepts_connections(port) for port in self._ports.values()):
            return False
        try:
            return self._node_id in self.admin.list_topics(timeout=5).brokers
        except KafkaException:
            return False

    def _base_properties(self, data: Path) -> dict[str, str]:
        def addresses(names: list[str]) -> str:
            return ",".join(f"{name}://{self._address(name)}" for name in names)

        return {
            "process.roles": "broker,controller",
            "node.id": str(_NODE_ID),
            "log.dirs": str(data),
            "listeners": addresses(list(LISTENERS)),
            "advertised.listeners": addresses([n for n in LISTENERS if n != "CONTROLLER"]),
            "listener.security.protocol.map": ",".join(f"{n}:{p}" for n, p in LISTENERS.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": self._address("CONTROLLER"),
            # One node: internal topics with one partition and no copies.
            "offsets.topic.num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            # Tests want the group at once, and short sessions.
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "500",
            # After a kill the controller waits this long before it takes the broker back.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "auto.create.topics.enable": "false",
            "num.network.threads": "1",
            "num.io.threads": "4",
            "log.cleaner.dedupe.buffer.size": str(2 * 1024 * 1024),
            "log.cleaner.threads": "1",
            "log.retention.ms": "-1",
            "controlled.shutdown.enable": "true",
        }

    def _security_properties(self) -> dict[str, str]:
        authority = _one_line(self.ca_path.read_text())
        properties = {"ssl.truststore.type": "PEM", "ssl.truststore.certificates": authority}
        for listener, pair in (
            ("ssl", self.server),
            ("mtls", self.server),
            ("expired", self.expired),
            ("sasl_ssl", self.server),
        ):
            properties |= _keystore(f"listener.name.{listener}.", pair)
        properties["listener.name.mtls.ssl.client.auth"] = "required"
        properties["sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"
        modules = "org.apache.kafka.common.security"
        scram = f"{modules}.scram.ScramLoginModule required;"
        logins = {
            "plain": f'{modules}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
            "scram-sha-256": scram,
            "scram-sha-512": scram,
            "oauthbearer": f"{modules}.oauthbearer.OAuthBearerLoginModule required "
            'unsecuredLoginStringClaim_sub="broker";',
        }
        for listener in ("sasl_plaintext", "sasl_ssl"):
            for mechanism, login in logins.items():
                prefix = f"listener.name.{listener}.{mechanism}."
                properties[f"{prefix}sasl.jaas.config"] = login
        return properties


def _keystore(prefix: str, pair: KeyPair) -> dict[str, str]:
    return {
        f"{prefix}ssl.keystore.type": "PEM",
        f"{prefix}ssl.keystore.certificate.chain": _one_line(pair.certificate_pem),
        f"{prefix}ssl.keystore.key": _one_line(pair.key_pem),
    }


def random_id() -> str:
    """As Kafka writes a UUID: of a cluster, of a folder."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()


def _one_line(pem: str) -> str:
    """PEM as a value of a .properties file: its line ends written as the two characters `\\n`."""
    return pem.strip().replace("\n", "\\n")
