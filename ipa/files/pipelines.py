"""pipeline.yaml <-> Pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ipa.files.document import Document, Pointer, check_within, parse, read_text
from ipa.files.graph import FanOut, as_fan_out, edges_of, in_order, read_nodes
from ipa.files.meaning import check_pipeline
from ipa.files.quantities import parse_duration_s, parse_rate_rps, read_beside
from ipa.files.structure import check_structure
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.on_seldon import unbatched_stages
from ipa.model.pipeline import (
    AccuracyRule,
    Bounds,
    CombineRule,
    Fallback,
    Goal,
    LocalRun,
    Objective,
    OutputRows,
    Pin,
    Pipeline,
    SeldonRun,
    SeldonTarget,
    Shape,
    Sla,
    Stage,
    StageBounds,
    Variant,
)
from ipa.model.resources import BY_NAME, IN_CORES, Prices
from ipa.model.row_counts import batch_fault

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
    return pipeline_in(document), document


def load_pipelines(folder: Path) -> dict[str, Pipeline]:
    """The pipelines in the sub-folders, by name. InputError lists the problems of all of them at once."""
    if not folder.is_dir():
        raise NotFoundError(f"there is no folder {folder}", hint="It is the setting pipelines_dir.")
    pipelines: dict[str, Pipeline] = {}
    problems: list[Problem] = []
    for path in sorted(folder.glob(f"*/{FILE_NAME}")):
        try:
            check_within(path, folder)
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
    return pipeline_in(Document(path, data))


def pipeline_in(document: Document) -> Pipeline:
    """The pipeline in the document; InputError lists every problem."""
    check_structure(document, "pipeline")
    check_pipeline(document)
    document.raise_problems()
    pipeline = _pipeline(document)
    _check_batches(document, pipeline)
    document.raise_problems()
    return pipeline


def _check_batches(document: Document, pipeline: Pipeline) -> None:
    """Note stages that ask for batches where these would give requests the rows of others."""
    why = unbatched_stages(pipeline)
    for at, entry in enumerate(document.data["stages"]):
        name = entry["name"]
        if name not in why:
            continue
        stage = pipeline.stage(name)
        sizes = stage.limits(pipeline.bounds).batch_sizes
        if (stage.pin.batch_size or 1) > 1:
            message = batch_fault(name, stage.pin.batch_size or 1, why[name])
            document.problem(("stages", at, "pin", "batch_size"), message)
        if sizes is not None and 1 not in sizes:
            own = "batch_sizes" in entry.get("bounds", {})
            place: Pointer = (*(("stages", at) if own else ()), "bounds", "batch_sizes")
            document.problem(place, batch_fault(name, min(sizes), why[name]))


def _pipeline(document: Document) -> Pipeline:
    data = document.data
    return Pipeline(
        name=data["name"],
        stages=_stages(document),
        sla=Sla(parse_duration_s(data["sla"]["latency"]), float(data["sla"].get("percentile", 99))),
        objectives=MappingProxyType(
            {name: _objective(name, objective) for name, objective in data["objectives"].items()}
        ),
        bounds=_bounds(data.get("bounds", {})),
        default_objective=data.get("default_objective", "default"),
        seldon=_target(data["seldon"]) if "seldon" in data else None,
        description=data.get("description", ""),
        sets=data.get("sets", False),
        max_predictors=int(data.get("max_predictors", 1)),
        drop_after_s=parse_duration_s(data["drop_after"]) if "drop_after" in data else None,
        fallback=_fallback(data["fallback"]) if "fallback" in data else None,
        prices=_prices(data["prices"]) if "prices" in data else IN_CORES,
    )


def _prices(data: Mapping[str, Any]) -> Prices:
    each = {name: float(price) for name, price in data.items() if name != "accelerators"}
    kinds = {kind: float(price) for kind, price in data.get("accelerators", {}).items()}
    return Prices(each | kinds, is_money=True)


def _target(data: Mapping[str, Any]) -> SeldonTarget:
    values = dict(data)
    values |= {key: float(data[key]) for key in ("orchestrator_cores", "queue_cores") if key in data}
    return SeldonTarget(**{**values, "shape": Shape(data.get("shape", Shape.SINGLE))})


def _stages(document: Document) -> tuple[Stage, ...]:
    """The stages, each behind those that it comes after; in the order of the graph where that is open."""
    listed = document.data["stages"]
    stages = {stage["name"]: _stage(document, stage, ("stages", at)) for at, stage in enumerate(listed)}
    fan_outs = {stage["name"]: as_fan_out(stage["fan_out"]) for stage in listed if "fan_out" in stage}
    nodes, _ = read_nodes(document.data["graph"])
    by_name = {node.name: node for node in nodes}
    edges = {node.name: edges_of(node, by_name, fan_outs) for node in nodes}
    told = {edge.parent for each in edges.values() for edge in each if _is_varying(edge.fan_out)}
    for name, fan_out in fan_outs.items():
        # No edge says so: it is the last stage, or its edges have fan-outs of their own.
        if _is_varying(fan_out) and name not in told and stages[name].output_rows is None:
            stages[name] = replace(stages[name], output_rows=OutputRows.VARYING)
    return tuple(
        replace(
            stages.get(node.name, Stage(node.name, (), container=node.name)),
            after=edges[node.name],
            kind=node.kind,
            combine=node.combine or CombineRule.PRODUCT,
        )
        for node in in_order(nodes)
    )


def _fallback(data: Mapping[str, Any]) -> Fallback:
    ticks = {key: int(data[key]) for key in ("after_ticks", "recover_ticks") if key in data}
    return Fallback(parse_rate_rps(data["rate"]), **ticks)


def _bounds(data: Mapping[str, Any]) -> Bounds:
    values = _limits(data)
    values |= {key: float(data[key]) for key in ("cores", "transition_cores") if key in data}
    values |= read_beside(data)
    if "accuracy_floor" in data:
        values["accuracy_floor"] = data["accuracy_floor"]
    return Bounds(**values)


def _limits(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the bounds of a pipeline and of a stage have in common."""
    values: dict[str, Any] = {key: int(data[key]) for key in ("min_replicas", "max_replicas") if key in data}
    if "batch_sizes" in data:
        values["batch_sizes"] = tuple(sorted(int(size) for size in data["batch_sizes"]))
    return values


def _objective(name: str, data: Mapping[str, Any]) -> Objective:
    numbers = (
        *("alpha", "beta", "delta", "latency_margin_ratio", "throughput_margin_ratio"),
        *("max_cost_cores", "transition_per_core"),
    )
    values: dict[str, Any] = {key: float(data[key]) for key in numbers if key in data}
    values |= {key: int(data[key]) for key in ("max_batch_size", "max_replicas") if key in data}
    if "goal" in data:
        values["goal"] = Goal(data["goal"])
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
    if "output_rows" in data:
        values["output_rows"] = OutputRows(data["output_rows"])
    if "bounds" in data:
        values["bounds"] = StageBounds(**_limits(data["bounds"]))
    if "pin" in data:
        values["pin"] = _pin(data["pin"])
    variants = tuple(
        _variant(document, variant, (*pointer, "variants", index))
        for index, variant in enumerate(data["variants"])
    )
    return Stage(name=data["name"], variants=variants, **values)


def _is_varying(fan_out: FanOut) -> bool:
    return any(items != 1 for items in (fan_out.values() if isinstance(fan_out, Mapping) else [fan_out]))


def _pin(data: Mapping[str, Any]) -> Pin:
    values: dict[str, Any] = {key: int(data[key]) for key in ("batch_size", "replicas") if key in data}
    if "cores" in data:
        values["cores"] = float(data["cores"])
    return Pin(variant=data.get("variant"), **values)


def _variant(document: Document, data: Mapping[str, Any], pointer: Pointer) -> Variant:
    seldon = local = None
    if "seldon" in data:
        run = {key: value for key, value in data["seldon"].items() if key not in BY_NAME}
        run["env"] = _texts(document, run.get("env", {}), (*pointer, "seldon", "env"))
        seldon = SeldonRun(**{**run, **read_beside(data["seldon"])})
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
