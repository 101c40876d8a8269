"""Checks of a cluster for `ipa doctor`: it answers, serves our kind of object, our rights, the election."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import (
    BY_NAME,
    ELECTOR,
    LEASE,
    OWN_ACCESS_REVIEW,
    REVIEWER,
    SELF_REVIEW,
    RbacRole,
    ResourceKind,
    Right,
    actor,
    observer,
)
from ipa.model.errors import ForbiddenError, IpaError, NotFoundError, UnavailableError
from ipa.model.findings import DoctorCheck, Finding, Severity, fail, failed, ok, skew_finding, warn
from ipa.settings import Settings, words

SERVER = "api server"
# A Lease not renewed for so many of its durations has no holder any more.
DEAD_LEASES = 4
# The option of `kubectl create rolebinding` that names the service.
Subject = Callable[[], str]


@dataclass(frozen=True, slots=True)
class ClusterNeeds:
    """A target's needs of a cluster: its kind of object, how that is installed, and its objects' names.

    `check` names the check of the kind, and `names` gives those of the objects in a namespace: a role may
    allow these alone.
    """

    kind: ResourceKind
    check: str
    install: str
    names: Callable[[str], tuple[str, ...]]


def cluster_checks(
    client: KubeClient, settings: Settings, needs: ClusterNeeds, namespaces: Sequence[str], *, elects: bool
) -> list[DoctorCheck]:
    """The API server first; all others once it has answered."""
    # Asked once, and only if a right is missing.
    subject = cache(partial(_subject, client))
    checks = [
        DoctorCheck(SERVER, lambda: _server(client)),
        DoctorCheck(needs.check, lambda: _kind(client, needs), after=SERVER),
    ]
    for space in namespaces:
        look = partial(_rights, client, settings, needs, space, subject)
        checks.append(DoctorCheck(f"rights in {space}", look, after=SERVER))
    if "kubernetes" in words(settings.auth):
        meaning = "without it IPA_AUTH=kubernetes admits nobody"
        look = partial(_role, client, "", subject, {}, REVIEWER, Severity.FAIL, meaning)
        checks.append(DoctorCheck("rights in the cluster", look, after=SERVER))
    places = [settings.lease_namespace] if settings.lease_namespace else namespaces
    lease = partial(_lease, client, name=_lease_name(settings), elects=elects)
    return [*checks, DoctorCheck("lease", lambda: map(lease, places), after=SERVER)]


def _kind(client: KubeClient, needs: ClusterNeeds) -> Iterator[Finding]:
    kind = needs.kind
    versions = served_versions(client, kind.group)
    if not versions:
        yield fail(needs.check, f"there is no API group {kind.group}", needs.install)
    elif kind.version not in versions or not _serves(client, kind):
        seen = f"{kind.group} has {', '.join(versions)}, and no {kind.plural} in {kind.version}"
        yield fail(needs.check, seen, needs.install.replace("install", "upgrade", 1))
    else:
        others = ", ".join(version for version in versions if version != kind.version)
        yield ok(needs.check, f"{kind.api_version} is served" + (f", beside {others}" if others else ""))


def served_versions(client: KubeClient, group: str) -> tuple[str, ...]:
    """The versions of the API group that are served, the preferred one first; none without the group."""
    try:
        found = client.discover(f"/apis/{group}", f"the API group {group}")
    except NotFoundError:
        return ()
    versions = [str(each.get("version", "")) for each in found.get("versions") or ()]
    preferred = str((found.get("preferredVersion") or {}).get("version", ""))
    return tuple(sorted(versions, key=lambda version: version != preferred))


def _serves(client: KubeClient, kind: ResourceKind) -> bool:
    try:
        found = client.discover(kind.root, kind.api_version)
    except NotFoundError:
        return False
    return any(each.get("name") == kind.plural for each in found.get("resources") or ())


def _lease_name(settings: Settings) -> str:
    return settings.lease_name or f"{settings.install}-serving"


def _server(client: KubeClient) -> Iterator[Finding]:
    try:
        version = client.discover("/version", "the API server's version").get("gitVersion")
    except IpaError as error:
        yield failed(SERVER, error, "kubectl cluster-info; export IPA_KUBECONFIG=~/.kube/config")
        return
    yield ok(SERVER, f"{version or 'it'} answers")
    if client.skew_s is not None:
        yield skew_finding("clock of api server", "the API server's", client.skew_s)


def _subject(client: KubeClient) -> str:
    """The option of `kubectl create rolebinding` that names the service."""
    try:
        name = str((client.review(SELF_REVIEW).get("userInfo") or {}).get("username", ""))
    except IpaError:
        # Kubernetes before 1.28 does not tell.
        name = ""
    account = name.removeprefix("system:serviceaccount:")
    if account != name:
        return f"--serviceaccount={account}"
    return f"--user={name}" if name else "--serviceaccount=NAMESPACE:NAME"


def _rights(
    client: KubeClient, settings: Settings, needs: ClusterNeeds, namespace: str, subject: Subject
) -> Iterator[Finding]:
    """Every verb that our roles list, one finding each."""
    known = {needs.kind.plural: needs.names(namespace), LEASE.plural: (_lease_name(settings),)}
    role = partial(_role, client, namespace, subject, known)
    yield from role(observer(needs.kind), Severity.FAIL, "without it the service sees nothing")
    if settings.actuation == "cluster":
        meaning = "advisory and shadow mode do not need it, the others do"
        yield from role(actor(needs.kind), Severity.WARN, meaning)
    if settings.leader_election != "off" and settings.lease_namespace in ("", namespace):
        meaning = "without it a service in a pod never leads, unless IPA_LEADER_ELECTION=off"
        yield from role(ELECTOR, Severity.WARN, meaning)


def _role(
    client: KubeClient,
    namespace: str,
    subject: Subject,
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
            allowed = _is_allowed(client, namespace, right)
            names = () if allowed or right.verb not in BY_NAME else known.get(right.resource, ())
            refused = next((it for it in names if not _is_allowed(client, namespace, right, it)), "")
        except ForbiddenError as error:
            kind = f"{right.resource}.{right.group}" if right.group else right.resource
            where = f"-n {namespace}" if namespace else "-A"
            yield warn(name, f"not known: {error.message}", f"kubectl auth can-i {right.verb} {kind} {where}")
            continue
        if allowed:
            yield ok(name, f"allowed ({role.name})")
        elif names and not refused:
            yield ok(name, f"allowed for {', '.join(names)} ({role.name})")
        else:
            which = f" for {refused}" if refused else ""
            seen = f"not allowed{which}; role {role.name} is for {role.purpose}: {meaning}"
            yield Finding(name, state, seen, _grant(role, namespace, subject()))


def _is_allowed(client: KubeClient, namespace: str, right: Right, name: str = "") -> bool:
    """Ask for our right in the namespace ("": the whole cluster), to all objects or the named one."""
    asked = {"verb": right.verb, "group": right.group, "resource": right.resource}
    asked |= {"namespace": namespace} if namespace else {}
    asked |= {"name": name} if name else {}
    what = f"whether we may {right}" + (f" in {namespace}" if namespace else "")
    allowed = client.review(OWN_ACCESS_REVIEW, {"resourceAttributes": asked}, what).get("allowed")
    if not isinstance(allowed, bool):
        raise UnavailableError(f"{what}: the answer has no status.allowed")
    return allowed


def _grant(role: RbacRole, namespace: str, subject: str) -> str:
    bound, file = f"ipa-{role.name}", f"deploy/rbac/{role.name}.yaml"
    where = f" -n {namespace}" if namespace else ""
    kinds = ("rolebinding", "role") if namespace else ("clusterrolebinding", "clusterrole")
    create = f"kubectl create {kinds[0]} {bound}{where} --{kinds[1]}={bound} {subject}"
    return f"kubectl apply{where} -f {file} && {create}"


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
