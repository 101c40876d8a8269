"""The cluster from the command line, without a service: its workload, and the SeldonDeployment to import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ipa.adapters.kube.client import KubeClient, connect
from ipa.files.reading import read_utf8
from ipa.model.errors import InputError, NotFoundError, UsageError
from ipa.model.pipeline import Pipeline
from ipa.settings import Settings
from ipa.targets.base import Imported, ImportRequest
from ipa.targets.seldon.imported import imported
from ipa.targets.seldon.layouts import KubeWorkload
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.manifest_edit import seldondeployments
from ipa.targets.seldon.ownership import OwningClient, release_all
from ipa.targets.seldon.variants import Json
from ipa.targets.seldon.workload import pod_security_fault


class ClusterConnection:
    """The SeldonDeployments of one cluster, as those of that install."""

    def __init__(self, client: KubeClient, install: str) -> None:
        self._client, self._install = client, install
        self.workload = KubeWorkload(OwningClient(client, install))

    def why_not(self, pipeline: Pipeline) -> str:
        """Return what the namespace's PodSecurity refuses of the pipeline, with the remedy."""
        return pod_security_fault(self._client, pipeline)

    def release(self, pipeline: Pipeline) -> list[str]:
        """Give the pipeline's SeldonDeployments up; the names of those that were the install's."""
        return release_all(self._client, pipeline, self._install)

    def close(self) -> None:
        """Close the client."""
        self._client.close()


def import_pipeline(settings: Settings, asked: ImportRequest) -> Imported:
    """The pipeline of the SeldonDeployment that is asked for.

    Errors: NotFoundError, UsageError (there are several), InputError, those of the client.
    """
    found = _of_file(asked.file, asked) if asked.file is not None else _of_cluster(settings, asked)
    try:
        return imported(
            found, asked.sla, name=asked.pipeline, predictor=asked.part, bounds_cores=asked.bounds_cores
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"this SeldonDeployment is incomplete: {type(error).__name__} {error}",
            hint="`kubectl apply --dry-run=server -f FILE` reports the fault.",
        ) from error


def _of_file(path: Path, asked: ImportRequest) -> Json:
    """The SeldonDeployment in the file."""
    found = [one for one in seldondeployments(read_utf8(path), str(path)) if _is_asked(one, asked)]
    return _only(
        found, f"{path} has no SeldonDeployment" + (f" {asked.workload!r}" if asked.workload else "")
    )


def _is_asked(found: Json, asked: ImportRequest) -> bool:
    metadata = found["metadata"]
    here = asked.namespace is None or metadata.get("namespace") in (None, asked.namespace)
    return here and asked.workload in (None, metadata.get("name"))


def _of_cluster(settings: Settings, asked: ImportRequest) -> Json:
    """The SeldonDeployment in the cluster."""
    namespace = asked.namespace or "default"
    client = connect(settings.kubeconfig, settings.kube_timeout_s)
    try:
        if asked.workload is not None:
            return client.get(SELDON_DEPLOYMENT, namespace, asked.workload)
        found, _ = client.list_all(SELDON_DEPLOYMENT, namespace)
        return _only(found, f"there is no SeldonDeployment in namespace {namespace}")
    finally:
        client.close()


def _only(found: Sequence[Json], nothing: str) -> Json:
    """The only one; UsageError names them if there are several."""
    if not found:
        raise NotFoundError(nothing)
    if len(found) > 1:
        names = ", ".join(sorted(str(one["metadata"].get("name")) for one in found))
        raise UsageError("there are several SeldonDeployments", hint=f"Name one of: {names}")
    return found[0]
