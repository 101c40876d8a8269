"""The roles allow what the code asks for, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.workload import SeldonWorkload
from ipa.model.decision import Change
from tests.fakes.kube import FakeKube, FaultKind
from tests.fakes.kube.samples import sample_configs, sample_pipeline

Verbs = set[tuple[str, str, str]]
PIPELINE = sample_pipeline()
CONFIGS = sample_configs()


def allowed(role: Path) -> Verbs:
    return {
        (verb, group, resource)
        for rule in yaml.safe_load(role.read_text())["rules"]
        for verb in rule["verbs"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


@pytest.fixture
def roles(root: Path) -> tuple[Verbs, Verbs]:
    folder = root / "deploy" / "rbac"
    return allowed(folder / "observer.yaml"), allowed(folder / "actor.yaml")


def test_the_roles_are_exactly_the_verbs_used(roles: tuple[Verbs, Verbs], tmp_path: Path) -> None:
    """A first deploy, a change watched while it rolls, a lost answer read back."""
    observer, actor = roles
    with FakeKube() as kube:
        client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
        workload = SeldonWorkload(client)
        workload.create(PIPELINE, CONFIGS)
        kube.tick(6)
        written = kube.verbs.copy()
        kube.verbs.clear()
        revision = workload.read(PIPELINE).revision
        wanted = (replace(CONFIGS[0], replicas=3), *CONFIGS[1:])
        change = Change("d-1", "sample", revision, CONFIGS, wanted, 60.0)
        read_only = kube.verbs.copy()
        kube.fault(FaultKind.LOST_AFTER, verb="patch", is_dry_run=False)
        workload.write(PIPELINE, change)
        kube.tick()
        workload.rollout(PIPELINE, change)
        client.close()
        used = written | kube.verbs
    assert used == observer | actor
    assert read_only <= observer
    assert not observer & actor
    assert {verb for verb, _, _ in observer} <= {"get", "list", "watch"}


def test_no_role_names_everything_or_the_whole_cluster(root: Path) -> None:
    for path in sorted((root / "deploy" / "rbac").glob("*.yaml")):
        role = yaml.safe_load(path.read_text())
        assert role["kind"] == "Role"
        assert "*" not in path.read_text()
