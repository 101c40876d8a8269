"""No request gets the rows of another: stages whose output rows vary, in one SeldonDeployment.

The model servers are MLServer with the environment of the rendered container.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ipa.control.engine.state import ChangeRequest
from ipa.control.ports import PipelineControl
from ipa.files import load_pipeline, pipeline_from_mapping, pipeline_to_mapping
from ipa.files.plans import plan_in
from ipa.model.decision import Action, Mode, ReasonCode
from ipa.model.errors import InputError
from ipa.model.parts import with_share
from ipa.model.pipeline import OutputRows, Pin, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.optimize.explain import explain
from ipa.optimize.frontier import frontier
from ipa.optimize.problem import Compat
from ipa.optimize.solve import solve
from ipa.policies.ours import Ours
from ipa.policies.planning import planning_problem
from ipa.policies.profiled import PlannerInputs, Profiled
from ipa.service.checks import checked_configs, pin_problems
from ipa.targets.base import ImportRequest
from ipa.targets.seldon.imported import imported
from ipa.targets.seldon.locate import orchestrator_remedy
from ipa.targets.seldon.manifest import read, render
from ipa.targets.seldon.section import SeldonRun, SeldonTarget, Shape
from ipa.targets.seldon.target import SELDON
from ipa.targets.seldon.variants import at_cluster, unbatched_stages
from tests.fakes.commands import Ipa
from tests.fakes.fan_out_model import rows_of
from tests.fakes.kube import FakeKube, Trouble
from tests.fakes.kube.patching import patch_to
from tests.fakes.looped import PIPELINE, Looped, applied, looped, troubled
from tests.fakes.metrics import NO_SIGNALS
from tests.fakes.model_process import model_server
from tests.fakes.world import PIPELINE as LOCAL
from tests.fakes.world import PROFILES, SMALLEST
from tests.faults.table import Case, variants

ROOT = Path(__file__).resolve().parents[2]
# The row asks for 100 000 of each stage: about ten minutes.
REQUESTS = int(os.environ.get("IPA_FAULT_REQUESTS", "200"))
AT_ONCE = 20
PATIENCE_S = 300.0
FAN_OUT_MODEL = "tests.fakes.fan_out_model"
ROWS = chain(
    [
        Stage(
            name,
            (Variant("one", {"seldon": SeldonRun("rows:1", implementation=f"{FAN_OUT_MODEL}.{kind}")}),),
            batch_timeout_s=0.02,
        )
        for name, kind in (("detect", "Detect"), ("read", "Read"))
    ],
    [2.5],
)
FANS_OUT = replace(LOCAL, name="rows", stages=ROWS, targets={"seldon": SeldonTarget("rows")})
# The pipeline of the loops of other tests, with a first stage that fans out.
VARYING = replace(
    PIPELINE, stages=(replace(PIPELINE.stages[0], output_rows=OutputRows.VARYING), PIPELINE.stages[1])
)
BATCHED = (StageConfig("detect", "small", 4, 1.0, 1), StageConfig("read", "small", 1, 1.0, 1))

Json = dict[str, Any]


def env_of(pipeline: Pipeline, configs: Sequence[StageConfig], stage: str) -> dict[str, str]:
    """The environment that the rendered container of the stage has."""
    predictor = render(pipeline, configs)["spec"]["predictors"][0]
    containers = [one for spec in predictor["componentSpecs"] for one in spec["spec"]["containers"]]
    (container,) = (one for one in containers if one["name"] == stage)
    return {entry["name"]: entry["value"] for entry in container["env"]}


def tensor(name: str, data: Sequence[int]) -> Json:
    return {"name": name, "datatype": "INT64", "shape": [len(data)], "data": [*data]}


def request_of(stage: str, item: int) -> Json:
    """The item that the stage is sent; the orchestrator hands all outputs of the one before on."""
    if stage == "detect":
        return {"inputs": [tensor("item", [item])]}
    return {"inputs": [tensor("row", rows_of(item)), tensor("fan_out", [len(rows_of(item))])]}


async def wrong_answers(url: str, stage: str, count: int) -> int:
    """Of that many requests, many at a time, those that are answered with other rows than their own."""
    # The server closes connections that are idle for 5 s: ours are gone before.
    limits = httpx.Limits(keepalive_expiry=1.0)
    async with httpx.AsyncClient(timeout=PATIENCE_S, limits=limits) as client:
        async with asyncio.timeout(PATIENCE_S):
            while not await _is_ready(client, url):
                await asyncio.sleep(0.05)

        async def is_wrong(item: int) -> bool:
            answer = await client.post(f"{url}/infer", json=request_of(stage, item))
            assert answer.status_code == 200, answer.text
            outputs = {output["name"]: output["data"] for output in answer.json()["outputs"]}
            return bool(outputs["row"] != rows_of(item))

        wrong = 0
        for first in range(0, count, AT_ONCE):
            wrong += sum(await asyncio.gather(*map(is_wrong, range(first, first + AT_ONCE))))
        return wrong


async def _is_ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/ready")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.live
@pytest.mark.timeout(120 + 0.05 * REQUESTS)
@pytest.mark.parametrize("stage", ["detect", "read"])
def test_g8_answers_of_a_stage_that_fans_out_and_of_the_one_after_it(
    stage: str, case: Case, tmp_path: Path
) -> None:
    configs = SELDON.smallest(FANS_OUT)
    env = env_of(FANS_OUT, configs, stage)
    with model_server({**env, "MLSERVER_MODEL_MAX_BATCH_SIZE": "8"}, tmp_path / "batched") as url:
        wrong = asyncio.run(wrong_answers(url, stage, AT_ONCE * 5))
    # It is the batches that make answers wrong: without this the count below would say nothing.
    case.at_least(f"wrong answers of {AT_ONCE * 5} in batches of 8", wrong, 1)
    with model_server(env, tmp_path / "rendered") as url:
        wrong = asyncio.run(wrong_answers(url, stage, REQUESTS))
    case.equal(f"wrong answers of {REQUESTS} as rendered", wrong, 0)


def test_g8_whatever_asks_for_batches_there_is_refused_with_the_remedy(case: Case, tmp_path: Path) -> None:
    pipeline = at_cluster(VARYING)
    running = render(VARYING, SMALLEST)
    # A manifest that another hand wrote.
    running_batched = render(replace(VARYING, stages=PIPELINE.stages), BATCHED)
    pinned = pipeline_to_mapping(VARYING)
    pinned["stages"][0]["pin"] = {"batch_size": 4}
    no_single = pipeline_to_mapping(VARYING)
    no_single["bounds"]["batch_sizes"] = [2, 4]
    parts = (*with_share(SMALLEST, 50), *with_share(BATCHED, 50))
    requests: dict[str, Callable[[], object]] = {
        "render": lambda: SELDON.render(VARYING, BATCHED),
        "two parts": lambda: render(VARYING, parts),
        "patch": lambda: patch_to(VARYING, _live(running), BATCHED),
        "manifest": lambda: SELDON.manifest(VARYING, yaml.safe_dump(running), "x.yaml").changed(BATCHED),
        "manifest that batches, another variant": lambda: SELDON.manifest(
            VARYING, yaml.safe_dump(running_batched), "x.yaml"
        ).changed([replace(BATCHED[0], variant="big"), BATCHED[1]]),
        "request": lambda: checked_configs(pipeline, BATCHED),
        "pin in the file": lambda: pipeline_from_mapping(pinned),
        "no batch size 1 in the file": lambda: pipeline_from_mapping(no_single),
    }
    refused = 0
    for name, ask in requests.items():
        with pytest.raises(InputError) as error:
            ask()
        words = "; ".join(problem.message for problem in error.value.problems)
        assert "stage 'detect'" in words and "shape: split" in words, name
        refused += 1
    case.equal("refused, of 8 ways to ask", refused, len(requests))
    (problem,) = pin_problems(pipeline, "detect", Pin(batch_size=4))
    assert "shape: split" in problem.message
    # What it does not concern is as it was.
    assert SELDON.render(replace(VARYING, stages=PIPELINE.stages), BATCHED)
    split = replace(VARYING, targets={"seldon": SeldonTarget("pages", shape=Shape.SPLIT, image="ipa:1")})
    assert SELDON.render(split, BATCHED)
    packed = (replace(VARYING.stages[0], output_rows=OutputRows.PER_ITEM), VARYING.stages[1])
    assert SELDON.render(replace(VARYING, stages=packed), BATCHED)
    assert checked_configs(VARYING, BATCHED) == BATCHED


def _live(body: Json) -> Json:
    """As a server has it."""
    metadata = {**body["metadata"], "uid": "u", "generation": 1, "resourceVersion": "1"}
    return {**body, "metadata": metadata}


def test_g8_a_saved_plan_and_a_manifest_are_refused_on_the_command_line(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ipa: Ipa
) -> None:
    for name in ("pipelines", "profiles"):
        shutil.copytree(ROOT / name / "ocr", tmp_path / name / "ocr")
    monkeypatch.chdir(tmp_path)
    plan = json.loads(ipa("plan", "ocr", "--rate", "3", "-o", "json").out)
    plan["stages"][0]["batch_size"] = 8
    Path("plan.json").write_text(json.dumps(plan))
    shown = ipa("render", "ocr")
    assert "stage 'detect' has batch size 1 in one SeldonDeployment, since its fan_out is 6" in shown.err
    err = ipa("render", "ocr", "--plan", "plan.json", code=65).err
    case.equal("the remedy", "`seldon: {shape: split}`" in err, True)
    ocr = at_cluster(load_pipeline(Path("pipelines/ocr/pipeline.yaml")))
    manifest = SELDON.manifest(ocr, shown.out, "ocr.yaml")
    with pytest.raises(InputError, match=r"`seldon: \{shape: split\}`"):
        manifest.changed(tuple(plan_in(plan, "the plan").configs))
    assert "stage 'recognise' has batch size 1" in ipa("validate", "pipelines/ocr").err
    planned = json.loads(ipa("plan", "ocr", "--rate", "3", "--at", "kubernetes", "-o", "json").out)
    assert {stage["batch_size"] for stage in planned["stages"]} == {1}
    assert "its fan_out is 6" in planned["note"]


def test_g8_no_kind_of_plan_batches_there(case: Case) -> None:
    pipeline = at_cluster(VARYING)
    configs: list[StageConfig] = []
    batched = 0
    for rate in variants([5.0, 20.0], [1.0, 12.0]):
        problem = planning_problem(pipeline, PROFILES, rate)
        plan = solve(problem, "exact")
        explained = explain(problem, plan, 10.0).alternatives
        configs += [config for each in explained for config in each.outcome.configs]
        configs += plan.configs
        configs += [config for point in frontier(problem, 10.0) for config in point.configs]
        free = planning_problem(VARYING, PROFILES, rate)
        batched += any(config.batch_size > 1 for point in frontier(free, 10.0) for config in point.configs)
    case.note("configurations planned", len(configs))
    case.equal("largest batch planned", max(config.batch_size for config in configs), 1)
    # Off a cluster they would: the limit is what keeps them from it.
    case.at_least("rates at which batches pay elsewhere", batched, 1)


def test_g8_what_is_declared_or_measured_says_where_rows_vary(case: Case) -> None:
    def why(pipeline: Pipeline, rows: tuple[int, int] | None = None) -> dict[str, str]:
        variant = VariantProfile("one", 0.5, (ProfilePoint(1.0, 1, 0.1),), rows_per_item=rows)
        profile = StageProfile("rows", "detect", (variant,), "made up", date(2026, 1, 1), "made up")
        return dict(unbatched_stages(pipeline, {"detect": profile}))

    one_for_one = replace(FANS_OUT, stages=chain(ROWS))
    packed = replace(
        FANS_OUT,
        stages=(replace(ROWS[0], output_rows=OutputRows.PER_ITEM), replace(ROWS[1], after=ROWS[1].after)),
    )
    assert why(FANS_OUT) == {
        "detect": "its fan_out is 2.5",
        "read": "it is given the fan_out of stage 'detect' as an input",
    }
    assert why(one_for_one) == why(one_for_one, (1, 1)) == why(packed) == {}
    assert list(why(one_for_one, (0, 2))) == list(why(packed, (0, 3))) == ["detect", "read"]
    last = replace(one_for_one, stages=(ROWS[0], replace(ROWS[1], output_rows=OutputRows.VARYING)))
    assert list(why(replace(last, stages=chain(last.stages)))) == ["read"]
    assert why(replace(FANS_OUT, targets={})) == {}
    assert at_cluster(at_cluster(FANS_OUT)) == at_cluster(FANS_OUT)
    # The file of a last stage with a fan-out says so too, and reads back.
    mapping = pipeline_to_mapping(one_for_one)
    mapping["stages"][1]["fan_out"] = 3
    read_back = pipeline_from_mapping(mapping)
    assert list(why(read_back)) == ["read"]
    assert pipeline_from_mapping(pipeline_to_mapping(read_back)) == read_back
    case.equal("stages of ocr without batches", list(unbatched_stages(_ocr())), ["detect", "recognise"])


def _ocr() -> Pipeline:
    return load_pipeline(ROOT / "pipelines" / "ocr" / "pipeline.yaml")


@contextmanager
def taken_over(folder: Path) -> Iterator[Looped]:
    """A loop over an object that another hand wrote, with batches of a stage whose rows vary."""
    pipeline = at_cluster(VARYING)
    brain = Profiled(PlannerInputs(pipeline, PROFILES, solver="exact"), compat=Compat.PAPER)
    with looped(
        folder,
        pipeline,
        BATCHED,
        written_as=PIPELINE,
        policy=Ours(pipeline, brain.plan),
        predict=brain.predict,
    ) as made:
        yield made


def test_g8_running_batches_are_ended_by_the_loop_with_the_replicas_that_the_load_needs(
    case: Case, tmp_path: Path
) -> None:
    with taken_over(tmp_path) as cluster:
        cluster.rate_rps = 12.0
        decisions = cluster.ticks(20)
        case.equal("ticks until it is written", decisions.index(applied(decisions)[0]), 0)
        case.equal("batch size then", cluster.running()[0].batch_size, 1)
        assert cluster.running()[0].replicas > 1
        assert all(config.batch_size == 1 for each in applied(decisions) for config in each.configs[:1])


def test_g8_running_batches_are_ended_though_the_load_is_not_seen(case: Case, tmp_path: Path) -> None:
    with taken_over(tmp_path) as cluster:
        cluster.metrics.fault = lambda now_s, signals: NO_SIGNALS
        decisions = cluster.ticks(6)
        (change,) = applied(decisions)
        case.equal("reason", change.reason, ReasonCode.REBATCH)
        assert "stage 'detect': batch size 4 in one SeldonDeployment gives requests the rows" in change.detail
        assert cluster.running() == (replace(BATCHED[0], batch_size=1), BATCHED[1])


@pytest.mark.parametrize("mode", [Mode.ADVISORY, Mode.SHADOW, Mode.GUARDED])
def test_g8_a_mode_that_does_not_write_says_so_in_each_decision(
    mode: Mode, case: Case, tmp_path: Path
) -> None:
    with taken_over(tmp_path) as cluster:
        cluster.store.controls[cluster.pipeline.name] = PipelineControl(mode=mode)
        decisions = cluster.ticks(3)
        assert not applied(decisions)
        notices = [each for each in decisions if "gives requests the rows of others" in each.detail]
        case.equal("decisions that say so", len(notices), len(decisions))


def test_g8_what_is_taken_back_is_not_the_batches_of_another_hand(case: Case, tmp_path: Path) -> None:
    with taken_over(tmp_path) as cluster:
        cluster.kube.cluster.trouble_of = troubled(Trouble.CRASH, "big")
        wanted = (StageConfig("detect", "big", 1, 1.0, 1), BATCHED[1])
        cluster.loop.tick_once(ChangeRequest(wanted, "requested by a test"))
        cluster.kube.tick()
        cluster.clock.wait(5.0)
        back = next(each for each in cluster.ticks(20) if each.reason is ReasonCode.ROLLBACK)
        case.equal("batch size taken back to", back.configs[0].batch_size, 1)
        refused = cluster.loop.tick_once(ChangeRequest(BATCHED, "rollback requested by a test"))
        assert refused.action is Action.HOLD and "gives requests the rows of others" in refused.detail


def test_g8_an_import_that_batches_says_when_that_is_right(case: Case) -> None:
    result = imported(render(PIPELINE, BATCHED), ImportRequest(Sla(0.8)))
    (note,) = (note for note in result.notes if "output_rows" in note)
    case.equal("stage named", "stage 'detect' batches up to 4 requests" in note, True)


def test_g3_the_operator_writes_nothing_once_what_is_rendered_has_settled(case: Case) -> None:
    def writes(body: Json) -> int:
        """Of the operator in the hundred ticks after a change and its rollout."""
        with FakeKube() as kube:
            kube.store.create("seldondeployments", "default", body)
            kube.tick(5)
            kube.edit("default", "pages", _scale)
            kube.tick(10)
            before = kube.cluster.orchestrator_writes
            kube.tick(100)
            return kube.cluster.orchestrator_writes - before

    without = render(PIPELINE, SMALLEST)
    del without["spec"]["predictors"][0]["svcOrchSpec"]
    case.at_least("writes in 100 reconciles without svcOrchSpec.replicas", writes(without), 100)
    case.equal("writes in 100 reconciles as rendered", writes(render(PIPELINE, SMALLEST)), 0)
    parts = (*with_share(SMALLEST, 50), *with_share(BATCHED, 50))
    mixed = render(PIPELINE, parts)
    case.equal("writes with two predictors", writes(mixed), 0)
    split = replace(PIPELINE, targets={"seldon": SeldonTarget("pages", shape=Shape.SPLIT, image="ipa:1")})
    assert [orchestrator_remedy(body) for body in SELDON.render(split, SMALLEST)] == [""] * 5


def _scale(sdep: Json) -> None:
    sdep["spec"]["predictors"][0]["componentSpecs"][0]["replicas"] = 2


def test_g3_what_others_wrote_is_named_with_its_remedy_and_is_no_drift(case: Case) -> None:
    sdep = _live(render(PIPELINE, SMALLEST))
    assert orchestrator_remedy(sdep) == ""
    predictor = sdep["spec"]["predictors"][0]
    predictor["svcOrchSpec"] = {"resources": {"requests": {"cpu": "250m"}}}
    assert read(PIPELINE, sdep) == SMALLEST
    (note,) = (note for note in imported(sdep, ImportRequest(Sla(0.8))).notes if "for ever" in note)
    remedy = note.partition("-p '")[2].removesuffix("'")
    (operation,) = json.loads(remedy)
    assert operation == {"op": "add", "path": "/spec/predictors/0/svcOrchSpec/replicas", "value": 1}
    # A change of ours touches none of it; a predictor that it adds has the number.
    patch = patch_to(PIPELINE, sdep, (replace(SMALLEST[0], replicas=3), SMALLEST[1]))
    touched = [each["path"] for each in patch if each["op"] != "test"]
    case.equal("paths written", touched, ["/spec/predictors/0/componentSpecs/0/replicas"])
    parts = (*with_share(SMALLEST, 50), *with_share(BATCHED, 50))
    (added,) = (each["value"] for each in patch_to(PIPELINE, sdep, parts) if each["path"].endswith("/-"))
    assert added["svcOrchSpec"] == {"replicas": 1, **predictor["svcOrchSpec"]}
    # Where the orchestrator is in the pods of the first stage, or there is none, there is nothing to say.
    beside = {**sdep, "spec": {**sdep["spec"], "annotations": {}}}
    assert orchestrator_remedy(beside) == ""
