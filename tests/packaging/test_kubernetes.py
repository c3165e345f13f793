"""The manifests against Kubernetes' own schemas (strict), and against what the agent needs."""

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from agent import __version__
from agent.aggregate.run import check
from agent.commands.plan import predict
from agent.config import Config
from agent.config.source import load_config, require_topics
from tests.support.built import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "kubernetes"
MANIFESTS = ["sidecar.yaml", "daemonset.yaml", "fleet.yaml"]
#: The oldest with native sidecars on by default, the first where they are stable, the newest known.
VERSIONS = ["1.29", "1.33", kubernetes_validate.latest_version()]

SHARD = "INFEROMETER__AGGREGATE__SHARD"

Object = dict[str, Any]


def objects(name: str) -> list[Object]:
    return [o for o in yaml.safe_load_all((FOLDER / name).read_text()) if o]


#: A manifest and the component of the workload in it that is meant.
WORKLOADS = [*MANIFESTS, "fleet.yaml aggregate"]


def workload(name: str) -> Object:
    file, _, component = name.partition(" ")
    found = [o for o in objects(file) if "template" in o.get("spec", {})]
    if component:
        found = [o for o in found if component_of(o) == component]
    return found[0]


def component_of(each: Object) -> str:
    return str(each["metadata"].get("labels", {}).get("app.kubernetes.io/component", ""))


def agent_container(name: str) -> Object:
    pod = workload(name)["spec"]["template"]["spec"]
    containers = pod.get("initContainers", []) + pod["containers"]
    (found,) = [c for c in containers if c["name"] == "inferometer"]
    return found


def loaded(name: str, tmp_path: Path) -> Config:
    """The configuration in the manifest's ConfigMap, as the agent would read it in that container."""
    (text,) = [
        o["data"]["inferometer.yaml"]
        for o in objects(name.partition(" ")[0])
        if o["kind"] == "ConfigMap"
    ]
    path = tmp_path / "inferometer.yaml"
    path.write_text(text)
    env = {e["name"]: e.get("value", f"a-{e['name']}") for e in agent_container(name)["env"]}
    if SHARD in env:
        env[SHARD] = "1"
    return load_config(path, env)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_are_valid_and_hold_no_unknown_field(name: str, version: str) -> None:
    found = objects(name)
    assert len(found) >= 2
    for each in found:
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("spoil", ["unknown field", "wrong type", "missing field"])
def test_the_validation_notices_mistakes(spoil: str) -> None:
    each = copy.deepcopy(workload("fleet.yaml"))
    pod = each["spec"]["template"]["spec"]
    if spoil == "unknown field":
        pod["containers"][0]["securityContext"]["readOnlyRootFileSystem"] = True
    elif spoil == "wrong type":
        each["spec"]["replicas"] = "two"
    else:
        del each["spec"]["selector"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(each, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_agents_configuration_inside_is_valid(name: str, tmp_path: Path) -> None:
    config = loaded(name, tmp_path)
    require_topics(config)
    assert config.export.otlp.endpoint
    assert config.web.host == "0.0.0.0", "probes come from outside the container"


@pytest.mark.parametrize("name", WORKLOADS)
def test_probes_and_ports_meet_the_web_server(name: str, tmp_path: Path) -> None:
    container, config = agent_container(name), loaded(name, tmp_path)
    (port,) = container["ports"]
    assert port["containerPort"] == config.web.port
    for probe, page in (
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ):
        if probe in container:
            assert container[probe]["httpGet"] == {"path": page, "port": port["name"]}
    assert "livenessProbe" in container


def test_a_sidecar_never_makes_its_model_server_unready() -> None:
    container = agent_container("sidecar.yaml")
    assert container["restartPolicy"] == "Always"
    assert "readinessProbe" not in container


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_pod_waits_for_the_drain(name: str, tmp_path: Path) -> None:
    pod = workload(name)["spec"]["template"]["spec"]
    drain_s = loaded(name, tmp_path).delivery.drain_timeout_s
    assert pod["terminationGracePeriodSeconds"] > drain_s + 5


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_agent_is_confined(name: str) -> None:
    pod = workload(name)["spec"]["template"]["spec"]
    container = agent_container(name)
    context = pod.get("securityContext", {}) | container["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] >= 1000 and context["runAsGroup"] >= 1000
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert "privileged" not in context
    assert not pod.get("hostNetwork") and not pod.get("hostPID")


@pytest.mark.parametrize("name", WORKLOADS)
def test_what_is_mounted_exists_and_tmp_is_writable(name: str, tmp_path: Path) -> None:
    pod = workload(name)["spec"]["template"]["spec"]
    claims = workload(name)["spec"].get("volumeClaimTemplates", [])
    volumes = {v["name"]: v for v in [*pod["volumes"], *(c["metadata"] for c in claims)]}
    mounts = {m["mountPath"]: volumes[m["name"]] for m in agent_container(name)["volumeMounts"]}
    assert "emptyDir" in mounts["/tmp"], "kernels are copied to /tmp under a read-only root"
    file = name.partition(" ")[0]
    maps = {o["metadata"]["name"] for o in objects(file) if o["kind"] == "ConfigMap"}
    assert mounts["/etc/inferometer"]["configMap"]["name"] in maps
    kafka = loaded(name, tmp_path).kafka
    files = [kafka.tls.ca_file, kafka.sasl.password_file if kafka.sasl else None]
    for file in filter(None, files):
        assert str(Path(file).parent) in mounts


@pytest.mark.parametrize("name", WORKLOADS)
def test_selectors_choose_the_pods(name: str) -> None:
    each = workload(name)
    labels = each["spec"]["template"]["metadata"]["labels"]
    assert each["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for other in objects(name.partition(" ")[0]):
        if other["kind"] == "ConfigMap" or component_of(other) != component_of(each):
            continue
        if other["kind"] == "Service":
            assert other["spec"]["selector"].items() <= labels.items()
            assert each["spec"]["serviceName"] == other["metadata"]["name"]
        if other["kind"] == "PodDisruptionBudget":
            assert other["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("name", WORKLOADS)
def test_image_and_arguments_are_those_of_the_dockerfile(name: str) -> None:
    container = agent_container(name)
    assert container["image"] == f"inferometer:{__version__}"
    command = name.partition(" ")[2] or "run"
    assert container["args"] == [command, "-c", "/etc/inferometer/inferometer.yaml"]
    assert "command" not in container


@pytest.mark.parametrize("name", ["daemonset.yaml", "fleet.yaml"])
def test_restarts_do_not_rebalance(name: str, tmp_path: Path) -> None:
    kafka = loaded(name, tmp_path).kafka
    assert kafka.group_instance_id in ("a-POD_NAME", "a-NODE_NAME")
    assert 30 <= kafka.session_timeout_s <= 45


@pytest.mark.parametrize("name", WORKLOADS)
def test_resources_are_the_measured_ones_and_hold_the_declared_budget(
    name: str, tmp_path: Path
) -> None:
    resources = yaml.safe_load((FOLDER / "resources.yaml").read_text())
    assert agent_container(name)["resources"] == resources
    config = loaded(name, tmp_path)
    limit = int(resources["limits"]["memory"].removesuffix("Mi")) << 20
    threads = config.runtime.kernel_threads or 1
    most = (
        config.budget.max_memory_bytes
        + threads * config.delivery.cut_max_bytes
        + config.kafka.buffer_max_bytes
    )
    assert most < limit
    assert predict(config).declared.memory_bytes <= config.budget.max_memory_bytes


def test_the_fleet_has_an_aggregator_for_each_shard_with_a_volume_of_its_own(
    tmp_path: Path,
) -> None:
    each, config = workload("fleet.yaml aggregate"), loaded("fleet.yaml aggregate", tmp_path)
    assert config.delivery.mode == "fleet"
    assert each["spec"]["replicas"] == config.delivery.shards
    assert config.aggregate.shard == 1, "from the pod's number"
    (shard,) = [e for e in agent_container("fleet.yaml aggregate")["env"] if e["name"] == SHARD]
    path = shard["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.labels['apps.kubernetes.io/pod-index']"
    (claim,) = each["spec"]["volumeClaimTemplates"]
    mounts = agent_container("fleet.yaml aggregate")["volumeMounts"]
    (mount,) = [m for m in mounts if m["name"] == claim["metadata"]["name"]]
    assert config.aggregate.volume_path is not None
    assert Path(config.aggregate.volume_path).is_relative_to(mount["mountPath"])
    check(config)
