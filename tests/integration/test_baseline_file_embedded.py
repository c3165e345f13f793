"""A baseline that a monitor names as a file, through the whole agent: it is judged against from the first window."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from agent.cli import main
from agent.demo.broker import EmbeddedBroker
from tests.support.agent_process import AgentProcess
from tests.support.kafka_real import unique
from tests.support.produce import produce
from tests.support.wait import eventually_sync

WIDTH_S = 10
ROWS = 400
START_MS = 1_767_225_600_000


def events(first: int, last: int, shift: float) -> list[bytes]:
    """ROWS events in each window `first` to `last - 1`, x normal around `shift`."""
    rnd = random.Random(first)
    return [
        orjson.dumps(
            {
                "ts": START_MS + i * WIDTH_S * 1000 // ROWS,
                "model": "m",
                "version": "1",
                "features": {"x": round(rnd.gauss(shift, 1.0), 4), "y": rnd.random()},
            }
        )
        for i in range(first * ROWS, last * ROWS)
    ]


def monitors_of(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The standing verdict of each monitor."""
    return {v["monitor"]: v for v in state["verdicts"]}


@pytest.mark.timeout(180)
def test_a_baseline_that_is_a_file_is_judged_against_while_the_default_one_is_learned(
    embedded_kafka: EmbeddedBroker, tmp_path: Path
) -> None:
    data = tmp_path / "january.jsonl"
    data.write_bytes(b"\n".join(events(0, 20, 0.0)))
    reference = tmp_path / "january.profile"
    build = ["profile", "build", str(data), "-q", "--window", str(WIDTH_S), "-o", str(reference)]
    assert main(build) == 0
    topic = unique("baseline")
    embedded_kafka.create_topic(topic, partitions=1)
    config = {
        "kafka": {"bootstrap_servers": [embedded_kafka.bootstrap], "topics": [topic]},
        "windows": {"width_s": WIDTH_S, "out_of_orderness_s": 0},
        "baselines": {"january": {"type": "file", "file": str(reference)}},
        "monitors": [
            {"name": "evidence", "metric": "drift", "baseline": "january"},
            {"name": "far", "metric": "psi", "baseline": "january", "when": {"above": 0.5}},
        ],
    }
    with AgentProcess(tmp_path, config) as agent:
        agent.wait_ready()
        # Six windows that are 2 standard deviations away, fewer than the default baseline is learned from.
        produce(embedded_kafka.bootstrap, topic, events(30, 36, 2.0) + events(36, 37, 2.0)[:1])
        agent.wait_rows(6 * ROWS + 1)

        def judged() -> dict[str, dict[str, Any]] | None:
            found = monitors_of(agent.state())
            return found if {"evidence", "far"} <= found.keys() else None

        found = eventually_sync(judged, timeout_s=30)
        (model,) = agent.state()["judge"]["models"]
        assert agent.stop() == 0
    assert model["baseline"] is None and model["learning"] < 1.0  # the default one
    for name in ("evidence", "far"):
        assert found[name]["state"] == "firing", found[name]
        assert found[name]["feature"] == "x"
    assert found["evidence"]["baseline"] == found["far"]["baseline"]
    assert found["evidence"]["baseline"]
    quiet = [v for name, v in found.items() if name not in ("evidence", "far")]
    assert {v["state"] for v in quiet} == {"learning"}
