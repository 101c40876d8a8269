"""Resident variants in shape split: what is rendered, read, refused, written, and what a change costs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ipa.control.engine.transition import safe_step
from ipa.model.errors import InputError
from ipa.model.measured import resident_variants
from ipa.model.pipeline import MeasuredVariant, Pipeline
from ipa.model.plan import StageConfig
from ipa.model.resources import Resources
from ipa.model.rolling import DEPLOYMENT, waves
from ipa.simulate.cluster import SimCluster
from ipa.targets.seldon.layouts import layout_of, parts_of
from ipa.targets.seldon.section import Shape, seldon_of, with_seldon
from ipa.targets.seldon.target import REQUEUE_S, SELDON
from ipa.targets.seldon.variants import at_cluster
from tests.contract.kube_harness import split
from tests.fakes.kube.samples import sample_pipeline

Json = dict[str, Any]
# Seconds of a core for an item, and accuracy.
MEASURED = {"r-s": (0.02, 50.0), "r-m": (0.04, 60.0), "r-l": (0.08, 70.0)}


def pipeline(resident: int | str = "all", **run: Any) -> Pipeline:
    """One stage of three variants that one container can serve, as it runs on Seldon."""
    whole = split(sample_pipeline())
    stage = whole.stages[1]

    def alike(variant: Any, changes: Json) -> Any:
        env = {"MLSERVER_MODEL_EXTRA": json.dumps({"size": variant.name}), "THREADS": "1"}
        made = replace(seldon_of(variant), implementation="shop.Read", env=env, memory_gib=1.0)
        return replace(variant, targets={"seldon": replace(made, **changes)})

    small, *others = stage.variants
    variants = (alike(small, {}), *(alike(other, run) for other in others))
    stage = replace(stage, after=(), resident=resident, variants=variants)
    measured = {
        ("read", name): MeasuredVariant(accuracy, Resources(memory_gib=1.5), item_s, (item_s, item_s / 2))
        for name, (item_s, accuracy) in MEASURED.items()
    }
    made = replace(whole, stages=(stage,), bounds=replace(whole.bounds, measured=measured))
    return replace(at_cluster(made), bounds=replace(at_cluster(made).bounds, measured=measured))


PIPELINE, PAIRS = pipeline(), pipeline(2)
SMALL = StageConfig("read", "r-s", 1, 0.5, 2)


def bodies(of: Pipeline, config: StageConfig) -> dict[str, Json]:
    made = {body["metadata"]["name"]: body for body in layout_of(of).render([config])}
    return {role: made[f"sample-reader-{role}"] for role in ("model", "queue")}


def container(body: Json) -> Json:
    found: Json = body["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]
    return found


def env_of(body: Json) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container(body)["env"]}


def test_the_container_has_every_variant_and_the_queue_asks_for_one() -> None:
    made = bodies(PIPELINE, replace(SMALL, variant="r-l"))
    model, queue = env_of(made["model"]), env_of(made["queue"])
    models = json.loads(model["IPA_MODELS"])
    assert list(models) == ["reader--r-s", "reader--r-m", "reader--r-l"]
    assert models["reader--r-m"] == {
        "MLSERVER_MODEL_EXTRA": '{"size": "r-m"}',
        "MLSERVER_MODEL_IMPLEMENTATION": "shop.Read",
    }
    # What is not of one model is of the container.
    assert model.keys() == {"IPA_MODELS", "THREADS"}
    given = container(made["model"])
    assert given["command"] == ["python", "-m", "ipa.dataplane.stage"]
    assert given["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    # As plans count it: what was measured is more than what the file requests.
    assert given["resources"]["limits"]["memory"] == "3072Mi"
    assert queue["IPA_MODEL"] == "reader--{variant}"
    assert (queue["IPA_VARIANT"], queue["IPA_LIGHTER"], queue["IPA_HEAVIER"]) == ("r-l", "r-m r-s", "")
    assert queue["IPA_PROFILED_S"] == "r-l=0.08,0.04 r-m=0.04,0.02 r-s=0.02,0.01"


def test_a_number_makes_groups_that_a_pod_has_loaded_together() -> None:
    assert PAIRS.stages[0].resident_groups == (("r-s", "r-m"), ("r-l",))
    assert resident_variants(PAIRS, "read", "r-m") == ("r-m", "r-s")
    made = bodies(PAIRS, replace(SMALL, variant="r-m"))
    assert list(json.loads(env_of(made["model"])["IPA_MODELS"])) == ["reader--r-s", "reader--r-m"]
    assert env_of(made["queue"])["IPA_RESIDENTS"] == "r-s,r-m r-l"
    assert env_of(made["queue"])["IPA_LIGHTER"] == "r-s"
    least = env_of(bodies(PAIRS, SMALL)["queue"])
    assert (least["IPA_LIGHTER"], least["IPA_HEAVIER"]) == ("", "r-m"), "the third is in another group"


@pytest.mark.parametrize("of", [PIPELINE, PAIRS])
@pytest.mark.parametrize("variant", MEASURED)
def test_what_is_rendered_is_read_back(of: Pipeline, variant: str) -> None:
    config = replace(SMALL, variant=variant, batch_size=4)
    objects = {body["metadata"]["name"]: body for body in layout_of(of).render([config])}
    assert layout_of(of).observe(objects).configs == (config,)
    # Other figures in a profile, and so other lighter variants, are no drift.
    other = replace(of, bounds=replace(of.bounds, measured={}))
    assert layout_of(other).observe(objects).configs == (config,)


def test_between_two_writes_the_variant_is_the_one_that_the_queue_takes_instead() -> None:
    before, after = (
        {body["metadata"]["name"]: body for body in layout_of(PAIRS).render([config])}
        for config in (SMALL, replace(SMALL, variant="r-l"))
    )
    name = "sample-reader-queue"
    for models, queues, variant in ((after, before, "r-l"), (before, after, "r-m")):
        found = layout_of(PAIRS).observe({**models, name: queues[name]}).configs
        assert [it.variant for it in found] == [variant]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"image": "registry.example/read:2"}, "of stage read its variants have different images"),
        ({"model_uri": "s3://models/read"}, "a model_uri, loads one model"),
        ({"implementation": "SKLEARN_SERVER"}, "a prepackaged server"),
        ({"implementation": None}, "name an `implementation`"),
        ({"env": {"THREADS": "4"}}, "its variants differ in env THREADS"),
    ],
)
def test_variants_that_one_container_cannot_serve_are_refused(change: Json, why: str) -> None:
    made = pipeline("all", **change)
    (fault,) = SELDON.unhonoured(made)
    assert fault.key == "resident" and why in fault.why and "one image" in fault.remedy
    with pytest.raises(InputError, match="cannot keep variants resident"):
        parts_of(made)
    ignored = with_seldon(made, ignores=("resident",))
    assert not SELDON.unhonoured(ignored) and at_cluster(ignored).bounds
    assert {part.groups for part in parts_of(ignored)} == {()}


def test_shape_single_refuses_it_and_names_the_other() -> None:
    single = with_seldon(PIPELINE, shape=Shape.SINGLE, image=None)
    (fault,) = SELDON.unhonoured(single)
    assert fault.key == "resident" and fault.remedy.endswith("or use `seldon: {shape: split}`")
    assert not SELDON.unhonoured(PIPELINE)


def test_only_the_queue_is_written_for_a_variant_that_is_loaded() -> None:
    layout = layout_of(PAIRS)

    def written(now: StageConfig = SMALL, **changes: Any) -> list[str]:
        objects = {body["metadata"]["name"]: body for body in layout.render([now])}
        found = layout.changes(objects, [replace(now, **changes)])
        return [each.name.rpartition("-")[2] for each in found]

    assert written(variant="r-m") == written(variant="r-m", batch_size=4) == ["queue"]
    assert written(variant="r-l") == ["model", "queue"]
    assert written(replicas=3) == ["model"]
    # To a lighter variant before replicas go, to another once there are more.
    assert written(variant="r-m", replicas=3) == ["model", "queue"]
    assert written(replace(SMALL, variant="r-m"), variant="r-s", replicas=1) == ["queue", "model"]


def test_a_switch_costs_no_pod_and_one_beyond_the_loaded_is_a_rolling_change() -> None:
    rolling = DEPLOYMENT.of(PAIRS)
    assert rolling.together == (("read", "r-m", "r-s"), ("read", "r-l"))
    near, far = replace(SMALL, variant="r-m", batch_size=4), replace(SMALL, variant="r-l")
    assert rolling.is_switch(SMALL, near) and waves(SMALL, near, rolling) == 0
    assert not rolling.keeps_replicas(SMALL, far) and waves(SMALL, far, rolling) == 2
    assert not rolling.keeps_replicas(SMALL, replace(near, cores=1.0))
    assert DEPLOYMENT.of(PIPELINE).keeps_replicas(SMALL, far)


def test_no_capacity_goes_where_replicas_change_with_the_variant() -> None:
    rolling = DEPLOYMENT.of(PIPELINE)

    def first(now: StageConfig, then: StageConfig) -> StageConfig:
        step = safe_step((now,), (then,), rolling, PIPELINE.bounds, lambda _: False, lambda _: False)
        return step.configs[0]

    heavy = replace(SMALL, variant="r-l", replicas=4)
    assert first(SMALL, heavy) == replace(SMALL, replicas=4)
    assert first(heavy, SMALL) == replace(SMALL, replicas=4)
    many = replace(SMALL, replicas=6)
    # What relieves an overload does not wait.
    assert first(heavy, many) == many


def test_the_simulated_queue_switches_when_its_pod_is_replaced_and_starts_no_other() -> None:
    settings, _ = SELDON.simulation(PAIRS)
    assert settings.requeue_s == REQUEUE_S
    settings = replace(settings, rolling=settings.rolling.of(PAIRS))
    made = SimCluster([SMALL], settings, startup_s=lambda _: 30.0, bounds=PAIRS.bounds)

    def serving() -> list[tuple[str, int, int]]:
        return [(it.variant, it.batch_size, it.replicas) for _, it in made.serving("read")]

    cores = made.cores
    made.change([replace(SMALL, variant="r-m", batch_size=4)], "1", 100.0)
    assert serving() == [("r-s", 1, 2)] and not made.settled
    assert made.next_event_s() == 100.0 + REQUEUE_S
    made.advance(100.0 + REQUEUE_S)
    assert serving() == [("r-m", 4, 2)] and made.settled and made.cores == cores
    made.change([replace(SMALL, variant="r-l", batch_size=4)], "2", 200.0)
    assert made.cores > cores, "pods that have it loaded start beside the others"
    made.advance(230.0)
    assert serving() == [("r-m", 4, 1), ("r-l", 4, 1)]
