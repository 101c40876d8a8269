"""The leader election among replicas of the service, of which only the leader writes."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ipa.adapters.kube.kinds import LEASE, ObjectRef
from ipa.adapters.kube.lease import LeaseLeadership
from ipa.adapters.kube.transport import Backoff, in_pod
from ipa.bootstrap.targets import find_target, kube_client
from ipa.control.election import LeaseTimes
from ipa.settings import Settings

# Which namespace a pod is in.
POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def elects(settings: Settings) -> bool:
    """Return True if a service with these settings takes part in an election."""
    return settings.leader_election == "on" or (settings.leader_election == "auto" and _in_pod(settings))


def _in_pod(settings: Settings) -> bool:
    return find_target(settings).on_kubernetes and in_pod(settings.kubeconfig)


def make_leadership(
    settings: Settings, on_lead: Callable[[], None], resources: ExitStack
) -> LeaseLeadership | None:
    """This replica's leadership, not yet started; None without an election.

    `election_faults` must have found no fault in the settings.
    """
    if not elects(settings):
        return None
    namespace = settings.lease_namespace or POD_NAMESPACE.read_text(encoding="utf-8").strip()
    # A client of its own: renewals do not wait for what else the service asks, nor for its pushback. One call
    # that hangs leaves time for another before the deadline.
    timeout_s = min(settings.kube_timeout_s, settings.lease_renew_deadline_s / 2)
    client = kube_client(
        replace(settings, kube_timeout_s=timeout_s), Backoff(longest_s=settings.lease_retry_s)
    )
    resources.callback(client.close)
    name = settings.lease_identity or socket.gethostname()
    identity = f"{name}_{uuid.uuid4().hex[:8]}"
    place = ObjectRef(LEASE, namespace, settings.lease_name or f"{settings.install}-serving")
    return LeaseLeadership(client, place, identity, _times(settings), on_lead=on_lead)


def election_faults(settings: Settings) -> Iterator[str]:
    """Problems of the election's settings."""
    if not elects(settings):
        return
    yield from _times(settings).faults()
    if not find_target(settings).on_kubernetes:
        yield "IPA_LEADER_ELECTION=on needs a target that writes a cluster: kubernetes or deployments"
    elif not settings.lease_namespace and not (_in_pod(settings) and POD_NAMESPACE.is_file()):
        yield "IPA_LEASE_NAMESPACE is needed outside of a pod"


def _times(settings: Settings) -> LeaseTimes:
    return LeaseTimes(settings.lease_s, settings.lease_renew_deadline_s, settings.lease_retry_s)
