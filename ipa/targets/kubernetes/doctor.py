"""Checks of a cluster for `ipa doctor`: the API server, the target's kind of object, rights, the election."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import (
    BY_NAME,
    ELECTOR,
    LEASE,
    OWN_ACCESS_REVIEW,
    REVIEWER,
    RbacRole,
    ResourceKind,
    Right,
    actor,
    observer,
)
from ipa.adapters.prometheus.doctor import metrics_checks
from ipa.adapters.prometheus.queries import Dialect
from ipa.model.errors import DriftError, ForbiddenError, IpaError, NotFoundError, UnavailableError
from ipa.model.findings import DoctorCheck, Finding, Severity, fail, failed, ok, skew_finding, warn
from ipa.model.parts import Configs
from ipa.model.pipeline import Pipeline
from ipa.settings import Settings, words
from ipa.targets.kubernetes.layout import at
from ipa.targets.kubernetes.target import KubernetesTarget

SERVER = "api server"
# The service's account, which its installation names.
ACCOUNT = "--serviceaccount=NAMESPACE:NAME"
# A Lease not renewed for this many of its durations has no holder any more.
DEAD_LEASES = 4


@dataclass(frozen=True, slots=True)
class OwnChecks:
    """A target's contribution to the checks of a cluster.

    `scrape` is the remedy for missing series, whose names `dialect_of` returns. If `check` is not empty, it
    names the check that the kind of object is there, and `install` is its remedy. `others` are checks beside
    those of all targets; `look` returns more findings about a pipeline with its running configuration.
    """

    scrape: str
    dialect_of: Callable[[Pipeline], Dialect]
    check: str = ""
    install: str = ""
    others: Callable[[KubeClient, Sequence[str]], list[DoctorCheck]] = lambda client, spaces: []
    look: Callable[[KubeClient, Pipeline, Configs], Iterable[Finding]] = lambda client, pipeline, running: ()


def checks_of(
    target: KubernetesTarget,
    settings: Settings,
    pipelines: Mapping[str, Pipeline],
    namespaces: Sequence[str],
    own: OwnChecks,
    *,
    elects: bool,
) -> list[DoctorCheck]:
    """Checks of the cluster and the pipelines' series; without `namespaces`, in the pipelines' own."""
    placed = {name: it for name, it in pipelines.items() if target.placed(it)}
    series = metrics_checks(
        settings, {name: (it, own.dialect_of(it)) for name, it in placed.items()}, own.scrape
    )
    try:
        client = KubeClient.from_kubeconfig(settings.kubeconfig, settings.kube_timeout_s)
    except IpaError as error:
        wrong = [failed(SERVER, error)]
        return [*series, DoctorCheck(SERVER, lambda: wrong)]
    spaces = list(namespaces) or sorted({it.namespace for it in placed.values()})

    kind, after = target.kind.kind.lower(), own.check or SERVER
    looks = {name: partial(_deployed, target, client, settings, it, own) for name, it in placed.items()}
    return [
        *series,
        *_cluster_checks(target, client, settings, spaces, placed.values(), own, elects=elects),
        *own.others(client, spaces),
        *(DoctorCheck(f"{kind} of {name}", look, after=after) for name, look in looks.items()),
    ]


def _deployed(
    target: KubernetesTarget, client: KubeClient, settings: Settings, pipeline: Pipeline, own: OwnChecks
) -> Iterator[Finding]:
    """Check that the pipeline's objects exist and may be written."""
    layout, section = target.layout_of(pipeline), pipeline.targets[target.sections.key]
    name, place = f"{layout.kind.kind.lower()} of {pipeline.name}", f"{layout.namespace}/{section.name}"
    running: Configs = ()
    if refused := layout.admission_fault(client):
        remedy = f"{layout.command} | kubectl apply --dry-run=server -f -"
        yield fail(f"pod security for {pipeline.name}", refused, remedy)
    try:
        state = target.workload_of(client, settings.install).read(pipeline)
    except NotFoundError as error:
        message = error.message if len(layout.names) > 1 else f"{place} does not exist"
        yield warn(name, message, f"{layout.command} | kubectl apply -f -")
    except DriftError as error:
        yield failed(name, error, f"ipa status {pipeline.name}")
    else:
        running = tuple(stage.config for stage in state.stages)
        rolling = "" if state.settled else "; still rolling out"
        lost = filter(None, (state.problem, *(stage.lost for stage in state.stages)))
        message = f"{place} runs {', '.join(map(str, running))}{rolling}"
        if wrong := "; ".join(dict.fromkeys(lost)):
            remedy = f"kubectl get deployments,events -n {layout.namespace}"
            yield fail(name, f"{message}; {wrong}", remedy)
        else:
            yield ok(name, message)
    yield from own.look(client, pipeline, running)


def _cluster_checks(
    target: KubernetesTarget,
    client: KubeClient,
    settings: Settings,
    namespaces: Sequence[str],
    placed: Collection[Pipeline],
    own: OwnChecks,
    *,
    elects: bool,
) -> list[DoctorCheck]:
    """The checks of a cluster: the API server first, all others once it has answered."""
    kind = target.kind

    def names(space: str) -> tuple[str, ...]:
        """The names of the objects in the namespace, to which a role may be restricted."""
        places = (place for pipeline in placed for place in target.places_of(pipeline))
        return tuple(name for where, name in places if where == space)

    def of_kind(role: RbacRole) -> RbacRole:
        return replace(role, name=f"{target.role_prefix}{role.name}")

    lease_name = settings.lease_name or f"{settings.install}-serving"
    checks = [DoctorCheck(SERVER, lambda: _server(client))]
    if own.check:
        look_up = partial(_kind, client, kind, own.check, own.install)
        checks.append(DoctorCheck(own.check, lambda: [look_up()], after=SERVER))
    for space in namespaces:
        known = {kind.plural: names(space), LEASE.plural: (lease_name,)}
        roles = {of_kind(observer(kind)): (Severity.FAIL, "without it the service sees nothing")}
        if settings.actuation == "cluster":
            meaning = "advisory and shadow mode do not need it, the others do"
            roles[of_kind(actor(kind))] = Severity.WARN, meaning
        if settings.leader_election != "off" and settings.lease_namespace in ("", space):
            meaning = "without it a service in a pod never leads, unless IPA_LEADER_ELECTION=off"
            roles[ELECTOR] = Severity.WARN, meaning
        look = partial(_rights, client, space, known, roles)
        checks.append(DoctorCheck(f"rights in {space}", look, after=SERVER))
    if "kubernetes" in words(settings.auth):
        roles = {REVIEWER: (Severity.FAIL, "without it IPA_AUTH=kubernetes admits nobody")}
        look = partial(_rights, client, "", {}, roles)
        checks.append(DoctorCheck("rights in the cluster", look, after=SERVER))
    places = [settings.lease_namespace] if settings.lease_namespace else namespaces
    lease = partial(_lease, client, name=lease_name, elects=elects)
    return [*checks, DoctorCheck("lease", lambda: map(lease, places), after=SERVER)]


def _server(client: KubeClient) -> Iterator[Finding]:
    try:
        version = client.discover("/version", "the API server's version").get("gitVersion")
    except IpaError as error:
        yield failed(SERVER, error, "kubectl cluster-info")
        return
    yield ok(SERVER, f"{version or 'it'} answers")
    if client.skew_s is not None:
        yield skew_finding("clock of api server", "the API server's", client.skew_s)


def _kind(client: KubeClient, kind: ResourceKind, check: str, install: str) -> Finding:
    """The served versions of the API group, the preferred one first, and the kind in its version."""
    try:
        group = client.discover(f"/apis/{kind.group}", f"the API group {kind.group}")
    except NotFoundError:
        return fail(check, f"there is no API group {kind.group}", install)
    preferred = at(group, "preferredVersion", "version")
    versions = [str(each.get("version", "")) for each in group.get("versions") or ()]
    versions.sort(key=lambda version: version != preferred)
    with suppress(NotFoundError):
        resources = client.discover(kind.root, kind.api_version).get("resources") or ()
        if kind.version in versions and any(each.get("name") == kind.plural for each in resources):
            others = ", ".join(version for version in versions if version != kind.version)
            return ok(check, f"{kind.api_version} is served" + (f", beside {others}" if others else ""))
    message = f"{kind.group} has {', '.join(versions)}, and no {kind.plural} in {kind.version}"
    return fail(check, message, install.replace("install", "upgrade", 1))


def _rights(
    client: KubeClient,
    namespace: str,
    known: Mapping[str, tuple[str, ...]],
    roles: Mapping[RbacRole, tuple[Severity, str]],
) -> Iterator[Finding]:
    """A finding for each right in the roles, in the namespace ("": in the whole cluster).

    `known` are the names of objects by resource, to which a role may be limited. A role has the severity and
    the meaning of its absence.
    """
    place, where = namespace or "the cluster", f" -n {namespace}" if namespace else ""
    kinds = ("rolebinding", "role") if namespace else ("clusterrolebinding", "clusterrole")
    for role, (severity, meaning) in roles.items():
        bound = f"ipa-{role.name}"
        create = f"kubectl create {kinds[0]} {bound}{where} --{kinds[1]}={bound} {ACCOUNT}"
        grant = f"kubectl apply{where} -f deploy/rbac/{role.name}.yaml && {create}"
        for right in role.rights:
            name = f"right in {place}: {right}"
            try:
                allowed = _is_allowed(client, namespace, right)
                names = () if allowed or right.verb not in BY_NAME else known.get(right.resource, ())
                refused = next((it for it in names if not _is_allowed(client, namespace, right, it)), "")
            except ForbiddenError as error:
                kind = f"{right.resource}.{right.group}" if right.group else right.resource
                remedy = f"kubectl auth can-i {right.verb} {kind}{where or ' -A'}"
                yield warn(name, f"not known: {error.message}", remedy)
                continue
            if allowed:
                yield ok(name, f"allowed ({role.name})")
            elif names and not refused:
                yield ok(name, f"allowed for {', '.join(names)} ({role.name})")
            else:
                which = f" for {refused}" if refused else ""
                message = f"not allowed{which}; role {role.name} is for {role.purpose}: {meaning}"
                yield Finding(name, severity, message, grant)


def _is_allowed(client: KubeClient, namespace: str, right: Right, name: str = "") -> bool:
    """Ask if the service has the right in the namespace, to all objects or the named one."""
    attributes = {"verb": right.verb, "group": right.group, "resource": right.resource}
    attributes |= {key: value for key, value in (("namespace", namespace), ("name", name)) if value}
    what = f"whether we may {right}" + (f" in {namespace}" if namespace else "")
    allowed = client.review(OWN_ACCESS_REVIEW, {"resourceAttributes": attributes}, what).get("allowed")
    if not isinstance(allowed, bool):
        raise UnavailableError(f"{what}: the answer has no status.allowed")
    return allowed


def _lease(client: KubeClient, namespace: str, *, name: str, elects: bool) -> Finding:
    """The holder of the Lease of this install: two services without election would both write."""
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
    message = f"{holder} leads"
    try:
        age_s = (datetime.now(UTC) - datetime.fromisoformat(str(spec.get("renewTime")))).total_seconds()
    except (ValueError, TypeError):
        # No time, or one without a zone.
        age_s = None
    if age_s is not None:
        if age_s > DEAD_LEASES * float(spec.get("leaseDurationSeconds") or 15):
            return ok(title, f"{holder} held it last, and has not renewed it for {age_s:.0f} s")
        message += f", renewed {max(age_s, 0.0):.0f} s ago"
    if elects:
        return ok(title, f"{message}; a service started here stands by")
    remedy = f"export IPA_LEADER_ELECTION=on IPA_LEASE_NAMESPACE={namespace}"
    return warn(title, f"{message}; a second service without election would write at the same time", remedy)
