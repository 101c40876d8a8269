"""The keys of pipeline.yaml."""

from __future__ import annotations

from operator import not_
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag

from ipa.files.graph import FanOut
from ipa.files.kinds.base import FileKind, Section, built
from ipa.files.kinds.fields import (
    AT_MOST_100,
    AT_MOST_1000,
    CHOICE,
    LIST,
    MAPPING,
    SCALAR,
    UNIQUE,
    WHOLE,
    BatchSize,
    BatchSizes,
    Count,
    Duration,
    Fraction,
    Maybe,
    Name,
    NonNegative,
    Number,
    PositiveDuration,
    PositiveNumber,
    PositiveRate,
    Rate,
    Text,
    VariantName,
    form,
)
from ipa.files.kinds.holdings import PricesSection, with_resources
from ipa.files.kinds.targets import with_targets
from ipa.model.pipeline import (
    AccuracyRule,
    Bounds,
    CombineRule,
    Fallback,
    Goal,
    Objective,
    OutputRows,
    Pin,
    Sla,
    Stage,
    StageBounds,
    StageKind,
    Variant,
)


def _is_empty(section: Section) -> bool:
    return section.is_empty


class SlaSection(Section):
    """`sla:`."""

    makes: ClassVar = Sla
    latency_s: PositiveDuration = Field(alias="latency", description="End to end, what a plan must meet.")
    percentile: Maybe[Annotated[Number, Field(gt=0, lt=100)]] = Field(
        None, description="Of the requests; 99 where absent."
    )


class FallbackSection(Section):
    """`fallback:`."""

    makes: ClassVar = Fallback
    rate_rps: PositiveRate = Field(
        alias="rate", description="Planned for at least, until the load is seen again."
    )
    after_ticks: Maybe[Count] = Field(
        None, description="So many ticks in a row without the load; 30 where absent."
    )
    recover_ticks: Maybe[Count] = Field(
        None, description="Over once the load was seen so many ticks in a row; 3 where absent."
    )


class _CoreBounds(Section):
    cores: Maybe[PositiveNumber] = Field(
        None,
        description="Of all replicas of all stages together, at every moment, those of a change included.",
    )
    transition_cores: Maybe[PositiveNumber] = Field(
        None,
        description="Of old and new replicas together while a change rolls out, where that may be more than "
        "cores.",
    )


class BoundsSection(
    with_resources(  # type: ignore[misc]
        _CoreBounds, "As cores.", "As cores; a kind without an entry is not limited."
    )
):
    """`bounds:` of a pipeline."""

    makes: ClassVar = Bounds
    min_replicas: Maybe[Count] = Field(None, description="Of each stage; 1 where absent.")
    max_replicas: Maybe[Count] = Field(None, description="Of each stage.")
    batch_sizes: Maybe[BatchSizes] = Field(None, description="The only batch sizes a plan may use.")
    accuracy_floor: Maybe[Fraction] = Field(
        None, description="Least accuracy of the whole pipeline, a fraction."
    )


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

    rule: Annotated[AccuracyRule, CHOICE]
    rank_floor: Maybe[Fraction] = Field(None, description="The lowest variant's rank is raised to this.")


class ObjectiveSection(Section):
    """One of `objectives:`."""

    makes: ClassVar = Objective
    goal: Maybe[Annotated[Goal, CHOICE]] = Field(None, description="What is best; weighted where absent.")
    alpha: Maybe[NonNegative] = Field(None, description="Weight of the accuracy term; 1 where absent.")
    beta: Maybe[NonNegative] = Field(
        None, description="Weight of a core, or of a USD an hour; 0.1 where absent."
    )
    delta: Maybe[NonNegative] = Field(
        None, description="Weight of the sum of batch sizes; 1e-6 where absent."
    )
    accuracy: Maybe[AccuracySection] = None
    latency_margin_ratio: Maybe[Annotated[Number, Field(gt=-1)]] = Field(
        None, description="Added to measured latency: 1 doubles it."
    )
    throughput_margin_ratio: Maybe[Annotated[Number, Field(gt=-1)]] = Field(
        None, description="Added to measured throughput: -0.5 halves it."
    )
    threshold_rps: Maybe[Rate] = Field(
        None, alias="threshold", description="Base allocation: the least rate one replica must carry."
    )
    max_batch_size: Maybe[Count] = Field(None, description="Larger batches are not planned.")
    max_replicas: Maybe[Count] = Field(None, description="Of each stage.")
    sla_s: Maybe[PositiveDuration] = Field(None, alias="sla", description="Replaces the pipeline's SLA.")
    max_cost_cores: Maybe[PositiveNumber] = Field(
        None, description="What a plan may cost; a change to it may cost more for a while."
    )
    transition_per_core: Maybe[NonNegative] = Field(
        None, description="Lost for each core of a pod that a change would start; 0 where absent."
    )

    def given(self) -> dict[str, Any]:
        found = super().given()
        accuracy = found.pop("accuracy", {})
        return found | {f"accuracy_{key}" if key == "rule" else key: each for key, each in accuracy.items()}

    @classmethod
    def of(cls, value: Objective, **fields: Any) -> ObjectiveSection:
        accuracy = AccuracySection.model_construct(rule=value.accuracy_rule, rank_floor=value.rank_floor)
        return super().of(value, accuracy=accuracy, **fields)


FanOutField = Annotated[
    Annotated[PositiveNumber, Tag(SCALAR)]
    | Annotated[
        dict[VariantName, PositiveNumber], Field(min_length=1, max_length=1000), AT_MOST_1000, Tag(MAPPING)
    ],
    Discriminator(form),
    Field(title="a number above 0, or one for each variant"),
]


class EdgeSection(Section):
    """One of the stages under `after:`, in its long form."""

    fan_out: Maybe[FanOutField] = Field(None, description="Replaces that of the stage before.")


class NodeSection(Section):
    """One of `graph:`, in its long form."""

    model_config = ConfigDict(title="a mapping, such as {after: detect}")

    after: Maybe[
        Annotated[
            Annotated[Name, Tag(SCALAR)]
            | Annotated[list[Name], Field(min_length=1, max_length=100), UNIQUE, Tag(LIST)]
            | Annotated[
                dict[Name, EdgeSection], Field(min_length=1, max_length=100), AT_MOST_100, Tag(MAPPING)
            ],
            Discriminator(form),
            Field(title="a stage's name, a list of them, or a mapping from each to its fan_out"),
        ]
    ] = None
    type: Maybe[Annotated[StageKind, CHOICE]] = Field(
        None, description="Its part in the graph; model where absent."
    )
    shares: Maybe[
        Annotated[
            dict[Name, Annotated[Number, Field(gt=0, le=1)]],
            Field(min_length=1, max_length=100, title="the share of each stage after this router"),
            AT_MOST_100,
        ]
    ] = Field(None, description="Of the requests; equal where absent.")
    accuracy: Maybe[Annotated[CombineRule, CHOICE]] = Field(
        None, description="Of a combiner's input, from those that it combines; product where absent."
    )


GraphField = Annotated[
    Annotated[list[Name], Field(min_length=1, max_length=100), Tag(LIST)]
    | Annotated[dict[Name, NodeSection], Field(min_length=1, max_length=100), AT_MOST_100, Tag(MAPPING)],
    Discriminator(form),
    Field(title="the stages' names in a list, or a mapping from each stage to what it comes after"),
]


class _VariantKeys(Section):
    makes: ClassVar = Variant
    name: VariantName


class VariantSection(with_targets(_VariantKeys, "variant")):  # type: ignore[misc]
    """One of `variants:`, with a key for each target."""


class StageSection(Section):
    """One of `stages:`."""

    makes: ClassVar = Stage
    name: Name
    container: Maybe[Name] = Field(
        None, description="That serves it on a cluster; the stage's name where absent. Never change it."
    )
    fan_out: Maybe[FanOutField] = Field(
        None, description="Items sent on for each item received; 1 where absent."
    )
    output_rows: Maybe[Annotated[OutputRows, CHOICE]] = Field(
        None,
        description="Rows it answers for one item: per-item (one) or varying; varying where it has another "
        "fan_out than 1. Where replicas batch by themselves, a varying stage and the one after it do not.",
    )
    batch_timeout_s: Maybe[Duration] = Field(
        None, alias="batch_timeout", description="Longest wait for a batch to fill; 100ms where absent."
    )
    bounds: Maybe[StageBoundsSection] = Field(
        None,
        exclude_if=_is_empty,
        description="Limits of this stage, beside those of the pipeline.",
    )
    pin: Maybe[PinSection] = Field(
        None,
        exclude_if=_is_empty,
        description="What is fixed of this stage's configuration; what is absent is free.",
    )
    variants: Annotated[
        list[VariantSection],
        Field(min_length=1, max_length=1000, title="at least one variant"),
    ]

    def given(self) -> dict[str, Any]:
        found = super().given()
        # Of the edges to the stages after it.
        found.pop("fan_out", None)
        return {"container": self.name, **found}

    @classmethod
    def of(cls, value: Stage, **fields: Any) -> Self:
        return super().of(value, container=value.container or value.name, **fields)


_Objective = Annotated[
    ObjectiveSection, Field(description="alpha x accuracy - beta x cores - delta x sum of batch sizes.")
]


class _PipelineKeys(FileKind):
    description_of_kind: ClassVar[str] = (
        "A graph of inference stages, the variants of each, an SLA and what is worth what."
    )
    kind: Literal["Pipeline"]
    name: Name = Field(description="Also the name of the folder the file lies in.")
    description: Maybe[Text] = Field(None, exclude_if=not_)
    sla: SlaSection = Field(
        description="What a plan must keep: the latency of so many percent of the requests, end to end."
    )
    drop_after_s: Maybe[PositiveDuration] = Field(
        None,
        alias="drop_after",
        description="Requests older than this at the head of a queue are dropped, one by one.",
    )
    fallback: Maybe[FallbackSection] = Field(
        None,
        description="What is planned for once the load was not seen for a while; it only adds. Nothing "
        "changes then where absent.",
    )
    sets: Maybe[bool] = Field(
        None,
        exclude_if=not_,
        description="Whether several variants of the one stage may run at once, each with a share of the "
        "load; false where absent.",
    )
    max_predictors: Maybe[Annotated[int, Field(ge=1, le=3), WHOLE]] = Field(
        None,
        description="How many configurations of the whole graph may run at once, each with a share; 1 where "
        "absent.",
    )
    graph: GraphField = Field(
        description="A list is a chain. Routers and combiners need a mapping of each stage to what it comes "
        "after."
    )
    bounds: Maybe[BoundsSection] = Field(
        None,
        description="Limits no plan may cross, old and new replicas of a change together; none where absent.",
    )
    prices: Maybe[PricesSection] = Field(
        None,
        description="In USD an hour. The cost in the objective is then money; without it, the cores.",
    )
    default_objective: Maybe[Name] = Field(
        None, description="The objective used when none is named; 'default' where absent."
    )
    objectives: Annotated[
        dict[
            Name,
            Annotated[
                ObjectiveSection,
                Field(description="alpha x accuracy - beta x cores - delta x sum of batch sizes."),
            ],
        ],
        Field(min_length=1, max_length=100, title="at least one objective"),
        AT_MOST_100,
    ] = Field(description="What is best: the most of alpha x accuracy - beta x cores.")


class PipelineFile(with_targets(_PipelineKeys, "pipeline")):  # type: ignore[misc]
    """pipeline.yaml, with a key for each target that has a section of its own."""

    stages: Annotated[
        list[StageSection],
        Field(
            min_length=1,
            max_length=100,
            title="at least one stage",
            description="The variants of a stage do the same task: one runs, with the replicas needed.",
        ),
    ]

    def fan_outs(self) -> dict[str, FanOut]:
        """The fan-outs that stages give, by name."""
        return {stage.name: built(stage.fan_out) for stage in self.stages if stage.fan_out is not None}
