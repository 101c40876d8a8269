"""The section `scale:` of a pipeline in files: the object of each stage, and the series of its load."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from ipa.adapters.prometheus.queries import Matcher, Selector
from ipa.files.document import Document
from ipa.files.forms import section
from ipa.files.targets import TargetSections
from ipa.model.errors import InputError
from ipa.model.forms import (
    NAME,
    BatchSize,
    Name,
    PositiveNumber,
    RefusedError,
    ValueForm,
    VariantName,
    mapping,
    text,
)
from ipa.model.pipeline import DEFAULT_NAMESPACE, Pipeline
from ipa.model.rolling import DEPLOYMENT

KEY = "scale"
# Only the number of replicas changes, so that another change adds to those that start.
ROLLING = replace(DEPLOYMENT, amends=True)
_LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!=|!~|=)\s*"((?:[^"\\]|\\.)*)"'
_SELECTOR = re.compile(rf"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{{\s*((?:{_LABEL}\s*,?\s*)*)\}})?")
_ESCAPED = re.compile(r"\\(.)")
EXAMPLE = 'requests_total{service="video"}'


def read_selector(written: str) -> Selector:
    """The series of a PromQL selector; RefusedError unless it is a name with labels by `=` or `=~`."""
    parsed = _SELECTOR.fullmatch(written.strip())
    if parsed is None:
        raise RefusedError(f"; expected the selector of series, such as {EXAMPLE}, and no function or range")
    matchers = []
    for label, operator, quoted in re.findall(_LABEL, parsed[2] or ""):
        if operator not in ("=", "=~"):
            raise RefusedError(f"; a label is selected by = or =~, not by {operator}")
        value = _ESCAPED.sub(lambda escape: "\n" if escape[1] == "n" else escape[1], quoted)
        # An ending without values is a whole regular expression.
        matchers.append(Matcher(label, (value,)) if operator == "=" else Matcher(label, (), value))
    return Selector(parsed[1], tuple(matchers))


_SERIES = ValueForm({"title": f"a PromQL selector, such as {EXAMPLE}", "type": "string"}, read_selector, str)
Series = Annotated[Selector, _SERIES]
_API_VERSION = text(r"([a-z0-9.-]+/)?v[0-9][a-z0-9]*", "an API version, such as apps/v1")
_KIND = text("[A-Z][A-Za-z0-9]*", "a kind of object, such as Deployment")


@dataclass(frozen=True, slots=True)
class ScaledStage:
    """The object whose replicas serve a stage, and what each of them runs: nobody but its owner changes that.

    `namespace` None: that of the pipeline.
    """

    name: Name
    variant: VariantName
    """That its replicas run."""
    cores: PositiveNumber
    """Of each replica."""
    batch_size: BatchSize = 1
    """The most that a replica serves at once; 1 if absent."""
    kind: Annotated[str, _KIND] = "Deployment"
    """Any kind with the subresource scale; Deployment if absent."""
    api_version: Annotated[str, _API_VERSION] = "apps/v1"
    """Of the kind; apps/v1 if absent."""
    namespace: Name | None = None
    """That of the pipeline if absent."""


@dataclass(frozen=True, slots=True)
class LoadSeries:
    """The series of a pipeline's load in Prometheus, each by its selector; None: there is none."""

    arrivals: Series
    """A counter of the pipeline's requests."""
    latency: Series | None = None
    """The buckets of the latency of answered requests, in seconds. Without it late requests are not seen."""
    lost: Series | None = None
    """A counter of requests without an answer, which count as late; it needs `latency`."""
    alive: Series | None = None
    """A series that is there before the first request: then no requests are a load of 0."""


@dataclass(frozen=True, slots=True)
class ScalePlace:
    """The objects of a pipeline's stages by stage, their `namespace`, and the series of the load."""

    stages: Mapping[str, ScaledStage] = field(hash=False)
    load: LoadSeries
    namespace: Name = DEFAULT_NAMESPACE

    def place(self, stage: str) -> tuple[str, str, str, str]:
        """API version, kind, namespace and name of the stage's object."""
        it = self.stages[stage]
        return it.api_version, it.kind, it.namespace or self.namespace, it.name


def scale_of(pipeline: Pipeline) -> ScalePlace:
    """The pipeline's section; InputError if it has none."""
    place: ScalePlace | None = pipeline.targets.get(KEY)
    if place is None:
        raise InputError(f"pipeline {pipeline.name!r} has no `scale:` section, which names its objects")
    return place


def _check(document: Document, scale: Mapping[str, Any]) -> None:
    """Note stages without an object, objects without a stage, and what cannot be as the section says."""
    given, load = scale.get("stages") or {}, scale.get("load") or {}
    if load.get("lost") is not None and load.get("latency") is None:
        words = "without `latency` there are no answered requests to compare them with; give both, or neither"
        document.problem((KEY, "load", "lost"), words)
    if not given:
        return
    stages = {it.get("name"): it for it in (document.sound() or {}).get("stages") or () if it}
    served = {name: it for name, it in stages.items() if it.get("variants")}
    if missing := [str(name) for name in served if name not in given]:
        document.problem((KEY, "stages"), f"it names no object for {', '.join(missing)}")
    taken: dict[tuple[Any, ...], str] = {}
    for name, it in given.items():
        at = (KEY, "stages", name)
        if name not in served:
            message = f"{name!r} is not a stage with variants; there are {', '.join(map(str, served))}"
            document.problem(at, message, at_key=True)
            continue
        if not it:
            continue
        variants = [each.get("name") for each in served[name]["variants"] if each]
        if it.get("variant") is not None and it["variant"] not in variants:
            words = f"variant {it['variant']!r} is none of the stage's: {', '.join(map(str, variants))}"
            document.problem((*at, "variant"), words)
        namespace = scale.get("namespace", DEFAULT_NAMESPACE)
        absent = {"apiVersion": "apps/v1", "kind": "Deployment", "namespace": namespace}
        pin, runs = served[name].get("pin") or {}, {"batch_size": 1, **absent, **it}
        for key in ("variant", "batch_size", "cores"):
            if pin.get(key) not in (None, runs.get(key)):
                words = f"scaling cannot change {key}, which is {runs.get(key)}: remove the stage's pin"
                document.problem((*at, key) if key in it else at, words)
        place = tuple(runs.get(key) for key in ("apiVersion", "kind", "namespace", "name"))
        if (other := taken.setdefault(place, name)) != name:
            document.problem((*at, "name"), f"stage {other!r} has the same object")


_STAGE = section(
    "scaled_stage", ScaledStage, "api_version=apiVersion kind name namespace variant cores batch_size?"
)
# A plain dict can be sent to other processes.
_STAGES = replace(mapping(NAME, _STAGE), make=dict)
_LOAD = section("load_series", LoadSeries, "arrivals latency lost alive")
SECTIONS = TargetSections(
    KEY,
    section("scale", ScalePlace, "namespace stages load", stages=_STAGES, load=_LOAD),
    description="The objects that somebody else scales, for `ipa serve --target scale`.",
    check=_check,
)
