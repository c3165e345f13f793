"""The differential fuzzer: many mutated records through a tier and through orjson, compared row by row.

Cases come in rounds. A round has a configuration, a decoder of its own and fresh base records; what it
decodes teaches it, so tiers meet what they have learned and what they have not.
"""

from __future__ import annotations

import functools
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.fuzz.configurations import ALL
from tests.fuzz.mutations import Base, mutate
from tests.fuzz.scan_tier import ScanTier
from tests.fuzz.shapes import SHAPES, Shape, base_records, mapped, text
from tests.fuzz.template_tier import TemplateTier
from tests.fuzz.whole import WholeSubject

#: Cases of one decoder; those compared at once; base records they are made of; those that teach.
ROUND, SLICE, BASES, LESSONS = 20_000, 2000, 250, 60
#: Bytes between two records: a parser that runs over a record's end finds them.
GAPS = (
    b"",
    b"\0",
    b"0",
    b'"',
    b"}",
    b"}",
    b"}",
    b"}}",
    b'"}',
    b"e5}",
    b" ",
    b"\\",
    b"\xff",
    b",",
    b"]",
)
#: Mismatches that are kept to be shown.
MAX_SHOWN = 10
_CYCLE = ("default", "default", "mapped", "default", "narrow", "declared")


@dataclass
class Report:
    """What a run found."""

    cases: int = 0
    accepted: Counter[str] = field(default_factory=Counter)  # rows by tier
    passed_over: int = 0  # cases that cannot be compared: see `Subject.passed_over`
    mismatches: int = 0
    shown: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, differences: list[tuple[bytes, str]], where: str) -> None:
        self.mismatches += len(differences)
        for record, why in differences[: MAX_SHOWN - len(self.shown)]:
            self.shown.append(f"{where}: {why}\n    {record!r}")

    def document(self) -> dict[str, Any]:
        return {
            "cases": self.cases,
            "accepted": dict(self.accepted),
            "passed_over": self.passed_over,
            "mismatches": self.mismatches,
            "seconds": round(self.seconds, 1),
            "cases_per_s": round(self.cases / self.seconds) if self.seconds else 0,
            "shown": self.shown,
        }


class Subject(Protocol):
    """A tier, or all of them, that can be compared with the orjson tier."""

    def teach(self, records: list[bytes]) -> None: ...

    def check(self, records: list[bytes | None], gap: bytes) -> list[tuple[bytes, str]]:
        """Those of the records that came out otherwise than by orjson, and how."""
        ...

    def accepted(self) -> Counter[str]:
        """Rows by tier, so far."""
        ...

    @property
    def passed_over(self) -> int:
        """Cases, so far, whose meaning depends on the order of rows: they are not compared."""
        ...


class TierSubject:
    """The scan tier or the template tier alone."""

    def __init__(self, tier: str, kind: type[ScanTier], name: str, seed: str) -> None:
        self._name = tier
        self._tier = kind(ALL[name])

    def teach(self, records: list[bytes]) -> None:
        for record in records:
            self._tier.learn(record)

    def check(self, records: list[bytes | None], gap: bytes) -> list[tuple[bytes, str]]:
        return self._tier.check(records, gap)

    def accepted(self) -> Counter[str]:
        return Counter({self._name: self._tier.n_accepted})

    @property
    def passed_over(self) -> int:
        return self._tier.passed_over


SUBJECTS: dict[str, Callable[[str, str], Subject]] = {
    "scan": functools.partial(TierSubject, "scan", ScanTier),
    "template": functools.partial(TierSubject, "template", TemplateTier),
    "all": WholeSubject,
}


def shapes_for(name: str) -> tuple[Shape, ...]:
    """Shapes that mean something under this configuration."""
    return (*(mapped,) * len(SHAPES), *SHAPES) if name == "mapped" else SHAPES


def fuzz(
    tier: str,
    n_cases: int,
    seed: int,
    *,
    names: tuple[str, ...] = _CYCLE,
    is_first_enough: bool = False,
    progress: Callable[[Report], None] | None = None,
) -> Report:
    """Run `n_cases` cases of a tier; the same arguments give the same cases.

    is_first_enough   stop behind the slice with the first difference
    """
    report = Report()
    began = time.perf_counter()
    round_number = 0
    while report.cases < n_cases:
        name = names[round_number % len(names)]
        rng = random.Random(f"{seed}/{round_number}")
        subject = SUBJECTS[tier](name, f"{seed}/{round_number}")
        shapes = shapes_for(name)
        subject.teach([text(rng, shape(rng), plain=True) for shape in shapes for _ in range(12)])
        bases: list[Base] = []
        end = min(report.cases + ROUND, n_cases)
        while report.cases < end:
            n = min(SLICE, end - report.cases)
            # The same ones for some slices: what was learned of them is met again.
            if not bases or rng.random() < 0.5:
                bases = [Base(record) for record in base_records(rng, BASES, shapes)]
                subject.teach([base.text for base in rng.sample(bases, LESSONS)])
            gentle = rng.random() < 0.5
            records: list[bytes | None] = [
                mutate(rng, bases[i % BASES], gentle=gentle) for i in range(n)
            ]
            for place in range(0, n, 211):
                records[place] = rng.choice((None, b"", b"[]", b"{}", b"null"))
            differences = subject.check(records, rng.choice(GAPS))
            report.add(
                differences, f"{tier}, configuration {name}, seed {seed}, round {round_number}"
            )
            report.cases += n
            subject.teach([record for record in records[:LESSONS] if record is not None])
            if differences and is_first_enough:
                break
        report.accepted += subject.accepted()
        report.passed_over += subject.passed_over
        round_number += 1
        report.seconds = time.perf_counter() - began
        if progress is not None:
            progress(report)
        if report.mismatches and is_first_enough:
            break
    return report
