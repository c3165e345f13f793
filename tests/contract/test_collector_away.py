"""Ten minutes of cuts, seals and exports with nobody to take them: memory stays, and the totals are right on return.

The clock is an argument, so ten minutes are some seconds. A process of its own: resident memory is what counts.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from tests.support.built import REPOSITORY

N_STREAMS, N_ROWS = 20, 400
WARM_UP = 120
MAX_GROWTH_MIB = 5.0


async def run(protocol: str, away: int) -> dict[str, Any]:
    """One second is one cut of a fifth of a minute's rows, and one export."""
    from agent.config import Budget, Config, Export, Otlp, Service
    from agent.emit.environment import resolve
    from agent.emit.exporter import MetricExporter
    from agent.emit.resource import make_resource
    from agent.emit.transport import OtlpClient
    from agent.fold.base import Fold
    from agent.state.chunk import merge_digest
    from agent.telemetry import Telemetry
    from agent.types import Exemplar, StreamKey
    from benchmarks.frame import rss_bytes
    from tests.support.blocks import LATENCY, Row, chunk_of, feature, range_of
    from tests.support.otlp_receiver import OtlpReceiver

    receiver = OtlpReceiver()
    receiver.start()
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    export = Export(
        otlp=Otlp(
            endpoint=endpoint,
            protocol=protocol,
            timeout_s=1.0,
            retry_initial_s=0.01,
            retry_max_s=0.02,
        ),  # type: ignore[arg-type]
        interval_s=1.0,
    )
    config = Config(export=export, budget=Budget(max_series=10_000))
    settings = resolve(export, {})
    telemetry = Telemetry(start_ns=1)
    client = OtlpClient(settings.metrics)
    exporter = MetricExporter(
        client, settings, make_resource(Service(), {}), telemetry, patience_s=0.001
    )
    t0_ms = 1_767_225_600_000
    keys = [StreamKey(f"m{i}", "1", ()) for i in range(N_STREAMS)]
    sent: Counter[str] = Counter()
    fold = Fold(config, start_ns=t0_ms * 1_000_000)

    rows = [
        Row(
            keys[i % N_STREAMS],
            t0_ms,
            {feature("x"): i * 1.5, feature("c"): f"v{i % 50}", LATENCY: 0.01 * (1 + i % 9)},
        )
        for i in range(N_ROWS)
    ]
    exemplars = [Exemplar(keys[0], LATENCY, 0.01, 1, bytes(16), bytes(8))]
    first = chunk_of(
        [[rows]], digest=merge_digest(config), ranges=[range_of(0, rows)], exemplars=exemplars
    )

    def made(second: int) -> Any:
        """The same rows, 12 seconds of event time later each."""
        at_ms = t0_ms + second * 12_000
        return replace(
            first,
            number=second + 1,
            ranges=[replace(at, max_event_time_ms=at_ms) for at in first.ranges],
            groups=[
                replace(g, window=at_ms // 60_000, min_event_time_ms=at_ms, max_event_time_ms=at_ms)
                for g in first.groups
            ],
        )

    async def seconds(begin: int, end: int) -> bool:
        accepted = False
        for second in range(begin, end):
            now_ns = (t0_ms + second * 12_000) * 1_000_000
            fold.apply(made(second), now_ns)
            fold.tick(now_ns)
            sent.update(keys[i % N_STREAMS].model for i in range(N_ROWS))
            snapshot = fold.export(now_ns)
            outcome = await exporter.export(snapshot, patience_s=5.0 if receiver_is_there else None)
            accepted = outcome.accepted
            if accepted:
                fold.accepted(snapshot)
                receiver.requests[:-2] = []
        return accepted

    receiver_is_there = True
    assert await seconds(0, WARM_UP)
    receiver.stop()
    receiver_is_there = False
    assert not await seconds(WARM_UP, WARM_UP + 30)
    before = rss_bytes()
    assert not await seconds(WARM_UP + 30, WARM_UP + away)
    growth = rss_bytes() - before
    receiver.start()
    receiver_is_there = True
    assert await seconds(WARM_UP + away, WARM_UP + away + 1)
    found = Counter(
        {
            str(point.attributes["inference.model.name"]): int(point.value)
            for point in receiver.sums("inference.rows").latest()
        }
    )
    await exporter.close()
    receiver.stop()
    return {"growth_mib": growth / 2**20, "is_right": found == sent, "rows": sum(sent.values())}


@pytest.mark.parametrize(("protocol", "away"), [("grpc", 600), ("http/protobuf", 150)])
def test_a_collector_that_is_away_for_ten_minutes_costs_no_memory_and_no_row(
    protocol: str, away: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract.test_collector_away", protocol, str(away)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["is_right"]
    assert found["rows"] == (WARM_UP + away + 1) * N_ROWS
    assert found["growth_mib"] <= MAX_GROWTH_MIB


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(sys.argv[1], int(sys.argv[2])))))
