"""The Kubernetes manifests: valid by Kubernetes' own schemas, locked down, and true to what a service really has."""

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from dashboard import REPOSITORY
from fakes import long_winded_family
from prometheus_client.parser import text_string_to_metric_families
from serving import serving

from anysize.settings import Settings

FOLDER = REPOSITORY / "deploy" / "k8s"
BASE = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
MANIFESTS: dict[str, dict[str, Any]] = {
    found["kind"]: found for found in (yaml.safe_load((FOLDER / name).read_text()) for name in BASE["resources"])
}
POD = MANIFESTS["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
# The oldest release that knows `preStop.sleep` without being asked to.
VERSIONS = ("1.30", kubernetes_validate.latest_version())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_is_valid(kind: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[kind], version, strict=True)


def test_a_word_that_kubernetes_does_not_know_is_noticed() -> None:
    wrong = {**MANIFESTS["Service"], "spec": {**MANIFESTS["Service"]["spec"], "selektor": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_base_lists_every_manifest_once() -> None:
    others = {"kustomization.yaml", "prometheus-adapter.yaml"}
    assert sorted(BASE["resources"]) == sorted({file.name for file in FOLDER.iterdir()} - others)
    assert len(MANIFESTS) == len(BASE["resources"])
    assert all(image["name"] == CONTAINER["image"] for image in BASE["images"])


def test_everything_chooses_the_pods_of_the_deployment() -> None:
    labels = MANIFESTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["Service"]["spec"]["selector"] == labels
    assert MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    target = MANIFESTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", MANIFESTS["Deployment"]["metadata"]["name"])
    assert "replicas" not in MANIFESTS["Deployment"]["spec"], "each apply would undo the autoscaler"


def test_a_pod_may_do_nothing_that_it_need_not() -> None:
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["runAsUser"] == POD["securityContext"]["runAsGroup"] == 10001
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["automountServiceAccountToken"] is False
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(CONTAINER["resources"]["limits"])
    assert all("hostPath" not in volume for volume in POD["volumes"])
    assert MANIFESTS["NetworkPolicy"]["spec"]["egress"] == []
    assert set(MANIFESTS["NetworkPolicy"]["spec"]["policyTypes"]) == {"Ingress", "Egress"}


def test_what_is_mounted_is_what_the_image_writes_to() -> None:
    mounted = {mount["mountPath"]: mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert set(mounted) == {"/tmp", "/var/lib/anysize/kernels"}
    assert set(mounted.values()) == {volume["name"] for volume in POD["volumes"]}
    assert all("sizeLimit" in volume["emptyDir"] for volume in POD["volumes"])


def test_a_service_called_anysize_does_not_change_its_settings() -> None:
    # Kubernetes sets NAME_PORT=tcp://... for each Service, and ANYSIZE_PORT is ours.
    assert MANIFESTS["Service"]["metadata"]["name"] == "anysize"
    assert POD["enableServiceLinks"] is False
    names = {variable["name"].removeprefix("ANYSIZE_").lower() for variable in CONTAINER["env"]}
    assert names <= set(Settings.model_fields)


def test_a_pod_leaves_the_service_first_and_is_killed_after_its_requests_end() -> None:
    given = {variable["name"]: variable.get("value") for variable in CONTAINER["env"]}
    pause_s, drain_s = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"], float(given["ANYSIZE_DRAIN_S"])
    assert pause_s > 0
    assert POD["terminationGracePeriodSeconds"] > pause_s + drain_s + 1
    assert MANIFESTS["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_a_pod_is_restarted_for_a_stuck_engine_and_not_for_load() -> None:
    probes = {name: CONTAINER[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    assert probes["liveness"]["httpGet"]["path"] == "/health"
    assert probes["readiness"]["httpGet"]["path"] == probes["startup"]["httpGet"]["path"] == "/ready"
    assert probes["startup"]["failureThreshold"] * probes["startup"]["periodSeconds"] >= 120
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {port["name"] for port in CONTAINER["ports"]}


def adapter_rules() -> list[dict[str, Any]]:
    return yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]


def test_the_autoscaler_asks_for_what_the_adapter_hands_out_and_that_for_what_a_service_has() -> None:
    asked = {one["pods"]["metric"]["name"] for one in MANIFESTS["HorizontalPodAutoscaler"]["spec"]["metrics"]}
    assert asked == {rule["name"]["as"] for rule in adapter_rules()}
    with serving(long_winded_family()) as service, service.client() as client:
        there = {family.name for family in text_string_to_metric_families(client.get("/metrics").text)}
        for probe in ("startup", "liveness", "readiness"):
            assert client.get(CONTAINER[f"{probe}Probe"]["httpGet"]["path"]).status_code == 200
    named = set(
        re.findall(r"\banysize_\w+", " ".join(rule["seriesQuery"] + rule["metricsQuery"] for rule in adapter_rules()))
    )
    assert named <= there


def test_demand_is_what_runs_and_waits_over_the_places(promtool: str, tmp_path: Path) -> None:
    (rule,) = [rule for rule in adapter_rules() if rule["name"]["as"] == "anysize_demand"]
    expression = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="n"').replace("<<.GroupBy>>", "pod")
    series = {"running": 24, "waiting": 8}
    case = {
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    *(
                        {"series": f'anysize_num_requests_{name}{{namespace="n",pod="p"}}', "values": str(value)}
                        for name, value in series.items()
                    ),
                    {"series": 'anysize_max_running_requests{namespace="n",pod="p"}', "values": "64"},
                ],
                "promql_expr_test": [
                    {"expr": expression, "eval_time": "0m", "exp_samples": [{"labels": '{pod="p"}', "value": 0.5}]}
                ],
            }
        ]
    }
    (tmp_path / "case.yml").write_text(yaml.safe_dump(case))
    done = subprocess.run(
        [promtool, "test", "rules", "case.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
