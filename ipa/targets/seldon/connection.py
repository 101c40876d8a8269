"""The cluster from the command line, without a service."""

from __future__ import annotations

from ipa.adapters.kube.client import KubeClient
from ipa.model.pipeline import Pipeline
from ipa.targets.seldon.layouts import KubeWorkload
from ipa.targets.seldon.ownership import OwningClient, release_all


class ClusterConnection:
    """The SeldonDeployments of one cluster, as those of that install."""

    def __init__(self, client: KubeClient, install: str) -> None:
        self._client, self._install = client, install
        self.workload = KubeWorkload(OwningClient(client, install))

    def release(self, pipeline: Pipeline) -> list[str]:
        """Give the pipeline's SeldonDeployments up; the names of those that were the install's."""
        return release_all(self._client, pipeline, self._install)

    def close(self) -> None:
        """Close the client."""
        self._client.close()
