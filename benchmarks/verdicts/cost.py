"""What judging costs: processor time from a sealed profile to a step of the detectors, and of shown distances."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import orjson

from agent.config import Config
from agent.fold.effects import Effects
from agent.fold.profile import Profile
from agent.judge.calibration import calibrate
from agent.judge.cells import Prepared, measure
from agent.judge.counted import counted
from agent.judge.detector import ChangeDetector
from agent.judge.drift_shown import drifts
from agent.judge.state_test import StateTest
from agent.replay import sketch_files

STREAMS = 1_000


def profiles(rows: int, n_features: int, windows: int, seed: int) -> list[Profile]:
    """Sealed windows of one stream, by the agent's own sketches: four in five columns are numbers."""
    rng = np.random.default_rng(seed)
    sealed: list[Profile] = []

    def take(effects: Effects) -> None:
        sealed.extend(effects.sealed)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        with path.open("wb") as file:
            for _ in range(windows * rows):
                values = rng.normal(50.0, 10.0, n_features).tolist()
                features = {
                    f"f{j}": f"k{int(v) % 20}" if j % 5 == 4 else v for j, v in enumerate(values)
                }
                event = {"model": "m", "ts": 1_700_000_000_000, "features": features}
                file.write(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE))
        sketch_files([path], Config(), on_effects=take, rows_per_window=rows)
    return [p for p in sealed if p.rows == rows]


def cost(rows: int, n_features: int, seed: int, passes: int = 40) -> dict[str, float]:
    """Seconds of processor time for 1,000 streams, by step; the least of some passes."""
    sealed = profiles(rows, n_features, 12, seed)
    history = [counted(p) for p in sealed]
    prepared = Prepared(sealed[0])
    calibration = calibrate(prepared, history)
    best: dict[str, float] = {}
    for _ in range(passes):
        detector, state = (kind(calibration, 8_640.0) for kind in (ChangeDetector, StateTest))
        spent = dict.fromkeys(("read", "measure", "change", "state", "distances"), 0.0)
        repeats = STREAMS // 50  # short passes: one of them is not disturbed
        for i in range(repeats):
            began = time.process_time()
            profile = sealed[1 + i % (len(sealed) - 1)]
            window = counted(profile)
            at_read = time.process_time()
            cells = measure(prepared, window)
            at_measure = time.process_time()
            detector.step(i, cells)
            at_change = time.process_time()
            state.step(i, cells)
            spent["read"] += at_read - began
            spent["measure"] += at_measure - at_read
            spent["change"] += at_change - at_measure
            at_state = time.process_time()
            drifts(prepared, profile, window)
            spent["state"] += at_state - at_change
            spent["distances"] += time.process_time() - at_state
        for name, seconds in spent.items():
            best[name] = min(best.get(name, 1e9), seconds * STREAMS / repeats)
    return best
