"""The keys of guardrails.yaml."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from ipa.files.kinds.base import DeclaredFile, Section
from ipa.files.kinds.fields import LIST, SCALAR, Maybe, Name, NonNegative, PositiveNumber, form
from ipa.model.guardrails import Threshold

_RULE_TITLE = 'a rule such as "slo_ratio < 0.99"'
RulesField = Annotated[
    Annotated[str, Tag(SCALAR)]
    | Annotated[list[Annotated[str, Field(title=_RULE_TITLE)]], Field(min_length=1), Tag(LIST)],
    Discriminator(form),
    Field(title=f"{_RULE_TITLE}, or a list of them"),
]


class PipelineRulesSection(Section):
    """One of `pipelines:`."""

    fail_if: RulesField


class ThresholdSection(Section):
    """`threshold:`."""

    makes: ClassVar = Threshold
    cores_ratio: Maybe[NonNegative] = None
    """Of the mean cores, relative; 0.02 where absent."""
    pas: Maybe[NonNegative] = None
    """Of the mean PAS; 0.002 where absent."""
    slo_ratio: Maybe[NonNegative] = None
    """Of the share of requests in time; 0.002 where absent."""
    latency_ratio: Maybe[NonNegative] = None
    """Of the 99th percentile of the latency, relative; 0.1 where absent."""


class GuardrailsFile(DeclaredFile):
    """guardrails.yaml."""

    description_of_kind: ClassVar[str] = (
        "What a change of pipelines and profiles may do, as `ipa ci` checks it."
    )
    kind: Literal["Guardrails"]
    fail_if: Maybe[RulesField] = None
    """A change fails where any of these holds for any pipeline."""
    pipelines: Maybe[dict[Name, PipelineRulesSection]] = None
    """Rules of single pipelines, beside those of all."""
    threshold: Maybe[ThresholdSection] = None
    """A change is told of where it is more than one of these, up or down."""
    usd_per_core_hour: Maybe[PositiveNumber] = None
    """The price of a core in a pipeline without its own prices."""
    trace: Maybe[Annotated[str, Field(min_length=1, title="a trace file, relative to this file")]] = None
    """The recorded load to simulate, where the command names none."""
    workload: Maybe[Literal["bursty", "fluctuating", "steady_high", "steady_low"]] = None
    """The named load to simulate, where the command names none."""
