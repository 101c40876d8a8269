"""A Pipeline as the mapping that a pipeline file holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipa.files.dumping import dump_yaml
from ipa.files.graph import FanOut
from ipa.files.quantities import format_duration, format_number, format_rate, write_beside
from ipa.model.pipeline import (
    Bounds,
    CombineRule,
    Fallback,
    LocalRun,
    Objective,
    Pin,
    Pipeline,
    SeldonRun,
    SeldonTarget,
    Stage,
    StageBounds,
    StageKind,
)
from ipa.model.resources import BY_NAME, Prices


def pipeline_to_mapping(pipeline: Pipeline) -> dict[str, Any]:
    """The pipeline as a mapping with the keys of a pipeline file; `pipeline_from_mapping` gives it back."""
    sla = pipeline.sla
    is_short = pipeline.is_chain and all(stage.kind is StageKind.MODEL for stage in pipeline.stages)
    fan_outs = {edge.parent: edge.fan_out for stage in pipeline.stages for edge in stage.after}
    return _present(
        {
            "apiVersion": "ipa/v1",
            "kind": "Pipeline",
            "name": pipeline.name,
            "description": pipeline.description or None,
            "sla": {"latency": format_duration(sla.latency_s), "percentile": format_number(sla.percentile)},
            "drop_after": _optional(format_duration, pipeline.drop_after_s),
            "fallback": _optional(_fallback_mapping, pipeline.fallback),
            "sets": pipeline.sets or None,
            "max_predictors": pipeline.max_predictors,
            "graph": [stage.name for stage in pipeline.stages] if is_short else _graph_mapping(pipeline),
            "bounds": _bounds_mapping(pipeline.bounds),
            "prices": _prices_mapping(pipeline.prices) if pipeline.prices.is_money else None,
            "default_objective": pipeline.default_objective,
            "objectives": {name: _objective_mapping(each) for name, each in pipeline.objectives.items()},
            "seldon": _optional(_target_mapping, pipeline.seldon),
            "stages": [
                _stage_mapping(stage, fan_outs.get(stage.name) if is_short else None)
                for stage in pipeline.stages
                if stage.variants
            ],
        }
    )


def dump_pipeline(pipeline: Pipeline) -> str:
    """The text of a pipeline file; `load_pipeline` reads the same pipeline back."""
    return dump_yaml(pipeline_to_mapping(pipeline))


def _graph_mapping(pipeline: Pipeline) -> dict[str, Any]:
    """Each stage's node: the fan-out with each edge, the shares with the router."""
    shares: dict[str, dict[str, float]] = {}
    for stage in pipeline.stages:
        for edge in stage.after:
            shares.setdefault(edge.parent, {})[stage.name] = edge.share
    return {
        stage.name: _present(
            {
                "after": {edge.parent: {"fan_out": _fan_out(edge.fan_out)} for edge in stage.after} or None,
                "type": str(stage.kind),
                "shares": shares.get(stage.name) if stage.kind is StageKind.ROUTER else None,
                "accuracy": str(stage.combine) if stage.combine is not CombineRule.PRODUCT else None,
            }
        )
        for stage in pipeline.stages
    }


def _fan_out(value: FanOut) -> Any:
    if isinstance(value, Mapping):
        return {variant: format_number(items) for variant, items in value.items()}
    return format_number(value)


def _fallback_mapping(fallback: Fallback) -> dict[str, Any]:
    return {
        "rate": format_rate(fallback.rate_rps),
        "after_ticks": fallback.after_ticks,
        "recover_ticks": fallback.recover_ticks,
    }


def _bounds_mapping(bounds: Bounds) -> dict[str, Any]:
    return _present(
        {
            "cores": _optional(format_number, bounds.cores),
            "transition_cores": _optional(format_number, bounds.transition_cores),
            **write_beside(bounds),
            "min_replicas": bounds.min_replicas,
            "max_replicas": bounds.max_replicas,
            "batch_sizes": _optional(list, bounds.batch_sizes),
            "accuracy_floor": bounds.accuracy_floor,
        }
    )


def _prices_mapping(prices: Prices) -> dict[str, Any]:
    shown = {name: format_number(price) for name, price in prices.each.items()}
    kinds = {name: shown.pop(name) for name in list(shown) if name not in BY_NAME}
    return shown | ({"accelerators": kinds} if kinds else {})


def _objective_mapping(objective: Objective) -> dict[str, Any]:
    accuracy = {"rule": str(objective.accuracy_rule), "rank_floor": objective.rank_floor}
    return _present(
        {
            "goal": str(objective.goal),
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
            "max_cost_cores": _optional(format_number, objective.max_cost_cores),
            "transition_per_core": format_number(objective.transition_per_core),
        }
    )


def _stage_mapping(stage: Stage, fan_out: FanOut | None) -> dict[str, Any]:
    return _present(
        {
            "name": stage.name,
            "container": stage.container or stage.name,
            "fan_out": _optional(_fan_out, fan_out),
            "output_rows": _optional(str, stage.output_rows),
            "batch_timeout": format_duration(stage.batch_timeout_s),
            "bounds": _stage_bounds_mapping(stage.bounds) or None,
            "pin": _pin_mapping(stage.pin) or None,
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
    )


def _stage_bounds_mapping(bounds: StageBounds) -> dict[str, Any]:
    return _present(
        {
            "min_replicas": bounds.min_replicas,
            "max_replicas": bounds.max_replicas,
            "batch_sizes": _optional(list, bounds.batch_sizes),
        }
    )


def _pin_mapping(pin: Pin) -> dict[str, Any]:
    return _present(
        {
            "variant": pin.variant,
            "batch_size": pin.batch_size,
            "cores": _optional(format_number, pin.cores),
            "replicas": pin.replicas,
        }
    )


def _target_mapping(target: SeldonTarget) -> dict[str, Any]:
    usual = SeldonTarget(target.name)
    return {"name": target.name, "namespace": target.namespace, "predictor": target.predictor} | _present(
        {
            "shape": str(target.shape) if target.shape is not usual.shape else None,
            "image": target.image,
            "orchestrator_cores": _unless(usual.orchestrator_cores, target.orchestrator_cores),
            "separate_orchestrator": None if target.separate_orchestrator else False,
            "queue_cores": _unless(usual.queue_cores, target.queue_cores),
        }
    )


def _unless(usual: float, value: float) -> Any:
    return None if value == usual else format_number(value)


def _seldon_mapping(run: SeldonRun) -> dict[str, Any]:
    return _present(
        {
            "image": run.image,
            "implementation": run.implementation,
            "model_uri": run.model_uri,
            "env": dict(run.env) or None,
            **write_beside(run),
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
