"""The manifests in deploy/kubernetes are valid by the Kubernetes API, and fit each other.

The schemas are those of Kubernetes 1.34 (Apache-2.0), strict, as the PyPI package
kubernetes-validate 1.37.0 ships them: the kinds that are used, without descriptions.
"""

import copy
import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from trainvitals_server.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/kubernetes"
SCHEMA = json.loads((ROOT / "tests/helpers/kubernetes.schema.json").read_text())
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
OBJECTS = [
    each
    for name in KUSTOMIZATION["resources"]
    for each in yaml.safe_load_all((FOLDER / name).read_text())
]


def by_kind(kind):
    return {each["metadata"]["name"]: each for each in OBJECTS if each["kind"] == kind}


def problems(manifest):
    kind = f"#/definitions/{SCHEMA['kinds'][manifest['kind']]}"
    schema = {"$ref": kind, "definitions": SCHEMA["definitions"]}
    return [error.message for error in Draft202012Validator(schema).iter_errors(manifest)]


def workloads():
    return [*by_kind("StatefulSet").values(), *by_kind("Deployment").values()]


def containers():
    for each in workloads():
        pod = each["spec"]["template"]["spec"]
        yield from ((pod, container) for container in pod.get("initContainers", []))
        yield from ((pod, container) for container in pod["containers"])


@pytest.mark.parametrize("manifest", OBJECTS, ids=lambda m: f"{m['kind']}-{m['metadata']['name']}")
def test_it_is_valid_by_the_api(manifest):
    assert problems(manifest) == []


def test_the_api_would_say_so_if_it_were_not():
    changed = copy.deepcopy(by_kind("StatefulSet")["collector"])
    changed["spec"]["template"]["spec"]["containers"][0]["imagePullPolcy"] = "Always"
    assert problems(changed)
    changed = copy.deepcopy(by_kind("Service")["collector"])
    changed["spec"]["ports"][0]["port"] = "http"
    assert problems(changed)


def test_every_file_of_the_folder_is_applied():
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(KUSTOMIZATION["resources"])


def test_no_pod_runs_as_root_or_writes_to_its_image():
    found = list(containers())
    assert len(found) == 3
    for pod, container in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]


def test_every_mount_names_a_volume_and_every_probe_a_port():
    for pod, container in containers():
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        ports = {port["name"] for port in container.get("ports", [])}
        probes = [v for k, v in container.items() if k.endswith("Probe")]
        assert all(probe["httpGet"]["port"] in ports for probe in probes)


def test_services_select_pods_and_the_ingress_names_services():
    labels = {each["spec"]["template"]["metadata"]["labels"]["app"] for each in workloads()}
    services = by_kind("Service")
    assert all(service["spec"]["selector"]["app"] in labels for service in services.values())
    for each in workloads():
        assert each["spec"]["selector"]["matchLabels"].items() <= (
            each["spec"]["template"]["metadata"]["labels"].items()
        )
    for rule in by_kind("Ingress")["trainvitals"]["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            service = services[path["backend"]["service"]["name"]]
            names = {port["name"] for port in service["spec"]["ports"]}
            assert path["backend"]["service"]["port"]["name"] in names
    [collector] = by_kind("StatefulSet").values()
    assert services[collector["spec"]["serviceName"]]["spec"]["clusterIP"] == "None"


def test_the_settings_are_settings_and_name_every_collector(monkeypatch):
    [generated] = KUSTOMIZATION["configMapGenerator"]
    given = dict(literal.split("=", 1) for literal in generated["literals"])
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    [collector] = by_kind("StatefulSet").values()
    pods = [f"collector-{i}.collectors" for i in range(collector["spec"]["replicas"])]
    assert set(pods) < set(settings.allowed_hosts)
    assert settings.prometheus_targets == tuple(f"{pod}:8321" for pod in pods)
    hosts = {rule["host"] for rule in by_kind("Ingress")["trainvitals"]["spec"]["rules"]}
    assert set(settings.allowed_hosts) & hosts == {"trainvitals.example.org"}
    variables = {v["name"] for _, c in containers() for v in c.get("env", [])}
    known = {f"TRAINVITALS_{name.upper()}" for name in Settings.model_fields}
    assert {name.removesuffix("_FILE") for name in variables} <= known


def test_no_manifest_uses_merge_keys_which_kustomize_does_not_read_everywhere():
    assert all("<<" not in path.read_text() for path in FOLDER.glob("*.yaml"))


def test_no_secret_is_in_a_manifest():
    assert by_kind("Secret") == {}
    for path in FOLDER.glob("*.yaml"):
        assert "postgresql://" not in path.read_text()
