"""Every policy of the table: it answers whatever the load, keeps the bounds, and hides no state."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import inf, nan
from typing import Any

import pytest

import ipa.control.loop.control_loop
from ipa.cli.verbs.serve import POLICY_NAMES
from ipa.control.engine.guards import bound_faults
from ipa.control.engine.overrides import pin_faults
from ipa.control.engine.state import EngineState, TickRequest
from ipa.control.engine.tick import on_tick
from ipa.model.decision import Effects
from ipa.model.errors import UsageError
from ipa.model.forecast import Forecast
from ipa.model.observation import (
    LoadHistory,
    Measured,
    Missing,
    MissingReason,
    Observation,
    StageObservation,
)
from ipa.model.pipeline import Pin, Pipeline
from ipa.model.plan import StageConfig, Termination
from ipa.policies.base import Policy, PolicyState, SimulationVerdict, is_stateful, pinned
from ipa.policies.table import POLICIES, PolicyInputs, make_policy
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST, scenario

# The same without its second stage: what InfAdapter can plan.
TASK = replace(PIPELINE, name="task", stages=PIPELINE.stages[:1])
ONE_TASK = ("infadapter", "ms+")
CASES = [
    pytest.param(name, pipeline, id=f"{name}-{pipeline.name}")
    for name, pipeline in product(POLICIES, (PIPELINE, TASK))
    if not (name in ONE_TASK and pipeline is PIPELINE)
]
every_policy = pytest.mark.parametrize(("name", "pipeline"), CASES)
UNSEEN = Missing(MissingReason.UNREACHABLE)
LARGE = (StageConfig("detect", "big", 4, 2.0, 4), StageConfig("read", "small", 2, 1.0, 3))


def made(name: str, pipeline: Pipeline) -> Policy:
    """The policy, with all that any of them needs."""

    def no_objection(configs: Any, rate_rps: float, *_: Any) -> SimulationVerdict:
        return SimulationVerdict(0.1, 0.8, 1000, meets=True, misses=False)

    inputs = PolicyInputs(pipeline, PROFILES, solver="exact", checker=no_objection, future=lambda t_s: 7.0)
    return make_policy(name, inputs)


def running_of(pipeline: Pipeline, configs: tuple[StageConfig, ...] = SMALLEST) -> tuple[StageConfig, ...]:
    return configs[: len(pipeline.stages)]


def seen_with(
    rate_rps: float | None,
    running: tuple[StageConfig, ...],
    *,
    ready: int | None = None,
    queued: float = 0.0,
    at_s: float = 0.0,
) -> Observation:
    """An observation of that rate, steady for two minutes; of None nothing was seen."""
    rate = UNSEEN if rate_rps is None else Measured(rate_rps)
    load = UNSEEN if rate_rps is None else Measured(LoadHistory(1.0, (rate_rps,) * 120))
    stages = tuple(
        StageObservation(
            config.stage,
            Measured(config),
            Measured(config.replicas if ready is None else ready),
            rate,
            UNSEEN,
            Measured(queued),
        )
        for config in running
    )
    return Observation("pages", at_s, rate, load, UNSEEN, stages)


def expected(rate_rps: float) -> Forecast:
    return Forecast(rate_rps, rate_rps, 0.95, 20.0, "given", 1.0)


RATES = (None, 0.0, 1e-12, 3.0, 40.0, 1e9, 1e300, inf, nan, -4.0)
ODD = [
    *((rate_rps, None, 0.0, 5.0) for rate_rps in RATES),
    *((40.0, ready, queued, 5.0) for ready in (0, 9) for queued in (0.0, 1e6)),
    (3.0, None, 0.0, 0.0),
    (3.0, None, 0.0, 1e9),
]


@every_policy
@pytest.mark.parametrize("configs", [SMALLEST, LARGE], ids=["smallest", "large"])
def test_it_answers_every_load_within_the_bounds(
    name: str, pipeline: Pipeline, configs: tuple[StageConfig, ...]
) -> None:
    running, policy = running_of(pipeline, configs), made(name, pipeline)
    for rate_rps, ready, queued, peak_rps in ODD:
        observation = seen_with(rate_rps, running, ready=ready, queued=queued)
        plan = policy.decide(observation, expected(peak_rps), PolicyState(running))
        assert plan.stages or plan.termination is Termination.INFEASIBLE
        if plan.stages:
            assert bound_faults(pipeline, plan.configs) == []
            assert plan.rate_rps <= max(1.1 * peak_rps, 7.0)


@every_policy
def test_what_people_pin_stays_pinned(name: str, pipeline: Pipeline) -> None:
    policy = made(name, pipeline)
    running = running_of(pipeline, LARGE)
    pins = (("detect", Pin(replicas=1, cores=2.0)),)
    state = PolicyState(running, pins=pins)
    plan = policy.decide(seen_with(3.0, running), expected(3.0), state)
    if name == "static":
        # Nothing moves it but the engine.
        assert plan.configs == running
    elif plan.stages:
        assert pin_faults(pinned(pipeline, pins), plan.configs) == []
    else:
        assert name in ("rim", "ipa", "ipa-artifact", "fa2-low", "fa2-high"), "base allocation has one size"


@every_policy
@pytest.mark.parametrize("rate_rps", [0.5, 12.0, 200.0])
def test_where_only_more_is_wanted_nothing_is_less(name: str, pipeline: Pipeline, rate_rps: float) -> None:
    running = running_of(pipeline)
    state = PolicyState(running, only_more=True)
    plan = made(name, pipeline).decide(seen_with(rate_rps, running), expected(rate_rps), state)
    for old, new in zip(running, plan.configs, strict=False):
        assert (new.variant, new.batch_size, new.cores) == (old.variant, old.batch_size, old.cores)
        assert new.replicas >= old.replicas


@every_policy
def test_there_are_no_more_cores_than_there_is_room_for(name: str, pipeline: Pipeline) -> None:
    running = running_of(pipeline)
    state = PolicyState(running, room_cores=5.0)
    plan = made(name, pipeline).decide(seen_with(300.0, running), expected(300.0), state)
    assert sum(config.total_cores for config in plan.configs) <= 5.0


def changing(t_s: float) -> float:
    """A load that steps up, bursts and ebbs away."""
    return 3.0 + 25.0 * (100 <= t_s < 160) + 60.0 * (160 <= t_s < 170) + 0.02 * max(t_s - 200, 0)


@every_policy
def test_a_decision_taken_again_from_its_inputs_is_the_same(
    name: str, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[tuple[TickRequest, EngineState, Effects]] = []

    def watched(request: TickRequest, state: EngineState) -> tuple[Effects, EngineState]:
        effects, after = on_tick(request, state)
        ticks.append((request, state, effects))
        return effects, after

    monkeypatch.setattr(ipa.control.loop.control_loop, "on_tick", watched)
    case = scenario(changing, policy=made(name, pipeline), configs=running_of(pipeline), pipeline=pipeline)
    case.ticks(60)
    changed = [effects.decision for _, _, effects in ticks if effects.change]
    assert changed or name == "static"
    # By a policy that has seen nothing, last first: what one remembers is in the state, and nowhere else.
    other = made(name, pipeline)
    for request, state, effects in reversed(ticks):
        again, _ = on_tick(replace(request, policy=other), state)
        assert timeless(again) == timeless(effects)


def timeless(effects: Effects) -> Effects:
    """What was decided, without the time that it took."""
    plan = effects.decision.plan
    decision = replace(effects.decision, plan=plan and replace(plan, solve_s=0.0))
    return replace(effects, decision=decision)


def test_the_command_line_names_all_that_a_service_can_have() -> None:
    assert POLICY_NAMES.split(", ") == [name for name in POLICIES if name != "oracle"]


REMEMBERING: list[str] = ["vpa+", "hpa", "kpa"]


def test_those_that_remember_are_known() -> None:
    found = [name for name in POLICIES if is_stateful(made(name, TASK))]
    assert found == REMEMBERING


@pytest.mark.parametrize(
    ("name", "pipeline", "words"),
    [
        ("oracle", PIPELINE, "only a simulation knows"),
        ("ours-checked", PIPELINE, "needs a simulation"),
        ("infadapter", PIPELINE, "one stage"),
        ("ms+", PIPELINE, "one stage"),
        ("nobody", PIPELINE, "There are: ours"),
    ],
)
def test_what_cannot_be_made_says_why(name: str, pipeline: Pipeline, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_policy(name, PolicyInputs(pipeline, PROFILES, solver="exact"))
    problems = " ".join(problem.message for problem in caught.value.problems)
    assert words in f"{caught.value} {caught.value.hint} {problems}"
