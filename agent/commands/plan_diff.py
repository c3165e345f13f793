"""What a configuration would change in a running agent: `inferometer plan --url`.

    monitors, baselines, sources   new, gone, changed, part by part (`judge.watching`)
    models                         expected here and never seen there, and the other way round
    references                     by model: the baseline that it is judged against, and the one it would be
    streams, series, bytes         in use there, and what is planned or at most allowed here

Nothing is changed by looking. Bounds are compared with what is in use: a plan from declared models says what they
can need at most, one from a sample what it really held.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agent.commands.plan import Plan
from agent.config import Config
from agent.judge.watching import watching
from agent.types import OVERFLOW, Json

#: Longest list that the table shows of one kind of change.
MOST_SHOWN: Final = 20
_PARTS: Final = ("monitors", "baselines", "sources")


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that differs. `option`: what of it, "" for all; `was`, `will`: None where there is none."""

    part: str  # monitors, baselines, sources, models, references or windows
    name: str
    option: str
    was: Any
    will: Any


@dataclass(frozen=True, slots=True)
class Use:
    """Of one budget: in use and allowed there, planned (None: nothing is known) and allowed here."""

    what: str
    used: int
    was_limit: int
    planned: int | None
    limit: int


@dataclass(frozen=True, slots=True)
class Difference:
    """All of it. `unjudged`: the agent judges nothing, so that nothing of judging was compared."""

    url: str
    changes: list[Change]
    uses: list[Use]
    unjudged: bool = False


def against(config: Config, plan: Plan, url: str) -> Difference:
    """Ask the agent at `url`. Raises ConfigError and SourceError, as `running.state_of` and reading references do."""
    from agent.judge.given import given
    from agent.running import state_of

    state = state_of(url)
    references, _ = given(config)
    ids = {key.model: reference.id for reference in references for key in reference.models}
    return compare(config, plan, url, state, ids)


def compare(
    config: Config, plan: Plan, url: str, state: Json, references: Mapping[str, str]
) -> Difference:
    """`state`: the document of the agent at `url`; `references`: id by model, of what the configuration names."""
    judge = state.get("judge")
    if not isinstance(judge, dict):
        return Difference(url, [], _uses(plan, state), unjudged=True)
    was, will = judge.get("watching", {}), watching(config)
    changes = list(_parts(was, will))
    changes += _models(config, plan, judge["inventory"]["models"])
    changes += _references(references, judge["models"], learns=_learns_anew(was, will))
    return Difference(url, changes, _uses(plan, state))


def _parts(was: Json, will: Json) -> Iterable[Change]:
    if was.get("window_s") != will["window_s"]:
        yield Change("windows", "width_s", "", was.get("window_s"), will["window_s"])
    for part in _PARTS:
        old, new = was.get(part, {}), will[part]
        for name in sorted({*old, *new}):
            if name not in new or name not in old:
                yield Change(part, name, "", old.get(name), new.get(name))
                continue
            for option in sorted({*old[name], *new[name]}):
                before, after = old[name].get(option), new[name].get(option)
                if before != after:
                    yield Change(part, name, option, before, after)


def _models(config: Config, plan: Plan, seen: Iterable[Json]) -> Iterable[Change]:
    """Compared only where models are expected at all: declared, or in a sample."""
    expected = {model.name for model in config.models}
    if plan.sample is not None:
        expected |= {key.model for key in plan.sample.columns}
    if not expected:
        return
    expected.discard(OVERFLOW)
    known = {model["model"] for model in seen if model["seen"]}
    for name in sorted(expected ^ known):
        yield Change(
            "models", name, "", name if name in known else None, name if name in expected else None
        )


def _learns_anew(was: Json, will: Json) -> bool:
    """Whether what was learned does not hold any more."""
    return bool(was.get("window_s") != will["window_s"])


def _references(
    references: Mapping[str, str], models: Iterable[Json], *, learns: bool
) -> Iterable[Change]:
    for model in models:
        stream = model["stream"]
        name = " ".join(filter(None, (stream["model"], stream["version"])))
        was = model["baseline"]
        kept = was if model["learned"] and not learns else None
        will = references.get(stream["model"], kept)
        if was != will:
            yield Change("references", name, "", was, will)


def _uses(plan: Plan, state: Json) -> list[Use]:
    budget = state["budget"]
    planned = plan.expected
    return [
        Use(
            what,
            budget[what]["used"],
            budget[what]["limit"],
            getattr(planned, what) if planned is not None else None,
            getattr(plan.limit, what),
        )
        for what in ("streams", "series", "memory_bytes")
    ]


def as_json(difference: Difference) -> Json:
    """The document's `running`: changes by kind, new, gone and changed."""
    found: Json = {"url": difference.url, "judges": not difference.unjudged}
    for part in ("windows", *_PARTS, "models", "references"):
        own = [change for change in difference.changes if change.part == part]
        found[part] = {
            "new": [c.name for c in own if c.was is None and not c.option],
            "gone": [c.name for c in own if c.will is None and not c.option],
            "changed": [
                {"name": c.name, "option": c.option or None, "was": c.was, "will": c.will}
                for c in own
                if c.option or (c.was is not None and c.will is not None)
            ],
        }
    for use in difference.uses:
        found[use.what] = {
            "used": use.used,
            "planned": use.planned,
            "limit_was": use.was_limit,
            "limit_will": use.limit,
        }
    return found


def as_text(difference: Difference) -> str:
    """For people; ends with a newline."""
    text = f"\nAgainst the agent at {difference.url}\n"
    if difference.unjudged:
        text += "  it judges nothing, so monitors, baselines and models are not compared\n"
    elif not difference.changes:
        text += "  what is watched stays the same\n"
    for part in ("windows", *_PARTS, "models", "references"):
        own = [change for change in difference.changes if change.part == part]
        text += "".join(f"  {_line(change)}\n" for change in own[:MOST_SHOWN])
        if len(own) > MOST_SHOWN:
            text += f"    ... and {len(own) - MOST_SHOWN:,} more {part}\n"
    for use in difference.uses:
        planned = f", planned {use.planned:,}" if use.planned is not None else ""
        limit = f"{use.limit:,}"
        if use.limit != use.was_limit:
            limit = f"{use.was_limit:,} -> {limit}"
        text += f"    {use.what:<12} {use.used:>14,} in use{planned}; limit {limit}\n"
        if use.used > use.limit:
            text += f"    more {use.what} are in use than would be allowed: the rest folds into `_overflow`\n"
    return text


def _line(change: Change) -> str:
    """`+` new, `-` gone, `~` changed."""
    one = {"windows": "windows", "references": "baseline of"}.get(change.part, change.part[:-1])
    if change.option:
        return f"~ {one} {change.name}: {change.option} {_word(change.was)} -> {_word(change.will)}"
    if change.was is None:
        told = f": {change.will}" if change.part == "references" else ""
        return f"+ {one} {change.name}{told}"
    if change.will is None:
        told = ": learned anew" if change.part == "references" else ""
        return f"- {one} {change.name}{told}"
    return f"~ {one} {change.name}: {_word(change.was)} -> {_word(change.will)}"


def _word(value: Any) -> str:
    return "not set" if value is None else str(value)
