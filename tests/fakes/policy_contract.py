"""The contract of a policy: it answers whatever the load, keeps the bounds, and hides no state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import date
from math import inf, nan

from ipa.control.audit.replay import ReplayOutcome, inputs_in, replay
from ipa.control.engine.guards import bound_faults, pin_faults
from ipa.control.engine.state import EngineState
from ipa.control.engine.tick import DecisionInputs
from ipa.model.decision import Action, ReasonCode
from ipa.model.observation import (
    Forecast,
    LoadHistory,
    Measured,
    Missing,
    MissingReason,
    Observation,
    StageObservation,
)
from ipa.model.pipeline import Bounds, Objective, Pin, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import Plan, StageConfig, Termination
from ipa.model.profile import ProfilePoint, Slowdown, StageProfile, VariantProfile
from ipa.policies.base import Policy, PolicyState, pinned
from ipa.policies.table import PolicyInputs, make_policy, plan_faults
from ipa.simulate.run import SimSetup, simulate

PIPELINE = Pipeline(
    name="pages",
    stages=chain(
        [Stage(name, (Variant("small"), Variant("big")), batch_timeout_s=0.05) for name in ("detect", "read")]
    ),
    sla=Sla(0.8),
    objectives={"default": Objective(beta=0.02)},
    bounds=Bounds(cores=12, max_replicas=8, batch_sizes=(1, 2, 4, 8)),
)
# The same without its second stage, for policies of one task.
ONE_STAGE = replace(PIPELINE, name="task", stages=PIPELINE.stages[:1])

# Accuracy, and seconds of one item on one core.
VARIANTS = {
    "detect": {"small": (0.6, 0.05), "big": (0.9, 0.15)},
    "read": {"small": (0.7, 0.03), "big": (0.95, 0.1)},
}

SMALLEST = (StageConfig("detect", "small", 1, 1.0, 1), StageConfig("read", "small", 1, 1.0, 1))
LARGE = (StageConfig("detect", "big", 4, 2.0, 4), StageConfig("read", "small", 2, 1.0, 3))


def made_up_profile(
    pipeline: str,
    stage: str,
    speeds: Mapping[str, tuple[float, float]],
    points_of: Callable[[float], Iterable[ProfilePoint]],
    readiness_s: float | None = None,
) -> StageProfile:
    """The profile of variants of these accuracies, each with the points of its seconds of one item."""
    variants = tuple(
        VariantProfile(name, accuracy, tuple(points_of(item_s)), readiness_s=readiness_s)
        for name, (accuracy, item_s) in speeds.items()
    )
    return StageProfile(pipeline, stage, variants, "made up", date(2026, 1, 1), "made up")


def _points(item_s: float) -> Iterator[ProfilePoint]:
    """Two fifths of a batch cost the same however large it is; cores help by their power 0.8."""
    for cores in (1.0, 2.0):
        for batch in (1, 2, 4, 8):
            yield ProfilePoint(cores, batch, item_s * (0.4 + 0.6 * batch) / cores**0.8)


def with_points(profile: StageProfile, change: Callable[[ProfilePoint], ProfilePoint]) -> StageProfile:
    """The profile with every point of every variant changed."""
    variants = tuple(replace(it, points=tuple(map(change, it.points))) for it in profile.variants)
    return replace(profile, variants=variants)


PROFILES = {stage: made_up_profile("pages", stage, speeds, _points) for stage, speeds in VARIANTS.items()}


def slower(factor: float) -> dict[str, StageProfile]:
    """The profiles of a world in which everything takes so many times longer."""
    return {
        name: profile.slowed([Slowdown(name, it.variant, factor) for it in profile.variants])
        for name, profile in PROFILES.items()
    }


UNSEEN = Missing(MissingReason.UNREACHABLE)
RATES = (None, 0.0, 1e-12, 3.0, 40.0, 1e9, 1e300, inf, nan, -4.0)
# Observed rate, ready replicas (None: all), queued items, and forecast peak: loads that nobody means.
ODD = (
    *((rate_rps, None, 0.0, 5.0) for rate_rps in RATES),
    *((40.0, ready, queued, 5.0) for ready in (0, 9) for queued in (0.0, 1e6)),
    (3.0, None, 0.0, 0.0),
    (3.0, None, 0.0, 1e9),
)


# Policies of pipelines of one stage only.
ONE_TASK = ("infadapter", "ms+")


class PolicyContract:
    """The contract of the policy of that name, on which the loop relies."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.plans_graphs = policy not in ONE_TASK
        # Nothing moves it but the engine.
        self.keeps_pins = policy != "static"

    def inputs(self, pipeline: Pipeline) -> PolicyInputs:
        return PolicyInputs(pipeline, PROFILES, solver="exact")

    def make(self, pipeline: Pipeline) -> Policy:
        """A new policy for the pipeline."""
        return make_policy(self.policy, self.inputs(pipeline))

    def cases(self) -> Iterator[tuple[Pipeline, tuple[StageConfig, ...]]]:
        """Pipelines, each with configurations that may run."""
        for pipeline in (PIPELINE, ONE_STAGE) if self.plans_graphs else (ONE_STAGE,):
            for configs in (SMALLEST, LARGE):
                yield pipeline, configs[: len(pipeline.stages)]

    def decided(self, pipeline: Pipeline, policy: Policy, rate_rps: float, state: PolicyState) -> Plan:
        """The plan for a steady rate, a plan of the pipeline."""
        plan = policy.decide(observed_with(rate_rps, state.running), expected(rate_rps), state)
        assert list(plan_faults(pipeline, plan)) == []
        return plan

    def test_it_answers_every_load_within_the_bounds(self) -> None:
        """Every observation and forecast gives a plan within the bounds, or one that is infeasible."""
        for pipeline, running in self.cases():
            policy = self.make(pipeline)
            for rate_rps, ready, queued, peak_rps in ODD:
                observation = observed_with(rate_rps, running, ready=ready, queued=queued)
                plan = policy.decide(observation, expected(peak_rps), PolicyState(running))
                assert list(plan_faults(pipeline, plan)) == []
                assert plan.stages or plan.termination is Termination.INFEASIBLE
                if plan.stages:
                    assert bound_faults(pipeline, plan.configs) == []
                    # It says what it carries, which is not more than was asked but for a margin.
                    assert plan.rate_rps <= max(1.1 * peak_rps, 7.0)

    def test_what_people_pin_stays_pinned(self) -> None:
        """A plan keeps the pins that it is given."""
        pins = (("detect", Pin(replicas=1, cores=2.0)),)
        for pipeline, running in self.cases():
            plan = self.decided(pipeline, self.make(pipeline), 3.0, PolicyState(running, pins=pins))
            if self.keeps_pins:
                assert pin_faults(pinned(pipeline, pins), plan.configs) == [] or not plan.stages
            else:
                assert plan.configs == running

    def test_where_only_more_is_wanted_nothing_is_less(self) -> None:
        """With `only_more` a plan only adds replicas to the running ones."""
        for pipeline, running in self.cases():
            for rate_rps in (0.5, 12.0, 200.0):
                state = PolicyState(running, only_more=True)
                plan = self.decided(pipeline, self.make(pipeline), rate_rps, state)
                for old, new in zip(running, plan.configs, strict=False):
                    assert (new.variant, new.batch_size, new.cores) == (
                        old.variant,
                        old.batch_size,
                        old.cores,
                    )
                    assert new.replicas >= old.replicas

    def test_there_are_no_more_cores_than_there_is_room_for(self) -> None:
        """A plan fits into `room_cores`, if what runs does."""
        for pipeline, _ in self.cases():
            running = SMALLEST[: len(pipeline.stages)]
            plan = self.decided(pipeline, self.make(pipeline), 300.0, PolicyState(running, room_cores=5.0))
            assert sum(config.total_cores for config in plan.configs) <= 5.0

    def test_equal_inputs_give_equal_plans(self) -> None:
        """A new policy, and one that has decided before, give the same plan but for the time it took."""
        for pipeline, running in self.cases():
            used, state = self.make(pipeline), PolicyState(running)
            for rate_rps in (40.0, 3.0, 40.0):
                again = self.decided(pipeline, self.make(pipeline), rate_rps, state)
                assert timeless(self.decided(pipeline, used, rate_rps, state)) == timeless(again)

    def test_its_decisions_in_the_loop_can_be_replayed(self) -> None:
        """Under a changing load it never fails, and a policy that saw nothing decides each tick the same."""
        changed = 0
        for pipeline, running in list(self.cases())[::2]:
            rates_rps = tuple(map(changing, range(300)))
            setup = SimSetup(
                pipeline, PROFILES, rates_rps, self.make(pipeline), start=running, keep_inputs=True
            )
            decisions = simulate(setup).decisions
            failed = [each.detail for each in decisions if each.reason is ReasonCode.SOLVER_FAILED]
            assert failed == []
            changed += sum(each.action is Action.APPLY for each in decisions)
            inputs, other = self.inputs(pipeline), self.make(pipeline)
            predict = inputs.predictor()
            # The last first: what a policy remembers is in the recorded state, and nowhere else.
            for decision in decisions[::-2]:
                recorded = inputs_in(decision)
                assert isinstance(recorded, DecisionInputs)
                assert isinstance(recorded.state, EngineState)
                result = replay(decision, recorded, pipeline, other, predict)
                assert result.outcome is ReplayOutcome.SAME, result.differences
        assert changed or not self.keeps_pins, "nothing was changed under a load that grows twentyfold"


def observed_with(
    rate_rps: float | None,
    running: tuple[StageConfig, ...],
    *,
    ready: int | None = None,
    queued: float = 0.0,
) -> Observation:
    """An observation of that rate, steady for two minutes; with None, of no rate at all."""
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
    return Observation(PIPELINE.name, 0.0, rate, load, UNSEEN, stages)


def expected(rate_rps: float) -> Forecast:
    """A forecast of that rate."""
    return Forecast(rate_rps, rate_rps, 0.95, 20.0, "given", 1.0)


def changing(t_s: float) -> float:
    """A load that steps up, bursts and ebbs away, in requests a second."""
    return 3.0 + 25.0 * (100 <= t_s < 160) + 60.0 * (160 <= t_s < 170) + 0.02 * max(t_s - 200, 0)


def timeless(plan: Plan) -> Plan:
    """The plan without the time that it took."""
    return replace(plan, solve_s=0.0)
