"""INFaaS as a policy, a plug-in: `--policy experiments.infaas:infaas` in a checkout.

INFaaS (Romero et al., *INFaaS: Automated Model-less Inference Serving*, ATC 2021) serves each class of
requests with the cheapest variant that meets its accuracy and latency, and its autoscaler adds replicas or
changes to another variant, whichever costs less. Here a stage is a class of requests. It asks for

- accuracy: no less than that of the variant that runs when the policy begins, as for autoscalers;
- latency: its part of the pipeline's SLA, in proportion to the mean of its variants' batch-1 latencies along
  the longest path through it. Queueing is not in it: the published rule compares profiled latencies.

The numbers are those of the released autoscaler for CPUs (github.com/stanford-mast/INFaaS at commit 4c5ff7b,
src/worker/autoscaler.cc): 5 % headroom, removal after ten checks a second apart, one replica at a time, and
another variant only if staying costs more than 1.5 times as much. It decides by the observed rate alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import ClassVar

from ipa.model.observation import Forecast, Observation
from ipa.model.plan import Plan, StageConfig
from ipa.model.profile import OperatingPoint
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.policies.base import AtOnce, PolicyState
from ipa.policies.planning import planning_problem
from ipa.policies.rules import ROUNDING, RulePlanner, StageLoad, whole
from ipa.policies.table import PolicyInputs

# cpuHueristic: the share of a replica's capacity that is kept free.
HEADROOM_RATIO = 0.05
# CPU_SCALE_DOWN_DELAY: ten checks, one a second.
DOWN_AFTER_S = 10.0
# Another variant is started only if staying costs this many times as much.
SWITCH_RATIO = 1.5


@dataclass(frozen=True, slots=True)
class StageMemory:
    """The required accuracy of a stage, its desired configuration, and since when fewer cores would do."""

    accuracy: float
    config: StageConfig
    fewer_since_s: float | None = None


@dataclass(frozen=True, slots=True)
class InfaasMemory:
    """The state of each stage after the tick at `at_s`."""

    at_s: float
    stages: tuple[StageMemory, ...]


@dataclass(frozen=True, slots=True)
class StageChoices:
    """The operating points of a stage, and the latency that its requests ask for, in seconds."""

    points: tuple[OperatingPoint, ...]
    latency_s: float

    def accuracy(self, variant: str) -> float:
        """The accuracy of the variant."""
        return next(point.accuracy for point in self.points if point.variant == variant)

    def meeting(self, accuracy: float, excluded: frozenset[str]) -> list[OperatingPoint]:
        """The points that meet accuracy and latency; if none does, the fastest that is accurate enough."""
        able = [
            point
            for point in self.points
            if point.accuracy >= accuracy - ROUNDING and point.variant not in excluded
        ]
        in_time = [point for point in able if point.latency_s <= self.latency_s]
        return in_time or sorted(able, key=lambda point: point.latency_s)[:1]


@dataclass(frozen=True, slots=True)
class Infaas(AtOnce):
    """INFaaS's rule for each stage; see the module."""

    ruled: RulePlanner
    choices: Mapping[str, StageChoices]
    name: str = "infaas"
    memory_kind: ClassVar[type[object]] = InfaasMemory

    def remember(self, observation: Observation, state: PolicyState) -> InfaasMemory:
        """The desired configuration of each stage after this tick."""
        before = state.memory if isinstance(state.memory, InfaasMemory) else None
        if before is not None and before.at_s == state.now_s:
            return before
        stages = []
        for at, load in enumerate(self.ruled.loads(observation, state)):
            required = (
                before.stages[at].accuracy
                if before
                else self.choices[load.config.stage].accuracy(load.config.variant)
            )
            since_s = before.stages[at].fewer_since_s if before else None
            stages.append(self._stage(load, StageMemory(required, load.config, since_s), state))
        return InfaasMemory(state.now_s, tuple(stages))

    def _stage(self, load: StageLoad, last: StageMemory, state: PolicyState) -> StageMemory:
        """The stage after this tick; `last` has its running configuration."""
        config, rate_rps = load.config, load.rate_rps
        excluded = frozenset(variant for stage, variant in state.excluded if stage == config.stage)
        able = self.choices[config.stage].meeting(last.accuracy, excluded)
        if rate_rps is None or not able:
            return replace(last, fewer_since_s=None)
        options = [_config(config.stage, point, rate_rps) for point in able]
        cheapest = min(options, key=lambda each: (each.total_cores, each.replicas, each.variant))
        wanted = replace(config, replicas=needed(rate_rps, load.capacity_rps))
        is_able = any(replace(each, replicas=config.replicas) == config for each in options)
        if not is_able or wanted.total_cores > SWITCH_RATIO * cheapest.total_cores:
            wanted = cheapest
        if not is_able or needed(rate_rps, load.capacity_rps) > config.replicas:
            return StageMemory(last.accuracy, wanted)
        if wanted.total_cores >= config.total_cores - ROUNDING:
            return replace(last, fewer_since_s=None)
        if last.fewer_since_s is None:
            return replace(last, fewer_since_s=state.now_s)
        if state.now_s - last.fewer_since_s < DOWN_AFTER_S:
            return last
        if wanted.variant == config.variant and wanted.cores == config.cores:
            wanted = replace(config, replicas=config.replicas - 1)
        return StageMemory(last.accuracy, wanted, state.now_s)

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The configurations that the rule desires; the forecast is not used."""
        memory = self.remember(observation, state)
        return self.ruled.plan(tuple(each.config for each in memory.stages), forecast, state, self.name)


def needed(rate_rps: float, capacity_rps: float) -> int:
    """The replicas of that capacity that carry the rate with the headroom."""
    return whole(rate_rps / ((1 - HEADROOM_RATIO) * capacity_rps))


def _config(stage: str, point: OperatingPoint, rate_rps: float) -> StageConfig:
    return StageConfig(
        stage, point.variant, point.batch_size, point.cores, needed(rate_rps, point.capacity_rps)
    )


def stage_slas_s(problem: PlanningProblem) -> dict[str, float]:
    """The part of the SLA of each stage, in proportion to `batch_one_s` on the longest path through it."""
    own = {stage.name: batch_one_s(stage) for stage in problem.stages}
    until: dict[str, float] = {}
    beyond = dict.fromkeys(own, 0.0)
    for stage in problem.stages:
        until[stage.name] = own[stage.name] + max((until[edge.parent] for edge in stage.after), default=0.0)
    for stage in reversed(problem.stages):
        for edge in stage.after:
            beyond[edge.parent] = max(beyond[edge.parent], own[stage.name] + beyond[stage.name])
    return {name: problem.sla_s * own[name] / (until[name] + beyond[name]) for name in own if own[name]}


def batch_one_s(stage: StageProblem) -> float:
    """The mean over the variants of their least latency with one item a batch; 0 for a stage without any."""
    fastest: dict[str, float] = {}
    for point in stage.points:
        if point.batch_size == 1:
            fastest[point.variant] = min(point.latency_s, fastest.get(point.variant, point.latency_s))
    return fmean(fastest.values()) if fastest else 0.0


def infaas(inputs: PolicyInputs) -> Infaas:
    """The policy for a pipeline and its profiles."""
    problem = planning_problem(
        inputs.pipeline, inputs.profiles, 1.0, objective=inputs.objective, compat=Compat.PAPER
    )
    slas_s = stage_slas_s(problem)
    choices = {
        stage.name: StageChoices(stage.points, slas_s[stage.name])
        for stage in problem.stages
        if stage.name in slas_s
    }
    return Infaas(inputs.ruled(), choices)
