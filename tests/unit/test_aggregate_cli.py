"""`inferometer aggregate`: its help, and arguments that cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli import main


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "inferometer.yaml"
    path.write_text("kafka: {topics: [predictions]}\n")
    return str(path)


def test_help_has_an_example(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["aggregate", "--help"])
    assert ended.value.code == 0
    shown = capfd.readouterr().out
    assert "inferometer aggregate" in shown.partition("example")[2]
    assert "--config FILE" in shown


FLEET = "delivery: {mode: fleet, chunk_topic: chunks, shards: 2}\n"
VOLUME = "aggregate: {volume_path: /nowhere/volume}\n"


@pytest.mark.parametrize(
    ("more", "arguments", "message"),
    [
        (VOLUME, [], "delivery.mode is memory; aggregate takes its agents' configuration: fleet"),
        (FLEET, [], "aggregate.volume_path is not set"),
        (
            FLEET + VOLUME,
            ["--shard", "2"],
            "aggregate.shard is 2; must be below delivery.shards (2)",
        ),
        (FLEET + VOLUME, ["--shard", "-1"], "aggregate.shard"),
        ("delivery: {mode: fleet}\n", [], "delivery.chunk_topic is not set"),
        (
            "delivery: {mode: fleet, chunk_topic: predictions}\n",
            [],
            "delivery.chunk_topic is predictions, which is read for events, too",
        ),
        (FLEET + VOLUME + "export: {temporality: delta}\n", [], "export.temporality is delta"),
    ],
)
def test_what_cannot_be_meant_is_named(
    capfd: pytest.CaptureFixture[str],
    config: str,
    more: str,
    arguments: list[str],
    message: str,
) -> None:
    with Path(config).open("a") as file:
        file.write(more)
    assert main(["aggregate", "-c", config, *arguments]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert message in lines[-1]
