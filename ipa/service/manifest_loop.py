"""Changes of a manifest in a repository: the file is read and rewritten; its history is the repository's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from ipa.control.canonical import digest
from ipa.control.engine.actuation import ActuationPhase
from ipa.control.engine.observe import observe
from ipa.control.engine.plan_selection import changes
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import Clock, PipelineControl, PipelineManifest, StageState, WorkloadState
from ipa.files.texts import read_text, replace_text
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.errors import DriftError
from ipa.model.observation import Missing, MissingReason
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.service.one_shot import NO_SIGNALS, drifted

# Enough to tell two texts of one file apart.
DIGITS = 12
_UNSEEN = Missing(MissingReason.NOT_ASKED, "a file says what is asked for, not what answers")


class ManifestTarget(Protocol):
    """Reads the manifests of a target."""

    def manifest(self, pipeline: Pipeline, text: str, path: str) -> PipelineManifest:
        """The pipeline's manifest in the text; NotFoundError if there is none."""

    def as_written(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> tuple[StageConfig, ...]:
        """The configurations as they read back once written; InputError lists what must not be written."""


class ManifestLoop:
    """The `Loop` of a command over a file: a change rewrites it at once or not at all."""

    policy = "by hand"

    def __init__(self, pipeline: Pipeline, path: str, target: ManifestTarget, clock: Clock) -> None:
        self._pipeline, self._path, self._target, self._clock = pipeline, path, target, clock

    def snapshot(self) -> Snapshot:
        """The configuration that the manifest asks for."""
        text, pipeline = self._read(), self._pipeline
        at_s = self._clock.monotonic_s()
        try:
            configs = self._manifest(text).configs()
        except DriftError as error:
            return drifted(pipeline, error, at_s)
        state = WorkloadState(_revision(text), tuple(StageState(config, 0) for config in configs), True)
        observation = observe(pipeline, NO_SIGNALS, state, at_s=at_s)
        stages = tuple(replace(stage, ready_replicas=_UNSEEN) for stage in observation.stages)
        return Snapshot(
            pipeline.name,
            0,
            PipelineControl(),
            ActuationPhase.IDLE,
            observation=replace(observation, stages=stages),
            detail=f"as {self._path} asks for",
        )

    def request(
        self, configs: tuple[StageConfig, ...], detail: str, by: str = "", plan_id: str = ""
    ) -> Decision:
        """Rewrite the manifest; all that no plan decides stays as it is."""
        wanted = self._target.as_written(self._pipeline, configs)
        text = self._read()
        manifest = self._manifest(text)
        before, after = manifest.configs(), manifest.changed(wanted)
        is_changed = after != text
        if is_changed:
            replace_text(Path(self._path), after)
        words = f"{self._path} rewritten: {changes(before, wanted)}; commit it to roll it out"
        return Decision(
            decision_id="",
            pipeline=self._pipeline.name,
            tick=0,
            at=self._clock.now().isoformat(),
            action=Action.APPLY if is_changed else Action.HOLD,
            reason=ReasonCode.REQUESTED if is_changed else ReasonCode.NO_CHANGE,
            detail=f"{detail}: " + (words if is_changed else f"{self._path} asks for it already"),
            configs=wanted,
            previous=before,
            plan_id=plan_id,
            mode=Mode.ACTIVE,
            revision=_revision(after),
        )

    def restore(self, configs: tuple[StageConfig, ...], detail: str, by: str = "") -> Decision:
        """Request the restored configurations, as `request` does."""
        return self.request(configs, detail, by)

    def _manifest(self, text: str) -> PipelineManifest:
        return self._target.manifest(self._pipeline, text, self._path)

    def _read(self) -> str:
        return read_text(Path(self._path))


def _revision(text: str) -> str:
    return f"sha256:{digest(text)[:DIGITS]}"
