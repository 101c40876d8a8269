"""Keys of pipeline files that a target cannot honour: refused with the remedy, and only there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ipa.bootstrap.targets import check_carried, find_target
from ipa.files import load_pipeline, load_profiles
from ipa.model.errors import InputError, UsageError
from ipa.model.pipeline import Canary, Edge, Pipeline
from ipa.policies.planning import planning_problem
from ipa.settings import Settings
from ipa.targets.base import Target, target_named, targets
from ipa.targets.local.target import LOCAL
from ipa.targets.seldon.section import Shape, with_seldon
from ipa.targets.seldon.target import SELDON
from ipa.targets.seldon.variants import REQUEST_S
from ipa.targets.simulated.target import SIMULATED
from tests.fakes.commands import Ipa
from tests.fakes.kube.samples import sample_pipeline

SINGLE = sample_pipeline()
SPLIT = with_seldon(SINGLE, shape=Shape.SPLIT, image="registry.example/ipa:1")
BRANCH = replace(SINGLE.stages[1], name="also", after=(Edge(SINGLE.stages[0].name),))
FORKED = replace(SINGLE, stages=(*SINGLE.stages, BRANCH))
RESIDENT = replace(SINGLE, stages=tuple(replace(stage, resident="all") for stage in SINGLE.stages))


def keys(target: Target, pipeline: Pipeline) -> list[str]:
    return [fault.key for fault in target.unhonoured(pipeline)]


def test_what_every_target_honours_is_refused_by_none() -> None:
    assert [keys(target, SINGLE) for target in targets()] == 5 * [[]]
    assert keys(SELDON, SPLIT) == []


@pytest.mark.parametrize(
    ("target", "pipeline", "refused"),
    [
        (SELDON, replace(SINGLE, drop_after_s=2.0), ["drop_after"]),
        (SELDON, replace(SPLIT, drop_after_s=2.0), []),
        (LOCAL, replace(SINGLE, drop_after_s=2.0), []),
        (SIMULATED, replace(SINGLE, drop_after_s=2.0), []),
        (SELDON, replace(SINGLE, sets=True), []),
        (SELDON, replace(SPLIT, sets=True), ["sets"]),
        (LOCAL, replace(SINGLE, sets=True), []),
        (SELDON, replace(SINGLE, canary=Canary()), []),
        (SELDON, replace(SPLIT, canary=Canary()), ["canary"]),
        (LOCAL, replace(SINGLE, canary=Canary()), []),
        (SIMULATED, replace(SINGLE, canary=Canary()), []),
        (SELDON, RESIDENT, ["resident"]),
        (SELDON, with_seldon(RESIDENT, shape=Shape.SPLIT, image="i"), ["resident"]),
        (SELDON, with_seldon(RESIDENT, ignores=("resident",)), []),
        (LOCAL, RESIDENT, []),
        (SIMULATED, RESIDENT, []),
        (SELDON, FORKED, []),
        (SELDON, with_seldon(FORKED, shape=Shape.SPLIT, image="i"), ["graph"]),
        (LOCAL, FORKED, ["graph"]),
        (SELDON, with_seldon(SINGLE, image="registry.example/ipa:1"), ["seldon.image"]),
        (SELDON, with_seldon(SINGLE, queue_cores=2.0), ["seldon.queue_cores"]),
        (SELDON, with_seldon(SPLIT, queue_cores=2.0), []),
        (SELDON, with_seldon(SINGLE, separate_orchestrator=False), []),
        (SELDON, with_seldon(SPLIT, separate_orchestrator=False), ["seldon.separate_orchestrator"]),
        (SELDON, with_seldon(replace(SINGLE, drop_after_s=2.0), ignores=("drop_after",)), []),
        (SELDON, with_seldon(replace(SINGLE, drop_after_s=2.0), ignores=("sets",)), ["drop_after"]),
    ],
)
def test_a_key_without_effect_is_named_where_it_has_none(
    target: Target, pipeline: Pipeline, refused: list[str]
) -> None:
    assert keys(target, pipeline) == refused
    for fault in target.unhonoured(pipeline):
        assert fault.why and fault.remedy


def test_a_hop_takes_what_the_section_says_or_what_was_measured_for_the_shape() -> None:
    hops_s = {
        name: {stage.hop_s for stage in SELDON.shape(pipeline, {}).stages}
        for name, pipeline in {
            "single": SINGLE,
            "split": SPLIT,
            "own": with_seldon(SPLIT, hop_s=0.02),
            "none": with_seldon(SINGLE, hop_s=0.0),
        }.items()
    }
    assert hops_s == {"single": {0.003}, "split": {0.005}, "own": {0.02}, "none": {0.0}}
    assert {stage.hop_s for stage in LOCAL.shape(SINGLE, {}).stages} == {0.0}


def test_each_request_of_a_batch_is_received_where_replicas_form_their_batches() -> None:
    """It takes 1 ms of a core, or as long as the quickest answer on these cores if that is less."""
    digits = load_pipeline(Path("pipelines/digits/pipeline.yaml"))
    profiles = load_profiles(Path("profiles"), digits.name)
    single = replace(digits, stages=tuple(replace(it, request_s=REQUEST_S) for it in digits.stages))
    apart, together = (
        {
            (it.variant, it.cores, it.batch_size): it
            for it in planning_problem(each, profiles, 1.0).stages[0].points
        }
        for each in (single, digits)
    )
    for variant, cores, batch_size in together:
        at = variant, cores, batch_size
        more_s = apart[at].mean_s - together[at].mean_s
        assert apart[at].latency_s - together[at].latency_s == pytest.approx(more_s)
        longer_s = batch_size / apart[at].capacity_rps - batch_size / together[at].capacity_rps
        assert longer_s == pytest.approx(more_s)
        quickest_s = min(it.mean_s for it in together.values() if it.cores == cores)
        assert more_s == pytest.approx((batch_size - 1) * min(REQUEST_S / min(cores, 1.0), quickest_s))


@pytest.mark.parametrize(
    ("pipeline", "key", "shape"),
    [
        (replace(SINGLE, drop_after_s=2.0), "drop_after", "split"),
        (replace(SPLIT, sets=True), "sets", "single"),
        (with_seldon(FORKED, shape=Shape.SPLIT, image="i"), "graph", "single"),
        (RESIDENT, "resident", ""),
    ],
)
def test_the_remedy_names_the_shape_that_honours_the_key(pipeline: Pipeline, key: str, shape: str) -> None:
    (fault,) = SELDON.unhonoured(pipeline)
    assert fault.key == key
    assert ("shape: " in fault.remedy) == bool(shape)
    assert fault.remedy.endswith(f"or use `seldon: {{shape: {shape}}}`") == bool(shape)


def test_an_orchestrators_cores_are_rendered_if_they_are_not_the_operators_own() -> None:
    (made,) = SELDON.render(SINGLE, SELDON.smallest(SINGLE))
    assert made["spec"]["predictors"][0]["svcOrchSpec"] == {"replicas": 1}
    (made,) = SELDON.render(with_seldon(SINGLE, orchestrator_cores=1.5), SELDON.smallest(SINGLE))
    assert made["spec"]["predictors"][0]["svcOrchSpec"] == {
        "replicas": 1,
        "resources": {"requests": {"cpu": "1500m"}},
    }


@pytest.fixture
def house(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the pipeline video, which says `drop_after` and does not let Seldon ignore it."""
    (tmp_path / "profiles").symlink_to(root / "profiles")
    given = yaml.safe_load((root / "pipelines/video/pipeline.yaml").read_text())
    del given["seldon"]["ignores"]
    path = tmp_path / "pipelines" / "video" / "pipeline.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(yaml.safe_dump(given))
    (tmp_path / "runs").mkdir()
    monkeypatch.setenv("IPA_LEADER_ELECTION", "off")
    monkeypatch.chdir(tmp_path)
    return path


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["render", "video"], 65),
        (["plan", "video", "--rate", "5", "--at", "kubernetes"], 65),
        (["simulate", "video", "--target", "kubernetes", "--minutes", "0.1"], 65),
        (["serve", "video", "--target", "kubernetes", "--port", "0"], 65),
    ],
)
def test_every_way_to_the_target_refuses_it(house: Path, words: list[str], code: int, ipa: Ipa) -> None:
    refused = ipa(*words, code=code).err
    assert "drop_after: Seldon in shape single drops no request by its age" in refused
    assert "leave it out" in refused


def test_validate_says_what_would_be_refused(house: Path, ipa: Ipa) -> None:
    assert "refused on target kubernetes: drop_after" in "".join(ipa("validate"))
    ipa("plan", "video", "--rate", "5")


def test_sets_need_a_policy_that_has_them() -> None:
    target = find_target(Settings(target="kubernetes"))
    check_carried(target, [replace(SINGLE, sets=True)], "infadapter")
    for policy in ("ours", "hpa"):
        with pytest.raises(UsageError, match=f"of sample has no effect: the policy {policy}") as refused:
            check_carried(target, [replace(SINGLE, sets=True)], policy)
        assert "policy infadapter" in (refused.value.hint or "")
    with pytest.raises(InputError, match="no effect on target kubernetes"):
        check_carried(target, [replace(SINGLE, drop_after_s=2.0)], "ours")


def test_the_table_of_the_documentation_says_the_same(root: Path) -> None:
    columns = (LOCAL, SINGLE), (SELDON, SINGLE), (SELDON, SPLIT), (SIMULATED, SINGLE)
    changes: dict[str, dict[str, object]] = {
        "`drop_after`": {"drop_after_s": 2.0},
        "`sets`": {"sets": True},
        "`canary`": {"canary": Canary()},
        "`graph` that is no chain": {"stages": FORKED.stages},
    }
    text = (root / "docs/explanation/targets.md").read_text()
    for key, change in changes.items():
        cells = [
            "refused" if target.unhonoured(replace(pipeline, **change)) else "yes"  # type: ignore[arg-type]
            for target, pipeline in columns
        ]
        assert f"| {key} | {' | '.join(cells)} |" in text


def test_a_target_is_found_by_either_name_and_an_unknown_one_is_named() -> None:
    assert target_named("seldon") is target_named("kubernetes") is SELDON
    with pytest.raises(UsageError, match="there is no target 'moon'") as refused:
        target_named("moon")
    assert "kubernetes" in (refused.value.hint or "")


def test_what_a_target_cannot_do_is_refused_by_its_name() -> None:
    for ask in (lambda: LOCAL.in_namespace(SINGLE, "a"), lambda: LOCAL.render(SINGLE, ())):
        with pytest.raises(UsageError, match="target local cannot"):
            ask()
