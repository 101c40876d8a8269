"""pipeline.yaml <-> Pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ipa.adapters.files.document import Document, Pointer, parse, read_text
from ipa.adapters.files.meaning import check_pipeline
from ipa.adapters.files.quantities import (
    format_duration,
    format_memory,
    format_number,
    format_rate,
    parse_duration_s,
    parse_memory_gib,
    parse_rate_rps,
)
from ipa.adapters.files.structure import check_structure
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.pipeline import (
    AccuracyRule,
    Bounds,
    LocalRun,
    Objective,
    Pipeline,
    SeldonRun,
    SeldonTarget,
    Sla,
    Stage,
    Variant,
    chain,
)

FILE_NAME = "pipeline.yaml"


def load_pipeline(path: Path) -> Pipeline:
    """The pipeline in the file.

    InputError lists every problem with its line and column; NotFoundError where there is no such file.
    """
    pipeline, _ = read_pipeline(path)
    return pipeline


def read_pipeline(path: Path) -> tuple[Pipeline, Document]:
    """As `load_pipeline`, with the document, which knows where everything stands."""
    document = parse(read_text(path), str(path))
    return _checked(document), document


def load_pipelines(folder: Path) -> dict[str, Pipeline]:
    """The pipelines in the sub-folders, by name. InputError lists the problems of all of them at once."""
    if not folder.is_dir():
        raise NotFoundError(f"there is no folder {folder}", hint="It is the setting pipelines_dir.")
    pipelines: dict[str, Pipeline] = {}
    problems: list[Problem] = []
    for path in sorted(folder.glob(f"*/{FILE_NAME}")):
        try:
            pipeline = load_pipeline(path)
        except InputError as error:
            problems.extend(error.problems or [Problem(error.message, str(path))])
            continue
        if pipeline.name != path.parent.name:
            message = f"pipeline {pipeline.name!r} lies in folder {path.parent.name!r}; rename one of them"
            problems.append(Problem(message, str(path), pointer="/name"))
        pipelines[pipeline.name] = pipeline
    if problems:
        raise InputError(f"{folder} has pipelines that cannot be used", problems=problems)
    return pipelines


def pipeline_from_mapping(data: Any, path: str = "") -> Pipeline:
    """The pipeline in a mapping with the keys of a file, such as a request's body; InputError as there."""
    return _checked(Document(path, data))


def _checked(document: Document) -> Pipeline:
    check_structure(document, "pipeline")
    check_pipeline(document)
    document.raise_problems()
    return _pipeline(document)


def _pipeline(document: Document) -> Pipeline:
    data = document.data
    stages = {
        stage["name"]: _stage(document, stage, ("stages", index))
        for index, stage in enumerate(data["stages"])
    }
    fan_outs = {stage["name"]: float(stage["fan_out"]) for stage in data["stages"] if "fan_out" in stage}
    return Pipeline(
        name=data["name"],
        stages=chain(
            [stages[name] for name in data["graph"]], [fan_outs.get(name, 1.0) for name in data["graph"]]
        ),
        sla=Sla(parse_duration_s(data["sla"]["latency"]), float(data["sla"].get("percentile", 99))),
        objectives=MappingProxyType(
            {name: _objective(name, objective) for name, objective in data["objectives"].items()}
        ),
        bounds=_bounds(data.get("bounds", {})),
        default_objective=data.get("default_objective", "default"),
        seldon=SeldonTarget(**data["seldon"]) if "seldon" in data else None,
        description=data.get("description", ""),
        drop_after_s=parse_duration_s(data["drop_after"]) if "drop_after" in data else None,
    )


def _bounds(data: Mapping[str, Any]) -> Bounds:
    values = dict(data)
    if "cores" in values:
        values["cores"] = float(values["cores"])
    values |= {key: int(values[key]) for key in ("min_replicas", "max_replicas") if key in values}
    if "batch_sizes" in values:
        values["batch_sizes"] = tuple(sorted(int(size) for size in values["batch_sizes"]))
    return Bounds(**values)


def _objective(name: str, data: Mapping[str, Any]) -> Objective:
    numbers = ("alpha", "beta", "delta", "latency_margin_ratio", "throughput_margin_ratio")
    values: dict[str, Any] = {key: float(data[key]) for key in numbers if key in data}
    values |= {key: int(data[key]) for key in ("max_batch_size", "max_replicas") if key in data}
    if "accuracy" in data:
        values["accuracy_rule"] = AccuracyRule(data["accuracy"]["rule"])
        values["rank_floor"] = data["accuracy"].get("rank_floor")
    if "threshold" in data:
        values["threshold_rps"] = parse_rate_rps(data["threshold"])
    if "sla" in data:
        values["sla_s"] = parse_duration_s(data["sla"])
    return Objective(name=name, **values)


def _stage(document: Document, data: Mapping[str, Any], pointer: Pointer) -> Stage:
    values: dict[str, Any] = {"container": data.get("container", data["name"])}
    if "batch_timeout" in data:
        values["batch_timeout_s"] = parse_duration_s(data["batch_timeout"])
    variants = tuple(
        _variant(document, variant, (*pointer, "variants", index))
        for index, variant in enumerate(data["variants"])
    )
    return Stage(name=data["name"], variants=variants, **values)


def _variant(document: Document, data: Mapping[str, Any], pointer: Pointer) -> Variant:
    seldon = local = None
    if "seldon" in data:
        run = dict(data["seldon"])
        run["env"] = _texts(document, run.get("env", {}), (*pointer, "seldon", "env"))
        if "memory" in run:
            run["memory_gib"] = parse_memory_gib(run.pop("memory"))
        seldon = SeldonRun(**run)
    if "local" in data:
        run = dict(data["local"])
        for key in ("env", "parameters"):
            run[key] = _texts(document, run.get(key, {}), (*pointer, "local", key))
        run["command"] = tuple(run.get("command", ()))
        local = LocalRun(**run)
    return Variant(data["name"], seldon, local)


def _texts(document: Document, values: Mapping[str, Any], pointer: Pointer) -> Mapping[str, str]:
    """The values as text: numbers and booleans exactly as they were written, where that is known."""
    return MappingProxyType(
        {
            key: value if isinstance(value, str) else document.texts.get((*pointer, key), str(value).lower())
            for key, value in values.items()
        }
    )


def pipeline_to_mapping(pipeline: Pipeline) -> dict[str, Any]:
    """The pipeline as a mapping with the keys of a pipeline file; `pipeline_from_mapping` gives it back."""
    sla, bounds = pipeline.sla, pipeline.bounds
    fan_outs = {edge.parent: edge.items("") for stage in pipeline.stages for edge in stage.after}
    return _present(
        {
            "apiVersion": "ipa/v1",
            "kind": "Pipeline",
            "name": pipeline.name,
            "description": pipeline.description or None,
            "sla": {"latency": format_duration(sla.latency_s), "percentile": format_number(sla.percentile)},
            "drop_after": _optional(format_duration, pipeline.drop_after_s),
            "graph": [stage.name for stage in pipeline.stages],
            "bounds": _present(
                {
                    "cores": _optional(format_number, bounds.cores),
                    "min_replicas": bounds.min_replicas,
                    "max_replicas": bounds.max_replicas,
                    "batch_sizes": _optional(list, bounds.batch_sizes),
                    "accuracy_floor": bounds.accuracy_floor,
                }
            ),
            "default_objective": pipeline.default_objective,
            "objectives": {name: _objective_mapping(each) for name, each in pipeline.objectives.items()},
            "seldon": _optional(_target_mapping, pipeline.seldon),
            "stages": [_stage_mapping(stage, fan_outs.get(stage.name, 1.0)) for stage in pipeline.stages],
        }
    )


def _objective_mapping(objective: Objective) -> dict[str, Any]:
    accuracy = {"rule": str(objective.accuracy_rule), "rank_floor": objective.rank_floor}
    return _present(
        {
            "alpha": format_number(objective.alpha),
            "beta": format_number(objective.beta),
            "delta": format_number(objective.delta),
            "accuracy": _present(accuracy),
            "latency_margin_ratio": format_number(objective.latency_margin_ratio),
            "throughput_margin_ratio": format_number(objective.throughput_margin_ratio),
            "threshold": format_rate(objective.threshold_rps),
            "max_batch_size": objective.max_batch_size,
            "max_replicas": objective.max_replicas,
            "sla": _optional(format_duration, objective.sla_s),
        }
    )


def _stage_mapping(stage: Stage, fan_out: float) -> dict[str, Any]:
    return {
        "name": stage.name,
        "container": stage.container or stage.name,
        "fan_out": format_number(fan_out),
        "batch_timeout": format_duration(stage.batch_timeout_s),
        "variants": [
            _present(
                {
                    "name": variant.name,
                    "seldon": _optional(_seldon_mapping, variant.seldon),
                    "local": _optional(_local_mapping, variant.local),
                }
            )
            for variant in stage.variants
        ],
    }


def _target_mapping(target: SeldonTarget) -> dict[str, Any]:
    return {"name": target.name, "namespace": target.namespace, "predictor": target.predictor}


def _seldon_mapping(run: SeldonRun) -> dict[str, Any]:
    return _present(
        {
            "image": run.image,
            "implementation": run.implementation,
            "model_uri": run.model_uri,
            "env": dict(run.env) or None,
            "memory": _optional(format_memory, run.memory_gib),
        }
    )


def _local_mapping(run: LocalRun) -> dict[str, Any]:
    return _present(
        {
            "implementation": run.implementation,
            "parameters": dict(run.parameters) or None,
            "command": list(run.command) or None,
            "env": dict(run.env) or None,
        }
    )


def _optional(convert: Any, value: Any) -> Any:
    return None if value is None else convert(value)


def _present(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
