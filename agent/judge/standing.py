"""Standing: what one model's windows are judged against right now, worked out once.

The whole of the model and each of its segments, by the hour where the hour matters; the calibration of the change
detector; the data-quality contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from agent.config.contract import ModelContract
from agent.errors import ConfigError, DecodeError
from agent.fold.profile import Profile
from agent.judge.calibration import NOTHING_LEARNED, Calibration
from agent.judge.cells import Prepared
from agent.judge.contract_infer import infer_model
from agent.judge.counted import Counted
from agent.judge.detector import Segment
from agent.judge.panes import hour_of
from agent.judge.reference import ModelKey, Reference, ReferenceStream
from agent.judge.widths import notes, widened
from agent.types import Column

#: A segment's baseline needs so many rows to be judged by itself.
MIN_SEGMENT_ROWS: Final = 200


class Against:
    """One stream's baseline; what is derived from it is kept by the hour."""

    def __init__(self, reference: ReferenceStream, baseline: Counted | None = None) -> None:
        """`baseline`: counts that stand for the reference's profile."""
        self.reference = reference
        self._prepared: dict[int, Prepared] = {}
        if baseline is not None:
            self._prepared[-1] = Prepared(baseline)

    def prepared(self, start_ms: int) -> Prepared:
        """For a window that starts then: the same hour's where hours matter and that one is known."""
        hour = hour_of(start_ms) if self.reference.hours else -1
        profile = self.reference.hours.get(hour)
        if profile is None:
            hour, profile = -1, self.reference.profile
        found = self._prepared.get(hour)
        if found is None:
            found = self._prepared[hour] = Prepared(profile)
        return found

    def profile(self, start_ms: int) -> Profile:
        """The profile itself, for a window that starts then."""
        return self.reference.hours.get(hour_of(start_ms), self.reference.profile)

    def expected_rows(self, start_ms: int) -> float | None:
        """Rows of a window in the median; None where windows are not known."""
        known = self.reference
        if not known.windows:
            return None
        if known.hour_rows:
            return known.hour_rows.get(hour_of(start_ms))
        return known.rows_median or None


class Standing:
    """See the module. `is_learned`: from the model's own first windows. `is_young`: in less than a day, or a week
    where the hour matters, so that another hour or day looks like a break."""

    def __init__(
        self,
        id: str,
        whole: ReferenceStream,
        segments: Mapping[Segment, ReferenceStream],
        contract: ModelContract,
        *,
        is_learned: bool,
        is_young: bool = False,
        baseline: Counted | None = None,
    ) -> None:
        self.id = id
        self.is_learned = is_learned
        self.is_young = is_young
        self.whole = Against(whole, baseline)
        self.segments = {
            segment: Against(reference)
            for segment, reference in segments.items()
            if reference.profile.rows >= MIN_SEGMENT_ROWS
        }
        self.contract = contract
        self.calibration = (
            Calibration.from_bytes(whole.calibration) if whole.calibration else NOTHING_LEARNED
        )

    @property
    def is_swinging(self) -> bool:
        """Whether a jump from the last windows says more than what was learned: while that is young, and where the
        hour of the day matters, since blocks of a learned history hold many hours."""
        return self.is_young or (self.is_learned and bool(self.whole.reference.hours))

    @property
    def columns(self) -> list[Column]:
        """Columns of the baseline that have a value in it."""
        columns = self.whole.reference.profile.columns
        return [column for column, held in columns.items() if any(held.present)]


class Known:
    """References and contracts that were given, asked by model."""

    def __init__(
        self,
        references: Sequence[Reference],
        contracts: Sequence[ModelContract],
        width_ms: int,
        *,
        by_rows: bool = False,
        named: Mapping[str, Reference] | None = None,
    ) -> None:
        """`named`: references of `baselines` by name. Raises ConfigError for a calibration that cannot be read."""
        self._references = references
        self._contracts = {(c.model, c.version): c for c in contracts}
        self._width_ms = width_ms
        self._by_rows = by_rows
        self._named = named or {}
        self._files: dict[tuple[str, ModelKey], Standing | None] = {}
        for reference in (*references, *self._named.values()):
            for stream in reference.streams():
                try:
                    Calibration.from_bytes(stream.calibration) if stream.calibration else None
                except DecodeError as error:
                    raise ConfigError(
                        f"reference {reference.id}: {error}; make it again with: "
                        "inferometer profile build DATA -o FILE"
                    ) from None

    def standing(self, key: ModelKey) -> Standing | None:
        """From the first reference that knows the model."""
        return self._standing(self._references, key)

    def of_file(self, name: str, key: ModelKey) -> Standing | None:
        """From the reference that a baseline names."""
        if (name, key) not in self._files:
            known = [self._named[name]] if name in self._named else []
            self._files[name, key] = self._standing(known, key)
        return self._files[name, key]

    def forget(self, key: ModelKey) -> None:
        """A model is gone for good: what was worked out for it goes, too."""
        self._files = {known: s for known, s in self._files.items() if known[1] != key}

    def _standing(self, references: Sequence[Reference], key: ModelKey) -> Standing | None:
        for reference in references:
            whole = reference.whole(key)
            if whole is not None:
                known = whole.stream
                # Another version had other traffic: all of it, where this one is a canary.
                if known.version not in ("", key.version):
                    whole = without_rows(whole)
                segments = {
                    stream.segment: found
                    for stream, found in sorted(reference.segments.items())
                    if (stream.model, stream.version) == (known.model, known.version)
                }
                return self.standing_of(
                    reference.id, key, whole, segments, reference.width_ms, is_learned=False
                )
        return None

    def standing_of(
        self,
        id: str,
        key: ModelKey,
        whole: ReferenceStream,
        segments: Mapping[Segment, ReferenceStream],
        width_ms: int,
        *,
        is_learned: bool,
        is_young: bool = False,
    ) -> Standing:
        """With the contract that was given for the model, else the one its baseline implies."""
        if self._by_rows or width_ms != self._width_ms:
            whole = self._fitted(whole, width_ms)
            segments = {segment: self._fitted(s, width_ms) for segment, s in segments.items()}
        contract = self.contract(key) or infer_model(whole, self._width_ms)
        return Standing(id, whole, segments, contract, is_learned=is_learned, is_young=is_young)

    def _fitted(self, stream: ReferenceStream, width_ms: int) -> ReferenceStream:
        """For windows of the width that is judged."""
        known = None if self._by_rows else widened(stream, width_ms, self._width_ms)
        return known or without_rows(stream)

    @property
    def notes(self) -> list[str]:
        """What references cannot say of windows of this width, a sentence each."""
        return notes((*self._references, *self._named.values()), self._width_ms)

    def contract(self, key: ModelKey) -> ModelContract | None:
        """The one given: the version's own, else that of all versions."""
        found = self._contracts.get((key.model, key.version)) or self._contracts.get(
            (key.model, None)
        )
        if found is not None and self._by_rows:
            rows = msgspec.structs.replace(found.rows, min=None, max=None, silence_s=None)
            found = msgspec.structs.replace(found, rows=rows)
        return found

    def models(self) -> list[ModelKey]:
        """All that references know: if one never shows up, it is silent."""
        return sorted({key for reference in self._references for key in reference.models})


def without_rows(whole: ReferenceStream) -> ReferenceStream:
    """Seen in windows of another width, or of another version: what it says of their rows does not hold."""
    return ReferenceStream(
        profile=whole.profile,
        start_ms=whole.start_ms,
        end_ms=whole.end_ms,
        columns=whole.columns,
        hours=whole.hours,
        calibration=whole.calibration,
        pairs=whole.pairs,
    )
