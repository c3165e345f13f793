"""Delta temporality and volume mode exclude each other: said where the option is, or where it was taken from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.config import Config, Delivery, Export
from tests.support.built import REPOSITORY

DELTA = "export.temporality is delta; delivery.mode: volume needs cumulative"


def test_volume_mode_with_delta_is_no_configuration(tmp_path: Path) -> None:
    delivery = Delivery(mode="volume", volume_path=str(tmp_path))
    with pytest.raises(ValueError, match=DELTA):
        Config(delivery=delivery, export=Export(temporality="delta"))
    assert Config(delivery=delivery, export=Export(temporality="cumulative"))
    assert Config(export=Export(temporality="delta"))


def run(
    folder: Path, text: str, command: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    path = folder / "inferometer.yaml"
    path.write_text(text)
    return subprocess.run(
        [sys.executable, "-m", "agent", command, "-c", str(path)],
        cwd=REPOSITORY, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_check_names_file_and_line(tmp_path: Path) -> None:
    text = (
        f"kafka: {{topics: [t]}}\ndelivery: {{mode: volume, volume_path: {tmp_path}}}\n"
        "export: {temporality: delta}\n"
    )
    done = run(tmp_path, text, "check")
    assert done.returncode != 0
    assert DELTA in done.stdout + done.stderr
    assert "inferometer.yaml" in done.stdout + done.stderr


def test_what_the_environment_prefers_is_refused_at_the_start(tmp_path: Path) -> None:
    text = (
        f"delivery: {{mode: volume, volume_path: {tmp_path / 'volume'}}}\n"
        "kafka: {topics: [t], bootstrap_servers: ['127.0.0.1:1']}\nweb: {enabled: false}\n"
    )
    preference = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}
    done = run(tmp_path, text, "run", **preference)
    assert done.returncode != 0
    assert DELTA in done.stdout + done.stderr
    assert not (tmp_path / "volume").exists(), "refused before anything is written"
