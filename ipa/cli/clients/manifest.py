"""The verbs' answers from a manifest in a repository: what it asks for, and its rewriting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ipa.cli.clients.direct import NO_SIGNALS, DirectClient, RequestedConfigs, RunningState, placed_names
from ipa.control.audit.record import Head, Verified
from ipa.control.canonical import digest
from ipa.control.engine.observe import observe
from ipa.control.engine.plan_selection import changes
from ipa.control.ports import DecisionLog, StageState, WorkloadState
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.errors import ConflictError, DriftError, NotFoundError, UsageError
from ipa.model.observation import Missing, MissingReason
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.service.history import DecisionPage
from ipa.targets.gitops.folder import read_text, replace_text

# Enough to tell two texts of one file apart.
DIGITS = 12
_UNSEEN = Missing(MissingReason.NOT_ASKED, "a file says what is asked for, not what answers")


class ManifestClient(DirectClient):
    """A manifest, by its path. Its history is the repository's."""

    interval_s = None

    def close(self) -> None:
        """Nothing is open."""

    def names(self) -> list[str]:
        """The pipelines whose manifest is in the file."""
        return [name for name in placed_names(self.settings, self.target) if self._has(name)]

    def seen(self, pipeline: Pipeline) -> RunningState:
        """What the manifest asks for."""
        text = self._read()
        at_s = self.clock.monotonic_s()
        try:
            configs = self.target.manifest(pipeline, text, self.at).configs()
        except DriftError as error:
            drifted = observe(
                pipeline, NO_SIGNALS, None, problem=str(error), unseen=MissingReason.INVALID, at_s=at_s
            )
            return RunningState(drifted, detail="changed by another hand")
        state = WorkloadState(_revision(text), tuple(StageState(config, 0) for config in configs), True)
        observation = observe(pipeline, NO_SIGNALS, state, at_s=at_s)
        stages = tuple(replace(stage, ready_replicas=_UNSEEN) for stage in observation.stages)
        return RunningState(replace(observation, stages=stages), detail=f"as {self.at} asks for")

    def apply_configs(self, pipeline: Pipeline, wanted: RequestedConfigs) -> Decision:
        """Rewrite the manifest at once or not at all. What is not the plan's stays as it is."""
        text = self._read()
        if wanted.revision and wanted.revision != _revision(text):
            raise ConflictError(f"{self.at} was changed since it was read", hint="Apply again.")
        manifest = self.target.manifest(pipeline, text, self.at)
        before, after = manifest.configs(), manifest.changed(wanted.configs)
        is_changed = after != text
        if is_changed:
            replace_text(Path(self.at), after)
        words = f"{self.at} rewritten: {changes(before, wanted.configs)}; commit it to roll it out"
        return Decision(
            decision_id="",
            pipeline=pipeline.name,
            tick=0,
            at=self.clock.now().isoformat(),
            action=Action.APPLY if is_changed else Action.HOLD,
            reason=ReasonCode.REQUESTED if is_changed else ReasonCode.NO_CHANGE,
            detail=f"{wanted.detail}: " + (words if is_changed else f"{self.at} asks for it already"),
            configs=wanted.configs,
            previous=before,
            mode=Mode.ACTIVE,
            revision=_revision(after),
        )

    def restore_configs(self, pipeline: Pipeline, to: str | None, detail: str, by: str) -> Decision:
        """UsageError: a file does not know what it said before."""
        raise self._no_history()

    def page(self, pipeline: Pipeline, limit: int, before: str | None, *, applied_only: bool) -> DecisionPage:
        """UsageError: a file does not know what it said before."""
        raise self._no_history()

    @property
    def log(self) -> DecisionLog:
        """UsageError: a file does not know what it said before."""
        raise self._no_history()

    def recorded_profiles(self, pipeline: Pipeline) -> Mapping[str, StageProfile]:
        """UsageError: a file does not know what it said before."""
        raise self._no_history()

    def verify(self, pipeline: Pipeline, anchor: Head | None) -> Verified:
        """UsageError: a file does not know what it said before."""
        raise self._no_history()

    def _no_history(self) -> UsageError:
        return UsageError(
            f"{self.at} is a file, which keeps no history",
            hint=f"Use git: `git log -p {self.at}`, `git revert`.",
        )

    def _has(self, name: str) -> bool:
        try:
            self.target.manifest(self._pipeline(name), self._read(), self.at)
        except NotFoundError:
            return False
        return True

    def _read(self) -> str:
        return read_text(Path(self.at))


def _revision(text: str) -> str:
    return f"sha256:{digest(text)[:DIGITS]}"
