"""What `plan` predicts is what a real snapshot holds."""

import json
from pathlib import Path

import pytest

from agent.cli import main
from agent.commands import plan
from agent.config import Budget, Config, Export, Judge, Model
from agent.errors import ConfigError
from agent.replay import sketch_files

START_MS = 1_767_225_600_000
CARRIERS = ["UA", "AA", "DL"]


def written(path: Path, events: list[dict]) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def event(i: int, **fields: object) -> dict:
    return {"model": "m", "version": "1", "ts": START_MS + 500 * i, **fields}


@pytest.fixture
def every_kind(tmp_path: Path) -> Path:
    """400 rows of two versions with a column of each kind, and a label."""
    events = [
        event(
            i,
            version=str(i % 2),
            features={
                "hour": i % 24,
                "delta": i % 7 - 3,
                "ok": i % 3 == 0,
                "carrier": CARRIERS[i % 3],
                "embedding": [i, 1.0],
            },
            prediction={"score": 0.5, "label": "late"},
            latency_ms=3.0,
            usage={"input_tokens": 5, "output_tokens": 6, "ttft_ms": 4.0},
        )
        for i in range(400)
    ]
    return written(tmp_path / "every.jsonl", [*events, {"id": "1", "model": "m", "label": "late"}])


# From docs/metrics.md, by hand.
STREAM = 7  # rows, errors, rows.late, rows.future; window.rows, window.start, window.coverage
POSITIVE = 8  # value, missing, violations, non_finite, over_range, distinct, min, max
SIGNED = 9  # and sum
BOOLEAN = 3  # missing, violations, true
CATEGORY = 3  # missing, violations, distinct
VECTOR = 7  # value, missing, violations, non_finite, over_range, min, max
EVERY_KIND = STREAM + 2 * POSITIVE + SIGNED + BOOLEAN + 2 * CATEGORY + VECTOR + 1 + 3


def test_a_sample_counts_the_series_of_every_kind(every_kind: Path) -> None:
    sample = plan.predict(Config(), every_kind).sample
    assert sample is not None
    assert [(line.name, line.series) for line in sample.streams] == [
        ("m/0", EVERY_KIND),
        ("m/1", EVERY_KIND),
        ("labels", 1),
    ]
    assert sample.total.series == 2 * EVERY_KIND + 1
    assert (sample.total.streams, sample.rows, sample.dropped) == (2, 400, 0)


def test_a_sample_counts_what_a_real_snapshot_and_export_hold(every_kind: Path) -> None:
    fold = sketch_files([every_kind], Config())
    counted = plan.count(fold, "x").total.series
    for points in (fold.snapshot(1), fold.export(2)):
        series = {
            (metric.name, point.attributes)
            for metric in points.metrics
            if metric.name.startswith("inference.")
            for point in metric.points
        }
        assert len(series) == counted


def test_named_categories_are_series_too(every_kind: Path) -> None:
    config = Config(export=Export(top_categories=10))
    plain = plan.predict(Config(), every_kind).sample
    named = plan.predict(config, every_kind).sample
    assert plain is not None and named is not None
    of_one_stream = len(CARRIERS) + len(["late"])
    assert named.total.series - plain.total.series == 2 * of_one_stream


def test_declared_models_take_what_such_a_stream_really_exports(tmp_path: Path) -> None:
    """All numbers signed, so that every series exists: then the bound is reached exactly."""
    events = [
        event(
            i,
            version=str(i % 2),
            segment={"region": ["eu", "us"][i // 2 % 2]},
            features={f"n{k}": i % 7 - 3 for k in range(3)} | {"carrier": CARRIERS[i % 3]},
            prediction={"score": i % 5 - 2, "label": "late"},
            latency_ms=3.0,
        )
        for i in range(400)
    ]
    path = written(tmp_path / "declared.jsonl", events)
    declared = Model(name="m", versions=2, segments=2, features=4, categorical=1)
    result = plan.predict(Config(models=[declared]), path)
    assert result.sample is not None
    assert result.declared.streams == result.sample.total.streams == 4
    assert result.declared.series == result.sample.total.series
    assert result.declared.series == 4 * (STREAM + 4 * SIGNED + 2 * CATEGORY + 1)
    assert result.declared.memory_bytes == result.sample.total.memory_bytes


def test_the_prediction_is_an_upper_bound(every_kind: Path) -> None:
    fold = sketch_files([every_kind], Config())
    sample = plan.count(fold, "x")
    budget = fold.state(0)["budget"]
    assert sample.total.series <= budget["series"]["granted"]
    assert sample.total.memory_bytes == budget["memory_bytes"]["granted"]
    assert sample.total.memory_bytes >= budget["memory_bytes"]["used"]


@pytest.mark.parametrize(
    ("judge", "pairs", "vectors"),
    [
        (Judge(), 0, 32 << 20),
        (Judge(baseline_file="ref.profile"), 32 << 20, 32 << 20),
        (Judge(baseline_file="ref.profile", pairs="off", vectors="off"), 0, 0),
        (Judge(enabled=False, baseline_file="ref.profile"), 0, 0),
    ],
)
def test_sums_of_pairs_and_of_vectors_are_bounded_beside_the_base(
    judge: Judge, pairs: int, vectors: int
) -> None:
    found = plan.predict(Config(judge=judge)).elsewhere_bytes
    by_name = {name.split()[0]: size for name, size in found.items()}
    assert (by_name["pairs"], by_name["directions"]) == (pairs, vectors)


def test_models_add_up() -> None:
    models = [Model(name="a", versions=2, segments=3), Model(name="b", features=1)]
    result = plan.predict(Config(models=models))
    assert [line.streams for line in result.models] == [6, 1]
    assert result.declared.streams == 7
    assert result.declared.series == sum(line.series for line in result.models)
    assert result.warnings == []


def test_a_budget_that_is_too_small_is_said() -> None:
    config = Config(models=[Model(name="a", versions=10)], budget=Budget(max_series=100))
    (warning,) = plan.predict(config).warnings
    needed = plan.predict(config).declared.series
    assert warning == (
        f"the declared models can need {needed:,} series; budget.max_series is 100, of which 7 are "
        "kept for overflow. What does not fit folds into `_overflow`; raise the budget or split the group."
    )


def test_a_sample_that_folds_is_said(tmp_path: Path) -> None:
    events = [event(i, version=str(i), prediction=1.0) for i in range(20)]
    config = Config(budget=Budget(max_streams=5))
    result = plan.predict(config, written(tmp_path / "many.jsonl", events))
    assert result.sample is not None and len(result.sample.folded) == 15
    assert result.warnings[-1].startswith("the sample did not fit the budget: m/")
    assert "_overflow" in plan.as_table(result)


def test_a_sample_with_columns_past_the_limit_is_said(tmp_path: Path) -> None:
    names = [f"f{n}" for n in range(10)]
    events = [event(i, features=dict.fromkeys(names, 1.0)) for i in range(20)]
    config = Config(budget=Budget(max_features_per_stream=4))
    path = written(tmp_path / "wide.jsonl", events)
    result = plan.predict(config, path)
    streams = sketch_files([path], config).report()["streams"]
    columns = sum(stream["unsketched"]["columns"] for stream in streams)
    values = sum(stream["unsketched"]["values"] for stream in streams)
    assert columns >= 6 and values >= 6 * 20
    assert result.sample is not None
    assert (result.sample.unsketched_columns, result.sample.unsketched_values) == (columns, values)
    assert result.warnings[-1].startswith(f"{columns:,} columns of the sample, {values:,} values")
    assert result.warnings[-1] in plan.as_table(result)
    assert plan.as_json(result)["warnings"][-1] == result.warnings[-1]
    assert plan.as_json(result)["sample"]["unsketched_values"] == values


def test_a_missing_sample_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        plan.predict(Config(), tmp_path / "none.jsonl")


def test_the_command_prints_a_table_or_one_document(
    every_kind: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("models: [{name: m, versions: 2, features: 5, categorical: 1}]\n")
    assert main(["plan", "-c", str(config), "--sample", str(every_kind)]) == 0
    table, _ = capfd.readouterr()
    assert "hard limit (budget)" in table and "every.jsonl: 400 rows" in table
    assert main(["plan", "-c", str(config), "--sample", str(every_kind), "--json"]) == 0
    document = json.loads(capfd.readouterr().out)
    assert document["sample"]["total"]["series"] == 2 * EVERY_KIND + 1
    assert document["limit"] == {
        "name": "budget",
        "streams": 500,
        "series": 20_000,
        "memory_bytes": 128 << 20,
    }
