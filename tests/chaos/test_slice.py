"""A short slice of the chaos suite, and proof that its oracle sees what it is there for."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.faults import BY_NAME
from tests.chaos.heard import Heard
from tests.chaos.ledger import Account, Row
from tests.chaos.rounds import run
from tests.chaos.seams import Controls, cut_power
from tests.chaos.verdict import judge
from tests.support.kafka_real import RealKafka
from tests.support.otlp_receiver import OtlpReceiver

ROW = Row(("m", "1"), 4, -8, 3, False)
OTHER = Row(("m", "1"), 12, -8, 4, True)

REPOSITORY = Path(__file__).resolve().parents[2]

#: Quick ones: no session has to run out, no broker has to start.
QUICK = ["kill", "kill at an arrow", "SIGTERM", "collector drops connections", "disk full"]


@pytest.fixture(scope="module")
def warm_kernels() -> None:
    """A round is no time to compile: agents find their kernels."""
    subprocess.run(
        [sys.executable, "-m", "agent", "warmup", "--quiet"],
        check=True,
        timeout=500,
        cwd=REPOSITORY,
    )


@pytest.mark.timeout(700)
@pytest.mark.usefixtures("warm_kernels")
@pytest.mark.parametrize("mode", ["volume", "memory", "fleet"])
def test_rounds_of_random_faults_lose_nothing_and_repeat_nothing_unsaid(
    real_kafka: RealKafka, mode: str
) -> None:
    outcome = run(
        real_kafka,
        n_rounds=2 if mode == "fleet" else 3,  # four processes
        seed=1,
        modes=[mode],
        faults=[BY_NAME[name] for name in QUICK],
        until_s=time.monotonic() + 30,
    )
    found = outcome.document()
    assert found["rounds"] >= 1
    assert found["failed"] == []
    assert (found["lost"], found["double"]) == (0, 0)
    assert found["produced"] > 0
    assert found["points"] > 0


@pytest.mark.timeout(700)
@pytest.mark.usefixtures("warm_kernels")
@pytest.mark.parametrize("mode", ["volume", "memory", "fleet"])
def test_a_broker_that_crashes_loses_nothing_and_repeats_nothing_unsaid(
    real_kafka: RealKafka, mode: str
) -> None:
    outcome = run(real_kafka, n_rounds=1, seed=3, modes=[mode], faults=[BY_NAME["broker crash"]])
    found = outcome.document()
    assert (found["rounds"], found["failed"]) == (1, [])
    assert (found["lost"], found["double"]) == (0, 0)


@pytest.mark.timeout(700)
@pytest.mark.usefixtures("warm_kernels")
def test_a_topic_that_is_made_anew_counts_from_its_beginning(real_kafka: RealKafka) -> None:
    """Its volume knows an offset of the topic that is gone."""
    outcome = run(
        real_kafka, n_rounds=1, seed=2, modes=["volume"], faults=[BY_NAME["topic made anew"]]
    )
    found = outcome.document()
    assert (found["rounds"], found["failed"]) == (1, [])
    assert (found["lost"], found["double"]) == (0, 0)


def accounts(wanted: list[Row], found: list[Row], *allowed: Row) -> list[Account]:
    made = [Account(), Account(), Account()]
    for account, rows in zip(made, (wanted, found, allowed), strict=True):
        for row in rows:
            account.add(row)
    return made


def test_the_oracle_passes_what_is_equal() -> None:
    assert judge(*accounts([ROW, OTHER], [OTHER, ROW])).good


def test_a_lost_row_does_not_hide_behind_a_repeated_one() -> None:
    verdict = judge(*accounts([ROW, OTHER], [ROW, ROW]))
    assert (verdict.lost, verdict.double) == (1, 1)


def test_a_value_that_went_wrong_is_seen_where_every_row_is_there() -> None:
    verdict = judge(*accounts([ROW], [ROW._replace(amount=5)]))
    assert (verdict.lost, verdict.double) == (0, 0)
    assert not verdict.good


def test_repeats_are_good_within_the_bound_alone() -> None:
    within = judge(*accounts([ROW], [ROW, ROW], ROW))
    assert within.good
    assert within.repeated == 1
    assert judge(*accounts([ROW], [ROW, ROW, ROW], ROW)).double == 1
    assert judge(*accounts([ROW], [ROW, OTHER, ROW], ROW)).double == 1


def test_a_power_cut_takes_only_what_was_not_synced(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    for name, size_bytes, synced in (("a", 100, 40), ("b", 10, 10), ("unknown", 5, None)):
        path = volume / name
        path.write_bytes(bytes(size_bytes))
        if synced is not None:
            with (tmp_path / "synced").open("a") as file:
                file.write(f"{path.stat().st_ino} {synced}\n")
    taken = cut_power(volume, tmp_path, random.Random(1))
    assert taken > 0
    assert (volume / "a").stat().st_size == 100 - taken >= 40
    assert (volume / "b").stat().st_size == 10
    assert (volume / "unknown").stat().st_size == 5


def test_controls_are_seen_by_another_reader_and_survive_it(tmp_path: Path) -> None:
    one, other = Controls(tmp_path), Controls(tmp_path)
    one.jump(-2.5)
    one.fail_disk(errno.ENOSPC)
    assert (other.clock_ns, other.errno) == (-2_500_000_000, errno.ENOSPC)


def test_an_empty_collector_has_heard_of_nothing() -> None:
    with OtlpReceiver() as receiver:
        heard = Heard(receiver)
        heard.take()
        assert heard.account().rows == 0
        assert heard.broken == []
