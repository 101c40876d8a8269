"""Request bodies of the API: their schema, and their conversion to values of the use cases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

from ipa.model.decision import Mode
from ipa.model.pipeline import Pin
from ipa.model.plan import WHOLE_PERCENT
from ipa.optimize.problem import Compat
from ipa.optimize.registry import AUTO, SOLVERS
from ipa.profiling.points import Allocation
from ipa.service.plans import PlanRequest

# Numbers, not texts or booleans. No quantity is beyond these bounds, and formulas stay finite within them.
Positive = Annotated[float, Field(ge=1e-9, le=1e9, strict=True, allow_inf_nan=False)]
RateRps = Annotated[float, Field(ge=1e-6, le=1e9, strict=True, allow_inf_nan=False)]
LatencyS = Annotated[float, Field(ge=1e-6, le=1e6, strict=True, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, le=1e9, strict=True, allow_inf_nan=False)]
Ratio = Annotated[float, Field(ge=0, le=1, strict=True)]
Count = Annotated[int, Field(ge=1, le=1_000_000, strict=True)]


EARLIEST_YEAR, LATEST_YEAR = 1969, 2201


def _as_text(value: object) -> object:
    """The value, unless it is a number, which would be read as seconds since 1970."""
    if isinstance(value, (int, float)):
        raise ValueError("a time must be text, such as 2026-11-24T12:00:00Z")
    return value


def at_most(most: int) -> BeforeValidator:
    """A validator that refuses a longer list before it checks the entries: 100 000 faults take 0.1 s."""

    def checked(value: object) -> object:
        if isinstance(value, list) and len(value) > most:
            raise ValueError(f"{len(value)} entries; at most {most} are accepted")
        return value

    return BeforeValidator(checked)


def _in_utc(at: datetime) -> datetime:
    """The time in UTC; ValueError for years in which arithmetic could overflow."""
    if not EARLIEST_YEAR < at.year < LATEST_YEAR:
        raise ValueError(f"the year of a time must be from {EARLIEST_YEAR + 1} to {LATEST_YEAR - 1}")
    return at.astimezone(UTC)


Moment = Annotated[AwareDatetime, BeforeValidator(_as_text), AfterValidator(_in_utc)]
Person = Annotated[str, Field(max_length=253)]
# Names of stages, variants, objectives and decisions: as long as a Kubernetes name may be.
Name = Annotated[str, Field(max_length=253)]


def _known_solver(name: str) -> str:
    if name not in SOLVERS:
        raise ValueError(f"there is no solver {name!r}. There are: {', '.join(SOLVERS)}")
    return name


SolverName = Annotated[Name, AfterValidator(_known_solver), Field(description=", ".join(SOLVERS))]
# More entries than any pipeline has of anything.
MOST_LISTED = 1000
# As many judgements as fit into a body.
MOST_JUDGED = 250
Reason = Annotated[str, Field(max_length=1000)]
# A year; use a pause without an end for longer.
LONGEST_PAUSE_S = 366 * 86400


class Body(BaseModel):
    """A request body; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class AttributedBody(Body):
    """A request body with its author and reason. `by` counts only if authentication is off."""

    reason: Reason = ""
    by: Person = ""


class ReplayBody(Body):
    """The policy to replay a decision with; by default the one that made it. `certificate`: export it."""

    policy: Annotated[str, Field(max_length=64)] | None = None
    certificate: bool = False


class BoundsBody(Body):
    """Bounds that replace the pipeline's if given."""

    cores: Positive | None = None
    min_replicas: Count | None = None
    max_replicas: Count | None = None
    batch_sizes: (
        Annotated[list[Count], Field(min_length=1, max_length=MOST_LISTED, fail_fast=True)] | None
    ) = None
    accuracy_floor: Ratio | None = None
    transition_cores: Positive | None = None


class WeightsBody(Body):
    """Weights of α·accuracy − β·cores − δ·Σ batch sizes that replace the objective's if given."""

    alpha: Weight | None = None
    beta: Weight | None = None
    delta: Weight | None = None


class PlanBody(Body):
    """A what-if: nothing is written. `rate_rps` defaults to the forecast's upper quantile now."""

    rate_rps: RateRps | None = None
    objective: Name | None = None
    compat: Compat = Compat.TAIL
    allocation: Allocation = Allocation.FREE
    solver: SolverName = AUTO
    sla_s: LatencyS | None = None
    bounds: BoundsBody | None = None
    weights: WeightsBody | None = None

    def request(self) -> PlanRequest:
        """The what-if of the body."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        bounds = self.bounds.model_dump(exclude_none=True) if self.bounds else {}
        if sizes := bounds.get("batch_sizes"):
            bounds["batch_sizes"] = tuple(sizes)
        weights = self.weights.model_dump(exclude_none=True) if self.weights else {}
        return PlanRequest(**{**given, "bounds": bounds, "weights": weights})


class PauseBody(AttributedBody):
    """A pause: until a time, for a duration, or (with neither) until it is resumed."""

    until: Moment | None = None
    for_s: Annotated[float, Field(gt=0, le=LONGEST_PAUSE_S, strict=True)] | None = None


class ModeBody(AttributedBody):
    """The mode of a pipeline."""

    mode: Mode


class PinBody(AttributedBody):
    """The pinned fields of a stage; absent ones are free."""

    variant: Name | None = None
    batch_size: Count | None = None
    cores: Positive | None = None
    replicas: Count | None = None

    def pin(self) -> Pin:
        """The pin of the body."""
        return Pin(self.variant, self.batch_size, self.cores, self.replicas)


class FreezeBody(AttributedBody):
    """A window of time in which nothing is written; it starts now if `start` is absent."""

    start: Moment | None = None
    end: Moment
    weekly: Annotated[bool, Field(strict=True)] = False


class ConfigBody(Body):
    """The configuration of one stage."""

    stage: Name
    variant: Name
    batch_size: Count
    cores: Positive
    replicas: Count
    share_percent: Annotated[int, Field(ge=0, le=WHOLE_PERCENT, strict=True)] = WHOLE_PERCENT


# Without it, a change that takes capacity while requests are late is refused (409).
Confirmed = Annotated[bool, Field(description="true to take capacity even while requests are late")]


class ApplyBody(AttributedBody):
    """A configuration for every stage of the pipeline; or several configurations with their shares."""

    configs: Annotated[list[ConfigBody], Field(min_length=1, max_length=MOST_LISTED), at_most(MOST_LISTED)]
    confirmed: Confirmed = False


class ApplyPlanBody(AttributedBody):
    """The author and the reason of applying a plan; both are kept with the decision."""

    confirmed: Confirmed = False


class RollbackBody(AttributedBody):
    """A rollback of the caller's last change; with `to`, to that revision: its number, or a decision's id."""

    to: Name | None = None
    confirmed: Confirmed = False


class FeedbackItem(Body):
    """A judgement of one stage's answer to a request: a random sample of the requests, each judged once.

    `correct` (true, false, or a reward from 0 to 1): it is right. `agrees`: the stage's most accurate variant
    answers the same. `variant` answered it; it may be left out if only one has answered lately.
    """

    request: Annotated[str, Field(min_length=1, max_length=256)]
    stage: Name
    variant: Name = ""
    correct: StrictBool | Ratio | None = None
    agrees: StrictBool | Ratio | None = None


class FeedbackBody(Body):
    """Judgements of answers, in the order in which they became known."""

    items: Annotated[list[FeedbackItem], Field(min_length=1, max_length=MOST_JUDGED), at_most(MOST_JUDGED)]


PIPELINE: dict[str, Any] = {
    "apiVersion": "ipa/v1",
    "kind": "Pipeline",
    "name": "captions",
    "description": "A caption for each picture",
    "sla": {"latency": "800ms", "percentile": 99},
    "graph": ["describe"],
    "bounds": {"cores": 16, "max_replicas": 8, "batch_sizes": [1, 2, 4, 8]},
    "objectives": {"default": {"alpha": 1, "beta": 0.1, "delta": 1e-6}},
    "stages": [{"name": "describe", "variants": [{"name": "small"}, {"name": "large"}]}],
}
PROFILE: dict[str, Any] = {
    "apiVersion": "ipa/v1",
    "kind": "Profile",
    "pipeline": "captions",
    "stage": "describe",
    "hardware": "4 cores of a c6i.xlarge",
    "measured_on": "2026-11-24",
    "method": "ipa profile",
    "variants": [
        {
            "variant": name,
            "accuracy": accuracy,
            "points": [
                {"cores": 1, "batch": batch, "latency": f"{base_ms * batch}ms"} for batch in (1, 2, 4, 8)
            ],
        }
        for name, accuracy, base_ms in (("small", 0.61, 20), ("large", 0.74, 55))
    ],
}
_DETECT: dict[str, Any] = {
    "stage": "detect",
    "variant": "v4-480",
    "batch_size": 2,
    "cores": 0.5,
    "replicas": 1,
}
_READ = {**_DETECT, "stage": "recognise", "variant": "v6-240", "batch_size": 4}
_WHO = {"by": "kim", "reason": "the campaign begins"}
# By the name of the schema.
BODIES: dict[str, dict[str, Any]] = {
    "PlanBody": {"rate_rps": 20, "sla_s": 0.8, "bounds": {"cores": 4}},
    "ReplayBody": {"policy": "hpa"},
    "ApplyPlanBody": _WHO,
    "ApplyBody": {"configs": [_DETECT, _READ], **_WHO},
    "RollbackBody": _WHO,
    "FeedbackBody": {"items": [{"request": "7f3a", "stage": "detect", "variant": "v4-480", "correct": True}]},
    "PauseBody": {"for_s": 1800, **_WHO},
    "ModeBody": {"mode": "guarded", **_WHO},
    "PinBody": {"variant": "v4-480", "replicas": 2, **_WHO},
    "FreezeBody": {"end": "2100-01-01T06:00:00Z", **_WHO},
}
