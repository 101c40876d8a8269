"""Every policy by name: a new one is a file beside this one and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ipa.model.errors import UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.model.rolling import SIDE_BY_SIDE, Rolling
from ipa.optimize.chord_branching import Solvers
from ipa.optimize.deadline import Deadline
from ipa.optimize.problem import Compat
from ipa.policies.base import Checker, Policy, Predictor
from ipa.policies.checked import CheckedPolicy, CheckedPredictor
from ipa.policies.frugal import Frugal, accurate, thrifty
from ipa.policies.hpa import Hpa
from ipa.policies.infadapter import InfAdapter
from ipa.policies.kpa import Kpa
from ipa.policies.ms_plus import MsPlus, SingleStagePipeline
from ipa.policies.oracle import Future, Oracle
from ipa.policies.ours import Ours
from ipa.policies.pinned import RIM_REPLICAS, fa2, rim
from ipa.policies.profiled import Profiled
from ipa.policies.rules import RulePlanner
from ipa.policies.setplanning import set_question
from ipa.policies.static import Static
from ipa.policies.vpa_plus import VpaPlus
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
    # Simulates configurations, for policies that check theirs (`CHECKED`).
    checker: Checker | None = None
    # The true rate at a time of the world's clock, known only to a simulation.
    future: Future | None = None
    # Deadline of all planning, None for none; each plan has `deadline_s`.
    until: Deadline | None = None
    # Add prices of limits, and remedies for infeasible problems, to plans.
    explain: bool = True

    def profiled(self) -> Profiled:
        """Our planner and predictor over these profiles."""
        return self._profiled(Allocation.FREE, Compat.TAIL)

    def predictor(self) -> Predictor:
        """The predictor of configurations; by simulation if there is a checker."""
        predict = self.profiled().predict
        return predict if self.checker is None else CheckedPredictor(predict, self.checker)

    def published(self, compat: Compat = Compat.PAPER) -> Profiled:
        """The planner of the papers: base allocation, their latency formulas, or the released ones."""
        return self._profiled(Allocation.BASE, compat)

    def ruled(self) -> RulePlanner:
        """The planner for autoscalers' rules."""
        return RulePlanner(self.pipeline, self.profiled(), self.rolling)

    def one_task(self) -> SingleStagePipeline:
        """The set program of a single-stage pipeline; UsageError says why there is none."""
        asked = set_question(self.pipeline, self.profiles, 1.0, objective=self.objective)
        return SingleStagePipeline(self.pipeline, self.profiled(), asked, self.rolling)

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
            rolling=self.rolling,
            explain=self.explain,
            until=self.until,
        )


def _ours(inputs: PolicyInputs) -> Ours:
    profiled = inputs.profiled()
    return Ours(
        inputs.pipeline,
        profiled.plan,
        probe=profiled.probe,
        shorter=profiled.shorter,
        longer=profiled.shorter,
    )


def _ours_checked(inputs: PolicyInputs) -> Policy:
    if inputs.checker is None:
        raise UsageError("the policy ours-checked needs a simulation to check its plans by")
    profiled = inputs.profiled()
    ours = Ours(inputs.pipeline, profiled.plan, probe=profiled.probe, longer=profiled.shorter)
    return CheckedPolicy(ours, profiled.shorter, inputs.checker)


def _ours_frugal(inputs: PolicyInputs) -> Policy:
    cheap = replace(inputs, pipeline=thrifty(inputs.pipeline, inputs.objective)).profiled()
    exact = replace(inputs, pipeline=accurate(inputs.pipeline, inputs.objective)).published()
    return Frugal(_ours(inputs), exact.plan, cheap.plan, cheap.shorter)


def _ipa(inputs: PolicyInputs) -> Policy:
    return _published(inputs, "ipa", Compat.PAPER)


def _ipa_artifact(inputs: PolicyInputs) -> Policy:
    return _published(inputs, "ipa-artifact", Compat.IPA_ARTIFACT)


def _published(inputs: PolicyInputs, name: str, compat: Compat) -> Policy:
    profiled = inputs.published(compat)
    return Ours(inputs.pipeline, profiled.plan, name, profiled.offers, profiled.probe)


def _fa2_low(inputs: PolicyInputs) -> Policy:
    return fa2(inputs.pipeline, inputs.published(), heavy=False)


def _fa2_high(inputs: PolicyInputs) -> Policy:
    return fa2(inputs.pipeline, inputs.published(), heavy=True)


def _rim(inputs: PolicyInputs) -> Policy:
    most = inputs.pipeline.objective(inputs.objective).max_replicas or RIM_REPLICAS
    return rim(inputs.pipeline, inputs.published(), min(most, RIM_REPLICAS))


def _infadapter(inputs: PolicyInputs) -> Policy:
    return InfAdapter(inputs.one_task(), deadline_s=inputs.deadline_s)


def _ms_plus(inputs: PolicyInputs) -> Policy:
    return MsPlus(inputs.one_task())


def _vpa_plus(inputs: PolicyInputs) -> Policy:
    return VpaPlus(inputs.ruled())


def _hpa(inputs: PolicyInputs) -> Policy:
    return Hpa(inputs.ruled())


def _kpa(inputs: PolicyInputs) -> Policy:
    return Kpa(inputs.ruled())


def _oracle(inputs: PolicyInputs) -> Policy:
    if inputs.future is None:
        raise UsageError(
            "the policy oracle needs the true rates of the future, which only a simulation knows",
            hint="Use it with `ipa simulate`.",
        )
    return Oracle(_ours(inputs), inputs.future)


def _static(inputs: PolicyInputs) -> Policy:
    return Static(inputs.profiled())


POLICIES: Mapping[str, Callable[[PolicyInputs], Policy]] = {
    "ours": _ours,
    "ours-checked": _ours_checked,
    "ours-frugal": _ours_frugal,
    "ipa": _ipa,
    "ipa-artifact": _ipa_artifact,
    "fa2-low": _fa2_low,
    "fa2-high": _fa2_high,
    "rim": _rim,
    "infadapter": _infadapter,
    "ms+": _ms_plus,
    "vpa+": _vpa_plus,
    "hpa": _hpa,
    "kpa": _kpa,
    "static": _static,
    "oracle": _oracle,
}

# Policies whose plans may have several configurations side by side, which not every target carries.
SHARING = frozenset({"infadapter"})
# Policies that need `PolicyInputs.checker`.
CHECKED = frozenset({"ours-checked"})


def make_policy(name: str, inputs: PolicyInputs) -> Policy:
    """The policy of that name; UsageError lists the existing ones."""
    if name not in POLICIES:
        raise UsageError(f"there is no policy {name!r}", hint=f"There are: {', '.join(POLICIES)}")
    return POLICIES[name](inputs)
