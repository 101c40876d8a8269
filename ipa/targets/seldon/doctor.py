"""Checks of Seldon for `ipa doctor`: scraped series, the operator, and other writers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from ipa.adapters.kube.client import KubeClient
from ipa.model.errors import ForbiddenError, InputError, NotFoundError, UnavailableError
from ipa.model.findings import DoctorCheck, Finding, fail, ok, warn
from ipa.model.parts import Configs
from ipa.model.pipeline import Pipeline
from ipa.settings import Settings
from ipa.targets.kubernetes.doctor import OwnChecks
from ipa.targets.kubernetes.doctor import checks_of as cluster_checks
from ipa.targets.kubernetes.target import KubernetesTarget
from ipa.targets.seldon import locate
from ipa.targets.seldon.metrics import dialect_of
from ipa.targets.seldon.section import SeldonTarget
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

    def others(client: KubeClient, spaces: Sequence[str]) -> list[DoctorCheck]:
        operator = partial(_operator, client)
        return [DoctorCheck("seldon operator", lambda: map(operator, spaces[:1]), after=CRD)]

    own = OwnChecks(SCRAPE, dialect_of, CRD, INSTALL_SELDON, others, partial(_look, target))
    return cluster_checks(target, settings, pipelines, namespaces, own, elects=elects)


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


def _look(
    target: KubernetesTarget, client: KubeClient, pipeline: Pipeline, running: Configs
) -> Iterator[Finding]:
    """Batches that give requests the rows of others, and orchestrators that are written for ever."""
    if faults := batch_faults(pipeline, running):
        name = f"seldondeployment of {pipeline.name}"
        yield fail(name, "; ".join(faults), f"ipa apply {pipeline.name} --rate R")
    layout = target.layout_of(pipeline)
    for each in layout.names:
        with suppress(NotFoundError):
            sdep = client.get(layout.kind, layout.namespace, each)
            if remedy := locate.orchestrator_remedy(sdep):
                yield warn(f"orchestrator of {layout.namespace}/{each}", locate.ENDLESS_WRITES, remedy)
