"""deploy/kubernetes/base: valid, consistent, and what it says of the service is so."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from sampler_service.config import load_config

BASE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "base"
KUSTOMIZATION = yaml.safe_load((BASE / "kustomization.yaml").read_text())
KUBERNETES = kubernetes_validate.latest_version()


def resources() -> Iterator[dict[str, Any]]:
    for name in KUSTOMIZATION["resources"]:
        yield from yaml.safe_load_all((BASE / name).read_text())


RESOURCES = {(one["kind"], one["metadata"]["name"]): one for one in resources()}
WORKLOADS = [one for (kind, _), one in RESOURCES.items() if kind in ("Deployment", "StatefulSet")]
DEPLOYMENT = RESOURCES["Deployment", "curriculum-sampler"]
POD = DEPLOYMENT["spec"]["template"]["spec"]
(SAMPLER,) = POD["containers"]


@pytest.mark.parametrize("resource", list(RESOURCES.values()), ids=["/".join(key) for key in RESOURCES])
def test_every_resource_is_valid_and_knows_each_of_its_fields(resource: dict[str, Any]):
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def test_every_file_is_part_of_the_base():
    files = {path.name for path in BASE.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(KUSTOMIZATION["resources"]) == files


def test_selectors_find_the_pods_they_mean():
    labels = {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in WORKLOADS}
    for one in WORKLOADS:
        wanted = one["spec"]["selector"]["matchLabels"].items()
        assert wanted <= labels[one["metadata"]["name"]].items()
    pods = [set(found.items()) for found in labels.values()]
    for (kind, name), one in RESOURCES.items():
        spec = one.get("spec", {})
        selector = {
            "Service": spec.get("selector"),
            "PodDisruptionBudget": spec.get("selector", {}).get("matchLabels"),
            "NetworkPolicy": spec.get("podSelector", {}).get("matchLabels"),
        }.get(kind)
        if selector is not None:
            assert any(set(selector.items()) <= found for found in pods), f"{kind} {name} selects nothing"


def test_the_autoscaler_scales_the_deployment_and_nobody_else_does():
    scaler = RESOURCES["HorizontalPodAutoscaler", "curriculum-sampler"]["spec"]
    assert (scaler["scaleTargetRef"]["kind"], scaler["scaleTargetRef"]["name"]) in RESOURCES
    assert "replicas" not in DEPLOYMENT["spec"]
    assert scaler["minReplicas"] >= 2
    assert SAMPLER["resources"]["requests"]["cpu"], "utilisation is of what is requested"


def test_ports_and_probes_exist():
    for workload in WORKLOADS:
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe].get("httpGet") or container[probe].get("tcpSocket")
            assert asked is None or asked["port"] in ports
            if asked is not None and "path" in asked:
                assert asked["path"] in ("/healthz", "/readyz")
    assert SAMPLER["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert SAMPLER["livenessProbe"]["httpGet"]["path"] == "/healthz"
    for (kind, name), one in RESOURCES.items():
        if kind == "Service":
            for port in one["spec"]["ports"]:
                assert port["targetPort"] in {"grpc", "http", "redis"}, name


def test_the_environment_is_one_the_service_starts_with(monkeypatch: pytest.MonkeyPatch):
    for entry in SAMPLER["env"]:
        monkeypatch.setenv(entry["name"], entry.get("value", "a-secret-that-is-long-enough"))
    config = load_config({})
    assert config.auth.enabled
    assert not config.insecure
    assert {config.grpc_port, config.http_port} == {port["containerPort"] for port in SAMPLER["ports"]}
    assert config.redis is not None
    valkey = RESOURCES["Service", "curriculum-valkey"]
    assert valkey["metadata"]["name"] in config.redis.url
    grace = POD["terminationGracePeriodSeconds"]
    assert grace > config.drain_seconds + SAMPLER["lifecycle"]["preStop"]["sleep"]["seconds"] + 5


def test_secrets_are_named_once_and_never_written_down():
    text = (BASE / "kustomization.yaml").read_text()
    for workload in WORKLOADS:
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        for entry in container["env"]:
            secret = any(word in entry["name"] for word in ("TOKEN", "PASSWORD", "AUTH"))
            assert secret == ("valueFrom" in entry), entry["name"]
            if secret:
                reference = entry["valueFrom"]["secretKeyRef"]
                assert reference["name"] == "curriculum-sampler"
                assert f"--from-literal={reference['key']}=" in text
    assert ("Secret", "curriculum-sampler") not in RESOURCES


def test_pods_run_without_rights_and_apart():
    for workload in WORKLOADS:
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
    assert POD["affinity"]["podAntiAffinity"]
    budget = RESOURCES["PodDisruptionBudget", "curriculum-sampler"]["spec"]
    assert budget["maxUnavailable"] == 1


def test_the_log_is_durable_and_never_evicts():
    (container,) = RESOURCES["StatefulSet", "curriculum-valkey"]["spec"]["template"]["spec"]["containers"]
    options = dict(zip(container["args"][1::2], container["args"][2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"


def test_images_have_a_version():
    tags = {image["name"]: image["newTag"] for image in KUSTOMIZATION["images"]}
    for workload in WORKLOADS:
        for container in workload["spec"]["template"]["spec"]["containers"]:
            tag = tags.get(container["image"]) or container["image"].partition(":")[2]
            assert tag
            assert tag != "latest"


@pytest.mark.slow
@pytest.mark.kubectl
def test_what_kustomize_makes_of_it_is_valid_and_complete():
    answer = subprocess.run(["kubectl", "kustomize", BASE], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    rendered = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(answer.stdout)}
    assert set(rendered) == set(RESOURCES)
    for one in rendered.values():
        kubernetes_validate.validate(one, KUBERNETES, strict=True)
        assert one["metadata"]["labels"]["app.kubernetes.io/part-of"] == "curriculum-sampler"
    (container,) = rendered["Deployment", "curriculum-sampler"]["spec"]["template"]["spec"]["containers"]
    (image,) = KUSTOMIZATION["images"]
    assert container["image"] == f"{image['newName']}:{image['newTag']}"
