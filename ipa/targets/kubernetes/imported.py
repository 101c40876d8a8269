"""Pipelines read from running workloads: the objects, and what of a container makes a variant."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import ResourceKind, format_quantity, parse_quantity, read_amount
from ipa.adapters.kube.transport import Json
from ipa.files.reading import read_utf8
from ipa.model.resources import BESIDE_CORES, Dimension
from ipa.settings import Settings
from ipa.targets.base import ImportRequest
from ipa.targets.kubernetes.containers import (
    BATCH_SIZE,
    BATCH_TIME,
    IMPLEMENTATION,
    METRICS_PATH,
    SERVER_ENV,
    ContainerRun,
    amounts_of,
)
from ipa.targets.kubernetes.layout import at
from ipa.targets.kubernetes.manifest_edit import objects_in

# Its value would end up in a repository.
SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
# Env that by custom says which model is meant, the first that is there.
NAMING_ENV = ("MODEL_VARIANT", "MODEL_NAME", "MODEL")


def objects_of(
    settings: Settings, request: ImportRequest, kind: ResourceKind, name: str | None
) -> list[Json]:
    """The objects of the kind in the request's file or namespace: that of the name, else all.

    Errors: NotFoundError (no object of that name in the cluster), InputError, those of the client.
    """
    if request.file is not None:
        there = objects_in(read_utf8(request.file), str(request.file), kind)
    else:
        namespace = request.namespace or "default"
        with closing(KubeClient.from_kubeconfig(settings.kubeconfig, settings.kube_timeout_s)) as client:
            there = [client.get(kind, namespace, name)] if name else client.list_all(kind, namespace)[0]
    return [
        one
        for one in there
        if request.namespace is None or one["metadata"].get("namespace") in (None, request.namespace)
        if name in (None, one["metadata"].get("name"))
    ]


def resources_of(container: Json, stage: str, notes: list[str]) -> dict[str, Any]:
    """The resources beside cores that the container may use, by the fields of a variant's section."""
    # Extended resources have a domain.
    limits = sorted((at(container, "resources", "limits") or {}).items())
    amounts = {kind: parse_quantity(amount) for kind, amount in limits if "/" in kind}
    accelerators = {kind: float(count) for kind, count in amounts.items() if count}
    known = {each.attribute: _limit(each, stage, container, notes) for each in BESIDE_CORES}
    return {**known, "accelerators": accelerators}


def run_of(container: Json, stage: str, notes: list[str]) -> ContainerRun:
    """The container as a variant that any target on Kubernetes may run."""
    env = plain_env(stage, container, notes)
    env.pop(METRICS_PATH, None)
    implementation = env.pop(IMPLEMENTATION, None)
    return ContainerRun(container["image"], implementation, env, **resources_of(container, stage, notes))


def variant_name(run: ContainerRun, model_uri: str | None = None) -> str:
    """The name of the variant that runs: by its env, its image tag, or its model."""
    tag = (run.image or "").partition("@")[0].rpartition("/")[2].partition(":")[2]
    model = (model_uri or "").rstrip("/").rpartition("/")[2]
    known = [*(run.env.get(key, "") for key in NAMING_ENV), "" if tag == "latest" else tag, model]
    return next((name for name in known if NAME.fullmatch(name)), "current")


def plain_env(name: str, container: Json, notes: list[str]) -> dict[str, str]:
    """The env that defines the variant: plain values that are neither the server's nor secret."""
    env: dict[str, str] = {}
    for entry in container.get("env") or ():
        key = str(entry.get("name"))
        if key in SERVER_ENV or key in (BATCH_SIZE, BATCH_TIME):
            continue
        if "valueFrom" in entry:
            notes.append(f"stage {name!r}: env {key} comes from elsewhere (valueFrom); it stays as it is")
        elif SECRET.search(key):
            notes.append(
                f"stage {name!r}: env {key} looks like a secret, and is not copied; it stays as it is"
            )
        else:
            env[key] = str(entry.get("value", ""))
    return env


def _limit(resource: Dimension, name: str, container: Json, notes: list[str]) -> float | None:
    """The limit of the resource in the unit of plans, None if there is none."""
    # The limit is the last, and the one that counts.
    *others, text = [*amounts_of(container, resource.resource).values()] or [None]
    if text is None:
        return None
    where = f"stage {name!r}: {resource.name}"
    amount = read_amount(resource.name, text)
    if amount is None:
        notes.append(f"{where} {text!r} is not a quantity")
        return None
    if any(read_amount(resource.name, other) != amount for other in others):
        notes.append(f"{where} requests and limits differ; a plan would make both the limit")
    written = format_quantity(resource.name, amount)
    whole = read_amount(resource.name, written)
    if whole != amount:
        notes.append(f"{where} {text!r} is rounded to {written}")
    return whole
