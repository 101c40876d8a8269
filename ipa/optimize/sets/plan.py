"""Plans of sets: the running variants of a task, their cores, and their shares."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ipa.model.plan import Termination


@dataclass(frozen=True, slots=True)
class SetPart:
    """One running variant. `share_percent` is the traffic of its predictor, None if the plan has none.

    `quota_rps` is λ_m, `capacity_rps` th_m(c); `loading_s` is its readiness time if it must be loaded, else
    0.
    """

    variant: str
    accuracy: float
    cores: float
    capacity_rps: float
    quota_rps: float
    share_percent: int | None
    loading_s: float


@dataclass(frozen=True, slots=True)
class SetPlan:
    """The best set found for a rate, or the reason for none.

    `mean_accuracy` is AA, `cost_cores` RC, `loading_s` LC; `share_accuracy` is AA at the whole percents.
    `binding` lists its binding limits in words. If nothing is feasible `missing_rps` is the part of the rate
    that no set within the budget carries.
    """

    task: str
    rate_rps: float
    termination: Termination
    solver: str
    parts: tuple[SetPart, ...] = ()
    mean_accuracy: float | None = None
    share_accuracy: float | None = None
    cost_cores: float | None = None
    loading_s: float | None = None
    objective: float | None = None
    bound: float | None = None
    gap: float | None = None
    binding: tuple[str, ...] = ()
    missing_rps: float = 0.0
    solve_s: float = 0.0
    note: str = ""

    @property
    def cores(self) -> dict[str, float]:
        """The cores of each running variant."""
        return {part.variant: part.cores for part in self.parts}

    @property
    def shares(self) -> dict[str, int]:
        """The traffic of each variant in whole percents; empty if whole percents cannot carry the load."""
        return {part.variant: part.share_percent for part in self.parts if part.share_percent is not None}

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {**asdict(self), "termination": self.termination.value}
