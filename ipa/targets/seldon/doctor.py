"""Checks of the cluster for `ipa doctor`: it answers, our rights, Seldon is there, nobody else writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import Any

from ipa.adapters.kube import preflight
from ipa.adapters.kube.client import KubeClient, connect
from ipa.adapters.kube.kinds import BY_NAME, ELECTOR, LEASE, REVIEWER, RbacRole, Right, actor, observer
from ipa.adapters.prometheus.doctor import SeriesOf, metrics_checks
from ipa.model.errors import DriftError, ForbiddenError, IpaError, NotFoundError, UnavailableError
from ipa.model.findings import DoctorCheck, Finding, Severity, fail, failed, ok, skew_finding, warn
from ipa.model.pipeline import Pipeline
from ipa.settings import Settings, words
from ipa.targets.seldon import locate
from ipa.targets.seldon.layouts import KubeWorkload
from ipa.targets.seldon.metrics import dialect_of
from ipa.targets.seldon.monitors import Scraped, monitors_of
from ipa.targets.seldon.ownership import OwningClient
from ipa.targets.seldon.section import seldon_of
from ipa.targets.seldon.shape import batch_faults
from ipa.targets.seldon.watchers import places_of
from ipa.targets.seldon.workload import pod_security_fault

SERVER = "api server"
CRD = "seldon crd"
INSTALL_SELDON = (
    "helm install seldon-core seldon-core-operator --repo https://storage.googleapis.com/seldon-charts "
    "-n seldon-system --create-namespace"
)
# A graph node without a container: nobody would run it.
PROBE = "ipa-doctor-probe"
# A Lease not renewed for so many of its durations has no holder any more.
DEAD_LEASES = 4


def checks_of(
    settings: Settings, pipelines: Mapping[str, Pipeline], namespaces: Sequence[str], *, elects: bool
) -> list[DoctorCheck]:
    """The series of each pipeline that runs on Seldon, and the cluster; `namespaces` are theirs if empty."""
    placed = {name: it for name, it in pipelines.items() if seldon_of(it) is not None}
    series = metrics_checks(settings, {name: (it, dialect_of(it)) for name, it in placed.items()}, _scrape)
    try:
        client = connect(settings.kubeconfig, settings.kube_timeout_s)
    except IpaError as error:
        wrong = [failed(SERVER, error)]
        return [*series, DoctorCheck(SERVER, lambda: wrong)]
    spaces = list(namespaces) or sorted({it.namespace for it in placed.values()})
    return [*series, *_cluster_checks(client, settings, pipelines, spaces, elects=elects)]


def _scrape(pipeline: Pipeline, of: SeriesOf) -> str:
    """The command that has those series scraped, with the PodMonitor that does it."""
    first, *others = monitors_of(pipeline)
    monitor = next((it for it in others if it.scraped is Scraped.STAGES and of is SeriesOf.REPLICAS), first)
    return (
        f"ipa render {pipeline.name} --monitors | kubectl apply -f -   (PodMonitor {monitor.name(pipeline)})"
    )


def _cluster_checks(
    client: KubeClient,
    settings: Settings,
    pipelines: Mapping[str, Pipeline],
    namespaces: Sequence[str],
    *,
    elects: bool,
) -> list[DoctorCheck]:
    """The API server first; all others once it has answered."""
    on_seldon = [pipeline for pipeline in pipelines.values() if seldon_of(pipeline) is not None]
    user = _User(client)
    return [
        DoctorCheck(SERVER, lambda: _server(client)),
        DoctorCheck(CRD, lambda: _crd(client), after=SERVER),
        *(
            DoctorCheck(
                f"rights in {space}",
                partial(_rights, client, settings, space, user, _known(settings, on_seldon, space)),
                after=SERVER,
            )
            for space in namespaces
        ),
        *_reviewing(client, settings, user),
        *(
            DoctorCheck("seldon operator", partial(_operator, client, space), after=CRD)
            for space in namespaces[:1]
        ),
        *(
            DoctorCheck(f"seldondeployment of {it.name}", partial(_deployed, client, settings, it), after=CRD)
            for it in on_seldon
        ),
        DoctorCheck("lease", partial(_leases, client, settings, namespaces, elects=elects), after=SERVER),
    ]


def _known(
    settings: Settings, pipelines: Sequence[Pipeline], namespace: str
) -> Mapping[str, tuple[str, ...]]:
    """The names of what is asked for by name there: a role may allow these alone."""
    places = (place for it in pipelines for place in places_of(it))
    return {
        locate.SELDON_DEPLOYMENT.plural: tuple(name for where, name in places if where == namespace),
        "leases": (_lease_name(settings),),
    }


def _lease_name(settings: Settings) -> str:
    return settings.lease_name or f"{settings.install}-serving"


def _reviewing(client: KubeClient, settings: Settings, user: _User) -> list[DoctorCheck]:
    """Check the rights to review tokens, if the service authenticates by the cluster."""
    if "kubernetes" not in words(settings.auth):
        return []
    meaning = "without it IPA_AUTH=kubernetes admits nobody"

    def look() -> Iterator[Finding]:
        return _role(client, "", user, {}, REVIEWER, Severity.FAIL, meaning)

    return [DoctorCheck("rights in the cluster", look, after=SERVER)]


def _server(client: KubeClient) -> Iterator[Finding]:
    try:
        version = preflight.server_version(client)
    except IpaError as error:
        yield failed(SERVER, error, "kubectl cluster-info; export IPA_KUBECONFIG=~/.kube/config")
        return
    yield ok(SERVER, f"{version or 'it'} answers")
    if client.skew_s is not None:
        yield skew_finding("clock of api server", "the API server's", client.skew_s)


def _crd(client: KubeClient) -> Iterator[Finding]:
    kind = locate.SELDON_DEPLOYMENT
    versions = preflight.served_versions(client, kind.group)
    if not versions:
        yield fail(CRD, f"there is no API group {kind.group}", INSTALL_SELDON)
    elif kind.version not in versions or not preflight.serves(client, kind):
        seen = f"{kind.group} has {', '.join(versions)}, and no {kind.plural} in {kind.version}"
        yield fail(CRD, seen, INSTALL_SELDON.replace("install", "upgrade", 1))
    else:
        others = ", ".join(version for version in versions if version != kind.version)
        yield ok(CRD, f"{kind.api_version} is served" + (f", beside {others}" if others else ""))


def _probe(namespace: str) -> dict[str, Any]:
    """A SeldonDeployment that cannot be: only the operator's webhook says no."""
    graph = {"name": PROBE, "type": "MODEL"}
    return {
        "apiVersion": locate.SELDON_DEPLOYMENT.api_version,
        "kind": locate.SELDON_DEPLOYMENT.kind,
        "metadata": {"name": PROBE, "namespace": namespace},
        "spec": {"protocol": "v2", "predictors": [{"name": "default", "graph": graph, "componentSpecs": []}]},
    }


class _User:
    """The identity of the service in the cluster, asked once."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    @cached_property
    def subject(self) -> str:
        """The option of `kubectl create rolebinding` that names us."""
        try:
            name = preflight.user_name(self._client)
        except IpaError:
            name = ""
        account = name.removeprefix("system:serviceaccount:")
        if account != name:
            return f"--serviceaccount={account}"
        return f"--user={name}" if name else "--serviceaccount=NAMESPACE:NAME"


def _rights(
    client: KubeClient, settings: Settings, namespace: str, user: _User, known: Mapping[str, tuple[str, ...]]
) -> Iterator[Finding]:
    """Every verb that our roles list, one finding each."""
    role = partial(_role, client, namespace, user, known)
    yield from role(observer(locate.SELDON_DEPLOYMENT), Severity.FAIL, "without it the service sees nothing")
    if settings.actuation == "cluster":
        meaning = "advisory and shadow mode do not need it, the others do"
        yield from role(actor(locate.SELDON_DEPLOYMENT), Severity.WARN, meaning)
    if settings.leader_election != "off" and settings.lease_namespace in ("", namespace):
        meaning = "without it a service in a pod never leads, unless IPA_LEADER_ELECTION=off"
        yield from role(ELECTOR, Severity.WARN, meaning)


def _role(
    client: KubeClient,
    namespace: str,
    user: _User,
    known: Mapping[str, tuple[str, ...]],
    role: RbacRole,
    state: Severity,
    meaning: str,
) -> Iterator[Finding]:
    """Every right of the role in the namespace ("": in the whole cluster)."""
    place = namespace or "the cluster"
    for right in role.rights:
        name = f"right in {place}: {right}"
        try:
            allowed = preflight.is_allowed(client, namespace, right)
            names = () if allowed or right.verb not in BY_NAME else known.get(right.resource, ())
            refused = next(
                (each for each in names if not preflight.is_allowed(client, namespace, right, each)), ""
            )
        except ForbiddenError as error:
            yield warn(name, f"not known: {error.message}", _by_hand(right, namespace))
            continue
        if allowed:
            yield ok(name, f"allowed ({role.name})")
        elif names and not refused:
            yield ok(name, f"allowed for {', '.join(names)} ({role.name})")
        else:
            which = f" for {refused}" if refused else ""
            seen = f"not allowed{which}; role {role.name} is for {role.purpose}: {meaning}"
            yield Finding(name, state, seen, _grant(role, namespace, user))


def _grant(role: RbacRole, namespace: str, user: _User) -> str:
    bound, file = f"ipa-{role.name}", f"deploy/rbac/{role.name}.yaml"
    if not namespace:
        return (
            f"kubectl apply -f {file} && "
            f"kubectl create clusterrolebinding {bound} --clusterrole={bound} {user.subject}"
        )
    return (
        f"kubectl apply -n {namespace} -f {file} && "
        f"kubectl create rolebinding {bound} -n {namespace} --role={bound} {user.subject}"
    )


def _by_hand(right: Right, namespace: str) -> str:
    kind = f"{right.resource}.{right.group}" if right.group else right.resource
    return f"kubectl auth can-i {right.verb} {kind} {f'-n {namespace}' if namespace else '-A'}"


def _operator(client: KubeClient, namespace: str) -> Iterator[Finding]:
    """Check that Seldon's webhook rejects an invalid object in a dry run."""
    name = "seldon operator"
    look = "kubectl get pods -n seldon-system -l control-plane=seldon-controller-manager"
    try:
        refused = preflight.refusal(client, locate.SELDON_DEPLOYMENT, namespace, _probe(namespace))
    except ForbiddenError:
        yield _operator_by_status(client, namespace, name, look)
    except UnavailableError as error:
        yield fail(name, f"its webhook is registered and does not answer: {error.message}", look)
    else:
        if refused:
            yield ok(name, "its webhook refuses an impossible object in a dry run")
        else:
            yield warn(name, "no webhook objects to a graph node without a container (dry run)", look)


def _operator_by_status(client: KubeClient, namespace: str, name: str, look: str) -> Finding:
    """Without the right to create, recognise the operator by the status that it wrote."""
    found, _ = client.list_all(locate.SELDON_DEPLOYMENT, namespace)
    told = [one["metadata"]["name"] for one in found if (one.get("status") or {}).get("state")]
    if told:
        return ok(name, f"it has given {', '.join(told[:3])} a status")
    seen = f"not known: a dry run may not create anything, and nothing in {namespace} has a status"
    return warn(name, seen, look)


def _deployed(client: KubeClient, settings: Settings, pipeline: Pipeline) -> Iterator[Finding]:
    """Check that the pipeline's SeldonDeployment exists and may be written."""
    name = f"seldondeployment of {pipeline.name}"
    target = locate.target_of(pipeline)
    place = f"{target.namespace}/{target.name}"
    workload = KubeWorkload(OwningClient(client, settings.install))
    refused = pod_security_fault(client, pipeline)
    if refused:
        yield fail(f"pod security for {pipeline.name}", refused, f"ipa validate --at {settings.target}")
    try:
        state = workload.read(pipeline)
    except NotFoundError:
        yield warn(name, f"{place} does not exist", f"ipa render {pipeline.name} | kubectl apply -f -")
    except DriftError as error:
        yield failed(name, error, f"ipa status {pipeline.name} --at kubernetes")
    else:
        running = tuple(stage.config for stage in state.stages)
        rolling = "" if state.settled else "; still rolling out"
        lost = filter(None, (state.problem, *(stage.lost for stage in state.stages)))
        seen = f"{place} runs {', '.join(map(str, running))}{rolling}"
        if wrong := "; ".join(dict.fromkeys(lost)):
            yield fail(name, f"{seen}; {wrong}", f"kubectl get deployments,events -n {target.namespace}")
        else:
            yield ok(name, seen)
        # Batches that give requests the rows of others.
        faults = batch_faults(pipeline, running)
        if faults:
            yield fail(name, "; ".join(faults), f"ipa apply {pipeline.name} --rate R --at kubernetes")
    yield from _endless(client, pipeline)


def _endless(client: KubeClient, pipeline: Pipeline) -> Iterator[Finding]:
    """Objects whose orchestrators the operator writes for ever."""
    for namespace, name in places_of(pipeline):
        try:
            sdep = client.get(locate.SELDON_DEPLOYMENT, namespace, name)
        except NotFoundError:
            continue
        if locate.unsaid_orchestrators(sdep):
            yield warn(
                f"orchestrator of {namespace}/{name}", locate.ENDLESS_WRITES, locate.orchestrator_remedy(sdep)
            )
        for stage in locate.unscaled(pipeline, sdep):
            seen = "its replicas are external, and its componentSpec has neither hpaSpec nor kedaSpec"
            remedy = "Give it one (docs/how-to/share-replicas.md), or leave out `replicas: external`."
            yield warn(f"replicas of {pipeline.name}/{stage}", seen, remedy)


def _leases(
    client: KubeClient, settings: Settings, namespaces: Sequence[str], *, elects: bool
) -> Iterator[Finding]:
    """Check the holder of the Lease of this install: two services without election would both write."""
    name = _lease_name(settings)
    for namespace in [settings.lease_namespace] if settings.lease_namespace else namespaces:
        yield _lease(client, namespace, name, elects=elects)


def _lease(client: KubeClient, namespace: str, name: str, *, elects: bool) -> Finding:
    title = f"lease {namespace}/{name}"
    try:
        spec = client.get(LEASE, namespace, name).get("spec") or {}
    except NotFoundError:
        return ok(title, "there is none: no other service takes part in an election here")
    except ForbiddenError as error:
        return warn(title, f"not known: {error.message}", "kubectl apply -f deploy/rbac/elector.yaml")
    holder = str(spec.get("holderIdentity") or "")
    if not holder:
        return ok(title, "nobody holds it")
    age_s = _age_s(spec.get("renewTime"))
    if age_s is not None and age_s > DEAD_LEASES * float(spec.get("leaseDurationSeconds") or 15):
        return ok(title, f"{holder} held it last, and has not renewed it for {age_s:.0f} s")
    seen = f"{holder} leads" + ("" if age_s is None else f", renewed {max(age_s, 0.0):.0f} s ago")
    if elects:
        return ok(title, f"{seen}; a service started here stands by")
    remedy = f"export IPA_LEADER_ELECTION=on IPA_LEASE_NAMESPACE={namespace}"
    return warn(title, f"{seen}; a second service without election would write at the same time", remedy)


def _age_s(renewed: object) -> float | None:
    """Seconds since that time by our clock, None where it is none."""
    try:
        at = datetime.fromisoformat(str(renewed))
    except ValueError:
        return None
    return (datetime.now(UTC) - at).total_seconds() if at.tzinfo else None
