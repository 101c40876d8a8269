"""A chain of stock Deployments, each a model server that speaks V2, read as a pipeline to advise."""

from __future__ import annotations

from collections.abc import Mapping

from ipa.adapters.kube.kinds import DEPLOYMENT, parse_quantity
from ipa.adapters.kube.transport import Json
from ipa.adapters.prometheus.queries import Matcher, Selector
from ipa.model.errors import InputError, NotFoundError, UsageError
from ipa.model.pipeline import DEFAULT_NAMESPACE, Objective, Pipeline, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.settings import Settings
from ipa.targets.base import Imported, ImportRequest
from ipa.targets.kubernetes.containers import BATCH_SIZE, MODEL_NAME, amounts_of, env_entry
from ipa.targets.kubernetes.imported import objects_of, run_of, variant_name
from ipa.targets.kubernetes.layout import at
from ipa.targets.scale.section import KEY, LoadSeries, ScaledStage, ScalePlace

# MLServer's own count of the requests for its models.
COUNTER = "model_infer_request_duration_count"
USUAL_CORES = 1.0


def import_pipeline(settings: Settings, request: ImportRequest, run_key: str = "") -> Imported:
    """The chain of the named Deployments, in their order, with the section `scale:`.

    With a `run_key` each variant has that section too, with image, env and resources of the container.
    Errors: UsageError (none is named), NotFoundError, InputError, those of the client.
    """
    names = [each.partition("/")[2] or each for each in request.workloads]
    if not names or len(set(names)) < len(names):
        raise UsageError(
            "the Deployments of a chain are named in their order, each once",
            hint="ipa import deployments/detect deployments/classify --name pages --at scale",
        )
    notes: list[str] = []
    stages, scaled, configs = list[Stage](), dict[str, ScaledStage](), list[StageConfig]()
    for name in names:
        there = objects_of(settings, request, DEPLOYMENT, name)
        if not there:
            raise NotFoundError(f"{request.file} has no Deployment {name!r}")
        namespace = request.namespace or at(there[0], "metadata", "namespace") or DEFAULT_NAMESPACE
        container = _container(there[0], name, notes)
        run = run_of(container, name, notes)
        config = StageConfig(
            name,
            variant_name(run),
            _batch_size(container, name, notes),
            _cores(container, name, notes),
            _replicas(there[0], name, notes),
        )
        variant = Variant(config.variant, {run_key: run} if run_key else {})
        model = str((env_entry(container, MODEL_NAME) or {}).get("value", name))
        stages.append(Stage(name, (variant,), container="" if model == name else model))
        scaled[name] = ScaledStage(name, config.variant, config.cores, config.batch_size)
        configs.append(config)
    entering = Matcher("namespace", (namespace,)), Matcher("pod", (f"{names[0]}-",), ".*")
    arrivals = Selector(COUNTER, entering)
    pipeline = Pipeline(
        request.pipeline or names[0],
        chain(stages),
        request.sla,
        {"default": Objective()},
        targets={KEY: ScalePlace(scaled, LoadSeries(arrivals), namespace)},
        description=f"As the Deployments {', '.join(names)} in {namespace} run it.",
    )
    notes += [
        f"the load is taken to be {arrivals}: if Prometheus has another counter of its requests, name that "
        f"in `{KEY}: {{load: {{arrivals: ...}}}}`, and the buckets of their latency in `latency`",
        "each item is taken to become one for the stage after it (fan_out)",
    ]
    return Imported(pipeline, tuple(configs), tuple(notes))


def _container(deployment: Json, name: str, notes: list[str]) -> Json:
    """The container that serves: the annotated default, else the first. InputError if there is none."""
    containers = at(deployment, "spec", "template", "spec", "containers") or []
    if not containers:
        raise InputError(
            f"Deployment {name!r} has no containers",
            hint="`kubectl apply --dry-run=server -f FILE` says why.",
        )
    annotations: Mapping[str, str] = at(deployment, "spec", "template", "metadata", "annotations") or {}
    default = annotations.get("kubectl.kubernetes.io/default-container")
    own: Json = next((each for each in containers if each["name"] == default), containers[0])
    beside = ", ".join(repr(each["name"]) for each in containers if each is not own)
    if beside:
        notes.append(
            f"stage {name!r}: container {own['name']!r} is read; {beside} stay as they are, uncounted"
        )
    return own


def _cores(container: Json, name: str, notes: list[str]) -> float:
    """The cores that a replica may use: its limit, else its request, else one."""
    amounts = [
        float(amount) for it in amounts_of(container, "cpu").values() if (amount := parse_quantity(it))
    ]
    if not amounts:
        remedy = f"set resources.requests.cpu of its container, or `{KEY}: {{stages: {{{name}: {{cores}}}}}}`"
        notes.append(f"stage {name!r}: it requests no CPU, so a replica is taken to use 1 core: {remedy}")
    elif len(set(amounts)) > 1:
        notes.append(
            f"stage {name!r}: requests and limits of CPU differ; the limit, {amounts[-1]:g}, is planned"
        )
    return amounts[-1] if amounts else USUAL_CORES


def _batch_size(container: Json, name: str, notes: list[str]) -> int:
    text = str((env_entry(container, BATCH_SIZE) or {}).get("value", ""))
    if text.isdecimal():
        return max(1, int(text))
    notes.append(
        f"stage {name!r}: no env {BATCH_SIZE}, so it is taken to serve one request at once: if its server "
        f"batches, set `{KEY}: {{stages: {{{name}: {{batch_size}}}}}}`"
    )
    return 1


def _replicas(deployment: Json, name: str, notes: list[str]) -> int:
    replicas = int(deployment["spec"].get("replicas", 1))
    if not replicas:
        notes.append(f"stage {name!r}: it is scaled to 0, and plans have one replica or more: scale it to 1")
    return max(1, replicas)
