"""The end of a demo: does what was counted equal what was produced, and was every fault caught?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from agent.demo.story import Canary, Injected, Story
from agent.fold.summary import main_output

_ONLY_IN_STATE = ("histogram",)


def document(story: Story) -> dict[str, Any]:
    """What `--json` prints; streams as `inferometer replay --json` gives them."""
    return {
        "produced": story.produced,
        "counted": story.rows,
        "labels": story.labels,
        "streams": [replay_stream(stream) for stream in story.state.get("streams", ())],
        "injected": [{"what": fault.what, "at_s": fault.at_s} for fault in story.injected],
        "caught": [
            {"what": fault.what, "after_s": fault.after_s}
            for fault in story.injected
            if fault.after_s is not None
        ],
        "canary": _canary(story.canary),
        "verdicts": story.verdicts,
        "actions": story.actions,
    }


def _canary(canary: Canary | None) -> dict[str, Any] | None:
    """When the canary took traffic, was caught, and was rolled back; seconds."""
    if canary is None:
        return None
    return {
        "version": canary.version,
        "at_s": canary.at_s,
        "after_s": canary.after_s,
        "rolled_back_s": canary.rolled_back_s,
    }


def replay_stream(stream: Mapping[str, Any]) -> dict[str, Any]:
    """A stream of `/v1/state`: its totals in the shape of the replay document."""
    totals = stream["totals"]

    def plain(column: Mapping[str, Any] | None) -> dict[str, Any] | None:
        if column is None:
            return None
        return {key: value for key, value in column.items() if key not in _ONLY_IN_STATE}

    groups = {
        group: {name: plain(column) for name, column in totals[group].items()}
        for group in ("features", "predictions", "usage")
    }
    return {
        "model": stream["model"],
        "version": stream["version"],
        "segment": stream["segment"],
        "rows": stream["rows"],
        "errors": stream["errors"],
        "features": groups["features"],
        "prediction": main_output(groups["predictions"]),
        "predictions": groups["predictions"],
        "latency": plain(totals["latency"]),
        "usage": groups["usage"],
    }


def failures(story: Story, failed_deliveries: int) -> list[str]:
    """Why this demo did not hold what it promises; empty when it did."""
    found = []
    if failed_deliveries:
        found.append(f"{failed_deliveries:,} records were not acknowledged by the broker")
    if story.rows != story.produced:
        found.append(f"produced {story.produced:,} inferences, but counted {story.rows:,}")
    if story.labels != story.labels_produced:
        found.append(f"produced {story.labels_produced:,} labels, but counted {story.labels:,}")
    if story.dropped:
        found.append(f"{story.dropped:,} records were dropped: {story.state['tally']['dropped']}")
    if not story.injected:
        found.append("no fault was injected: the run ended before its half")
    found += [f"not caught: {f.what}" for f in story.injected if f.after_s is None]
    if story.canary is not None and story.canary.after_s is None:
        found.append(f"not caught: {story.canary.what}")
    elif story.canary is not None and not story.actions:
        found.append("the canary was caught, but no rollback reached the webhook")
    return found


def text(story: Story) -> str:
    """The report for people."""
    equal = "equal" if story.rows == story.produced else "NOT EQUAL"
    lines = [
        f"produced {story.produced:>10,} inferences   {story.labels_produced:>10,} labels",
        f"counted  {story.rows:>10,} inferences   {story.labels:>10,} labels   ({equal})",
        "",
    ]
    for stream in story.state.get("streams", ()):
        totals = stream["totals"]
        latency = (totals.get("latency") or {}).get("quantiles") or {}
        label = (totals["predictions"].get("label") or {}).get("top") or ()
        late = dict(label).get("late", 0) / max(1, stream["rows"])
        name = stream["segment"].get("origin", "")
        lines.append(
            f"  {stream['model']} v{stream['version']} {name}: {stream['rows']:>7,} rows, "
            f"{late:.0%} late, p50 {_ms(latency.get('0.5'))}, p99 {_ms(latency.get('0.99'))}"
        )
    lines.append("")
    faults: list[Injected | Canary] = [*story.injected]
    if story.canary is not None:
        faults.append(story.canary)
    for fault in faults:
        result = "NOT CAUGHT" if fault.after_s is None else f"caught after {fault.after_s:.1f} s"
        n = sum(alarm.fault is fault for alarm in story.alarms.values())
        lines.append(f"  at {fault.at_s:5.1f} s  {fault.what}: {result}, {alarms(n)}")
    lines += [
        f"  at {action['at_s']:5.1f} s  webhook: {action['action']} of {action['subject']}, "
        "signature verified"
        for action in story.actions
    ]
    lines += [
        f"  at {alarm.at_s:5.1f} s  {alarm.verdict['severity']}: {alarm.sentence()} (not injected)"
        for alarm in story.alarms.values()
        if alarm.fault is None
    ]
    return "\n".join(lines)


def alarms(n: int) -> str:
    """How many, in words."""
    return "one alarm" if n == 1 else f"{n} alarms"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None or math.isnan(seconds) else f"{seconds * 1e3:.1f} ms"
