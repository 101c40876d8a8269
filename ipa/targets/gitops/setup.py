"""Actuation by a GitOps tool, as the settings say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ipa.control.ports import Workload
from ipa.model.decision import Decision
from ipa.model.errors import ConfigurationError, Problem
from ipa.settings import Settings
from ipa.targets.base import Target
from ipa.targets.gitops.folder import Folder
from ipa.targets.gitops.repository import Branch, Repository
from ipa.targets.gitops.workload import GitOpsWorkload, Manifests, paths_faults


def through_gitops(
    settings: Settings, cluster: Workload, target: Target, decision: Callable[[str], Decision]
) -> GitOpsWorkload:
    """The cluster, only read; what a GitOps tool takes from is written. ConfigurationError lists faults."""
    problems = [Problem(fault) for fault in gitops_faults(settings)]
    folder = Path(settings.gitops_dir)
    if problems:
        raise ConfigurationError("invalid GitOps settings", problems=problems)
    manifests: Manifests = Folder(folder)
    if settings.gitops_branch:
        branch = Branch(settings.gitops_branch, settings.gitops_remote, settings.gitops_author)
        manifests = Repository(folder, branch, settings.gitops_timeout_s)
    return GitOpsWorkload(cluster, manifests, settings.gitops_path, target.manifest, decision)


def gitops_faults(settings: Settings) -> Iterator[str]:
    """Faults in the settings of the GitOps mode."""
    if settings.actuation != "gitops":
        return
    yield from (f"IPA_GITOPS_PATH: {fault}" for fault in paths_faults(settings.gitops_path))
    if not settings.gitops_dir or not Path(settings.gitops_dir).is_dir():
        yield f"IPA_GITOPS_DIR {settings.gitops_dir!r} is not a folder"
    if settings.gitops_remote and not settings.gitops_branch:
        yield "IPA_GITOPS_REMOTE needs IPA_GITOPS_BRANCH"
