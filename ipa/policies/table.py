"""Every policy by name: a new one is a file beside this one and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ipa.model.errors import UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.model.rolling import SIDE_BY_SIDE, Rolling
from ipa.optimize.bymilp import Solvers
from ipa.optimize.problem import Compat
from ipa.policies.base import Checker, Policy, Predictor
from ipa.policies.checked import Checked, CheckedPredictor
from ipa.policies.ours import Ours
from ipa.policies.pinned import fa2, rim
from ipa.policies.profiled import Profiled
from ipa.policies.static import Static
from ipa.profiling.points import Allocation


@dataclass(frozen=True, slots=True)
class PolicyInputs:
    """What a policy may be made of. `objective` None is the pipeline's default."""

    pipeline: Pipeline
    profiles: Mapping[str, StageProfile]
    objective: str | None = None
    solver: str = "auto"
    deadline_s: float = 5.0
    solvers: Solvers | None = None
    rolling: Rolling = SIDE_BY_SIDE
    # Simulates configurations, for the policies that check theirs (`CHECKED`).
    checker: Checker | None = None

    def profiled(self) -> Profiled:
        """Our planner and predictor over these profiles."""
        return self._profiled(Allocation.FREE, Compat.TAIL)

    def predictor(self) -> Predictor:
        """What configurations would do; by simulation where there is a checker."""
        predict = self.profiled().predict
        return predict if self.checker is None else CheckedPredictor(predict, self.checker)

    def published(self) -> Profiled:
        """The planner of the papers: base allocation, their formulas of latency."""
        return self._profiled(Allocation.BASE, Compat.PAPER)

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
        )


def _ours(inputs: PolicyInputs) -> Policy:
    return Ours(inputs.pipeline, inputs.profiled().plan)


def _ours_checked(inputs: PolicyInputs) -> Policy:
    if inputs.checker is None:
        raise UsageError("the policy ours-checked needs a simulation to check its plans by")
    profiled = inputs.profiled()
    return Checked(Ours(inputs.pipeline, profiled.plan), profiled.alternatives, inputs.checker)


def _ipa(inputs: PolicyInputs) -> Policy:
    return Ours(inputs.pipeline, inputs.published().plan, name="ipa")


def _fa2_low(inputs: PolicyInputs) -> Policy:
    return fa2(inputs.pipeline, inputs.profiles, inputs.published().plan, heavy=False)


def _fa2_high(inputs: PolicyInputs) -> Policy:
    return fa2(inputs.pipeline, inputs.profiles, inputs.published().plan, heavy=True)


def _rim(inputs: PolicyInputs) -> Policy:
    return rim(inputs.pipeline, inputs.published().plan)


def _static(inputs: PolicyInputs) -> Policy:
    return Static(inputs.profiled())


POLICIES: Mapping[str, Callable[[PolicyInputs], Policy]] = {
    "ours": _ours,
    "ours-checked": _ours_checked,
    "ipa": _ipa,
    "fa2-low": _fa2_low,
    "fa2-high": _fa2_high,
    "rim": _rim,
    "static": _static,
}

# Those that need `PolicyInputs.checker`.
CHECKED = frozenset({"ours-checked"})


def make_policy(name: str, inputs: PolicyInputs) -> Policy:
    """The policy of that name; UsageError names those there are."""
    if name not in POLICIES:
        raise UsageError(f"there is no policy {name!r}", hint=f"There are: {', '.join(POLICIES)}")
    return POLICIES[name](inputs)
