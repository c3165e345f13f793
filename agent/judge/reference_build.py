"""Builds a Reference from files: `inferometer profile build`.

First by time: windows as they would be live, for volume, gaps, worst windows and hours of the day. The change
detector wants a few hundred windows of history; where time gives fewer (or the rows carry no usable time),
the files are read once more in blocks of consecutive rows. Bounded memory, whatever the size of the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec

from agent.config import Config
from agent.errors import ConfigError
from agent.fold.base import Fold
from agent.fold.effects import Effects
from agent.fold.profile import Profile
from agent.ingest.files import STDIN
from agent.judge.history import calibrated, calibrated_by_hour
from agent.judge.pairs_cells import paired
from agent.judge.panes import Panes
from agent.judge.read import read_notes
from agent.judge.reference import ModelKey, Reference
from agent.judge.score_tables import score_table
from agent.judge.seen import SeenStream
from agent.judge.union import united
from agent.judge.wave_tables import wave_tables, with_waves
from agent.replay import Progress, sketch_files
from agent.sketch.pair_sums import ScoreTable
from agent.sketch.vector_adder import BaselineTables
from agent.sketch.vector_sums import united_vectors
from agent.sketch.waves import WaveTable
from agent.types import OVERFLOW, Column, Irregular, StreamKey, Tally

#: Windows of time from which the detector is calibrated as they are.
ENOUGH_WINDOWS: Final = 200
#: Rows of a block, before neighbours are joined; and blocks kept.
BLOCK_ROWS: Final = 250
MOST_PANES: Final = 512
#: Files with more late rows than this are not in the order of time.
MOST_LATE: Final = 0.05

Show = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Built:
    """A reference, and what there is to say of how it was made, a sentence each."""

    reference: Reference
    notes: list[str]
    read: Tally


def build(
    files: Sequence[Path],
    config: Config,
    *,
    created_ms: int,
    rows_per_window: int | None = None,
    on_progress: Show | None = None,
) -> Built:
    """Raises ConfigError for a file that cannot be opened or holds no rows, SourceError for one that breaks off.

    rows_per_window  windows of so many rows in the order of the files, whatever times they carry
    """
    if STDIN in files:
        raise ConfigError("profile build reads its files twice, so not from -; give a file")
    notes: list[str] = []
    # Times of a finished file are facts: what is a little out of order is not lost.
    windows = msgspec.structs.replace(
        config.windows, out_of_orderness_s=max(config.windows.out_of_orderness_s, 300.0)
    )
    config = msgspec.structs.replace(config, windows=windows)
    seen = Seen()
    by_rows = rows_per_window is not None
    if not by_rows:
        fold = sketch_files(files, config, on_progress=on_progress, on_effects=seen.take)
        _require_rows(fold, files)
        problem = _why_not_by_time(fold, seen)
        if problem:
            notes.append(problem)
            by_rows, seen = True, Seen()
    if by_rows:
        seen.target_rows = rows_per_window or BLOCK_ROWS
        fold = sketch_files(
            files,
            config,
            on_progress=on_progress,
            on_effects=seen.take,
            rows_per_window=seen.target_rows,
        )
        _require_rows(fold, files)
    width_ms = int(config.windows.width_s * 1000)
    models = {key: model.reference(by_time=not by_rows) for key, model in seen.models.items()}
    histories = seen.histories()
    # Scores are by rank among all rows: pairs of columns need the files a second time.
    tables: dict[tuple[str, str | None], ScoreTable] = {}
    if config.judge.pairs == "auto":
        found = {key: score_table(model.profile) for key, model in models.items()}
        tables = {(key.model, key.version): table for key, table in found.items() if table}
    waves: dict[tuple[str, str | None], dict[Column, WaveTable]] = {}
    if config.judge.vectors == "auto":
        waves = {
            (k.model, k.version): w for k, m in models.items() if (w := wave_tables(m.profile))
        }
    is_short = not by_rows and any(len(h) < ENOUGH_WINDOWS for h in histories.values())
    blocks: dict[ModelKey, list[Profile]] = {}
    if is_short or tables or waves:
        finer = Seen(BLOCK_ROWS)
        sketch_files(
            files,
            config,
            on_progress=on_progress,
            on_effects=finer.take,
            rows_per_window=BLOCK_ROWS,
            tables=BaselineTables(tables, waves),
        )
        blocks = finer.histories()
    for key, history in histories.items():
        model = models[key]
        rows = seen.models[key].facts.inner_rows if not by_rows else []
        of_rows = blocks.get(key, history)
        is_enough = by_rows or len(history) >= ENOUGH_WINDOWS
        has_waves = (key.model, key.version) in waves
        if has_waves:
            seen_again = united_vectors(block.vectors for block in of_rows)
            model.profile = replace(
                model.profile, vectors=with_waves(model.profile.vectors, seen_again)
            )
        used = history if is_enough and not has_waves else of_rows
        noise = calibrated(model.profile, used, rows)
        if model.hours:
            noise = calibrated_by_hour(noise, model.hours, history)
        model.calibration = noise.to_bytes()
        if (table := tables.get((key.model, key.version))) is not None:
            model.pairs = paired(table, model.profile, of_rows)
    segments = {
        stream: s.reference(by_time=not by_rows)
        for stream, s in seen.segments.items()
        if stream.segment
    }
    reference = Reference(
        width_ms=width_ms, created_ms=created_ms, models=models, segments=segments
    )
    return Built(reference, notes + read_notes(fold.tally), fold.tally)


def _require_rows(fold: Fold, files: Sequence[Path]) -> None:
    if not fold.tally.rows:
        names = ", ".join(str(f) for f in files)
        dropped = ", ".join(f"{why} {n:,}" for why, n in sorted(fold.tally.dropped.items()) if n)
        raise ConfigError(
            f"{names}: no rows in {fold.tally.records:,} records"
            f"{f' (dropped: {dropped})' if dropped else ''}; "
            "give events with a model, or name the model with --model"
        )


def _why_not_by_time(fold: Fold, seen: Seen) -> str:
    """Why the times of the rows say nothing of windows; "" when they do."""
    rows = fold.tally.rows
    late = fold.tally.irregular[Irregular.LATE] + fold.tally.irregular[Irregular.FUTURE]
    if late > MOST_LATE * rows:
        return (
            f"{late:,} of {rows:,} rows are not in the order of their time: "
            "read in the order of the files instead, so volume and hours are not known"
        )
    if seen.last_window <= 0:
        return (
            "rows carry no time: read in the order of the files, so volume and hours are not known"
        )
    return ""


class Seen:
    """Profiles as they seal, gathered by model and by segment."""

    def __init__(self, target_rows: int = 1) -> None:
        self.target_rows = target_rows
        self.models: dict[ModelKey, SeenStream] = {}
        self.segments: dict[StreamKey, SeenStream] = {}
        self.last_window = 0

    def take(self, effects: Effects) -> None:
        """What a cut sealed: whole windows, oldest first."""
        windows: dict[tuple[int, ModelKey], list[Profile]] = {}
        for profile in effects.sealed:
            key = profile.stream
            if key.model == OVERFLOW or key.version == OVERFLOW:
                continue
            windows.setdefault((profile.window, ModelKey(key.model, key.version)), []).append(
                profile
            )
            if key.segment:
                if key not in self.segments:
                    self.segments[key] = SeenStream(key, None)
                self.segments[key].add(profile)
            self.last_window = max(self.last_window, profile.window)
        for (_, model), profiles in windows.items():
            stream = StreamKey(model.model, model.version)
            if model not in self.models:
                panes = Panes(stream, self.target_rows, MOST_PANES)
                self.models[model] = SeenStream(stream, panes)
            self.models[model].add(united(profiles, stream))

    def histories(self) -> dict[ModelKey, list[Profile]]:
        """Panes of each model, in order."""
        return {key: seen.panes.take() for key, seen in self.models.items() if seen.panes}
