"""The inputs of a policy, and the factories of the built-in ones, which `ipa.policies.registry` names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.model.rolling import SIDE_BY_SIDE, Rolling
from ipa.optimize.deadline import Deadline
from ipa.optimize.linear_program import Solvers
from ipa.optimize.problem import Compat
from ipa.policies.autoscalers import Hpa, Kpa, VpaPlus
from ipa.policies.base import Policy, Predictor
from ipa.policies.baselines import (
    RIM_REPLICAS,
    Frugal,
    Static,
    accurate,
    fa2,
    rim,
    thrifty,
)
from ipa.policies.infadapter import InfAdapter, SingleStagePipeline, set_question
from ipa.policies.ours import Ours
from ipa.policies.plugin_policy import PluginPolicy, Runner, at_once
from ipa.policies.profiled import Profiled
from ipa.policies.registry import POLICIES
from ipa.policies.rules import RulePlanner
from ipa.profiling.points import Allocation


@dataclass(frozen=True, slots=True)
class PolicyInputs:
    """The ingredients of a policy. `objective` None is the pipeline's default."""

    pipeline: Pipeline
    profiles: Mapping[str, StageProfile]
    objective: str | None = None
    solver: str = "auto"
    deadline_s: float = 5.0
    solvers: Solvers | None = None
    rolling: Rolling = SIDE_BY_SIDE
    # Deadline of all planning, None for none; each plan has `deadline_s`.
    until: Deadline | None = None
    # Add prices of limits, and remedies for infeasible problems, to plans.
    explain: bool = True

    def profiled(self) -> Profiled:
        """Our planner and predictor over these profiles."""
        return self._profiled(Allocation.FREE, Compat.TAIL)

    def predictor(self) -> Predictor:
        """The predictor of configurations."""
        return self.profiled().predict

    def published(self, compat: Compat = Compat.PAPER) -> Profiled:
        """The planner of the papers: base allocation, their latency formulas, or the released ones."""
        return self._profiled(Allocation.BASE, compat)

    def ruled(self) -> RulePlanner:
        """The planner for autoscalers' rules."""
        return RulePlanner(self.pipeline, self.profiled(), self.rolling.of(self.pipeline))

    def one_task(self) -> SingleStagePipeline:
        """The set program of a single-stage pipeline; UsageError says why there is none."""
        asked = set_question(self.pipeline, self.profiles, 1.0, objective=self.objective)
        return SingleStagePipeline(self.pipeline, self.profiled(), asked, self.rolling.of(self.pipeline))

    def _profiled(self, allocation: Allocation, compat: Compat) -> Profiled:
        return Profiled(
            self.pipeline,
            self.profiles,
            objective=self.objective,
            compat=compat,
            allocation=allocation,
            solver=self.solver,
            deadline_s=self.deadline_s,
            solvers=self.solvers,
            rolling=self.rolling.of(self.pipeline),
            explain=self.explain,
            until=self.until,
        )


@dataclass(frozen=True, slots=True)
class PolicyFactory:
    """A factory that says what its policy needs; a plain function of `PolicyInputs` needs nothing more.

    `shares_load`: its plans may have several configurations side by side, which not every target carries.
    """

    make: Callable[[PolicyInputs], Policy]
    shares_load: bool = False

    def __call__(self, inputs: PolicyInputs) -> Policy:
        """The policy; UsageError if these inputs do not suffice."""
        return self.make(inputs)


def ours(inputs: PolicyInputs) -> Ours:
    profiled = inputs.profiled()
    return Ours(
        inputs.pipeline,
        profiled.plan,
        probe=profiled.probe,
        shorter=profiled.shorter,
        longer=profiled.shorter,
    )


def ours_frugal(inputs: PolicyInputs) -> Policy:
    cheap = replace(inputs, pipeline=thrifty(inputs.pipeline, inputs.objective)).profiled()
    exact = replace(inputs, pipeline=accurate(inputs.pipeline, inputs.objective)).published()
    return Frugal(ours(inputs), exact.plan, cheap.plan, cheap.shorter)


def ipa_paper(inputs: PolicyInputs) -> Policy:
    return _published(inputs, "ipa", Compat.PAPER)


def ipa_artifact(inputs: PolicyInputs) -> Policy:
    return _published(inputs, "ipa-artifact", Compat.IPA_ARTIFACT)


def _published(inputs: PolicyInputs, name: str, compat: Compat) -> Policy:
    profiled = inputs.published(compat)
    return Ours(inputs.pipeline, profiled.plan, name, profiled.offers, profiled.probe)


def fa2_low(inputs: PolicyInputs) -> Policy:
    return fa2(inputs.pipeline, inputs.published(), heavy=False)


def fa2_high(inputs: PolicyInputs) -> Policy:
    return fa2(inputs.pipeline, inputs.published(), heavy=True)


def rim_policy(inputs: PolicyInputs) -> Policy:
    most = inputs.pipeline.objective(inputs.objective).max_replicas or RIM_REPLICAS
    return rim(inputs.pipeline, inputs.published(), min(most, RIM_REPLICAS))


def _infadapter(inputs: PolicyInputs) -> Policy:
    return InfAdapter(inputs.one_task(), deadline_s=inputs.deadline_s)


infadapter = PolicyFactory(_infadapter, shares_load=True)


def vpa_plus(inputs: PolicyInputs) -> Policy:
    return VpaPlus(inputs.ruled())


def hpa(inputs: PolicyInputs) -> Policy:
    return Hpa(inputs.ruled())


def kpa(inputs: PolicyInputs) -> Policy:
    return Kpa(inputs.ruled())


def static(inputs: PolicyInputs) -> Policy:
    return Static(inputs.profiled())


def shares_load(name: str) -> bool:
    """True if its plans may have several configurations side by side. Errors: those of `POLICIES.load`."""
    return bool(getattr(POLICIES.load(name), "shares_load", False))


def make_policy(name: str, inputs: PolicyInputs, run: Runner = at_once) -> Policy:
    """The policy of that name; `run` calls each method of a plug-in, for example within a time limit.

    Errors: UsageError (no such policy, or these inputs do not suffice), PluginError.
    """
    plugin = POLICIES.find(name)
    factory = plugin.load()
    if plugin.is_ours:
        made: Policy = factory(inputs)
        return made
    if not callable(factory):
        raise plugin.fault(f"does not fit: a {type(factory).__name__} cannot be called with PolicyInputs")
    return PluginPolicy(plugin, lambda: factory(inputs), inputs.pipeline, run)
