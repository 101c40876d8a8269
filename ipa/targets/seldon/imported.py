"""A pipeline read from a foreign SeldonDeployment: its running models become the first variants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ipa.adapters.kube.kinds import parse_quantity
from ipa.adapters.kube.transport import Json
from ipa.model.errors import DriftError, InputError, NotFoundError, Problem, UsageError
from ipa.model.pipeline import Objective, Pipeline, Stage, StageKind, Variant
from ipa.settings import Settings
from ipa.targets.base import Imported, ImportRequest
from ipa.targets.kubernetes.containers import (
    BATCH_SIZE,
    BATCH_TIME,
    IMPLEMENTATION,
    env_entry,
)
from ipa.targets.kubernetes.imported import objects_of, plain_env, resources_of, variant_name
from ipa.targets.kubernetes.layout import at
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
# The command of Seldon's Python microservice, and the env by which its images know what they are.
MICROSERVICE, SERVICE_TYPE = "seldon-core-microservice", "SERVICE_TYPE"


def import_pipeline(settings: Settings, request: ImportRequest) -> Imported:
    """The pipeline of the requested SeldonDeployment.

    Errors: NotFoundError, UsageError (there are several), InputError, those of the client.
    """
    there = objects_of(settings, request, SELDON_DEPLOYMENT, request.workload)
    named = f" {request.workload!r}" if request.workload else ""
    nothing = f"{request.file} has no SeldonDeployment{named}"
    if request.file is None:
        nothing = f"there is no SeldonDeployment in namespace {request.namespace or 'default'}"
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
    env = plain_env(stage.name, container, notes)
    implementation = env.pop(IMPLEMENTATION, None) or node.get("implementation")
    run = SeldonRun(
        container.get("image"),
        implementation,
        env,
        model_uri=node.get("modelUri"),
        server=_server(node, container, protocol),
        **resources_of(container, stage.name, notes),
    )
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
    return replace(
        stage,
        variants=(Variant(variant_name(run, run.model_uri), {KEY: run}),),
        batch_timeout_s=batch_timeout_s,
    )


def _server(node: Json, container: Json, protocol: WireProtocol | None) -> ServerKind | None:
    """The server, if it is not the protocol's own: MLServer does not serve routers and combiners."""
    if protocol is WireProtocol.SELDON:
        return None
    command = " ".join(map(str, [*(container.get("command") or ()), *(container.get("args") or ())]))
    calls_it_alone = node.get("type") in ("ROUTER", "COMBINER")
    is_one = calls_it_alone or MICROSERVICE in command or env_entry(container, SERVICE_TYPE) is not None
    return ServerKind.MICROSERVICE if is_one else None


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
    kinds = {stage.name: stage.kind for stage in pipeline.stages}
    sending = {edge.parent for stage in pipeline.stages for edge in stage.after}
    senders = [name for name in kinds if name in sending and kinds[name] is not StageKind.ROUTER]
    if senders:
        yield f"each item of {', '.join(senders)} is taken to become one for the stages after it (fan_out)"
    routers = [stage.name for stage in pipeline.served if stage.kind is StageKind.ROUTER]
    if routers:
        yield f"the branches of {', '.join(routers)} are taken to get equal shares of the requests"
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
