"""Copies of one stage of a SeldonDeployment to measure: what they are made of, and the room they need.

A copy has a name, a Service and replicas of its own, so it never gets a request of the pipeline's. It is
labelled with the pipeline and says who holds it until when, so that what a killed run left can be told apart
from what another one measures.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from ipa.adapters.kube.quantity import parse_quantity
from ipa.model.errors import ConflictError, InputError
from ipa.model.pipeline import Pipeline, ReplicaOwner, Stage, StageKind
from ipa.model.plan import StageConfig
from ipa.model.resources import Resources
from ipa.targets.kubernetes.layout import Draft
from ipa.targets.seldon.locate import AUTOSCALERS, SELDON_DEPLOYMENT, StageLocation, locate, target_of
from ipa.targets.seldon.manifest import ONE_ORCHESTRATOR
from ipa.targets.seldon.predictors import change_all
from ipa.targets.seldon.residents import MODELS
from ipa.targets.seldon.section import WireProtocol, seldon_of
from ipa.targets.seldon.split import alone
from ipa.targets.seldon.variants import Json

LABEL_COPY_OF = "ipa-serving/profile-of"
HOLDER, UNTIL = "ipa-serving/profile-holder", "ipa-serving/profile-until"
# What a copy has no use for: another number of replicas, explanations, and labels by which others find pods.
NOT_COPIED = frozenset({"explainer", "replicas", "traffic", "shadow", "labels"})
# The container that says which processor its node has, in its last words.
CPU_PROBE = "ipa-cpu-model"
SAY_CPU = "grep -m1 'model name' /proc/cpuinfo | cut -d: -f2 > /dev/termination-log || true"
# Stages of these kinds are asked in other ways than with items.
UNMEASURED = (StageKind.ROUTER, StageKind.COMBINER)
GIB = 2**30


@dataclass(frozen=True, slots=True)
class CopyHold:
    """The run that holds copies, as `host/pid`, and the end of its hold."""

    holder: str
    until: datetime

    def is_over(self, now: datetime) -> bool:
        """True if the hold is past, or its process was one of this machine and is gone."""
        host, _, pid = self.holder.rpartition("/")
        is_gone = host == platform.node() and pid.isdecimal() and not _is_alive(int(pid))
        return is_gone or now >= self.until


def this_run(now: datetime, for_s: float) -> CopyHold:
    """The hold of this process for that time."""
    return CopyHold(f"{platform.node()}/{os.getpid()}", now + timedelta(seconds=for_s))


def hold_of(sdep: Json, now: datetime) -> CopyHold:
    """The hold that the copy's annotations say; one that is over where they say none."""
    said = (sdep.get("metadata") or {}).get("annotations") or {}
    try:
        until = datetime.fromisoformat(str(said.get(UNTIL)))
    except ValueError:
        until = now
    return CopyHold(str(said.get(HOLDER, "")), until if until.tzinfo else now)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def as_copy(pipeline: Pipeline, name: str, stage: Stage) -> Pipeline:
    """The stage as a pipeline of its own in a copy of that name. InputError if it cannot be measured so."""
    if stage.kind in UNMEASURED:
        raise InputError(
            f"stage {stage.name!r} is a {stage.kind.value}, which cannot be measured alone: it takes no items"
        )
    if target_of(pipeline).protocol is not WireProtocol.V2:
        raise InputError(
            f"pipeline {pipeline.name!r} does not speak V2, which copies are asked by",
            hint="Measure a server of the stage that runs, by `ipa profile --url`.",
        )
    if any(MODELS in run.env for variant in stage.variants if (run := seldon_of(variant)) is not None):
        raise InputError(
            f"stage {stage.name!r} keeps several variants in a replica, of which no copy with one is made",
            hint="Measure a server of one variant that runs, by `ipa profile --url`, or on this machine.",
        )
    return alone(pipeline, name, replace(stage, replicas=ReplicaOwner.PLANNED))


def copy_body(
    owner: Pipeline, copy: Pipeline, live: Json, config: StageConfig, hold: CopyHold, *, probes_cpu: bool
) -> dict[str, Any]:
    """The SeldonDeployment that runs one replica of the stage of the live one with that configuration.

    `owner` is the pipeline by which the live one is read, `copy` that of the copy. All else of the stage's
    pods is as its owners have it. DriftError where the live one is none of the pipeline's.
    """
    target = target_of(copy)
    [place] = [each for each in locate(owner, live) if each.stage.name == config.stage]
    before = next(each for each in live["spec"]["predictors"] if each["name"] == target.predictor)
    component = deepcopy({key: value for key, value in place.component.items() if key not in AUTOSCALERS})
    component.pop("pdbSpec", None)
    annotations = (component.pop("metadata", None) or {}).get("annotations")
    if annotations:
        component["metadata"] = {"annotations": annotations}
    component["replicas"] = 1
    if probes_cpu and "image" in place.container:
        component["spec"]["initContainers"] = [
            *(component["spec"].get("initContainers") or ()),
            _cpu_probe(place),
        ]
    node = {key: value for key, value in place.node.items() if key != "children"}
    predictor = {key: deepcopy(value) for key, value in before.items() if key not in NOT_COPIED}
    predictor |= {"componentSpecs": [component], "graph": node | {"type": StageKind.MODEL.upper()}}
    predictor["svcOrchSpec"] = {**(predictor.get("svcOrchSpec") or {}), **ONE_ORCHESTRATOR}
    spec = {key: deepcopy(value) for key, value in live["spec"].items() if key not in ("replicas", "name")}
    body = {
        "apiVersion": SELDON_DEPLOYMENT.api_version,
        "kind": SELDON_DEPLOYMENT.kind,
        "metadata": {
            "name": target.name,
            "namespace": target.namespace,
            "labels": {"app.kubernetes.io/managed-by": "ipa-serving", LABEL_COPY_OF: copy.name},
            "annotations": {HOLDER: hold.holder, UNTIL: hold.until.isoformat()},
        },
        "spec": {**spec, "predictors": [predictor]},
    }
    draft = Draft(body)
    change_all(draft, copy, body, [config])
    return draft.object


def _cpu_probe(place: StageLocation) -> dict[str, Any]:
    """A container that ends at once, within the resources that the stage's container has anyway."""
    keys = ("image", "resources", "securityContext")
    given = {key: deepcopy(place.container[key]) for key in keys if key in place.container}
    return {"name": CPU_PROBE, "command": ["sh", "-c", SAY_CPU], **given}


def needed(pipeline: Pipeline, body: Json, config: StageConfig) -> Resources:
    """The resources that the copy takes: those of its replica, and its orchestrator's cores."""
    target = target_of(pipeline)
    predictor = body["spec"]["predictors"][0]
    has_engine = "seldon.io/no-engine" not in (predictor.get("annotations") or {})
    limits = predictor["componentSpecs"][0]["spec"]["containers"][0].get("resources", {}).get("limits") or {}
    memory = parse_quantity(limits.get("memory", 0))
    known = pipeline.bounds.beside(config)
    return Resources(
        cpu_cores=config.cores + (target.orchestrator_cores if has_engine else 0.0),
        memory_gib=max(known.memory_gib, float(memory or 0) / GIB),
        accelerators=known.accelerators,
    )


def check_bounds(pipeline: Pipeline, running: Sequence[StageConfig], more: Resources) -> None:
    """ConflictError if the copy beside what runs exceeds what the pipeline may have during a change."""
    bounds = pipeline.bounds
    faults = (bounds.held(running) + more).exceeded(bounds.change_limits)
    if faults:
        raise ConflictError(
            f"no room to measure pipeline {pipeline.name!r}: with a copy of one replica {'; '.join(faults)}",
            hint="Raise `bounds.transition_cores` or that bound in its file, or measure fewer --cores.",
        )


# The names of a quota's amounts, and the resource that each counts.
QUOTAS = {
    **dict.fromkeys(("cpu", "requests.cpu", "limits.cpu"), "cpu_cores"),
    **dict.fromkeys(("memory", "requests.memory", "limits.memory"), "memory_gib"),
}


def check_quota(quotas: Sequence[Json], more: Resources) -> None:
    """ConflictError names the first quota of the namespace that leaves no room for the copy."""
    amounts = {"cpu_cores": more.cpu_cores, "memory_gib": more.memory_gib}
    for quota in quotas:
        status = quota.get("status") or {}
        hard: Mapping[str, Any] = status.get("hard") or (quota.get("spec") or {}).get("hard") or {}
        used: Mapping[str, Any] = status.get("used") or {}
        for name, kind in QUOTAS.items():
            most, now = parse_quantity(hard.get(name)), parse_quantity(used.get(name, 0))
            scale = GIB if kind == "memory_gib" else 1
            if most is None or now is None or float(now) + amounts[kind] * scale <= float(most):
                continue
            raise ConflictError(
                f"no room to measure: quota {quota['metadata']['name']!r} has {hard[name]} of {name}, "
                f"{used.get(name, 0)} are used, and the copy needs {amounts[kind]:g}"
                f"{'Gi' if kind == 'memory_gib' else ''}",
                hint="Raise the quota, scale something down meanwhile, or measure fewer --cores.",
            )
