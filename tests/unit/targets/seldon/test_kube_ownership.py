"""A SeldonDeployment belongs to the install that wrote it first; a drift names its last hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.control.ports import RolloutPhase
from ipa.model.decision import Change
from ipa.model.errors import ConflictError, DriftError
from ipa.targets.kubernetes.layout import ANNOTATION, last_hand, owner_of
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from tests.fakes.kube import FakeKube
from tests.fakes.kube.samples import create, sample_configs, sample_pipeline
from tests.fakes.kube.store import Json

PIPELINE, CONFIGS = sample_pipeline(), sample_configs()
MORE = (replace(CONFIGS[0], replicas=3), *CONFIGS[1:])


class Installs:
    """Two installs of the service on one cluster, and a hand that knows nothing of them."""

    def __init__(self, kube: FakeKube, client: KubeClient) -> None:
        self.kube, self.client = kube, client
        self.plain = KubeWorkload(self.client, layout_of)
        self.blue = KubeWorkload(self.client, layout_of, "blue")
        self.green = KubeWorkload(self.client, layout_of, "green")

    def sdep(self) -> Json:
        return self.kube.store.get("seldondeployments", "models", "sample")

    def deploy(self, install: str = "") -> None:
        """Create it and let it settle."""
        create(self.client, PIPELINE, CONFIGS, install)
        self.kube.tick(10)


@pytest.fixture
def installs(kube: FakeKube, client: KubeClient) -> Installs:
    return Installs(kube, client)


def to_more(workload: KubeWorkload) -> Change:
    """The change to three replicas of the first stage, as it is read now."""
    return Change("d-1", "sample", workload.read(PIPELINE).revision, CONFIGS, MORE, 60.0)


def test_the_first_write_claims_it_in_the_same_patch_and_restarts_nothing(installs: Installs) -> None:
    installs.deploy()
    assert owner_of(installs.sdep()) is None
    before = {pod["metadata"]["name"] for pod in installs.kube.store.everything("pods")}
    change = to_more(installs.blue)
    installs.kube.requests.clear()
    installs.blue.write(PIPELINE, change)
    patches = [each for each in installs.kube.requests if each.verb == "patch"]
    assert [each.is_dry_run for each in patches] == [True, False]
    assert owner_of(installs.sdep()) == "blue"
    installs.kube.tick(20)
    assert installs.blue.rollout(PIPELINE, change).phase is RolloutPhase.READY
    after = {pod["metadata"]["name"] for pod in installs.kube.store.everything("pods")}
    assert {name for name in before - after if "svc-orch" not in name} == set()
    assert len(after) == len(before) + 2


def test_another_install_reads_and_writes_nothing_of_it_and_names_the_owner(installs: Installs) -> None:
    installs.deploy()
    change = to_more(installs.green)
    installs.blue.write(PIPELINE, to_more(installs.blue))
    claimed = installs.sdep()
    for attempt in (
        lambda: installs.green.read(PIPELINE),
        lambda: installs.green.write(PIPELINE, change),
        lambda: installs.green.rollout(PIPELINE, change),
    ):
        with pytest.raises(DriftError, match="belongs to install 'blue'; this is install 'green'"):
            attempt()
    assert installs.sdep()["metadata"] == claimed["metadata"]


def test_of_two_that_claim_at_once_one_does(installs: Installs) -> None:
    """Both have read it unclaimed; the patch of the slower one is for a version that is gone."""
    installs.deploy()
    change = to_more(installs.green)
    done: list[str] = []

    slow = installs.client.within(10.0)
    plain_patch = slow.patch

    def patch(*args: object, **options: object) -> Json:
        if not options.get("dry_run") and not done:
            done.append(installs.blue.write(PIPELINE, to_more(installs.blue)))
        return plain_patch(*args, **options)  # type: ignore[arg-type]

    slow.patch = patch  # type: ignore[method-assign]
    with pytest.raises(ConflictError):
        KubeWorkload(slow, layout_of, "green").write(PIPELINE, change)
    assert done and owner_of(installs.sdep()) == "blue"


def test_other_annotations_stay_and_a_change_of_the_owner_adds_nothing(installs: Installs) -> None:
    installs.deploy()
    installs.kube.edit("models", "sample", lambda it: it["metadata"].update(annotations={"team": "vision"}))
    installs.blue.write(PIPELINE, to_more(installs.blue))
    assert installs.sdep()["metadata"]["annotations"] == {"team": "vision", ANNOTATION: "blue"}
    back = Change("d-2", "sample", installs.blue.read(PIPELINE).revision, MORE, CONFIGS, 60.0)
    installs.kube.requests.clear()
    installs.blue.write(PIPELINE, back)
    (sent,) = [each for each in installs.kube.requests if each.verb == "patch" and not each.is_dry_run]
    assert [each["op"] for each in sent.body if "annotations" in each["path"]] == ["test"]


def test_without_its_claim_it_is_anyone_s(installs: Installs) -> None:
    installs.deploy("blue")
    with pytest.raises(DriftError, match="'blue'") as refused:
        installs.green.read(PIPELINE)
    assert "kubectl annotate seldondeployment sample -n models ipa-serving/install-" in refused.value.hint
    installs.kube.edit("models", "sample", lambda sdep: sdep["metadata"].pop("annotations"))
    installs.green.write(PIPELINE, to_more(installs.green))
    assert owner_of(installs.sdep()) == "green"


def entry(manager: str, time: str, field: str = "f:spec", subresource: str = "") -> Json:
    made: Json = {"manager": manager, "operation": "Update", "time": time, "fieldsV1": {field: {}}}
    return {**made, "subresource": subresource} if subresource else made


@pytest.mark.parametrize(
    ("entries", "who"),
    [
        (None, ""),
        ([], ""),
        ([entry("kubectl-edit", "2026-11-24T10:00:00Z")], "kubectl-edit at 2026-11-24T10:00:00Z"),
        ([entry("kubectl", "2026-11-24T10:00:00Z"), entry("ipa-serving", "2026-11-24T11:00:00Z")], ""),
        (
            [entry("argocd", "2026-11-24T12:00:00Z"), entry("ipa-serving", "2026-11-24T11:00:00Z")],
            "argocd at 2026-11-24T12:00:00Z",
        ),
        (
            [
                entry("kubectl", "2026-11-24T10:00:00Z", subresource="scale"),
                entry("manager", "2026-11-24T12:00:00Z", subresource="status"),
                entry("labeler", "2026-11-24T12:00:00Z", "f:metadata"),
            ],
            "kubectl at 2026-11-24T10:00:00Z",
        ),
        ([{"manager": None, "fieldsV1": {"f:spec": {}}}, "nonsense"], ""),
    ],
)
def test_the_newest_change_of_the_spec_beside_ours_counts(entries: list[Json] | None, who: str) -> None:
    assert last_hand({"metadata": {"managedFields": entries}}) == who


def test_a_refusal_names_the_hand(kube: FakeKube, workload: KubeWorkload) -> None:
    def edit(sdep: Json) -> None:
        sdep["metadata"]["managedFields"] = [entry("argocd", "2026-11-24T12:00:00Z")]
        sdep["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]["image"] = "theirs:1"

    kube.edit("models", "sample", edit)
    with pytest.raises(DriftError) as caught:
        workload.read(PIPELINE)
    assert "its spec was last changed by argocd at 2026-11-24T12:00:00Z" in str(caught.value)
