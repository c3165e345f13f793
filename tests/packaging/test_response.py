"""The recipes in deploy/response: well formed, valid where there is a schema, and fitting our event."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import orjson
import pytest
import yaml

from agent.config.source import load_config
from agent.respond.event import event_of
from agent.verdict import Severity, State
from tests.support.alertmanager_real import Alertmanager
from tests.support.built import REPOSITORY
from tests.support.verdicts import verdict

FOLDER = REPOSITORY / "deploy" / "response"
ARGO = ["kserve-rollback.yaml", "argo-retrain.yaml", "kubeflow-retrain.yaml"]
Object = dict[str, Any]


def objects(name: str) -> list[Object]:
    return [o for o in yaml.safe_load_all((FOLDER / name).read_text()) if o]


def of_kind(name: str, kind: str) -> Object:
    (found,) = [o for o in objects(name) if o["kind"] == kind]
    return found


def event(state: State = State.FIRING, **changes: Any) -> Object:
    changes = {"monitor": "drift", **changes}
    return dict(orjson.loads(event_of(verdict(state, **changes), "/inferometer/test").body))


def at(document: Any, path: str) -> Any:
    """What lies at a dotted path; KeyError or IndexError when nothing does."""
    for part in path.split("."):
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def test_every_recipe_is_listed_and_says_what_it_needs() -> None:
    listed = set(re.findall(r"^\| `([^`]+)` \|", (FOLDER / "README.md").read_text(), re.M))
    files = {path.name for path in FOLDER.iterdir()} - {"README.md"}
    assert listed == files
    for name in files - {"verdict.schema.json", "actions.yaml"}:
        assert "Needs:" in (FOLDER / name).read_text(), name


def test_the_agents_side_is_a_valid_configuration(tmp_path: Path) -> None:
    path = tmp_path / "inferometer.yaml"
    path.write_text((FOLDER / "actions.yaml").read_text() + "\nkafka: {topics: [predictions]}\n")
    actions = {action.name: action for action in load_config(path, {}).respond.actions}
    assert set(actions) == {"argo", "eventbridge", "event-grid", "topic", "incidents"}
    webhook = of_kind("argo-eventsource.yaml", "EventSource")["spec"]["webhook"]["verdicts"]
    assert actions["argo"].webhook is not None and actions["argo"].webhook.url is not None
    assert actions["argo"].webhook.url.endswith(f":{webhook['port']}{webhook['endpoint']}")


@pytest.mark.parametrize("name", ["kserve-rollback.yaml", "argo-retrain.yaml"])
def test_kubernetes_own_objects_are_valid_and_grant_what_the_sensor_does(name: str) -> None:
    own = [o for o in objects(name) if o["kind"] != "Sensor"]
    assert [o["kind"] for o in own] == ["ServiceAccount", "Role", "RoleBinding"]
    for each in own:
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    account, role, binding = own
    assert binding["subjects"][0]["name"] == account["metadata"]["name"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    sensor = of_kind(name, "Sensor")
    assert sensor["spec"]["template"]["serviceAccountName"] == account["metadata"]["name"]
    (trigger,) = sensor["spec"]["triggers"]
    does = trigger["template"]["k8s"]
    resource = does["source"]["resource"]
    assert resource["metadata"]["namespace"] == role["metadata"]["namespace"]
    group = resource["apiVersion"].partition("/")[0]
    plural = f"{resource['kind'].lower()}s"
    assert any(
        group in rule["apiGroups"]
        and plural in rule["resources"]
        and does["operation"] in rule["verbs"]
        for rule in role["rules"]
    )


def passes(filters: list[Object], document: Object) -> bool:
    """Data filters of Argo Events: all must hold, each for one of its values."""
    return all(at(document, f["path"]) in f["value"] for f in filters)


@pytest.mark.parametrize("name", ARGO)
def test_sensors_let_through_what_they_are_meant_for_and_find_all_they_ask(name: str) -> None:
    sensor = of_kind(name, "Sensor")
    source = of_kind("argo-eventsource.yaml", "EventSource")
    (dependency,) = sensor["spec"]["dependencies"]
    assert dependency["eventSourceName"] == source["metadata"]["name"]
    assert dependency["eventName"] in source["spec"]["webhook"]
    filters = dependency["filters"]["data"]
    monitor = "canary" if name.startswith("kserve") else "drift"
    wanted = {"body": event(monitor=monitor)}
    assert passes(filters, wanted)
    assert not passes(filters, {"body": event(monitor="quality")})
    for state in State:
        if state is not State.FIRING:
            assert not passes(filters, {"body": event(state, monitor=monitor)})
    if monitor == "canary":
        assert not passes(filters, {"body": event(monitor=monitor, severity=Severity.TICKET)})
    (trigger,) = [t["template"] for t in sensor["spec"]["triggers"]]
    does = trigger.get("k8s") or trigger["http"]
    for parameter in does.get("parameters", []) + does.get("payload", []):
        assert parameter["src"]["dependencyName"] == dependency["name"]
        if "dataKey" in parameter["src"]:
            value = at(wanted, parameter["src"]["dataKey"])
            assert isinstance(value, str) and value
        if "source" in does:
            assert at(does["source"]["resource"], parameter["dest"]) == "set-below"


def test_a_canary_gets_no_more_traffic_and_nothing_else_is_changed() -> None:
    (trigger,) = of_kind("kserve-rollback.yaml", "Sensor")["spec"]["triggers"]
    resource = trigger["template"]["k8s"]["source"]["resource"]
    assert resource["spec"] == {"predictor": {"canaryTrafficPercent": 0}}


# ---------------------------------------------------------------- clouds


def matches(pattern: Any, document: Any) -> bool:
    """Event patterns of EventBridge, as far as the recipe uses them: lists of values, by key."""
    if isinstance(pattern, list):
        return document in pattern
    return all(key in document and matches(p, document[key]) for key, p in pattern.items())


def test_eventbridge_starts_the_pipeline_with_what_the_event_says() -> None:
    resources = yaml.safe_load((FOLDER / "sagemaker-retrain.yaml").read_text())["Resources"]
    mapping = resources["Put"]["Properties"]["RequestParameters"]

    def put(body: Object) -> Object:
        """What API Gateway makes of a request's body by this mapping, as a rule sees it."""
        assert (
            mapping["DetailType"] == "$request.body.type" and mapping["Detail"] == "$request.body"
        )
        return {"source": mapping["Source"], "detail-type": body["type"], "detail": body}

    rule = resources["Retrain"]["Properties"]
    assert matches(rule["EventPattern"], put(event()))
    assert not matches(rule["EventPattern"], put(event(State.RESOLVED)))
    assert not matches(rule["EventPattern"], put(event(monitor="quality")))
    (target,) = rule["Targets"]
    for parameter in target["SageMakerPipelineParameters"]["PipelineParameterList"]:
        value = at(put(event()), parameter["Value"].removeprefix("$."))
        assert isinstance(value, str) and value
    names = set(re.findall(r"Ref: (\w+)|GetAtt\": \[(\w+)", yaml.dump(resources)))
    parameters = {"PipelineArn", "AuthorizerUri"}
    assert {a or b for a, b in names} <= resources.keys() | parameters


def test_event_grid_takes_our_schema_and_hands_on_what_asks_for_a_retraining() -> None:
    template = orjson.loads((FOLDER / "azureml-retrain.json").read_bytes())
    topic, subscription = template["resources"]
    assert topic["properties"]["inputSchema"] == "CloudEventSchemaV1_0"
    wanted = subscription["properties"]["filter"]

    def handed_on(one: Object) -> bool:
        return one["type"] in wanted["includedEventTypes"] and all(
            at(one, f["key"]) in f["values"] for f in wanted["advancedFilters"]
        )

    assert handed_on(event()) and handed_on(event(monitor="state"))
    assert not handed_on(event(State.RESOLVED)) and not handed_on(event(monitor="quality"))


def expressions(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for value in document.values():
            yield from expressions(value)
    elif isinstance(document, list):
        for value in document:
            yield from expressions(value)
    elif isinstance(document, str) and document.startswith("${"):
        yield document


def test_the_workflow_finds_all_it_reads_of_the_event() -> None:
    workflow = yaml.safe_load((FOLDER / "vertex-ai-retrain.yaml").read_text())
    paths = {
        path
        for expression in expressions(workflow)
        for path in re.findall(r"(?<!\.)\bverdict\.([a-z_.]+)", expression)
    }
    assert {"type", "data.monitor", "id", "subject", "data.stream.model"} <= paths
    for path in paths:
        value = at(event(), path)
        assert isinstance(value, str) and value
    assert re.fullmatch(r"[a-z][-a-z0-9]{0,127}", f"retrain-{event()['id']}"), "an id of a job"


# ---------------------------------------------------------------- incidents


def test_a_real_alertmanager_accepts_the_incidents_file(
    alertmanager: Alertmanager, tmp_path: Path
) -> None:
    alertmanager.stop()
    running = Alertmanager(tmp_path, config=FOLDER / "alertmanager.yaml")
    try:
        assert running.start().alerts() == []
    finally:
        running.stop()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace("routing_key_file", "routing_key_fil"),
        lambda text: text.replace("receiver: tracker", "receiver: nobody"),
    ],
    ids=["unknown field", "unknown receiver"],
)
def test_a_real_alertmanager_notices_mistakes(
    alertmanager: Alertmanager, tmp_path: Path, spoil: Callable[[str], str]
) -> None:
    from tests.support.process import StartFailed

    alertmanager.stop()
    path = tmp_path / "spoilt.yaml"
    path.write_text(spoil((FOLDER / "alertmanager.yaml").read_text()))
    with pytest.raises(StartFailed):
        Alertmanager(tmp_path, config=path).start()
