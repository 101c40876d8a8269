"""Shape split: what it renders, what a change touches, in which order, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.control.ports import Rollout, RolloutPhase
from ipa.model.errors import (
    ConflictError,
    DriftError,
    InputError,
    NotFoundError,
    UnavailableError,
)
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.targets.seldon.layouts import layout_of, parts_of
from ipa.targets.seldon.section import SeldonRun, SeldonTarget, Shape, with_seldon
from ipa.targets.seldon.target import SELDON
from tests.amounts import many
from tests.contract.kube_harness import split
from tests.fakes.kube import FaultKind
from tests.fakes.kube.api import Request
from tests.fakes.kube.samples import sample_configs, sample_pipeline
from tests.fakes.kube.store import ApiError
from tests.unit.targets.conftest import World

Json = dict[str, Any]
Configs = tuple[StageConfig, ...]
PIPELINE = replace(split(sample_pipeline()), drop_after_s=2.0)
CONFIGS = sample_configs()


def config(stage: str, **changes: Any) -> StageConfig:
    return replace(next(one for one in CONFIGS if one.stage == stage), **changes)


def component_of(body: Json) -> Any:
    return body["spec"]["predictors"][0]["componentSpecs"][0]


def env_of(body: Json) -> dict[str, str]:
    env = component_of(body)["spec"]["containers"][0]["env"]
    return {entry["name"]: entry["value"] for entry in env}


def test_models_and_queues_come_before_the_router_which_knows_them() -> None:
    bodies = {body["metadata"]["name"]: body for body in layout_of(PIPELINE).render(CONFIGS)}
    assert list(bodies) == [
        *("sample-detect-model", "sample-reader-model", "sample-sort-model"),
        *("sample-detect-queue", "sample-reader-queue", "sample-sort-queue"),
        "sample-router",
    ]
    router = env_of(bodies["sample-router"])
    assert router["IPA_STAGES"].split() == [
        "detect=http://sample-detect-queue-main.models:9000",
        "read=http://sample-reader-queue-main.models:9000",
        "sort=http://sample-sort-queue-main.models:9000",
    ]
    assert router["IPA_DROP_AFTER_S"] == "2"
    queue = env_of(bodies["sample-reader-queue"])
    # The stage's model answers under the name of its graph node, which is its container's.
    assert (queue["IPA_STAGE"], queue["IPA_MODEL"]) == ("read", "reader")
    assert queue["IPA_MODEL_URL"] == "http://sample-reader-model-main.models:9000"
    assert queue["MLSERVER_MODEL_MAX_BATCH_SIZE"] == "1"
    assert env_of(bodies["sample-sort-queue"])["MLSERVER_MODEL_MAX_BATCH_SIZE"] == "4"
    # Batches are formed once.
    assert not any("BATCH" in name for name in env_of(bodies["sample-sort-model"]))
    model = bodies["sample-detect-model"]["spec"]
    assert model["annotations"] == {"seldon.io/headless-svc": "true"}
    for body in bodies.values():
        assert body["spec"]["predictors"][0]["annotations"] == {"seldon.io/no-engine": "true"}
        assert body["metadata"]["namespace"] == "models"


def test_a_graph_that_is_no_chain_is_refused() -> None:
    first, *others = PIPELINE.stages
    with pytest.raises(InputError, match="supports only chains"):
        parts_of(replace(PIPELINE, stages=(first, *others[::-1])))


def test_what_cannot_be_rendered_says_what_is_missing() -> None:
    with pytest.raises(InputError, match="has no image") as refused:
        layout_of(with_seldon(PIPELINE, image=None)).render(CONFIGS)
    assert "shape: split, image" in refused.value.hint


def test_a_batch_size_touches_the_queue_only(world: World) -> None:
    world.write(config("read", batch_size=4))
    assert world.written() == ["sample-reader-queue"]
    changed = [op for op in world.kube.writes[0].body if op["op"] != "test"]
    assert [(op["op"], op["value"]) for op in changed] == [("replace", "4")]
    assert world.running() == (CONFIGS[0], config("read", batch_size=4), CONFIGS[2])


def test_every_patch_is_tried_before_the_first_is_sent(world: World) -> None:
    world.write(config("detect", batch_size=8, variant="d-l"), config("sort", replicas=3))
    patches = [request for request in world.kube.requests if request.verb == "patch"]
    assert [request.is_dry_run for request in patches] == [True] * 3 + [False] * 3
    assert world.written() == ["sample-sort-model", "sample-detect-queue", "sample-detect-model"]
    for request in patches:
        assert [each["path"] for each in request.body[:2]] == ["/metadata/uid", "/metadata/generation"]


REFUSED, DOWN = ApiError(409, "Conflict", "moved"), ApiError(503, "ServiceUnavailable", "down")
HALF = ["sample-sort-model", "sample-detect-queue"]


@pytest.mark.parametrize(
    ("errors", "error", "words", "written"),
    [
        # Back the way it came: the last written first.
        ([REFUSED], ConflictError, "the 2 objects written before it were restored", HALF + HALF[::-1]),
        ([DOWN], UnavailableError, "2 of 3 objects of the change are written", HALF),
        ([REFUSED, DOWN], UnavailableError, "undoing it failed too", HALF),
    ],
)
def test_a_failure_half_way_leaves_what_was_or_a_prefix(
    world: World, errors: list[ApiError], error: type[Exception], words: str, written: list[str]
) -> None:
    change = world.change(config("detect", batch_size=8, variant="d-l"), config("sort", replicas=3))
    left, sent = list(errors), list[str]()

    def before(request: Request) -> None:
        if request.verb == "patch" and not request.is_dry_run:
            sent.append(request.name)
            if left and len(sent) > 2:
                raise left.pop(0)

    world.kube.before = before
    with pytest.raises(error, match=words):
        world.workload.write(PIPELINE, change)
    assert world.written() == written
    prefix = (config("detect", batch_size=8), CONFIGS[1], config("sort", replicas=3))
    assert world.running() == (CONFIGS if len(written) > 2 else prefix)
    # What was there already is not written again.
    world.write(*change.configs)
    assert world.running() == change.configs
    assert len(world.written()) == len(written) + (3 if len(written) > 2 else 1)


def test_an_answer_that_is_lost_half_way_does_not_stop_the_change(world: World) -> None:
    change = world.change(config("detect", batch_size=8, variant="d-l"))
    world.kube.fault(FaultKind.LOST_AFTER, verb="patch", is_dry_run=False)
    revision = world.workload.write(PIPELINE, change)
    assert world.workload.read(PIPELINE).revision == revision
    assert world.running() == change.configs
    assert len(world.written()) == 2


def test_a_hand_between_two_patches_is_not_overwritten(world: World) -> None:
    change = world.change(config("detect", batch_size=8, variant="d-l"))

    def before(request: Request) -> None:
        if (request.verb, request.name) == ("patch", "sample-detect-model") and not request.is_dry_run:
            world.kube.before = None
            world.kube.edit("models", request.name, lambda it: component_of(it).update(replicas=3))

    world.kube.before = before
    with pytest.raises(ConflictError):
        world.workload.write(PIPELINE, change)
    assert world.running()[0] == config("detect", replicas=3)


@pytest.mark.parametrize("stage", ["detect", "sort"])
def test_a_change_that_another_writer_put_back_is_not_waited_for(world: World, stage: str) -> None:
    """Of a model (replicas) and of its queue (batch size), both put back to what was before."""
    before = config(stage)
    unwritten = change = world.change(replace(before, replicas=before.replicas + 1, batch_size=2))
    # What reads as before the write, at the revision before it, may be older than the write.
    assert world.workload.rollout(PIPELINE, unwritten).phase is RolloutPhase.READY
    names = [f"sample-{stage}-{role}" for role in ("model", "queue")]
    specs = {name: world.kube.store.get("seldondeployments", "models", name)["spec"] for name in names}
    world.workload.write(PIPELINE, change)
    for name in world.written():
        world.kube.edit("models", name, lambda sdep, name=name: sdep.update(spec=specs[name]))
    assert world.running() == CONFIGS
    rollout = world.workload.rollout(PIPELINE, change)
    assert rollout == Rollout(RolloutPhase.REPLACED, "another writer replaced the change")


def test_parts_that_are_missing_are_named(world: World) -> None:
    for name in ("sample-router", "sample-sort-model"):
        world.kube.store.delete("seldondeployments", "models", name)
    with pytest.raises(NotFoundError, match=r"sample-sort-model, sample-router not found .* 5 of 7"):
        world.workload.read(PIPELINE)


def test_batching_in_the_model_or_another_queue_is_drift_of_that_object(world: World) -> None:
    def append(name: str, value: str) -> Callable[[Json], None]:
        # Of several, Kubernetes takes the last.
        entry = {"name": name, "value": value}
        return lambda sdep: component_of(sdep)["spec"]["containers"][0]["env"].append(entry)

    world.kube.edit("models", "sample-reader-model", append("MLSERVER_MODEL_MAX_BATCH_SIZE", "4"))
    world.kube.edit("models", "sample-router", append("IPA_STAGES", "detect=http://other:1"))
    with pytest.raises(DriftError) as drifted:
        world.workload.read(PIPELINE)
    problems = [problem.message for problem in drifted.value.problems]
    assert len(problems) == 2
    assert problems[0].startswith("sample-reader-model: env MLSERVER_MODEL_MAX_BATCH_SIZE is set")
    assert problems[1].startswith("sample-router: ")
    assert "IPA_STAGES" in problems[1]


def test_a_rendered_file_reads_back_and_is_changed_where_it_differs() -> None:
    text = yaml.safe_dump_all(SELDON.render(PIPELINE, CONFIGS), sort_keys=False)
    manifest = SELDON.manifest(PIPELINE, text, "sample.yaml")
    assert manifest.configs() == CONFIGS
    wanted = (config("detect", variant="d-l"), config("read", batch_size=8), CONFIGS[2])
    changed = manifest.changed(wanted)
    assert SELDON.manifest(PIPELINE, changed, "sample.yaml").configs() == wanted
    pairs = zip(text.splitlines(), changed.splitlines(), strict=True)
    differing = [new.strip() for old, new in pairs if old != new]
    assert differing == [
        *("image: registry.example/detect:l", "memory: 2048Mi", "memory: 2048Mi", "value: '8'"),
    ]
    with pytest.raises(NotFoundError, match="has no SeldonDeployment models/sample-detect-model"):
        SELDON.manifest(PIPELINE, yaml.safe_dump_all(SELDON.render(PIPELINE, CONFIGS)[1:]), "sample.yaml")


def test_an_autoscaler_of_a_model_is_named_with_its_stage_and_one_of_a_queue_is_let_be(world: World) -> None:
    for name in ("sample-detect-queue-main-0-queue", "sample-reader-model-main-0-reader"):
        world.running()
        target = {"scaleTargetRef": {"kind": "Deployment", "name": name}}
        body = {"metadata": {"name": f"hpa-{name}"}, "spec": target}
        world.kube.store.create("horizontalpodautoscalers", "models", body)
    with pytest.raises(DriftError) as drifted:
        world.running()
    (problem,) = drifted.value.problems
    assert problem.message.startswith("stage 'read': HorizontalPodAutoscaler 'hpa-sample-reader-model")


STAGES = ("a", "b", "c")


def variants() -> tuple[Variant, ...]:
    return tuple(Variant(name, {"seldon": SeldonRun(f"registry.example/{name}:1")}) for name in "sml")


LAYOUT = layout_of(
    Pipeline(
        "ordered",
        chain([Stage(name, variants()) for name in STAGES]),
        Sla(1.0),
        {"default": Objective()},
        targets={"seldon": SeldonTarget("ordered", shape=Shape.SPLIT, image="registry.example/ipa:1")},
    )
)


def configs() -> st.SearchStrategy[Configs]:
    one = st.tuples(
        st.sampled_from("sml"),
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from([0.5, 1.0, 2.0]),
        st.integers(1, 6),
    )
    return st.tuples(one, one, one).map(
        lambda rows: tuple(StageConfig(name, *row) for name, row in zip(STAGES, rows, strict=True))
    )


def capacity(config: StageConfig) -> float:
    """Any rate that grows with batch and cores; by variant as it likes."""
    each = {"s": 5.0, "m": 3.0, "l": 1.0}[config.variant]
    return config.replicas * each * config.batch_size**0.4 * config.cores**0.8


def only(now: StageConfig, then: StageConfig, *, grows: bool) -> bool:
    low, high = (now, then) if grows else (then, now)
    return now.variant == then.variant and low.cores <= high.cores and low.replicas <= high.replicas


@settings(max_examples=many(100), deadline=None)
@given(configs(), configs())
def test_every_prefix_of_a_change_is_safe(running: Configs, wanted: Configs) -> None:
    """Each stage carries the less of before and after, and none only shrinks before others have grown."""
    objects = {body["metadata"]["name"]: body for body in LAYOUT.render(running)}
    states, has_shrunk = [running], False
    for name, changed in LAYOUT.changes(objects, wanted).items():
        objects[name] = changed
        states.append(LAYOUT.observe(objects).configs)
        (stage,) = (each for each in STAGES if f"-{each}-" in name)
        at = STAGES.index(stage)
        if name.endswith("-model"):
            assert not (has_shrunk and only(running[at], wanted[at], grows=True))
            has_shrunk = has_shrunk or only(running[at], wanted[at], grows=False)
            assert states[-1] == tuple(
                replace(wanted[at], batch_size=it.batch_size) if it.stage == stage else it
                for it in states[-2]
            )
    assert states[-1] == wanted
    for state in states:
        for now, before, after in zip(state, running, wanted, strict=True):
            assert capacity(now) >= min(capacity(before), capacity(after)) * (1 - 1e-12)
            assert now.batch_size in (before.batch_size, after.batch_size)
            assert now.cores * now.replicas <= max(before.total_cores, after.total_cores) + 1e-12
