"""The roles allow what the code asks for, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ipa.adapters.identity.reviews import KubeIdentities
from ipa.adapters.kube import kinds
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.events import KubeEvents
from ipa.adapters.kube.kinds import ObjectRef, ResourceKind
from ipa.adapters.kube.lease import LeaseLeadership
from ipa.adapters.kube.watch import Watcher
from ipa.control.election import LeaseTimes
from ipa.control.loop.scheduler import SystemClock
from ipa.model.access import Operation
from ipa.model.decision import Change, Event, ReasonCode
from ipa.model.pipeline import Pipeline
from ipa.targets.deployments.target import DEPLOYMENTS
from ipa.targets.kubernetes.target import KubernetesTarget
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.target import SELDON
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, FaultKind
from tests.fakes.kube.reviews import User
from tests.fakes.kube.samples import as_deployments, create, sample_configs, sample_pipeline

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


def watch(kube: FakeKube, client: KubeClient, kind: ResourceKind) -> None:
    """A list and a watch of all that is watched."""
    watcher = Watcher(client, "models", kind, lambda namespace, name: None, VirtualClock())
    watcher.step()
    kube.fault(FaultKind.EXPIRED, verb="watch")
    watcher.step()


def elect(client: KubeClient) -> None:
    """A Lease taken, renewed and given back."""
    clock = VirtualClock()
    place = ObjectRef(kinds.LEASE, "models", "ipa-serving")
    leadership = LeaseLeadership(client, place, "a", LeaseTimes(15.0, 10.0, 2.0), now_s=clock.monotonic_s)
    for _ in range(20):
        clock.wait(leadership.step())
    assert leadership.leading()
    leadership.close()


def review(kube: FakeKube, client: KubeClient) -> None:
    """Someone's token and rights."""
    kube.api.reviewer.tokens["hers"] = User("ada")
    ada = KubeIdentities(client, VirtualClock(), SELDON_DEPLOYMENT, SELDON.places_of).identify(
        "hers", fresh=True
    )
    assert ada is not None
    assert [ada.may(operation, "models") for operation in Operation] == [False] * len(Operation)


@pytest.mark.parametrize(
    ("target", "pipeline"), [(SELDON, PIPELINE), (DEPLOYMENTS, as_deployments(PIPELINE, run_as_root=True))]
)
def test_the_roles_are_exactly_the_verbs_used(
    target: KubernetesTarget, pipeline: Pipeline, root: Path, tmp_path: Path
) -> None:
    """A change watched while it rolls, a lost answer read back, Events, an election, reviews."""
    names = (f"{target.role_prefix}observer", f"{target.role_prefix}actor", "elector", "reviewer")
    folder = root / "deploy" / "rbac"
    observer, actor, elector, reviewer = (allowed(folder / f"{name}.yaml") for name in names)
    with FakeKube() as kube:
        client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
        workload = KubeWorkload(client, target.layout_of)
        create(client, pipeline, CONFIGS, target=target)
        kube.tick(6)
        kube.verbs.clear()
        revision = workload.read(pipeline).revision
        wanted = (replace(CONFIGS[0], replicas=3), *CONFIGS[1:])
        change = Change("d-1", "sample", revision, CONFIGS, wanted, 60.0)
        watch(kube, client, target.kind)
        read_only = kube.verbs.copy()
        kube.fault(FaultKind.LOST_AFTER, verb="patch", is_dry_run=False)
        workload.write(pipeline, change)
        kube.tick()
        workload.rollout(pipeline, change)
        sink = KubeEvents(client, SystemClock(), target.entry_of)
        for _ in range(2):
            sink.emit(pipeline, Event(ReasonCode.DRIFT, "kubectl", is_warning=True))
        acted = kube.verbs.copy()
        kube.verbs.clear()
        elect(client)
        elected = kube.verbs.copy()
        kube.verbs.clear()
        review(kube, client)
        reviewed = kube.verbs.copy()
        client.close()
    assert acted == observer | actor
    assert read_only <= observer
    assert elected == elector
    assert reviewed == reviewer
    assert not observer & actor
    assert {verb for verb, _, _ in observer} <= {"get", "list", "watch"}


def test_no_role_names_everything_or_the_whole_cluster(root: Path) -> None:
    for path in sorted((root / "deploy" / "rbac").glob("*.yaml")):
        role = yaml.safe_load(path.read_text())
        # Tokens and rights are of no namespace, so a Role could not name them.
        assert role["kind"] == ("ClusterRole" if path.stem == "reviewer" else "Role")
        assert "*" not in path.read_text()
