"""What a chunk topic must be like, and what is said when it is not."""

from __future__ import annotations

import logging

import pytest

from agent.errors import ConfigError
from agent.fleet.chunk_topic import ChunkTopic, check_settings, check_shards

TOPIC = ChunkTopic("chunks", 4)


def test_what_the_topic_is_made_with_passes_its_own_check() -> None:
    check_shards(TOPIC, 4)
    check_settings(TOPIC, TOPIC.settings)


def test_settings_without_limits_are_accepted() -> None:
    check_settings(TOPIC, {"retention.ms": "-1", "retention.bytes": "-1"})


@pytest.mark.parametrize("partitions", [1, 3, 5])
def test_another_number_of_partitions_is_refused(partitions: int) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"delivery.shards is 4, but chunk topic 'chunks' has {partitions} partitions; .*new topic",
    ):
        check_shards(TOPIC, partitions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cleanup.policy": "compact"}, "cleanup.policy=compact; must be delete"),
        ({"cleanup.policy": "compact,delete"}, "cleanup.policy=compact,delete; must be delete"),
        ({"max.message.bytes": "900000"}, "max.message.bytes=900000; must be at least 925696"),
        ({"retention.ms": "60000"}, "retention.ms=60000; must be at least 3600000"),
    ],
)
def test_settings_that_would_lose_chunks_are_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_settings(TOPIC, TOPIC.settings | change)


def test_a_limit_in_bytes_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_settings(TOPIC, TOPIC.settings | {"retention.bytes": "1000000"})
    assert "retention.bytes=1000000" in caplog.text
