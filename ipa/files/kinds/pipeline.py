"""The keys of pipeline.yaml."""

from __future__ import annotations

from operator import not_
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from ipa.files.kinds.base import DeclaredFile, Section
from ipa.files.kinds.fields import (
    CHOICE,
    LIST,
    MAPPING,
    SCALAR,
    UNIQUE,
    WHOLE,
    BatchSize,
    BatchSizes,
    Count,
    Fraction,
    KeyCount,
    Line,
    Maybe,
    Name,
    NonNegative,
    Number,
    PositiveDuration,
    PositiveNumber,
    PositiveRate,
    PricesSection,
    Rate,
    ShortDuration,
    Text,
    VariantName,
    form,
    with_resources,
)
from ipa.files.kinds.targets import OfTargets
from ipa.model.pipeline import (
    AccuracyRule,
    Bounds,
    Canary,
    CombineRule,
    Fallback,
    Goal,
    Objective,
    Pin,
    Sla,
    StageBounds,
    StageKind,
    Variant,
)
from ipa.model.probe import PipelineProbe


def is_empty(section: Section) -> bool:
    """True if the section has no key."""
    return section.is_empty


class SlaSection(Section):
    """`sla:`."""

    makes: ClassVar = Sla
    latency_s: PositiveDuration
    """End to end, what a plan must meet."""
    percentile: Maybe[Annotated[Number, Field(gt=0, lt=100)]] = None
    """Of the requests; 99 where absent."""


class FallbackSection(Section):
    """`fallback:`."""

    makes: ClassVar = Fallback
    rate_rps: PositiveRate
    """Planned for at least, until the load is seen again."""
    after_ticks: Maybe[Count] = None
    """So many ticks in a row without the load; 30 where absent."""
    recover_ticks: Maybe[Count] = None
    """Over once the load was seen so many ticks in a row; 3 where absent."""


class ProbeSection(Section):
    """`probe:`."""

    makes: ClassVar = PipelineProbe
    request: Annotated[dict[str, Any], KeyCount(), Field(title="the JSON body of a request")]
    """A request that the pipeline answers, as its clients send it."""
    timeout_s: Maybe[ShortDuration] = None
    """Most time for the answer, at most a minute; 5s where absent."""

    def given(self) -> dict[str, Any]:
        # Plain JSON: it is sent as it was written.
        return {**super().given(), "request": self.request}


class CanarySection(Section):
    """`canary:`."""

    makes: ClassVar = Canary
    share_percent: Maybe[Annotated[int, Field(ge=1, le=5), WHOLE]] = None
    """Of the requests, 1 to 5; 5 where absent."""
    measure_s: Maybe[PositiveDuration] = None
    """The time for which its requests are watched before it takes all; 2min where absent."""


class _CoreBounds(Section):
    cores: Maybe[PositiveNumber] = None
    """Of all replicas of all stages together, at every moment, those of a change included."""
    transition_cores: Maybe[PositiveNumber] = None
    """Of old and new replicas together while a change rolls out, where that may be more than cores."""


class BoundsSection(
    with_resources(  # type: ignore[misc]
        _CoreBounds, "As cores.", "As cores; a kind without an entry is not limited."
    )
):
    """`bounds:` of a pipeline."""

    makes: ClassVar = Bounds
    min_replicas: Maybe[Count] = None
    """Of each stage; 1 where absent."""
    max_replicas: Maybe[Count] = None
    """Of each stage."""
    batch_sizes: Maybe[BatchSizes] = None
    """The only batch sizes a plan may use."""
    accuracy_floor: Maybe[Fraction] = None
    """Least accuracy of the whole pipeline, a fraction."""


class StageBoundsSection(Section):
    """`bounds:` of a stage."""

    makes: ClassVar = StageBounds
    min_replicas: Maybe[Count] = None
    max_replicas: Maybe[Count] = None
    batch_sizes: Maybe[BatchSizes] = None


class PinSection(Section):
    """`pin:` of a stage."""

    makes: ClassVar = Pin
    variant: Maybe[VariantName] = None
    batch_size: Maybe[BatchSize] = None
    cores: Maybe[PositiveNumber] = None
    replicas: Maybe[Count] = None


class AccuracySection(Section):
    """`accuracy:` of an objective."""

    accuracy_rule: Annotated[AccuracyRule, CHOICE] = Field(alias="rule")
    rank_floor: Maybe[Fraction] = None
    """The lowest variant's rank is raised to this."""


class ObjectiveSection(Section):
    """One of `objectives:`."""

    makes: ClassVar = Objective
    goal: Maybe[Annotated[Goal, CHOICE]] = None
    """The optimisation goal; weighted if absent."""
    alpha: Maybe[NonNegative] = None
    """Weight of the accuracy term; 1 where absent."""
    beta: Maybe[NonNegative] = None
    """Weight of a core, or of a USD an hour; 0.1 where absent."""
    delta: Maybe[NonNegative] = None
    """Weight of the sum of batch sizes; 1e-6 where absent."""
    accuracy: Maybe[AccuracySection] = None
    latency_margin_ratio: Maybe[Annotated[Number, Field(gt=-1)]] = None
    """Added to measured latency: 1 doubles it."""
    throughput_margin_ratio: Maybe[Annotated[Number, Field(gt=-1)]] = None
    """Added to measured throughput: -0.5 halves it."""
    threshold_rps: Maybe[Rate] = None
    """Base allocation: the least rate one replica must carry."""
    max_batch_size: Maybe[Count] = None
    """Larger batches are not planned."""
    max_replicas: Maybe[Count] = None
    """Of each stage."""
    sla_s: Maybe[PositiveDuration] = None
    """Replaces the pipeline's SLA."""
    max_cost_cores: Maybe[PositiveNumber] = None
    """The maximum cost of a plan; a change to it may exceed it for a while."""
    transition_per_core: Maybe[NonNegative] = None
    """Lost for each core of a pod that a change would start; 0 where absent."""

    def given(self) -> dict[str, Any]:
        found = super().given()
        accuracy = found.pop("accuracy", {})
        return {**found, **accuracy}

    @classmethod
    def of(cls, value: Objective, **fields: Any) -> ObjectiveSection:
        return super().of(value, accuracy=value, **fields)


FanOutField = Annotated[
    Annotated[PositiveNumber, Tag(SCALAR)]
    | Annotated[dict[VariantName, PositiveNumber], KeyCount(1000), Tag(MAPPING)],
    Discriminator(form),
    Field(title="a number above 0, or one for each variant"),
]


class EdgeSection(Section):
    """One of the stages under `after:`, in its long form."""

    fan_out: Maybe[FanOutField] = None
    """Replaces that of the stage before."""


class NodeSection(Section):
    """One of `graph:`, in its long form."""

    model_config = ConfigDict(title="a mapping, such as {after: detect}")

    after: Maybe[
        Annotated[
            Annotated[Name, Tag(SCALAR)]
            | Annotated[list[Name], Field(min_length=1, max_length=100), UNIQUE, Tag(LIST)]
            | Annotated[dict[Name, EdgeSection], KeyCount(), Tag(MAPPING)],
            Discriminator(form),
            Field(title="a stage's name, a list of them, or a mapping from each to its fan_out"),
        ]
    ] = None
    type: Maybe[Annotated[StageKind, CHOICE]] = None
    """Its part in the graph; model where absent."""
    shares: Maybe[
        Annotated[
            dict[Name, Annotated[Number, Field(gt=0, le=1)]],
            KeyCount(),
            Field(title="the share of each stage after this router"),
        ]
    ] = None
    """Of the requests; equal where absent."""
    accuracy: Maybe[Annotated[CombineRule, CHOICE]] = None
    """Of a combiner's input, from those that it combines; product where absent."""


GraphField = Annotated[
    Annotated[list[Name], Field(min_length=1, max_length=100), Tag(LIST)]
    | Annotated[dict[Name, NodeSection], KeyCount(), Tag(MAPPING)],
    Discriminator(form),
    Field(title="the stages' names in a list, or a mapping from each stage to what it comes after"),
]


class VariantKeys(OfTargets):
    """The keys of a variant that are of no target."""

    makes: ClassVar = Variant
    name: VariantName


class PipelineKeys(DeclaredFile, OfTargets):
    """The keys of pipeline.yaml that are of no target, without its stages."""

    description_of_kind: ClassVar[str] = (
        "A graph of inference stages, the variants of each, an SLA and what is worth what."
    )
    kind: Literal["Pipeline"]
    name: Name
    """Also the name of the folder the file lies in."""
    description: Maybe[Text] = Field(None, exclude_if=not_)
    runnable: Maybe[bool] = Field(None, exclude_if=lambda runnable: runnable is True)
    """False for a pipeline that is only planned, since something that it runs with is missing; true if
    absent."""
    not_runnable_because: Maybe[Line] = Field(None, exclude_if=not_)
    """The reason in words; required if runnable is false."""
    sla: SlaSection
    """The end-to-end latency that this percentage of the requests must meet."""
    drop_after_s: Maybe[PositiveDuration] = None
    """Requests older than this at the head of a queue are dropped, one by one; than the SLA if absent."""
    fallback: Maybe[FallbackSection] = None
    """The rate to plan for once the load was missing for a while; it only adds capacity. If absent, nothing
    changes then."""
    probe: Maybe[ProbeSection] = None
    """The smoke request of `ipa probe`, and what follows if it fails after a rollout; none if absent."""
    canary: Maybe[CanarySection] = None
    """Try a configuration with a new variant on a few requests before it takes all; none if absent."""
    sets: Maybe[bool] = Field(None, exclude_if=not_)
    """True to let several variants of the only stage share the load; false if absent."""
    graph: GraphField
    """A list is a chain. Routers and combiners need a mapping of each stage to what it comes after."""
    bounds: Maybe[BoundsSection] = None
    """Limits no plan may cross, old and new replicas of a change together; none where absent."""
    prices: Maybe[PricesSection] = None
    """In USD an hour. The cost in the objective is then money; without it, the cores."""
    default_objective: Maybe[Name] = None
    """The objective used when none is named; 'default' where absent."""
    objectives: Annotated[dict[Name, ObjectiveSection], KeyCount(), Field(title="at least one objective")]
    """The objective to maximise: alpha x accuracy - beta x cores - delta x sum of batch sizes."""

    @model_validator(mode="before")
    @classmethod
    def _without_old_default(cls, data: Any) -> Any:
        """Leave `max_predictors: 1` out, which earlier versions wrote into every file that they made."""
        if isinstance(data, dict) and data.get("max_predictors") == 1:
            return {key: value for key, value in data.items() if key != "max_predictors"}
        return data
