"""guardrails.yaml -> Guardrails."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from ipa.files.document import Document, Pointer, unknown
from ipa.files.faults import check
from ipa.files.kinds.base import DeclaredFile, Section
from ipa.files.kinds.fields import LIST, SCALAR, Maybe, Name, NonNegative, PositiveNumber, form
from ipa.model.guardrails import GuardrailRule, Guardrails, Measure, Threshold

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


_RULE = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\S+)\s*")
KNOWN = tuple(measure.value for measure in Measure)
_EXAMPLE = 'write a measure, <, <=, > or >=, and a number, as "slo_ratio < 0.99"'
NEEDS_PRICE = "give it some, or the guardrails usd_per_core_hour"


def guardrails_in(document: Document) -> Guardrails:
    """The guardrails in the document; InputError lists every problem."""
    file = check(document, GuardrailsFile)
    data = document.sound() or {}
    rules = _rules(document, data, ())
    by_pipeline = {
        name: _rules(document, entry or {}, ("pipelines", name))
        for name, entry in (data.get("pipelines") or {}).items()
    }
    if "trace" in data and "workload" in data:
        document.problem(("workload",), "there is a trace already; give one of the two", at_key=True)
    document.raise_problems()
    assert file is not None, "without a file there are problems"
    given = {**file.given(), "fail_if": rules}
    given.pop("pipelines", None)
    return Guardrails(**given, by_pipeline=by_pipeline, path=document.path)


def _rules(document: Document, data: Mapping[str, Any], pointer: Pointer) -> tuple[GuardrailRule, ...]:
    """The rules there; what is none is noted."""
    given, place = data.get("fail_if") or [], (*pointer, "fail_if")
    places = [place] if isinstance(given, str) else [(*place, at) for at in range(len(given))]
    texts = [given] if isinstance(given, str) else given
    found = [
        _rule(document, text, where) for where, text in zip(places, texts, strict=True) if text is not None
    ]
    return tuple(rule for rule in found if rule is not None)


def _rule(document: Document, text: str, where: Pointer) -> GuardrailRule | None:
    parts = _RULE.fullmatch(text)
    if parts is None:
        document.problem(where, f"{document.shown(where, text)} is no rule; {_EXAMPLE}")
        return None
    name, comparison, number = parts.groups()
    before = len(document.problems)
    if name not in KNOWN:
        document.problem(where, f"there is no measure {name!r}; {unknown(name, KNOWN)}")
    try:
        limit = float(number)
    except ValueError:
        limit = float("nan")
    if not isfinite(limit):
        document.problem(where, f"{number!r} is no number; {_EXAMPLE}")
    if len(document.problems) > before:
        return None
    return GuardrailRule(Measure(name), comparison, limit, document.marks.get(where, (0, 0))[0])
