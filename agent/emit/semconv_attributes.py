"""Attributes of log events and spans that no metric has, for `deploy/semconv/`. Tests hold what is emitted to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Extra:
    """An attribute that no metric has. `type` as the syntax writes it."""

    name: str
    type: str
    brief: str
    examples: tuple[str | int | float, ...] = ()
    required: bool = True


#: Of the verdict's event, beside those of metrics.
VERDICT: Final = (
    Extra("inference.source.name", "string", "Source that the alarm names.", ("weather",), False),
    Extra("inference.verdict.previous_state", "string", "State before.", ("pending",)),
    Extra(
        "inference.verdict.alarm",
        "string",
        "What all verdicts of one alarm share.",
        ("flight-delay/7/1767225600000",),
        False,
    ),
    Extra("inference.verdict.metric", "string", "What the monitor reads.", ("missing",), False),
    Extra("inference.verdict.value", "double", "What the monitor's rule compares."),
    Extra("inference.verdict.threshold", "double", "What the rule compares it with."),
    Extra("inference.verdict.unit", "string", "Unit of both, UCUM.", ("1", "s")),
    Extra(
        "inference.verdict.minimum_effect",
        "double",
        "Smallest effect that this window could show.",
        required=False,
    ),
    Extra("inference.verdict.rows", "int", "Rows of the window."),
    Extra("inference.verdict.baseline", "string", "Id of the baseline.", ("january",), False),
    Extra(
        "inference.verdict.window_start",
        "string",
        "Start of the window, RFC 3339.",
        ("2026-01-05T10:00:00.000Z",),
    ),
    Extra(
        "inference.verdict.window_end",
        "string",
        "End of the window, exclusive, RFC 3339.",
        ("2026-01-05T11:00:00.000Z",),
    ),
    Extra(
        "inference.verdict.trace_ids",
        "string[]",
        "Traces of kept requests that lie in the bins that moved, hexadecimal.",
        ("0af7651916cd43dd8448eb211c80319c",),
        False,
    ),
    Extra(
        "inference.verdict.attribution",
        "any",
        "Causes, the best first: maps of statistic, score, feature, source, segment, share, detail and trace_ids.",
        ('[{"statistic": "missing", "feature": "distance", "score": 12.5}]',),
        False,
    ),
)
#: Of an action's event.
ACTION: Final = (
    Extra("inferometer.action.tries", "int", "How often it was tried."),
    Extra(
        "inference.verdict.id",
        "string",
        "Identity of the verdict, the same wherever it is told.",
        ("5f0c2f5f1d2a4d0d9a55c6a1b0f3e7aa",),
    ),
)
#: Of a request span.
REQUEST: Final = (
    Extra("inferometer.reconstructed", "boolean", "Made from an event, not by the service itself."),
    Extra("inferometer.row", "int", "Index of the row in its event."),
    Extra("inference.request.id", "string", "Id that the producer gave.", ("r-1",), False),
    Extra(
        "inference.out_of_range",
        "string[]",
        "Columns whose value is out of range, by role and name.",
        ("feature.age",),
        False,
    ),
)
#: Of the agent's own spans, by the span's name.
OWN_SPANS: Final = {
    "cut": (
        Extra("inferometer.chunk", "int", "Number of the chunk."),
        Extra("inferometer.epoch", "int", "Epoch of the assignment."),
        Extra("inferometer.rows", "int", "Rows of the chunk."),
        Extra("inferometer.groups", "int", "Streams and windows of the chunk."),
    ),
    "seal": (
        Extra("inferometer.window.start_ms", "int", "Start of the window, Unix time in ms."),
        Extra("inferometer.window.streams", "int", "Streams that had rows in it."),
        Extra("inferometer.window.rows", "int", "Rows in it."),
    ),
    "export": (
        Extra("inferometer.points", "int", "Points that were sent."),
        Extra("inferometer.accepted", "boolean", "Whether the receiver took all of it."),
    ),
}
