"""The Workload port where a GitOps tool writes the cluster, and we only the folder or branch it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ipa.control.canonical import digest
from ipa.control.engine.change_words import changes
from ipa.control.ports import PipelineManifest, Rollout, RolloutPhase, StageState, Workload, WorkloadState
from ipa.files.reading import read_text, replace_text
from ipa.model.decision import Change, Decision
from ipa.model.errors import READ_AGAIN, ConfigurationError, ConflictError, DriftError, IpaError, Problem
from ipa.model.parts import Configs, stage_pairs
from ipa.model.pipeline import Pipeline
from ipa.model.plan import in_millicores
from ipa.model.rolling import DEPLOYMENT
from ipa.settings import Settings
from ipa.targets.base import Target
from ipa.targets.gitops.repository import Branch, Repository

# Enough to tell two texts of one file apart.
DIGITS = 12


class Folder:
    """A folder that a GitOps tool, or something else of yours, looks into."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> str:
        """The file's text. NotFoundError where there is none."""
        return read_text(self._folder / path)

    def write(self, path: str, before: str, after: str, message: str) -> None:
        """Put `after` in place of `before`, at once or not at all. ConflictError: it says something else."""
        file = self._folder / path
        if read_text(file) != before:
            raise ConflictError(f"{file} was changed since it was read", hint=READ_AGAIN)
        replace_text(file, after)


# The storage of manifests.
Manifests = Folder | Repository


class GitOpsWorkload:
    """A pipeline whose manifest is rewritten; a GitOps tool brings it to the cluster, which is only read.

    What it asks for is read from the manifest, what answers from the cluster. It is settled where the cluster
    runs just that. `manifest_of` reads the text of a manifest, `decision` gives the recorded decision of
    an id, for the commit's message.
    """

    rolling = DEPLOYMENT

    def __init__(
        self,
        cluster: Workload,
        manifests: Manifests,
        path: str,
        manifest_of: Callable[[Pipeline, str, str], PipelineManifest],
        decision: Callable[[str], Decision] | None = None,
    ) -> None:
        self._cluster, self._manifests, self._path = cluster, manifests, path
        self._manifest_of, self._decision = manifest_of, decision

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """The configuration that the manifest asks for, and how much of it the cluster runs.

        DriftError: manifest or cluster have what is none of the pipeline's. NotFoundError: one has nothing.
        """
        state = self._cluster.read(pipeline)
        text = self._text(pipeline)
        asked = self._asked(pipeline, text)
        running = {stage.config: stage for stage in state.stages}
        stages = tuple(
            StageState(config, 0) if there is None else replace(running[there], config=config)
            for there, config in stage_pairs(_configs(state), asked)
        )
        settled = state.settled and asked == _configs(state)
        return replace(state, revision=_revision(state, text), stages=stages, settled=settled)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """The new revision, once the manifest is changed: one file, one commit.

        ConflictError: manifest or cluster are not as when it was decided on, or moved meanwhile.
        """
        state = self._cluster.read(pipeline)
        text = self._text(pipeline)
        if _revision(state, text) != change.revision:
            raise ConflictError(
                f"pipeline {pipeline.name} is at {_revision(state, text)}; "
                f"the change was decided at {change.revision}",
                hint=READ_AGAIN,
            )
        path = self._path_of(pipeline)
        after = self._manifest_of(pipeline, text, path).changed(change.configs)
        if after != text:
            self._manifests.write(path, text, after, self._message(pipeline, change))
        return _revision(state, after)

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """The state of a written change: brought to the cluster by the GitOps tool, then rolled out there."""
        state = self._cluster.read(pipeline)
        try:
            asked = self._asked(pipeline, self._text(pipeline))
        except DriftError as error:
            return Rollout(RolloutPhase.REPLACED, f"another writer changed the manifest: {error.message}")
        if asked != in_millicores(change.configs):
            # No cache is on the way, so this is newer than what we wrote, even where it is as before.
            return Rollout(RolloutPhase.REPLACED, "another writer changed the manifest")
        if _configs(state) != asked:
            words = f"the GitOps tool has not brought {self._path_of(pipeline)} to the cluster yet"
            return Rollout(RolloutPhase.PROGRESSING, words)
        # Judged by the object that is there now: whoever brings manifests may make it anew.
        return self._cluster.rollout(pipeline, replace(change, revision=state.revision))

    def _path_of(self, pipeline: Pipeline) -> str:
        return self._path.replace("{pipeline}", pipeline.name)

    def _text(self, pipeline: Pipeline) -> str:
        return self._manifests.read(self._path_of(pipeline))

    def _asked(self, pipeline: Pipeline, text: str) -> Configs:
        return self._manifest_of(pipeline, text, self._path_of(pipeline)).configs()

    def _message(self, pipeline: Pipeline, change: Change) -> str:
        """The commit message: the change, its decision and the reason."""
        what = "take back" if change.is_rollback else "change"
        lines = [f"ipa: {what} {pipeline.name}", "", changes(change.previous, change.configs), ""]
        lines.append(f"Decision: {change.decision_id}")
        try:
            decision = self._decision(change.decision_id) if self._decision else None
        except IpaError:
            # It is recorded before anything is written; a record that cannot be read now says the rest later.
            decision = None
        if decision is not None:
            # In one line, so that nothing in a detail can look like another line of ours.
            lines.append(f"Reason: {decision.reason.value}: {' '.join(decision.detail.split())}")
        return "\n".join(lines) + "\n"


def _configs(state: WorkloadState) -> Configs:
    return tuple(stage.config for stage in state.stages)


def _revision(state: WorkloadState, text: str) -> str:
    """Of cluster and manifest together."""
    return f"{state.revision}+{digest(text)[:DIGITS]}"


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
    path = settings.gitops_path
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        yield f"IPA_GITOPS_PATH: {path!r} is not a path below the folder"
    elif not path.endswith((".yaml", ".yml")):
        yield f"IPA_GITOPS_PATH: {path!r} does not end in .yaml"
    if not settings.gitops_dir or not Path(settings.gitops_dir).is_dir():
        yield f"IPA_GITOPS_DIR {settings.gitops_dir!r} is not a folder"
    if set(settings.gitops_remote) & set(":/"):
        yield "IPA_GITOPS_REMOTE must name a remote of the clone; `git remote add origin URL` adds one"
    if settings.gitops_remote and not settings.gitops_branch:
        yield "IPA_GITOPS_REMOTE needs IPA_GITOPS_BRANCH"
