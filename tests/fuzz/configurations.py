"""Configurations that change what a record means: each is fuzzed."""

from __future__ import annotations

from agent.config import Config, Decode, Feature, Fields

DEFAULT = Config()
MAPPED = Config(
    decode=Decode(
        fields=Fields(
            id="meta.request",
            ts="meta.at",
            model="meta.name",
            version="meta.release",
            features="in\\.put",
            prediction="out.v",
            label="rest.a.0",
            latency="took",
            latency_unit="s",
            segment={"where": "meta.where", "again": "meta.zone"},
        )
    )
)
NARROW = Config(
    decode=Decode(
        default_model="some-model",
        max_depth=5,
        max_features=25,
        max_name_bytes=40,
        max_record_bytes=1500,
        segments=["region"],
    )
)
DECLARED = Config(
    features={
        "code": Feature(kind="categorical"),
        "carrier": Feature(kind="categorical"),
        "f1": Feature(kind="categorical"),
        "x1": Feature(kind="categorical"),
        "x3": Feature(min=0.0, max=1.0),
        "user.age": Feature(kind="categorical"),
    }
)
ALL: dict[str, Config] = {
    "default": DEFAULT,
    "mapped": MAPPED,
    "narrow": NARROW,
    "declared": DECLARED,
}
