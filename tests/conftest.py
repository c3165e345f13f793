"""Fixtures for real components. Each starts when the first test asks for it and ends with the run.

Fetching and building (Kafka's jars, the Collector) happens after collection, outside of any test's
time limit, and only when a selected test needs it. What could not be had is said by `unavailable`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.real import unavailable

if TYPE_CHECKING:
    from tests.support.alertmanager_real import Alertmanager
    from tests.support.collector_real import Collector
    from tests.support.kafka_embedded import FaultyBroker
    from tests.support.kafka_real import RealKafka
    from tests.support.otlp_receiver import OtlpReceiver

_broker: RealKafka | None = None
_missing: dict[str, str] = {}


def _prepare_kafka() -> None:
    from tests.support.kafka_real import KafkaUnavailable, class_archive

    try:
        class_archive()
    except KafkaUnavailable as reason:
        _missing["real_kafka"] = str(reason)


def _prepare_collector() -> None:
    from tests.support.collector_real import CollectorUnavailable, collector_binary

    try:
        collector_binary()
    except CollectorUnavailable as reason:
        _missing["collector"] = str(reason)


def _prepare_alertmanager() -> None:
    from tests.support.alertmanager_real import AlertmanagerUnavailable, alertmanager_binary

    try:
        alertmanager_binary()
    except AlertmanagerUnavailable as reason:
        _missing["alertmanager"] = str(reason)


_PREPARATIONS: dict[str, Callable[[], None]] = {
    "real_kafka": _prepare_kafka,
    "collector_program": _prepare_collector,
    "alertmanager": _prepare_alertmanager,
}


@pytest.hookimpl(tryfirst=True)  # before `-m` is applied
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that ask for a real component carry its marker, so `-m "not kafka"` leaves them out."""
    for item in items:
        wanted = getattr(item, "fixturenames", ())
        if "real_kafka" in wanted:
            item.add_marker(pytest.mark.kafka)
        if "collector_program" in wanted:
            item.add_marker(pytest.mark.collector)
        if "alertmanager" in wanted:
            item.add_marker(pytest.mark.alertmanager)


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    needed = [fixture for fixture in _PREPARATIONS if fixture in wanted]
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if needed and reporter is not None:
        reporter.write_line(f"preparing {', '.join(needed)} (the first time: some minutes)")
    for fixture in needed:
        _PREPARATIONS[fixture]()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that stopped the shared broker does not take it from the next one."""
    if _broker is not None and "real_kafka" in getattr(item, "fixturenames", ()):
        _broker.start()


@pytest.fixture(scope="session")
def real_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealKafka]:
    """One Apache Kafka for the whole run. Take topics from `real_kafka.fresh_topic()`."""
    global _broker
    from tests.support.kafka_real import RealKafka

    if reason := _missing.get("real_kafka"):
        unavailable(reason)
    broker = RealKafka(tmp_path_factory.mktemp("kafka"))
    try:
        _broker = broker.start()
        yield broker
    finally:
        _broker = None
        broker.close()


@pytest.fixture
def embedded_kafka() -> Iterator[FaultyBroker]:
    """One embedded broker per test; needs neither Java nor Maven."""
    from tests.support.kafka_embedded import FaultyBroker

    with FaultyBroker() as broker:
        yield broker


@pytest.fixture
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """An OTLP receiver on both transports, in threads of its own; accepts until told otherwise."""
    from tests.support.otlp_receiver import OtlpReceiver

    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def collector_program() -> Path:
    """The path of a real OpenTelemetry Collector's program, for `validate` and own configurations."""
    from tests.support.collector_real import collector_binary

    if reason := _missing.get("collector"):
        unavailable(reason)
    return collector_binary()


@pytest.fixture
def collector(
    collector_program: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Collector]:
    """A running Collector per test: OTLP in, files and a Prometheus page out."""
    from tests.support.collector_real import Collector

    running = Collector(folder=tmp_path_factory.mktemp("collector"))
    try:
        yield running.start()
    finally:
        running.close()


@pytest.fixture
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alertmanager]:
    """A running Alertmanager per test, which notifies nobody."""
    from tests.support.alertmanager_real import Alertmanager

    if reason := _missing.get("alertmanager"):
        unavailable(reason)
    running = Alertmanager(tmp_path_factory.mktemp("alertmanager"))
    try:
        yield running.start()
    finally:
        running.stop()
