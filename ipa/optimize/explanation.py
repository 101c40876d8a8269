"""The values of an explanation of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ipa.model.plan import Plan, PlanSummary, StageConfig


@dataclass(frozen=True, slots=True)
class Binding:
    """A limit without which a better plan exists, the gain, and that plan."""

    kind: str
    where: str
    gain: float
    without: PlanSummary
    text: str


@dataclass(frozen=True, slots=True)
class Alternative:
    """The best plan of other variants, and how it differs: its own less the plan's."""

    outcome: PlanSummary
    objective_change: float
    pas_change: float
    cost_cores_change: float
    latency_change_s: float
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Remedy:
    """The smallest move of one limit that makes an infeasible problem feasible, and the best plan then.

    `outcome` is None if time did not allow finding it.
    """

    kind: str
    value: float
    text: str
    outcome: PlanSummary | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The explanation of a plan; `unfinished` lists the parts that time did not allow."""

    plan: Plan
    summary: str
    binding: tuple[Binding, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    unfinished: tuple[str, ...] = ()
    binding_complete: bool = False
    alternatives_complete: bool = False

    def to_json(self) -> dict[str, Any]:
        """The explanation as plain JSON values."""
        return {**asdict(self), "plan": self.plan.to_json()}


def differences(before: Sequence[StageConfig], after: Sequence[StageConfig]) -> tuple[str, ...]:
    """The differences of each stage that differs, in words, stages in order."""
    found = []
    for old, new in zip(before, after, strict=True):
        words = []
        if new.variant != old.variant:
            words.append(f"{old.variant} → {new.variant}")
        if new.batch_size != old.batch_size:
            words.append(f"batch {old.batch_size} → {new.batch_size}")
        if new.cores != old.cores:
            words.append(f"cores of a replica {old.cores:g} → {new.cores:g}")
        if new.replicas != old.replicas:
            words.append(f"replicas {old.replicas} → {new.replicas}")
        if words:
            found.append(f"{old.stage}: {', '.join(words)}")
    return tuple(found)


def listed(parts: Sequence[str]) -> str:
    """The parts as an enumeration: a; a and b; a, b and c."""
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last
