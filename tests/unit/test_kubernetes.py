"""The manifests of deploy/kubernetes, against the schemas of Kubernetes and our own commands.

`kustomize` is not run here: what it would do with these few fields is done by hand below.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from keywrap import __version__
from scheduler import gauges
from scheduler.commands import rewrap
from workers.metrics_table import Metrics
from workers.settings import load

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
BASE = FOLDER / "base"
OVERLAYS = [FOLDER / "overlays" / name for name in ("aws", "azure", "gcp")]
KUSTOMIZATIONS = [BASE, FOLDER / "components" / "keda", *OVERLAYS]
VERSIONS = ("1.30.0", kubernetes_validate.latest_version())

Object = dict[str, Any]


def read(file: Path) -> list[Object]:
    return list(yaml.safe_load_all(file.read_text()))


def kustomization(folder: Path) -> Object:
    (found,) = read(folder / "kustomization.yaml")
    assert isinstance(found, dict)
    return found


RESOURCES = [one for name in kustomization(BASE)["resources"] for one in read(BASE / name)]
BY_NAME = {(one["kind"], one["metadata"]["name"]): one for one in RESOURCES}
PODS = {
    name: one["spec"]["template"]
    for (kind, name), one in BY_NAME.items()
    if kind in {"Deployment", "Job"}
}


def containers() -> Iterator[tuple[str, Object]]:
    for name, pod in PODS.items():
        for one in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            yield f"{name}/{one['name']}", one


CONTAINERS = dict(containers())


def parses(words: list[str]) -> None:
    """See that our command line takes these words; nothing is run."""
    command: click.Command = rewrap
    context = click.Context(rewrap, info_name="rewrap")
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    command.parse_args(context, list(words))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("identity", BY_NAME)
def test_each_object_is_what_kubernetes_takes(identity: tuple[str, str], version: str) -> None:
    kubernetes_validate.validate(BY_NAME[identity], version, strict=True)


def test_an_object_that_is_wrong_is_found() -> None:
    wrong = {**BY_NAME["Deployment", "worker"]}
    wrong["spec"] = {**wrong["spec"], "replica": 2}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("name", CONTAINERS)
def test_each_container_runs_a_rewrap_command_that_there_is(name: str) -> None:
    container = CONTAINERS[name]
    assert container["image"] == "rewrap"
    assert "command" not in container  # the image's entrypoint is `rewrap`
    parses(container["args"])
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        if asked := container.get(kind, {}).get("exec"):
            assert asked["command"][0] == "rewrap"
            parses(asked["command"][1:])


def test_a_command_that_is_wrong_is_found() -> None:
    with pytest.raises(click.UsageError):
        parses(["worker", "--process=1"])


@pytest.mark.parametrize("name", CONTAINERS)
def test_no_container_can_write_its_image_or_gain_rights(name: str) -> None:
    container = CONTAINERS[name]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    pod = PODS[name.partition("/")[0]]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    dockerfile = (FOLDER.parents[1] / "Dockerfile").read_text()
    assert f"USER {pod['securityContext']['runAsUser']}\n" in dockerfile
    assert ("ServiceAccount", pod["serviceAccountName"]) in BY_NAME


@pytest.mark.parametrize("name", CONTAINERS)
def test_secrets_come_by_reference_and_only_workers_get_keys(name: str) -> None:
    variables = {one["name"]: one for one in CONTAINERS[name]["env"]}
    for secret in ("REWRAP_LEDGER_URL", "REWRAP_BROKER_URL", "REWRAP_FLOWER_BASIC_AUTH"):
        if secret in variables:
            assert variables[secret]["valueFrom"]["secretKeyRef"]["name"] == "rewrap"
    assert ("BLOB_KEY" in variables) == (name == "worker/worker")
    assert not [one for one in RESOURCES if one["kind"] == "Secret"]


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_mount_has_its_volume_and_every_named_port_its_number(name: str) -> None:
    container, pod = CONTAINERS[name], PODS[name.partition("/")[0]]["spec"]
    assert {one["name"] for one in container["volumeMounts"]} <= {
        one["name"] for one in pod["volumes"]
    }
    for volume in pod["volumes"]:
        if claim := volume.get("persistentVolumeClaim"):
            assert ("PersistentVolumeClaim", claim["claimName"]) in BY_NAME
    ports = {one["name"] for one in container.get("ports", [])}
    for kind in ("readinessProbe", "livenessProbe"):
        if asked := container.get(kind, {}).get("httpGet"):
            assert asked["port"] in ports


def test_metrics_are_asked_for_where_they_are_served() -> None:
    served = {"scheduler": Metrics().port, "worker": Metrics().of_workers}
    for name, port in served.items():
        assert CONTAINERS[f"{name}/{name}"]["ports"] == [{"name": "metrics", "containerPort": port}]
    (rule,) = BY_NAME["NetworkPolicy", "metrics"]["spec"]["ingress"]
    assert {one["port"] for one in rule["ports"]} == {*served.values(), 5555}


@pytest.mark.parametrize("kind", ["NetworkPolicy", "PodDisruptionBudget", "Service", "Deployment"])
def test_every_selector_finds_pods(kind: str) -> None:
    labels = {name: pod["metadata"]["labels"] for name, pod in PODS.items()}
    assert all(found == {"app.kubernetes.io/name": name} for name, found in labels.items())
    for (its, name), one in BY_NAME.items():
        if its == kind:
            spec = one["spec"]
            selector = spec.get("podSelector", spec.get("selector"))
            wanted = selector.get("matchLabels", selector if kind == "Service" else {})
            for expression in selector.get("matchExpressions", []):
                assert set(expression["values"]) <= PODS.keys(), name
            assert not wanted or wanted["app.kubernetes.io/name"] in PODS, name


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: path.name)
def test_each_kustomization_names_files_that_are_there(folder: Path) -> None:
    found = kustomization(folder)
    for name in [*found.get("resources", []), *found.get("components", [])]:
        place = (folder / name).resolve()
        assert place.is_file() or (place / "kustomization.yaml").is_file()
    named = {"kustomization.yaml", *found.get("resources", [])}
    named |= {one["path"] for one in found.get("patches", []) if "path" in one}
    named |= {file for one in found.get("configMapGenerator", []) for file in one["files"]}
    assert {path.name for path in folder.iterdir()} <= named


def _targets(target: Object) -> list[Object]:
    return [
        one
        for (kind, name), one in BY_NAME.items()
        if kind == target["kind"] and re.fullmatch(target["name"], name)
    ]


@pytest.mark.parametrize("folder", KUSTOMIZATIONS[1:], ids=lambda path: path.name)
def test_each_patch_changes_something_that_is_there(folder: Path) -> None:
    for patch in kustomization(folder)["patches"]:
        if "path" in patch:
            for one in read(folder / patch["path"]):
                base = BY_NAME[one["kind"], one["metadata"]["name"]]
                merged = {**base, **one, "metadata": base["metadata"] | one["metadata"]}
                if "spec" in base:
                    merged["spec"] = base["spec"] | one["spec"]
                kubernetes_validate.validate(merged, VERSIONS[-1], strict=True)
            continue
        found = _targets(patch["target"])
        assert found
        for step in yaml.safe_load(patch["patch"]):
            *parents, last = step["path"].split("/")[1:]
            for one in found:
                at: Any = one
                for key in parents:
                    at = at[key]
                assert (last in at) == (step["op"] == "remove")


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_each_overlay_brings_the_configuration_identities_and_the_release(folder: Path) -> None:
    found = kustomization(folder)
    (config,) = found["configMapGenerator"]
    mounted = {
        volume["configMap"]["name"]
        for pod in PODS.values()
        for volume in pod["spec"]["volumes"]
        if "configMap" in volume
    }
    assert mounted == {config["name"]}
    settings = load(str(folder / "rewrap.toml"), {})
    assert settings.keywrap.keys.primary
    assert [one["newTag"] for one in found["images"]] == [__version__]
    accounts = {one["metadata"]["name"] for one in read(folder / "identity.yaml")}
    assert accounts == {"rewrap-scheduler", "rewrap-worker"}


def test_keda_asks_for_a_metric_of_the_scheduler_and_windows_feed_the_most_workers() -> None:
    (scaled,) = read(FOLDER / "components" / "keda" / "scaledobject.yaml")
    spec = scaled["spec"]
    assert ("Deployment", spec["scaleTargetRef"]["name"]) in BY_NAME
    (trigger,) = spec["triggers"]
    (metric,) = re.findall(r"rewrap_\w+", trigger["metadata"]["query"])
    assert f'"{metric.removeprefix("rewrap_")}"' in Path(gauges.__file__).read_text()
    processes = CONTAINERS["worker/worker"]["args"][1].partition("=")[2]
    for folder in OVERLAYS:
        window = load(str(folder / "rewrap.toml"), {}).scheduler.window
        assert window >= 2 * spec["maxReplicaCount"] * int(processes)
