"""`seldon:` in pipeline files: its values for a pipeline and for a variant, read and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, overload

from ipa.files.quantities import format_memory, format_number, parse_memory_gib
from ipa.files.sections import Fault, TargetSection, TargetSections, Texts, present
from ipa.model.pipeline import DEFAULT_NAMESPACE, Pipeline, Variant

KEY = "seldon"
# Keys of a file that serves several targets, which Seldon in one shape or the other does not carry.
MAY_IGNORE = ("drop_after", "sets", "max_predictors")


class Shape(StrEnum):
    """The layout of a pipeline in SeldonDeployments.

    `single`: one for all stages, each batching by itself, with Seldon's orchestrator. `split`: one each for
    our router and for every stage's queue and model.
    """

    SINGLE = "single"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class SeldonTarget:
    """Location of the pipeline's SeldonDeployment, and its cores beside the stages' replicas.

    `orchestrator_cores` are those of Seldon's orchestrator, or of our router, which has a pod of its own
    unless `separate_orchestrator` is false: then each replica of the first stage has one. `queue_cores` are
    those of each stage's queue, `image` is the image of router and queues (both for shape split). `ignores`
    are keys of the file that the shape does not carry, and that are not refused for it.
    """

    name: str
    namespace: str = DEFAULT_NAMESPACE
    predictor: str = "default"
    shape: Shape = Shape.SINGLE
    image: str | None = None
    # The operator's default for its orchestrator: 500m.
    orchestrator_cores: float = 0.5
    separate_orchestrator: bool = True
    queue_cores: float = 0.5
    ignores: tuple[str, ...] = field(default=(), metadata={"not_recorded": True})


@dataclass(frozen=True, slots=True)
class SeldonRun:
    """A variant's settings on Seldon: the container's image and env, and the model it loads."""

    image: str | None = None
    model_uri: str | None = None
    implementation: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    memory_gib: float | None = None


@overload
def seldon_of(of: Pipeline) -> SeldonTarget | None: ...
@overload
def seldon_of(of: Variant) -> SeldonRun | None: ...
def seldon_of(of: Pipeline | Variant) -> SeldonTarget | SeldonRun | None:
    """The `seldon:` section of a pipeline or of a variant; None if it has none."""
    found: SeldonTarget | SeldonRun | None = of.targets.get(KEY)
    return found


def with_seldon(pipeline: Pipeline, **changes: Any) -> Pipeline:
    """The pipeline with those fields of its section changed; KeyError if it has none."""
    changed = replace(pipeline.targets[KEY], **changes)
    return replace(pipeline, targets={**pipeline.targets, KEY: changed})


def _read_pipeline(given: Mapping[str, Any], texts: Texts) -> SeldonTarget:
    values = dict(given)
    values |= {key: float(given[key]) for key in ("orchestrator_cores", "queue_cores") if key in given}
    values |= {"shape": Shape(given.get("shape", Shape.SINGLE)), "ignores": tuple(given.get("ignores", ()))}
    return SeldonTarget(**values)


def _write_pipeline(target: SeldonTarget) -> Mapping[str, Any]:
    usual = SeldonTarget(target.name)
    return {"name": target.name, "namespace": target.namespace, "predictor": target.predictor} | present(
        {
            "shape": str(target.shape) if target.shape is not usual.shape else None,
            "image": target.image,
            "orchestrator_cores": _unless(usual.orchestrator_cores, target.orchestrator_cores),
            "separate_orchestrator": None if target.separate_orchestrator else False,
            "queue_cores": _unless(usual.queue_cores, target.queue_cores),
            "ignores": list(target.ignores) or None,
        }
    )


def _unless(usual: float, value: float) -> Any:
    return None if value == usual else format_number(value)


def _faults(given: Mapping[str, Any]) -> Iterator[Fault]:
    if given.get("shape") == "split" and "image" not in given:
        yield (
            ("shape",),
            "shape split needs `image`: that of its router and queues, with ipa-serving installed",
        )


def _read_variant(given: Mapping[str, Any], texts: Texts) -> SeldonRun:
    run = {**given, "env": texts("env")}
    if "memory" in run:
        run["memory_gib"] = parse_memory_gib(run.pop("memory"))
    return SeldonRun(**run)


def _write_variant(run: SeldonRun) -> Mapping[str, Any]:
    return present(
        {
            "image": run.image,
            "implementation": run.implementation,
            "model_uri": run.model_uri,
            "env": dict(run.env) or None,
            "memory": None if run.memory_gib is None else format_memory(run.memory_gib),
        }
    )


_NAME, _TEXT = {"$ref": "#/$defs/name"}, {"$ref": "#/$defs/text"}
_PIPELINE_SCHEMA = {
    "type": "object",
    "description": "Where the SeldonDeployment lives, in which shape, and what it takes beside the stages.",
    "properties": {
        "name": _NAME,
        "namespace": _NAME,
        "predictor": _NAME,
        "shape": {"enum": [str(shape) for shape in Shape]},
        "image": _TEXT,
        "orchestrator_cores": {"type": "number", "minimum": 0, "maximum": 1000},
        "separate_orchestrator": {"type": "boolean"},
        "queue_cores": {"type": "number", "exclusiveMinimum": 0, "maximum": 1000},
        "ignores": {
            "description": "Keys of this file that the shape does not carry, for the sake of another target.",
            "type": "array",
            "items": {"enum": list(MAY_IGNORE)},
            "minItems": 1,
            "maxItems": len(MAY_IGNORE),
            "uniqueItems": True,
        },
    },
    "required": ["name"],
    "additionalProperties": False,
}
_VARIANT_SCHEMA = {
    "type": "object",
    "properties": {
        "image": _TEXT,
        "implementation": _TEXT,
        "model_uri": _TEXT,
        "env": {"$ref": "#/$defs/env"},
        "memory": {"$ref": "#/$defs/memory"},
    },
    "additionalProperties": False,
}
SECTIONS = TargetSections(
    KEY,
    TargetSection(_read_pipeline, _write_pipeline, _PIPELINE_SCHEMA, _faults),
    TargetSection(_read_variant, _write_variant, _VARIANT_SCHEMA),
)
