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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--chunk-topic", "x", "--shards", "2", "--shard", "2"], "--shard is 2; must be 0 to 1"),
        (["--chunk-topic", "x", "--shard", "-1"], "--shard is -1; must be 0 to 0"),
        (["--chunk-topic", "x", "--shards", "0"], "--shards of at least 1"),
        (["--chunk-topic", ""], "needs --chunk-topic"),
    ],
)
def test_arguments_that_cannot_be_meant_are_named(
    capfd: pytest.CaptureFixture[str], config: str, arguments: list[str], message: str
) -> None:
    assert main(["aggregate", "-c", config, *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
