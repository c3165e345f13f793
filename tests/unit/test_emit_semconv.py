"""The semantic-convention registry in `deploy/semconv/`: it parses, refers to what it defines, and has every name.

That the files are current is `test_docs_generated`'s. The rules are those of weaver's JSON schema of the first
syntax, in words of our own.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import agent
from agent.docs import ROOT
from agent.emit import semconv
from agent.emit.otlp_traces import encode_request_span
from agent.emit.registry import METRICS
from agent.emit.verdict_events import verdict_event
from agent.types import Column, Partition, RequestSpan, Role, SpanWhy, StreamKey
from agent.verdict import Cause
from tests.support.verdicts import verdict

FOLDER = ROOT / "deploy" / "semconv"
NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
TYPES = {"string", "int", "double", "boolean", "any", "string[]", "template[string]"}
#: Texts that only look like names: files, headers of dead letters, a symbol of compiled code, the beginnings of
#: names, a group's id.
NO_NAMES = {
    *("inference.feature", "inference.prediction", "inference.verdict", "inference.request"),
    *("inferometer.yaml", "inferometer.schema.json", "inferometer.digits32"),
    *("inferometer.topic", "inferometer.partition", "inferometer.offset"),
}


def groups(name: str) -> list[dict[str, Any]]:
    document = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert list(document) == ["groups"]
    return list(document["groups"])


def defined() -> dict[str, dict[str, Any]]:
    return {a["id"]: a for group in groups("attributes") for a in group["attributes"]}


def refs(group: dict[str, Any]) -> set[str]:
    return {a["ref"] for a in group["attributes"]}


def group_of(name: str, id: str) -> dict[str, Any]:
    (found,) = [group for group in groups(name) if group["id"] == id]
    return found


def test_the_manifest_names_the_registry_and_its_version() -> None:
    manifest = yaml.safe_load((FOLDER / "manifest.yaml").read_text())
    assert manifest["name"] == "inferometer"
    assert manifest["schema_url"].endswith(f"/{agent.__version__}")
    assert "dependencies" not in manifest  # it is whole without a network


def test_ids_are_unique_and_every_group_says_what_its_kind_has_to() -> None:
    kinds = {"metrics": "metric", "events": "event", "spans": "span"}
    ids: Counter[str] = Counter()
    for name, kind in kinds.items():
        for group in groups(name):
            ids[group["id"]] += 1
            assert (group["type"], group["stability"]) == (kind, "development")
            assert group["brief"] and isinstance(group["attributes"], list)
            if kind == "metric":
                assert group["instrument"] in {"counter", "updowncounter", "gauge", "histogram"}
                assert isinstance(group["unit"], str)
                assert group["id"] == f"metric.{group['metric_name']}"
            if kind == "event":
                assert group["id"] == f"event.{group['name']}"
            if kind == "span":
                assert group["span_kind"] in {"internal", "client"}
    assert ids.most_common(1)[0][1] == 1


def test_every_attribute_is_defined_once_with_a_type_and_examples() -> None:
    attributes = [a for group in groups("attributes") for a in group["attributes"]]
    assert Counter(a["id"] for a in attributes).most_common(1)[0][1] == 1
    for attribute in attributes:
        assert NAME.fullmatch(attribute["id"])
        assert attribute["stability"] == "development" and attribute["brief"]
        if isinstance(attribute["type"], dict):
            members = attribute["type"]["members"]
            assert members and all(m.keys() == {"id", "value", "stability"} for m in members)
        else:
            assert attribute["type"] in TYPES
            if "string" in attribute["type"]:  # numbers and booleans need none
                assert attribute["examples"], attribute["id"]


def test_every_reference_is_to_what_is_defined_and_nothing_is_defined_for_nobody() -> None:
    known = set(defined())
    used: set[str] = set()
    for name in ("metrics", "events", "spans"):
        for group in groups(name):
            used |= refs(group)
            levels = {a["requirement_level"] for a in group["attributes"]}
            assert levels <= {"required", "recommended"}
    assert used == known


def test_every_metric_of_our_own_names_is_there_as_it_is_emitted() -> None:
    own = {name: s for name, s in METRICS.items() if name.startswith(("inference.", "inferometer"))}
    found = {group["metric_name"]: group for group in groups("metrics")}
    assert found.keys() == own.keys()
    for name, spec in own.items():
        assert found[name]["unit"] == spec.unit
        assert refs(found[name]) == {a.name.removesuffix(".*") for a in spec.attributes}


def as_defined(names: set[str]) -> set[str]:
    return {re.sub(r"^inference\.segment\..*", "inference.segment", name) for name in names}


def test_the_verdict_event_carries_what_its_group_says() -> None:
    stream = StreamKey("m", "1", (("region", "eu"),))
    cause = Cause(statistic="loc", score=9.0, feature="x", trace_ids=("0a" * 16,))
    full = verdict(
        stream=stream,
        feature="x",
        source="s",
        alarm="a",
        metric="loc",
        minimum_effect=0.1,
        baseline="b",
        attribution=(cause,),
    )
    event = verdict_event(full, 0)
    names = as_defined(set(event.attributes)) - {"log.record.uid"}  # OpenTelemetry's own
    assert names == refs(group_of("events", f"event.{event.name}"))


def test_a_request_span_carries_what_its_group_says() -> None:
    span = RequestSpan(
        trace_id=b"t" * 16,
        span_id=b"s" * 8,
        parent_span_id=b"",
        link=None,
        trace_state="",
        start_ns=1,
        end_ns=2,
        stream=StreamKey("m", "1", (("region", "eu"),)),
        why=SpanWhy.ERROR,
        status="failed",
        request_id="r",
        partition=Partition("t", 0),
        offset=0,
        row=0,
        sampling_threshold=None,
        out_of_range=(Column(Role.FEATURE, "age"),),
    )
    message = Span.FromString(encode_request_span(span))
    names = as_defined({a.key for a in message.attributes})
    own = {name for name in names if name.startswith(("inference.", "inferometer."))}
    assert own == refs(group_of("spans", "span.inference.request"))


def test_every_name_in_the_source_is_in_the_registry() -> None:
    known = {*defined(), *METRICS, *(group["name"] for group in groups("events"))} | NO_NAMES
    quoted = re.compile(r'"((?:inference|inferometer)(?:\.[a-z0-9_]+)+)"')
    found = {
        (name, path.name)
        for path in Path(agent.__file__).parent.rglob("*.py")
        for name in quoted.findall(path.read_text())
    }
    assert len(found) > 100
    assert {(name, at) for name, at in found if name not in known} == set()


def test_the_files_are_those_that_are_generated() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(semconv.files())
