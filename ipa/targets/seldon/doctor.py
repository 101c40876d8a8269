"""Checks of Seldon for `ipa doctor`: scraped series, the operator, and other writers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.prometheus.doctor import metrics_checks
from ipa.model.errors import (
    DriftError,
    ForbiddenError,
    InputError,
    IpaError,
    NotFoundError,
    UnavailableError,
)
from ipa.model.findings import DoctorCheck, Finding, fail, failed, ok, warn
from ipa.model.pipeline import Pipeline
from ipa.settings import Settings
from ipa.targets.kubernetes.doctor import SERVER, cluster_checks
from ipa.targets.kubernetes.target import KubernetesTarget
from ipa.targets.seldon import locate
from ipa.targets.seldon.metrics import dialect_of
from ipa.targets.seldon.section import SeldonTarget, seldon_of
from ipa.targets.seldon.variants import batch_faults

CRD = "seldon crd"
INSTALL_SELDON = (
    "helm install seldon-core seldon-core-operator --repo https://storage.googleapis.com/seldon-charts "
    "-n seldon-system --create-namespace"
)
SCRAPE = "kubectl apply -f deploy/prometheus/podmonitor.yaml"
PROBE = "ipa-doctor-probe"


def checks_of(
    target: KubernetesTarget,
    settings: Settings,
    pipelines: Mapping[str, Pipeline],
    namespaces: Sequence[str],
    *,
    elects: bool,
) -> list[DoctorCheck]:
    """Checks of the cluster and the pipelines' series; without `namespaces`, in the pipelines' own."""
    placed = {name: it for name, it in pipelines.items() if seldon_of(it) is not None}
    series = metrics_checks(settings, {name: (it, dialect_of(it)) for name, it in placed.items()}, SCRAPE)
    try:
        client = KubeClient.from_kubeconfig(settings.kubeconfig, settings.kube_timeout_s)
    except IpaError as error:
        wrong = [failed(SERVER, error)]
        return [*series, DoctorCheck(SERVER, lambda: wrong)]
    spaces = list(namespaces) or sorted({it.namespace for it in placed.values()})

    def names(space: str) -> tuple[str, ...]:
        places = (place for pipeline in placed.values() for place in target.places_of(pipeline))
        return tuple(name for where, name in places if where == space)

    cluster = partial(cluster_checks, client, settings, spaces, locate.SELDON_DEPLOYMENT, names)
    operator = partial(_operator, client)
    deployed = {name: partial(_deployed, target, client, settings, it) for name, it in placed.items()}
    return [
        *series,
        *cluster(check=CRD, install=INSTALL_SELDON, elects=elects),
        DoctorCheck("seldon operator", lambda: map(operator, spaces[:1]), after=CRD),
        *(DoctorCheck(f"seldondeployment of {name}", it, after=CRD) for name, it in deployed.items()),
    ]


def _operator(client: KubeClient, namespace: str) -> Finding:
    """Check that Seldon's webhook rejects an invalid object in a dry run, as nothing else does."""
    name = "seldon operator"
    look = "kubectl get pods -n seldon-system -l control-plane=seldon-controller-manager"
    # A graph node without a container: nobody would run it.
    predictor = {"name": "default", "graph": {"name": PROBE, "type": "MODEL"}, "componentSpecs": []}
    spec = {"protocol": "v2", "predictors": [predictor]}
    body = locate.object_of(SeldonTarget(PROBE, namespace), spec, {})
    try:
        client.create(locate.SELDON_DEPLOYMENT, namespace, body, dry_run=True)
    except ForbiddenError:
        # Without the right to create, the operator is known by the status that it wrote.
        objects, _ = client.list_all(locate.SELDON_DEPLOYMENT, namespace)
        served = [one["metadata"]["name"] for one in objects if (one.get("status") or {}).get("state")]
        if served:
            return ok(name, f"it has given {', '.join(served[:3])} a status")
        message = f"not known: a dry run may not create anything, and nothing in {namespace} has a status"
        return warn(name, message, look)
    except UnavailableError as error:
        return fail(name, f"its webhook is registered and does not answer: {error.message}", look)
    except InputError:
        return ok(name, "its webhook refuses an impossible object in a dry run")
    return warn(name, "no webhook objects to a graph node without a container (dry run)", look)


def _deployed(
    target: KubernetesTarget, client: KubeClient, settings: Settings, pipeline: Pipeline
) -> Iterator[Finding]:
    """Check that the pipeline's SeldonDeployment exists and may be written."""
    name = f"seldondeployment of {pipeline.name}"
    section, layout = locate.target_of(pipeline), target.layout_of(pipeline)
    place = f"{section.namespace}/{section.name}"
    refused = layout.admission_fault(client)
    if refused:
        yield fail(
            f"pod security for {pipeline.name}",
            refused,
            f"ipa render {pipeline.name} | kubectl apply --dry-run=server -f -",
        )
    try:
        state = target.workload_of(client, settings.install).read(pipeline)
    except NotFoundError:
        yield warn(name, f"{place} does not exist", f"ipa render {pipeline.name} | kubectl apply -f -")
    except DriftError as error:
        yield failed(name, error, f"ipa status {pipeline.name}")
    else:
        running = tuple(stage.config for stage in state.stages)
        rolling = "" if state.settled else "; still rolling out"
        lost = filter(None, (state.problem, *(stage.lost for stage in state.stages)))
        message = f"{place} runs {', '.join(map(str, running))}{rolling}"
        if wrong := "; ".join(dict.fromkeys(lost)):
            yield fail(name, f"{message}; {wrong}", f"kubectl get deployments,events -n {section.namespace}")
        else:
            yield ok(name, message)
        # Batches that give requests the rows of others.
        faults = batch_faults(pipeline, running)
        if faults:
            yield fail(name, "; ".join(faults), f"ipa apply {pipeline.name} --rate R")
    # Objects whose orchestrators the operator writes for ever.
    for each in layout.names:
        with suppress(NotFoundError):
            sdep = client.get(layout.kind, layout.namespace, each)
            if remedy := locate.orchestrator_remedy(sdep):
                yield warn(f"orchestrator of {layout.namespace}/{each}", locate.ENDLESS_WRITES, remedy)
