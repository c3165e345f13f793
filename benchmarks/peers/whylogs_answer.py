"""whylogs with its usage statistics off, and the job's answer out of a profile."""

from __future__ import annotations

import os

# Read at import: nothing is to leave the machine.
os.environ["WHYLOGS_NO_ANALYTICS"] = "True"

import whylogs as why
from whylogs.core import DatasetProfile, DatasetProfileView

from benchmarks.peers.meter import Answer
from benchmarks.peers.rows import NUMBERS, TEXTS

__all__ = ["DatasetProfile", "answer_of", "answer_of_view", "why"]


def answer_of(profile: DatasetProfile) -> Answer:
    return answer_of_view(profile.view())


def answer_of_view(view: DatasetProfileView) -> Answer:
    summaries = {name: view.get_column(name).to_summary_dict() for name in (*NUMBERS, *TEXTS)}
    frequent = view.get_column("model").get_metric("frequent_items").to_summary_dict()
    models = {item.value: int(item.est) for item in frequent["frequent_strings"]}
    return Answer(
        rows=int(view.get_column("model").to_summary_dict()["counts/n"]),
        models=models,
        numbers={
            name: (
                int(summaries[name]["distribution/n"]),
                [
                    float(summaries[name][f"distribution/{quantile}"])
                    for quantile in ("q_05", "median", "q_95")
                ],
            )
            for name in NUMBERS
        },
        distinct={name: float(summaries[name]["cardinality/est"]) for name in TEXTS},
    )
