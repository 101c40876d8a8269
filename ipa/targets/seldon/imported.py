"""A pipeline read from a SeldonDeployment that somebody else wrote: what runs becomes the first variants.

`Reader` turns its nested graph into stages in their order: `graph.py`, the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.quantity import MIB_PER_GIB, parse_quantity
from ipa.files.reading import read_utf8
from ipa.model.errors import DriftError, InputError, NotFoundError, Problem, UsageError
from ipa.model.pipeline import Edge, Objective, Pipeline, Sla, Stage, StageKind, Variant
from ipa.settings import Settings
from ipa.targets.base import Imported, ImportRequest
from ipa.targets.seldon import locate, variants
from ipa.targets.seldon.locate import INSIDE_OUT, SELDON_DEPLOYMENT, SPLIT
from ipa.targets.seldon.manifest import protocol_of, read
from ipa.targets.seldon.manifest_edit import seldondeployments
from ipa.targets.seldon.section import (
    KEY,
    SeldonRun,
    SeldonTarget,
    ServerKind,
    WireProtocol,
    is_microservice,
    seldon_of,
)
from ipa.targets.seldon.variants import NO_BATCHES, Json

# What Seldon's executor does by itself for a node without a container, but for the one that we know.
OTHER_BUILT_IN = frozenset({"SIMPLE_MODEL", "SIMPLE_ROUTER", "AVERAGE_COMBINER"})
EVEN_SHARE = 0.5


class Reader:
    """The nodes and containers of one predictor by name, and the stages that they are.

    `notes` are added to by what reads them.
    """

    def __init__(
        self, predictor: Json, notes: list[str], protocol: WireProtocol | None = WireProtocol.V2
    ) -> None:
        self.notes = notes
        self.protocol = protocol
        self._graph: Json = predictor.get("graph") or {}
        self.nodes: dict[str, Json] = {
            str(node.get("name")): node for _, node in locate.nodes_of(self._graph)
        }
        self.containers: dict[str, Json] = {
            str(container.get("name")): container
            for component in predictor.get("componentSpecs") or ()
            for container in (component.get("spec") or {}).get("containers") or ()
        }
        self._problems: list[str] = []
        self._found: list[Stage] = []

    def stages(self) -> tuple[Stage, ...]:
        """The stages, each behind those that it comes after.

        InputError lists the nodes that are no stages of ours.
        """
        if not self._graph.get("name"):
            self._problems.append("the predictor has no graph")
        else:
            self._flow(self._graph, [])
        entries = [stage.name for stage in self._found if not stage.after]
        if len(entries) > 1:
            self._problems.append(f"requests enter at {' and '.join(entries)}; a pipeline has one entry")
        if self._problems:
            raise InputError(
                "this graph cannot be read as a pipeline",
                problems=[Problem(problem) for problem in self._problems],
            )
        return tuple(self._found)

    def _flow(self, node: Json, before: Sequence[Edge]) -> list[Edge]:
        """Add the stages of the node and all inside it; the edges to what comes after them."""
        name, kind = str(node.get("name")), self._kind(node)
        children = list(node.get("children") or ())
        is_split = node.get("implementation") == SPLIT
        if kind in INSIDE_OUT:
            # What is inside comes before it, and all of that goes into it.
            before = [edge for child in children for edge in self._flow(child, before)] or before
            self._found.append(Stage(name, _variants(name, self), tuple(before), kind, container=name))
            return [Edge(name)]
        own, container = ((), "") if is_split else (_variants(name, self), name)
        self._found.append(Stage(name, own, tuple(before), kind, container=container))
        if kind is StageKind.ROUTER:
            shares = self._shares(node, len(children))
            return [
                edge
                for child, share in zip(children, shares, strict=True)
                for edge in self._flow(child, [Edge(name, share=share)])
            ]
        ends = [edge for child in children for edge in self._flow(child, [Edge(name)])]
        if len(children) > 1:
            self._problems.append(
                f"node {name!r} has {len(children)} children and no combiner: only the answer of the "
                "first one is used"
            )
        return ends or [Edge(name)]

    def _kind(self, node: Json) -> StageKind:
        name, implementation = str(node.get("name")), node.get("implementation")
        if implementation in OTHER_BUILT_IN:
            self._problems.append(
                f"node {name!r} is Seldon's built-in {implementation}, which has no variants to plan"
            )
        if implementation == SPLIT:
            return StageKind.ROUTER
        text = str(node.get("type") or "MODEL").lower().replace("_", "-")
        if text == "unknown-type":
            return StageKind.MODEL
        if text not in list(StageKind):
            self._problems.append(f"node {name!r} has the unknown type {node.get('type')}")
            return StageKind.MODEL
        return StageKind(text)

    def _shares(self, node: Json, count: int) -> list[float]:
        """The shares of a router's branches: those of Seldon's own split, else equal ones."""
        given = {one.get("name"): one.get("value") for one in node.get("parameters") or ()}
        if node.get("implementation") != SPLIT or count != 2:
            return [1.0 / count] * count
        try:
            first = float(given.get("ratioA", EVEN_SHARE))
        except (TypeError, ValueError):
            self._problems.append(f"node {node.get('name')!r}: ratioA {given['ratioA']!r} is not a number")
            return [EVEN_SHARE, EVEN_SHARE]
        return [first, 1.0 - first]


# What a pipeline's file has no place for stays in the SeldonDeployment, which is patched, never replaced.
KNOWN_OF_PREDICTOR = frozenset(
    {"name", "graph", "componentSpecs", "replicas", "traffic", "annotations", "labels", "svcOrchSpec"}
)
# Its value would end up in a repository.
SECRET = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
# The command of Seldon's Python microservice, and the env by which its images know what they are.
MICROSERVICE, SERVICE_TYPE = "seldon-core-microservice", "SERVICE_TYPE"
# Env that by custom says which model is meant, the first that is there.
NAMING_ENV = ("MODEL_VARIANT", "MODEL_NAME", "MODEL")


def imported(
    sdep: Json, sla: Sla, *, name: str = "", predictor: str = "", bounds_cores: float | None = None
) -> Imported:
    """The pipeline that the SeldonDeployment runs. InputError lists what cannot be read as one."""
    metadata = sdep.get("metadata") or {}
    spec = sdep.get("spec") or {}
    notes: list[str] = []
    chosen = _predictor(spec.get("predictors") or (), predictor, notes)
    reader = Reader(chosen, notes, protocol_of(sdep))
    stages = reader.stages()
    name = name or (metadata.get("labels") or {}).get(locate.LABEL_PIPELINE) or metadata["name"]
    pipeline = Pipeline(
        name,
        tuple(_batched(stage, reader) for stage in stages),
        sla,
        {"default": Objective()},
        targets={"seldon": _target(metadata, spec, chosen, reader.protocol)},
        description=f"As SeldonDeployment {metadata['name']} runs it.",
    )
    if bounds_cores is not None:
        pipeline = replace(pipeline, bounds=replace(pipeline.bounds, cores=bounds_cores))
    notes += _notes(pipeline, spec, chosen, reader)
    if locate.unsaid_orchestrators(sdep):
        notes.append(f"{locate.ENDLESS_WRITES}: {locate.orchestrator_remedy(sdep)}")
    try:
        configs = read(pipeline, sdep)
    except (DriftError, InputError) as error:
        # All that keeps plans from being written, in the words of who would write them.
        notes += [f"blocks writing: {problem}" for problem in error.problems or [Problem(error.message)]]
        configs = ()
    return Imported(pipeline, configs, tuple(notes))


def _predictor(predictors: Sequence[Json], wanted: str, notes: list[str]) -> Json:
    """The one that is named, else the one that takes most of the requests."""
    names = [str(one.get("name")) for one in predictors]
    serving = [one for one in predictors if not one.get("shadow")]
    if wanted:
        serving = [one for one in predictors if one.get("name") == wanted]
    if not serving:
        raise InputError(
            f"there is no predictor {wanted!r}" if wanted else "it has no predictor that serves requests",
            hint=f"There are: {', '.join(names) or 'none'}",
        )
    chosen = max(serving, key=lambda one: int(one.get("traffic") or 0))
    for one in predictors:
        if one is not chosen:
            kind = "shadow" if one.get("shadow") else f"traffic {one.get('traffic', 0)} %"
            notes.append(f"predictor {one.get('name')!r} ({kind}) is not read; --predictor chooses another")
    return chosen


def _target(metadata: Json, spec: Json, predictor: Json, protocol: WireProtocol | None) -> SeldonTarget:
    target = SeldonTarget(metadata["name"], metadata.get("namespace") or "default", predictor["name"])
    target = replace(target, protocol=protocol or target.protocol)
    annotations = spec.get("annotations") or {}
    requests = ((predictor.get("svcOrchSpec") or {}).get("resources") or {}).get("requests") or {}
    cores = parse_quantity(requests.get("cpu"))
    if cores is not None and cores > 0:
        target = replace(target, orchestrator_cores=float(cores))
    return replace(
        target, separate_orchestrator=str(annotations.get(locate.SEPARATE_ENGINE)).lower() == "true"
    )


def _variants(name: str, reader: Reader) -> tuple[Variant, ...]:
    """The running container of the node, as its only variant."""
    node, container = reader.nodes[name], reader.containers.get(name) or {}
    env = _env(name, container, reader.notes)
    implementation = env.pop(variants.IMPLEMENTATION, None) or node.get("implementation")
    uri = node.get("modelUri")
    limits = (container.get("resources") or {}).get("limits") or {}
    # Extended resources have a domain.
    amounts = {kind: parse_quantity(amount) for kind, amount in sorted(limits.items()) if "/" in kind}
    run = SeldonRun(
        container.get("image"),
        uri,
        implementation,
        env,
        _memory_gib(name, container, reader.notes),
        {kind: float(count) for kind, count in amounts.items() if count},
        _server(node, container, reader.protocol),
    )
    return (Variant(_variant_name(run), {KEY: run}),)


def _server(node: Json, container: Json, protocol: WireProtocol | None) -> ServerKind | None:
    """The server, if it is not that of the protocol: MLServer answers no router's and no combiner's calls."""
    if protocol is WireProtocol.SELDON:
        return None
    command = " ".join(map(str, [*(container.get("command") or ()), *(container.get("args") or ())]))
    names = {entry.get("name") for entry in container.get("env") or ()}
    calls_it_alone = node.get("type") in ("ROUTER", "COMBINER")
    is_one = calls_it_alone or MICROSERVICE in command or SERVICE_TYPE in names
    return ServerKind.MICROSERVICE if is_one else None


def _env(name: str, container: Json, notes: list[str]) -> dict[str, str]:
    """The env that makes the variant what it is: plain values that are neither the operator's nor secret."""
    found: dict[str, str] = {}
    for entry in container.get("env") or ():
        key = str(entry.get("name"))
        if key in variants.OPERATORS_ENV or key in (variants.BATCH_SIZE, variants.BATCH_TIME):
            continue
        if "valueFrom" in entry:
            notes.append(f"stage {name!r}: env {key} comes from elsewhere (valueFrom); it stays as it is")
        elif SECRET.search(key):
            notes.append(
                f"stage {name!r}: env {key} looks like a secret, and is not copied; it stays as it is"
            )
        else:
            found[key] = str(entry.get("value", ""))
    return found


def _memory_gib(name: str, container: Json, notes: list[str]) -> float | None:
    """The memory limit, None if there is none. Plans write whole MiB."""
    # The limit is the last, and the one that counts.
    *others, text = [*variants.amounts_of(container, "memory").values()] or [None]
    if text is None:
        return None
    amount = parse_quantity(text)
    if amount is None:
        notes.append(f"stage {name!r}: memory {text!r} is not a quantity")
        return None
    if any(parse_quantity(other) != amount for other in others):
        notes.append(f"stage {name!r}: memory requests and limits differ; a plan would make both the limit")
    mib = round(float(amount) / 2**20)
    if mib * 2**20 != amount:
        notes.append(f"stage {name!r}: memory {text!r} is rounded to {mib}Mi")
    return mib / MIB_PER_GIB


def _variant_name(run: SeldonRun) -> str:
    """The name of the variant: from its env, its image tag, or its model."""
    tag = (run.image or "").partition("@")[0].rpartition("/")[2].partition(":")[2]
    model = (run.model_uri or "").rstrip("/").rpartition("/")[2]
    known = [*(run.env.get(key, "") for key in NAMING_ENV), "" if tag == "latest" else tag, model]
    return next((name for name in known if NAME.fullmatch(name)), "current")


def _batched(stage: Stage, reader: Reader) -> Stage:
    """The stage with the time that its batches wait now."""
    if not stage.variants:
        return stage
    container = reader.containers.get(stage.name) or {}
    env = {one.get("name"): one.get("value") for one in container.get("env") or ()}
    text = env.get(variants.BATCH_TIME)
    if text is not None:
        try:
            return replace(stage, batch_timeout_s=float(str(text)))
        except ValueError:
            fault = f"{variants.BATCH_TIME} {text!r} is not a number of seconds"
            reader.notes.append(f"stage {stage.name!r}: {fault}")
            return stage
    run = seldon_of(stage.variants[0])
    is_single = reader.protocol is WireProtocol.SELDON or (run is not None and run.server is not None)
    if env.get(variants.BATCH_SIZE) is not None and not is_single:
        waits = f"no {variants.BATCH_TIME}; batches will wait {stage.batch_timeout_s:g} s"
        reader.notes.append(f"stage {stage.name!r}: {waits}")
    return stage


def _notes(pipeline: Pipeline, spec: Json, predictor: Json, reader: Reader) -> Iterator[str]:
    """Notes on what the file omits and no plan changes, on assumptions, and on batches."""
    if reader.protocol is None:
        yield f"protocol {spec['protocol']!r} is left as it is; batches need MLServer and v2"
    elif not spec.get("protocol"):
        yield "it names no protocol, so the operator takes its default, seldon; the file names that"
    for key in sorted(set(predictor) - KNOWN_OF_PREDICTOR - {"shadow"}):
        yield f"{key} of the predictor is left as it is"
    for component in predictor.get("componentSpecs") or ():
        names = [one.get("name") for one in (component.get("spec") or {}).get("containers") or ()]
        beside = [name for name in names if name not in reader.nodes]
        if beside:
            yield f"container {', '.join(map(repr, beside))} is no graph node: it stays as it is, uncounted"
        yield from (
            f"{scaler} of {', '.join(names)} must go first: the service decides its replicas"
            for scaler in locate.AUTOSCALERS
            if component.get(scaler)
        )
    # No SeldonDeployment has these values.
    sla, kinds = pipeline.sla, {stage.name: stage.kind for stage in pipeline.stages}
    yield f"the SLA, {sla.latency_s:g} s at p{sla.percentile:g}, is not in it: --sla says another"
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
        entry = variants.env_entry(reader.containers.get(stage.name) or {}, variants.BATCH_SIZE)
        text = str((entry or {}).get("value", ""))
        if is_microservice(pipeline, stage.variants[0]):
            beside_it = f"; its env {variants.BATCH_SIZE} has no effect" if text else ""
            yield f"stage {stage.name!r} is planned at batch size 1, since {NO_BATCHES}{beside_it}"
        elif text.isdecimal() and int(text) > 1:
            yield (
                f"stage {stage.name!r} batches up to {text} requests in one SeldonDeployment, which is right "
                "only if it answers one row for each it is given: otherwise say `output_rows: varying`"
            )


def import_pipeline(settings: Settings, asked: ImportRequest) -> Imported:
    """The pipeline of the SeldonDeployment that is asked for.

    Errors: NotFoundError, UsageError (there are several), InputError, those of the client.
    """
    if asked.file is not None:
        there = seldondeployments(read_utf8(asked.file), str(asked.file))
        named = f" {asked.workload!r}" if asked.workload else ""
        nothing = f"{asked.file} has no SeldonDeployment{named}"
    else:
        namespace = asked.namespace or "default"
        with closing(KubeClient.from_kubeconfig(settings.kubeconfig, settings.kube_timeout_s)) as client:
            if asked.workload is not None:
                there = [client.get(SELDON_DEPLOYMENT, namespace, asked.workload)]
            else:
                there, _ = client.list_all(SELDON_DEPLOYMENT, namespace)
        nothing = f"there is no SeldonDeployment in namespace {namespace}"
    there = [
        one
        for one in there
        if asked.namespace is None or one["metadata"].get("namespace") in (None, asked.namespace)
        if asked.workload in (None, one["metadata"].get("name"))
    ]
    if not there:
        raise NotFoundError(nothing)
    if len(there) > 1:
        names = ", ".join(sorted(str(one["metadata"].get("name")) for one in there))
        raise UsageError("there are several SeldonDeployments", hint=f"Name one of: {names}")
    try:
        return imported(
            there[0], asked.sla, name=asked.pipeline, predictor=asked.part, bounds_cores=asked.bounds_cores
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"this SeldonDeployment is incomplete: {type(error).__name__} {error}",
            hint="`kubectl apply --dry-run=server -f FILE` reports the fault.",
        ) from error
