"""A pipeline read from a foreign SeldonDeployment: its running models become the first variants."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import format_quantity, parse_quantity, read_amount
from ipa.adapters.kube.transport import Json
from ipa.files.reading import read_utf8
from ipa.model.errors import DriftError, InputError, NotFoundError, Problem, UsageError
from ipa.model.pipeline import Objective, Pipeline, Stage, StageKind, Variant
from ipa.model.resources import BESIDE_CORES, Dimension
from ipa.settings import Settings
from ipa.targets.base import Imported, ImportRequest
from ipa.targets.kubernetes.containers import (
    BATCH_SIZE,
    BATCH_TIME,
    IMPLEMENTATION,
    SERVER_ENV,
    amounts_of,
    env_entry,
)
from ipa.targets.kubernetes.layout import at
from ipa.targets.kubernetes.manifest_edit import objects_in
from ipa.targets.kubernetes.split import LABEL_PIPELINE
from ipa.targets.seldon.locate import (
    AUTOSCALERS,
    ENDLESS_WRITES,
    SELDON_DEPLOYMENT,
    SEPARATE_ENGINE,
    containers_of,
    nodes_of,
    orchestrator_remedy,
    stages_of,
)
from ipa.targets.seldon.manifest import protocol_of, read_predictor
from ipa.targets.seldon.section import (
    KEY,
    SeldonRun,
    SeldonTarget,
    ServerKind,
    WireProtocol,
    is_microservice,
)
from ipa.targets.seldon.variants import NO_BATCHES

# What a pipeline's file has no place for stays in the SeldonDeployment, which is patched, never replaced.
KNOWN_OF_PREDICTOR = {
    *("name", "graph", "componentSpecs", "replicas", "traffic"),
    *("annotations", "labels", "svcOrchSpec", "shadow"),
}
# Its value would end up in a repository.
SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
# The command of Seldon's Python microservice, and the env by which its images know what they are.
MICROSERVICE, SERVICE_TYPE = "seldon-core-microservice", "SERVICE_TYPE"
# Env that by custom says which model is meant, the first that is there.
NAMING_ENV = ("MODEL_VARIANT", "MODEL_NAME", "MODEL")


def import_pipeline(settings: Settings, request: ImportRequest) -> Imported:
    """The pipeline of the requested SeldonDeployment.

    Errors: NotFoundError, UsageError (there are several), InputError, those of the client.
    """
    if request.file is not None:
        there = objects_in(read_utf8(request.file), str(request.file), SELDON_DEPLOYMENT)
        named = f" {request.workload!r}" if request.workload else ""
        nothing = f"{request.file} has no SeldonDeployment{named}"
    else:
        namespace = request.namespace or "default"
        with closing(KubeClient.from_kubeconfig(settings.kubeconfig, settings.kube_timeout_s)) as client:
            if request.workload is not None:
                there = [client.get(SELDON_DEPLOYMENT, namespace, request.workload)]
            else:
                there, _ = client.list_all(SELDON_DEPLOYMENT, namespace)
        nothing = f"there is no SeldonDeployment in namespace {namespace}"
    there = [
        one
        for one in there
        if request.namespace is None or one["metadata"].get("namespace") in (None, request.namespace)
        if request.workload in (None, one["metadata"].get("name"))
    ]
    if not there:
        raise NotFoundError(nothing)
    if len(there) > 1:
        names = ", ".join(sorted(str(one["metadata"].get("name")) for one in there))
        raise UsageError("there are several SeldonDeployments", hint=f"Name one of: {names}")
    try:
        return imported(there[0], request)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"this SeldonDeployment is incomplete: {type(error).__name__} {error}",
            hint="`kubectl apply --dry-run=server -f FILE` reports the fault.",
        ) from error


def imported(sdep: Json, request: ImportRequest) -> Imported:
    """The pipeline that the SeldonDeployment runs. InputError lists what cannot be read as a pipeline."""
    metadata, spec = sdep.get("metadata") or {}, sdep.get("spec") or {}
    notes: list[str] = []
    predictors = spec.get("predictors") or ()
    names = [str(one.get("name")) for one in predictors]
    serving = [one for one in predictors if not one.get("shadow")]
    if request.part:
        serving = [one for one in predictors if one.get("name") == request.part]
    if not serving:
        absent = f"there is no predictor {request.part!r}"
        raise InputError(
            absent if request.part else "it has no predictor that serves requests",
            hint=f"There are: {', '.join(names) or 'none'}",
        )
    predictor = max(serving, key=lambda one: int(one.get("traffic") or 0))
    for one in predictors:
        if one is not predictor:
            kind = "shadow" if one.get("shadow") else f"traffic {one.get('traffic', 0)} %"
            notes.append(f"predictor {one.get('name')!r} ({kind}) is not read; --predictor chooses another")
    protocol, graph = protocol_of(sdep), predictor.get("graph") or {}
    nodes = {str(node.get("name")): node for _, node in nodes_of(graph)}
    containers = {
        str(container.get("name")): container
        for component in predictor.get("componentSpecs") or ()
        for container in containers_of(component)
    }
    stages = [
        _stage(stage, nodes[stage.name], containers.get(stage.name) or {}, protocol, notes)
        if stage.container
        else stage
        for stage in stages_of(graph)
    ]
    usual = SeldonTarget(metadata["name"], metadata.get("namespace") or "default", predictor["name"])
    cores = parse_quantity(at(predictor, "svcOrchSpec", "resources", "requests", "cpu"))
    pipeline = Pipeline(
        request.pipeline or at(metadata, "labels", LABEL_PIPELINE) or metadata["name"],
        tuple(stages),
        request.sla,
        {"default": Objective()},
        targets={
            KEY: replace(
                usual,
                protocol=protocol or usual.protocol,
                orchestrator_cores=float(cores)
                if cores is not None and cores > 0
                else usual.orchestrator_cores,
                separate_orchestrator=str(at(spec, "annotations", SEPARATE_ENGINE)).lower() == "true",
            )
        },
        description=f"As SeldonDeployment {metadata['name']} runs it.",
    )
    if request.bounds_cores is not None:
        pipeline = replace(pipeline, bounds=replace(pipeline.bounds, cores=request.bounds_cores))
    notes += _notes(pipeline, spec, predictor, protocol, nodes, containers)
    if remedy := orchestrator_remedy(sdep):
        notes.append(f"{ENDLESS_WRITES}: {remedy}")
    try:
        configs = read_predictor(pipeline, sdep)
    except (DriftError, InputError) as error:
        # All that keeps plans from being written, in the words of who would write them.
        notes += [f"blocks writing: {problem}" for problem in error.problems or [Problem(error.message)]]
        configs = ()
    return Imported(pipeline, configs, tuple(notes))


def _stage(
    stage: Stage, node: Json, container: Json, protocol: WireProtocol | None, notes: list[str]
) -> Stage:
    """The stage with its running container as its only variant, and the present batch timeout."""
    env = _env(stage.name, container, notes)
    implementation = env.pop(IMPLEMENTATION, None) or node.get("implementation")
    # Extended resources have a domain.
    limits = sorted((at(container, "resources", "limits") or {}).items())
    amounts = {kind: parse_quantity(amount) for kind, amount in limits if "/" in kind}
    run = SeldonRun(
        container.get("image"),
        implementation,
        env,
        model_uri=node.get("modelUri"),
        accelerators={kind: float(count) for kind, count in amounts.items() if count},
        server=_server(node, container, protocol),
        **{each.attribute: _amount(each, stage.name, container, notes) for each in BESIDE_CORES},
    )
    # Named by its env, its image tag, or its model.
    tag = (run.image or "").partition("@")[0].rpartition("/")[2].partition(":")[2]
    model = (run.model_uri or "").rstrip("/").rpartition("/")[2]
    known = [*(env.get(key, "") for key in NAMING_ENV), "" if tag == "latest" else tag, model]
    name = next((name for name in known if NAME.fullmatch(name)), "current")
    batch_timeout_s = stage.batch_timeout_s
    size = (env_entry(container, BATCH_SIZE) or {}).get("value")
    time = (env_entry(container, BATCH_TIME) or {}).get("value")
    if time is not None:
        try:
            batch_timeout_s = float(str(time))
        except ValueError:
            notes.append(f"stage {stage.name!r}: {BATCH_TIME} {time!r} is not a number of seconds")
    elif size is not None and protocol is not WireProtocol.SELDON and run.server is None:
        waits = f"no {BATCH_TIME}; batches will wait {batch_timeout_s:g} s"
        notes.append(f"stage {stage.name!r}: {waits}")
    return replace(stage, variants=(Variant(name, {KEY: run}),), batch_timeout_s=batch_timeout_s)


def _server(node: Json, container: Json, protocol: WireProtocol | None) -> ServerKind | None:
    """The server, if it is not the protocol's own: MLServer does not serve routers and combiners."""
    if protocol is WireProtocol.SELDON:
        return None
    command = " ".join(map(str, [*(container.get("command") or ()), *(container.get("args") or ())]))
    calls_it_alone = node.get("type") in ("ROUTER", "COMBINER")
    is_one = calls_it_alone or MICROSERVICE in command or env_entry(container, SERVICE_TYPE) is not None
    return ServerKind.MICROSERVICE if is_one else None


def _env(name: str, container: Json, notes: list[str]) -> dict[str, str]:
    """The env that defines the variant: plain values that are neither the operator's nor secret."""
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


def _amount(resource: Dimension, name: str, container: Json, notes: list[str]) -> float | None:
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


def _notes(
    pipeline: Pipeline,
    spec: Json,
    predictor: Json,
    protocol: WireProtocol | None,
    nodes: Mapping[str, Json],
    containers: Mapping[str, Any],
) -> Iterator[str]:
    """Notes on what the file omits and no plan changes, on assumptions, and on batches."""
    if protocol is None:
        yield f"protocol {spec['protocol']!r} is left as it is; batches need MLServer and v2"
    elif not spec.get("protocol"):
        yield "it names no protocol, so the operator takes its default, seldon; the file names that"
    for key in sorted(set(predictor) - KNOWN_OF_PREDICTOR):
        yield f"{key} of the predictor is left as it is"
    for component in predictor.get("componentSpecs") or ():
        names = [str(one.get("name")) for one in containers_of(component)]
        beside = [name for name in names if name not in nodes]
        if beside:
            yield f"container {', '.join(map(repr, beside))} is no graph node: it stays as it is, uncounted"
        for scaler in filter(component.get, AUTOSCALERS):
            yield f"{scaler} of {', '.join(names)} must go first: the service decides its replicas"
    # No SeldonDeployment has these values.
    sla, kinds = pipeline.sla, {stage.name: stage.kind for stage in pipeline.stages}
    yield f"the SLA, {sla.latency_s:g} s at p{sla.percentile:g}, is a default: set it with --sla"
    sending = {edge.parent for stage in pipeline.stages for edge in stage.after}
    senders = [name for name in kinds if name in sending and kinds[name] is not StageKind.ROUTER]
    if senders:
        yield f"each item of {', '.join(senders)} is taken to become one for the stages after it (fan_out)"
    routers = [stage.name for stage in pipeline.served if stage.kind is StageKind.ROUTER]
    if routers:
        yield f"the branches of {', '.join(routers)} are taken to get equal shares of the requests"
    yield "each stage has the one variant that runs: add those that could run instead"
    # Nor does one say how many rows a stage answers.
    for stage in pipeline.served:
        text = str((env_entry(containers.get(stage.name) or {}, BATCH_SIZE) or {}).get("value", ""))
        if is_microservice(pipeline, stage.variants[0]):
            beside_it = f"; its env {BATCH_SIZE} has no effect" if text else ""
            yield f"stage {stage.name!r} is planned at batch size 1, since {NO_BATCHES}{beside_it}"
        elif text.isdecimal() and int(text) > 1:
            yield (
                f"stage {stage.name!r} batches up to {text} requests in one SeldonDeployment, which is right "
                "only if it answers one row for each it is given: otherwise say `output_rows: varying`"
            )
