"""Reading and writing W3C trace contexts: traceparent, and OpenTelemetry's part of tracestate.

Sources: W3C Trace Context, section 3.2; OpenTelemetry "TraceState: Probability Sampling".
"""

from __future__ import annotations

import re

_BITS = 56
_DIGITS = _BITS // 4

#: Significant digits of a threshold after its leading `f`s, as the specification advises.
THRESHOLD_PRECISION = 4

#: A rejection threshold that no randomness reaches.
REJECT_ALL = 1 << _BITS

#: W3C asks for at least 512 characters to be passed on; what is longer is left out.
MAX_TRACE_STATE = 512

_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?",
    re.DOTALL,
)
_RANDOMNESS = re.compile(r"(?:^|[,\s])ot=(?:[^,]*;)?rv:([0-9a-f]{14})(?:[;,\s]|$)")


def parse_traceparent(text: str) -> tuple[bytes, bytes, int] | None:
    """Trace id, parent span id and flags of a W3C traceparent; None when it is not valid.

    Version 00 is exactly 55 characters. A higher version may be longer, after another `-`; version
    ff, ids of zeros and upper-case digits are refused.
    """
    found = _TRACEPARENT.fullmatch(text)
    if found is None or (found[1] == "00" and found[5] is not None):
        return None
    return bytes.fromhex(found[2]), bytes.fromhex(found[3]), int(found[4], 16)


def rejection_threshold(rate: float) -> int:
    """The 56-bit number below which a trace's randomness is not kept; REJECT_ALL when nothing is.

    Rounded to `THRESHOLD_PRECISION` digits after the leading `f`s, so that it stays short in the
    trace state: the rate kept differs from the one asked for by less than 1 part in 1000.
    """
    if rate <= 0:
        return REJECT_ALL
    threshold = round((1 - min(rate, 1.0)) * (1 << _BITS))
    text = f"{threshold:0{_DIGITS}x}"
    precision = len(text) - len(text.lstrip("f")) + THRESHOLD_PRECISION
    step = 1 << 4 * max(0, _DIGITS - precision)
    return min(round(threshold / step) * step, REJECT_ALL - 1)


def with_threshold(trace_state: str, threshold: int | None) -> str:
    """The trace state with `th` of its `ot` member set, or taken away when None; `ot` comes first."""
    members = [member.strip() for member in trace_state.split(",") if member.strip()]
    ours = next((member for member in members if member.startswith("ot=")), "ot=")
    parts = [part for part in ours[3:].split(";") if part and not part.startswith("th:")]
    if threshold is not None:
        parts.insert(0, f"th:{f'{threshold:0{_DIGITS}x}'.rstrip('0') or '0'}")
    others = [member for member in members if not member.startswith("ot=")]
    return ",".join(([f"ot={';'.join(parts)}"] if parts else []) + others)


def threshold_in(trace_state: str) -> int:
    """The threshold that an upstream sampler wrote; 0 (everything is kept) when there is none."""
    for member in trace_state.split(","):
        if member.strip().startswith("ot="):
            for part in member.strip()[3:].split(";"):
                if part.startswith("th:") and 1 <= len(part) - 3 <= _DIGITS:
                    try:
                        return int(part[3:].ljust(_DIGITS, "0"), 16)
                    except ValueError:
                        return 0
    return 0


def randomness_in(trace_state: str) -> int | None:
    """The explicit randomness (56 bits) that the trace's origin wrote; None when there is none."""
    found = _RANDOMNESS.search(trace_state)
    return None if found is None else int(found[1], 16)


def is_sound(trace_state: str) -> bool:
    """Whether a trace state may be passed on: printable ASCII, not empty, not too long."""
    return (
        0 < len(trace_state) <= MAX_TRACE_STATE
        and trace_state.isascii()
        and trace_state.isprintable()
    )
