"""The data-quality contract: inferred from a reference, written as YAML, read back, and what breaks it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.cli import main
from agent.config import Config
from agent.config.contract import ColumnRule, ModelContract, RowRule
from agent.errors import ConfigError
from agent.judge.contract import breaches, outside_range, rate_is_above
from agent.judge.contract_infer import infer
from agent.judge.contract_yaml import read_contract, to_yaml
from agent.judge.counted import counted
from agent.judge.reference import Reference
from agent.judge.reference_build import build
from agent.types import Column, Kind, Role
from tests.support.profiles import Row, normal_rows, normal_windows, profiles, write_events

X = Column(Role.FEATURE, "x")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    windows = normal_windows(1, 10, 1000)
    for rows in windows:
        for i, row in enumerate(rows):
            row["id"] = f"request-{id(rows)}-{i:06d}-of-somewhere"
            row["flag"] = i % 3 == 0
            row["prediction"] = {"score": (i % 100) / 100}
            if i % 10 == 0:
                row["y"] = None
    path = write_events(tmp_path_factory.mktemp("c") / "r.jsonl", windows)
    return build([path], Config(), created_ms=0).reference


def found(tmp_path: Path, contract: ModelContract, rows: list[Row]) -> dict[tuple[str, str], float]:
    (profile,) = profiles(tmp_path, [rows])
    broken = breaches(contract, profile, counted(profile), None)
    return {(b.column.name if b.column else "", b.statistic): b.value for b in broken}


def test_what_was_so_without_exception_is_asked_for(reference: Reference) -> None:
    (contract,) = infer(reference).contract
    assert contract.model == "m"
    assert contract.version is None
    assert set(contract.features) == {"x", "y", "c", "id", "flag"}
    x, y, c = (contract.features[name] for name in "xyc")
    assert x.kind is Kind.NUMERIC and x.required
    assert x.min is not None and x.max is not None and x.min < -6 and x.max > 6
    assert (y.min, c.categories) == (0.0, ["a", "b", "c"])
    assert y.missing is not None and 0.12 <= y.missing <= 0.25  # a tenth was missing
    assert contract.features["flag"].kind is Kind.BOOLEAN
    assert contract.features["id"].distinct == 0.9
    score = contract.predictions["score"]
    assert (score.min, score.max) == (0.0, 1.0)
    assert contract.rows.silence_s == 60.0
    assert (contract.rows.min, contract.rows.max) == (250, 4000)


def test_the_reference_keeps_the_contract_that_it_implies(
    reference: Reference, tmp_path: Path
) -> None:
    (contract,) = infer(reference).contract
    whole = reference.models[next(iter(reference.models))].profile
    broken = breaches(contract, whole, counted(whole), None)
    assert [b.statistic for b in broken if b.statistic != "volume"] == []


def test_yaml_there_and_back_is_the_same_contract(reference: Reference, tmp_path: Path) -> None:
    contract = infer(reference)
    path = tmp_path / "contract.yaml"
    path.write_text(to_yaml(contract, "ref.profile"))
    assert read_contract(path, {}) == contract.contract


@pytest.mark.parametrize(
    "text", ["no", "1e3", "12:30", "a: b", "- x", "é ü", "", '"q"', "null", "#"]
)
def test_names_that_yaml_would_read_as_something_else_stay_texts(tmp_path: Path, text: str) -> None:
    rule = ColumnRule(kind=Kind.CATEGORICAL, categories=[text, "plain"])
    contract = ModelContract(model=text or "m", features={text or "x": rule})
    path = tmp_path / "contract.yaml"
    from agent.config.contract import ContractFile

    path.write_text(to_yaml(ContractFile(contract=[contract]), "a\nb"))
    assert read_contract(path, {}) == [contract]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("contract:\n  - model: m\n    features:\n      x: {min: 2, max: 1}\n", "min is 2"),
        ("contract:\n  - model: m\n    features:\n      x: {mn: 2}\n", "did you mean"),
        ("contract:\n  - model: m\n  - model: m\n", "as one before it"),
        ("contract:\n  - model: m\n    rows: {silence_s: -1}\n", "above 0"),
        ("contract:\n  - features: {}\n", "model is missing"),
    ],
)
def test_a_mistake_in_a_contract_is_one_line_that_names_it(
    tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "contract.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_contract(path, {})
    assert says in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_each_rule_is_broken_by_what_it_forbids(tmp_path: Path) -> None:
    rows = normal_rows(np.random.default_rng(2), 1000)
    contract = ModelContract(
        model="m",
        rows=RowRule(min=2000, errors=0.01),
        features={
            "gone": ColumnRule(required=True),
            "x": ColumnRule(kind=Kind.NUMERIC, min=-1.0, max=1.0, outside=0.1),
            "y": ColumnRule(kind=Kind.NUMERIC, missing=0.05),
            "c": ColumnRule(kind=Kind.CATEGORICAL, categories=["a", "b"]),
            "k": ColumnRule(kind=Kind.CATEGORICAL, violations=0.01),
            "same": ColumnRule(distinct=0.9),
        },
    )
    for i, row in enumerate(rows):
        row["same"] = "always"
        row["k"] = i if i % 5 == 0 else "k"
        row["extra"] = i
        if i % 4 == 0:
            row["y"] = None
        if i % 10 == 0:
            row["status"] = "error"
    broken = found(tmp_path, contract, rows)
    assert broken["gone", "vanished"] == 1.0
    assert broken["x", "range"] == pytest.approx(0.317, abs=0.05)  # outside of one sd
    assert broken["y", "missing"] == pytest.approx(0.25)
    assert broken["c", "category"] == pytest.approx(1 / 3, abs=0.05)
    assert broken["k", "type"] == pytest.approx(0.2)
    assert broken["same", "distinct"] < 0.1
    assert broken["", "errors"] == pytest.approx(0.1)
    assert broken["", "volume"] == 1000
    assert broken["extra", "new"] == pytest.approx(1.0)
    assert len(broken) == 9


def test_few_rows_break_nothing(tmp_path: Path) -> None:
    contract = ModelContract(
        model="m", features={"gone": ColumnRule(required=True), "x": ColumnRule(missing=0.0)}
    )
    rows = normal_rows(np.random.default_rng(3), 19)
    for row in rows:
        row["x"] = None
    assert found(tmp_path, contract, rows) == {}


def test_a_rate_is_broken_only_beyond_chance() -> None:
    # Exact: P(X >= k | n = 1000, p = .01) <= 1e-6 first at k = 29.
    from math import comb

    def tail(k: int) -> float:
        return sum(comb(1000, i) * 0.01**i * 0.99 ** (1000 - i) for i in range(k, 1001))

    first = next(k for k in range(10, 60) if tail(k) <= 1e-6)
    assert not rate_is_above(first - 1, 1000, 0.01)
    assert rate_is_above(first, 1000, 0.01)
    assert not rate_is_above(19, 19, 0.0)
    assert rate_is_above(20, 20, 0.4)


def test_rows_outside_of_a_range_are_never_more_than_there_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    for values in (rng.normal(0, 3, 2000), rng.lognormal(0, 2, 2000), -rng.lognormal(0, 2, 2000)):
        (profile,) = profiles(tmp_path, [[{"x": float(v)} for v in values]])
        numbers = counted(profile).columns[X].numbers
        assert numbers is not None
        for low, high in ((-1.0, 2.0), (0.0, None), (None, -0.5), (0.1, 10.0), (-1e9, 1e9)):
            exact = int(
                ((values < low) if low is not None else np.zeros(2000, bool)).sum()
                + ((values > high) if high is not None else np.zeros(2000, bool)).sum()
            )
            count = outside_range(numbers, low, high)
            assert count <= exact
            assert count >= exact - 80  # the rows of the buckets that hold the bounds


def test_the_command_prints_what_can_be_committed(
    reference: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ref.profile"
    path.write_bytes(reference.to_bytes())
    assert main(["profile", "contract", str(path)]) == 0
    text = capsys.readouterr().out
    (tmp_path / "contract.yaml").write_text(text)
    assert text.startswith("# ")
    config = tmp_path / "inferometer.yaml"
    config.write_text(
        f"kafka: {{topics: [p]}}\njudge: {{contract_file: {tmp_path}/contract.yaml}}\n"
    )
    assert main(["check", "-c", str(config)]) == 0
