"""The keys of experiment.yaml."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from ipa.experiment.experiment import PipelineArm, WorkloadArm
from ipa.experiment.loads import SLA_PATTERN, SLA_WORDS
from ipa.files.kinds.base import DeclaredFile, Section
from ipa.files.kinds.fields import (
    MAPPING,
    SCALAR,
    UNIQUE,
    WHOLE,
    Fraction,
    Maybe,
    Name,
    Number,
    PositiveDuration,
    PositiveNumber,
    form,
)

_END = r"$(?!\n)"
Word = Annotated[str, Field(max_length=60)]
PipelineName = Annotated[
    str, Field(min_length=1, max_length=1000, title="a name, or the path of a pipeline.yaml")
]
Words = Annotated[list[Word], Field(min_length=1, max_length=50, title="at least one name"), UNIQUE]
Reference = Annotated[str, Field(max_length=200)]
TracePath = Annotated[str, Field(max_length=1000)]
Question = Annotated[str, Field(max_length=2000)]
Minutes = Annotated[Number, Field(gt=0, le=14_400, title="minutes of simulated time")]
Seeds = Annotated[
    list[Annotated[int, Field(ge=0, le=2**32 - 1), WHOLE]],
    Field(min_length=1, max_length=1000, title="at least one whole number"),
    UNIQUE,
]
Slas = Annotated[
    list[
        Annotated[
            str,
            Field(
                pattern=rf"^{SLA_PATTERN}{_END}",
                title=SLA_WORDS,
            ),
        ]
    ],
    Field(min_length=1, max_length=20, title="at least one SLA"),
    UNIQUE,
]


FanOuts = Annotated[
    dict[
        str,
        Annotated[
            Annotated[PositiveNumber, Tag(SCALAR)] | Annotated[dict[str, PositiveNumber], Tag(MAPPING)],
            Discriminator(form),
            Field(title="one number, or a number for each variant"),
        ],
    ],
    Field(title="by stage one number, or a number for each variant"),
]


class PipelineArmSection(Section):
    """One of `pipelines:`."""

    model_config = ConfigDict(title="the name of a pipeline, or a mapping with the key pipeline")
    makes: ClassVar = PipelineArm
    pipeline: PipelineName
    name: Maybe[Word] = None
    objective: Maybe[Word] = None
    accuracy_floor: Maybe[Fraction] = None
    cores: Maybe[PositiveNumber] = None
    transition_cores: Maybe[PositiveNumber] = None
    capacity_within_s: Maybe[PositiveDuration] = None
    fan_out: Maybe[FanOuts] = None

    def given(self) -> dict[str, Any]:
        return {"name": self.pipeline, **super().given()}


class WorkloadArmSection(Section):
    """One of `workloads:`."""

    makes: ClassVar = WorkloadArm
    name: Word
    like: Maybe[Word] = None
    trace: Maybe[TracePath] = None
    shared: Maybe[Reference] = None
    at: Maybe[Reference] = None
    scale: Maybe[PositiveNumber] = None


Pipelines = Annotated[
    list[
        Annotated[
            Annotated[PipelineName, Tag(SCALAR)] | Annotated[PipelineArmSection, Tag(MAPPING)],
            Discriminator(form),
            Field(title="the name of a pipeline, or a mapping with the key pipeline"),
        ]
    ],
    Field(min_length=1, max_length=100, title="at least one pipeline"),
]
Workloads = Annotated[
    list[
        Annotated[
            Annotated[str, Tag(SCALAR)] | Annotated[WorkloadArmSection, Tag(MAPPING)],
            Discriminator(form),
            Field(title="the name of a workload, or a mapping with the key name"),
        ]
    ],
    Field(min_length=1, max_length=100, title="at least one workload"),
]


class RunsSection(Section):
    """`quick:`, all that is otherwise in the quick form; the file itself has the same keys."""

    minutes: Maybe[Minutes] = None
    seeds: Maybe[Seeds] = None
    pipelines: Maybe[Pipelines] = None
    workloads: Maybe[Workloads] = None
    slas: Maybe[Slas] = None
    policies: Maybe[Words] = None
    forecasters: Maybe[Words] = None
    settings: Maybe[Annotated[dict[str, Any], Field(title="a mapping")]] = None


class ExperimentFile(DeclaredFile, RunsSection):
    """experiment.yaml."""

    kind: Literal["Experiment"]
    name: Name
    title: Question
    question: Maybe[Question] = None
    runner: Word
    spacing: Maybe[Literal["poisson", "even", "burst"]] = None
    interval_s: Maybe[PositiveDuration] = None
    reference: Maybe[Word] = None
    quick: Maybe[RunsSection] = None
