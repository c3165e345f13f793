"""What the demo's agent is told: topics, upstream feeds, four monitors, and where verdicts go.

The same file a team would write; `--json` reports and the screen show nothing but what it brings about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from agent.demo.flights import DAY_MS, FEEDS
from agent.demo.model import VERSION

#: Actions, and the last part of the paths they are sent to.
ON_CALL: Final = "on-call"
ROLLBACK: Final = "rollback"
CANARY_MONITOR: Final = "canary"

#: Windows are simulated days: a year that takes two minutes seals three of them a second.
WINDOWS: Final[dict[str, Any]] = {
    "width_s": DAY_MS // 1000,
    "out_of_orderness_s": 3600,
    "align_span_s": DAY_MS // 1000,
    "idle_timeout_s": 2,
    "keep": 6,
}
#: Flights of long ago: texts by their names.
PRIVACY: Final = {"values": "names"}


def build_configuration() -> dict[str, Any]:
    """For `inferometer profile build`: windows as the agent will have them."""
    return {"windows": WINDOWS, "privacy": PRIVACY}


def agent_configuration(
    bootstrap: str,
    topics: tuple[str, str],
    group: str,
    otlp: str | None,
    *,
    baseline: Path,
    webhook: str,
    secret_file: Path,
) -> dict[str, Any]:
    """For `inferometer run`.

    webhook  URL below which the actions' paths are; its receiver knows the secret in `secret_file`
    """
    configuration: dict[str, Any] = {
        "kafka": {
            "bootstrap_servers": bootstrap.split(","),
            "topics": [topics[0]],
            "label_topics": [topics[1]],
            "group_id": group,
            "auto_offset_reset": "earliest",
        },
        "windows": WINDOWS,
        "delivery": {"cut_interval_s": 0.25},
        "privacy": PRIVACY,
        "web": {"port": 0},
        "judge": {"baseline_file": str(baseline), "defaults": False},
        "sources": [{"name": feed, "features": list(names)} for feed, names in FEEDS.items()],
        "baselines": {"stable": {"type": "twin", "version": VERSION}},
        "monitors": monitors(),
        "respond": {
            "source": "/inferometer/demo",
            "actions": [
                _action(ON_CALL, webhook, secret_file, on=["firing", "resolved"]),
                _action(ROLLBACK, webhook, secret_file, on=["firing"], monitors=[CANARY_MONITOR]),
            ],
        },
    }
    if otlp is not None:
        configuration["export"] = {"interval_s": 2, "otlp": {"endpoint": otlp}}
    return configuration


def monitors() -> list[dict[str, Any]]:
    """One for each way to break: what the contract forbids, a feed's unit, the seasons, a canary."""
    stable = {"version": VERSION}
    return [
        {"name": "contract", "metric": "quality", "select": stable},
        {"name": "distance", "metric": "state", "select": stable | {"feature": "distance"}},
        # Weather leaves January every year: known, worth one ticket, nobody is woken.
        {
            "name": "season",
            "metric": "psi",
            "select": stable | {"feature": "temp"},
            "when": {"above": 4},
            "for": 14,
            "severity": "ticket",
        },
        # A tenth of a day's flights: two days in a row are more than chance.
        {
            "name": CANARY_MONITOR,
            "metric": "psi",
            "baseline": "stable",
            "select": {"version": "*", "feature": "prediction.score"},
            "when": {"above": 0.5},
            "for": 2,
            "actions": [ON_CALL, ROLLBACK],
        },
    ]


def _action(name: str, webhook: str, secret_file: Path, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "webhook": {"url": f"{webhook}/{name}", "secret_file": str(secret_file)},
        "max_per_minute": 600,
        **more,
    }
