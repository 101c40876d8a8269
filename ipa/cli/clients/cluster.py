"""The verbs' answers from a target reached directly, and the record of decisions in the store."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property

from ipa.adapters.store import Access, Store, open_from
from ipa.bootstrap.targets import Target
from ipa.cli.clients.apply_and_wait import OneShotApply
from ipa.cli.clients.direct import NO_SIGNALS, DirectClient, RequestedConfigs, RunningState, placed_names
from ipa.control.audit.record import Head, Verified
from ipa.control.engine.actuation import ActuationPhase
from ipa.control.engine.observe import observe
from ipa.control.ports import Clock, DecisionLog, RolloutPhase, WorkloadState
from ipa.model.decision import Change, Decision
from ipa.model.errors import ConflictError, DriftError, NotFoundError, UsageError
from ipa.model.observation import MissingReason
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.service.commands import rollback_target
from ipa.service.history import DecisionPage, page_of
from ipa.settings import Settings


class TargetClient(DirectClient):
    """A target by NAME or NAME:WHERE, as `kubernetes:KUBECONFIG`. The store is opened once it is needed."""

    interval_s = 2.0

    def __init__(
        self, at: str, settings: Settings, clock: Clock, target: Target, namespace: str | None = None
    ) -> None:
        super().__init__(at, settings, clock, target, namespace)
        self._resources = ExitStack()
        self._connection = target.connect(settings, at.partition(":")[2])
        self._resources.callback(self._connection.close)
        self._workload = self._connection.workload

    @cached_property
    def _record(self) -> Store:
        """The store, only read: a service beside it is not held up."""
        return self._opened(Access.READ)

    @cached_property
    def _store(self) -> Store:
        """The store, to record what is applied."""
        return self._opened(Access.WRITE)

    def _opened(self, access: Access) -> Store:
        store = open_from(self.settings, access)
        self._resources.callback(store.close)
        return store

    def close(self) -> None:
        """Close what is open."""
        self._resources.close()

    def names(self) -> list[str]:
        """The pipelines whose files say how they run there."""
        return placed_names(self.settings, self.target)

    def seen(self, pipeline: Pipeline) -> RunningState:
        """What the workload asks for, and how much of it answers."""
        at_s = self.clock.monotonic_s()
        try:
            state = self._workload.read(pipeline)
        except NotFoundError as error:
            problem = f"nothing runs: {error.message}; `ipa apply` creates it"
            return RunningState(
                observe(pipeline, NO_SIGNALS, None, problem=problem, at_s=at_s), detail="not there"
            )
        except DriftError as error:
            drifted = observe(
                pipeline, NO_SIGNALS, None, problem=str(error), unseen=MissingReason.INVALID, at_s=at_s
            )
            return RunningState(drifted, detail="changed by another hand")
        observation = observe(pipeline, NO_SIGNALS, state, at_s=at_s)
        if state.settled:
            return RunningState(observation, detail=f"all replicas run as {self.target.workload} asks")
        configs = tuple(stage.config for stage in state.stages)
        asked = Change("", pipeline.name, state.revision, configs, configs, self.settings.rollout_deadline_s)
        rollout = self._workload.rollout(pipeline, asked)
        if rollout.phase is RolloutPhase.FAILED:
            return RunningState(
                observation, ActuationPhase.FAILED, rollout.detail, (f"the rollout failed: {rollout.detail}",)
            )
        return RunningState(observation, ActuationPhase.WAITING_READY, rollout.detail)

    def apply_configs(self, pipeline: Pipeline, wanted: RequestedConfigs) -> Decision:
        """Create or change the workload, and wait until it is ready."""
        self._check_actuation()
        try:
            state = self._workload.read(pipeline)
        except NotFoundError as error:
            if wanted.revision:
                raise ConflictError(
                    f"{error.message} any more", hint="Apply again to create it anew."
                ) from error
            return self._hand(pipeline).create(wanted)
        if wanted.revision and wanted.revision != state.revision:
            raise ConflictError(
                f"{pipeline.name} is at {state.revision}, not at {wanted.revision} as when it was decided on",
                hint=f"`ipa diff {pipeline.name}` shows what runs now.",
            )
        return self._hand(pipeline, state).change(wanted)

    def restore_configs(self, pipeline: Pipeline, to: str | None, detail: str, by: str) -> Decision:
        """Go back and wait until it is ready; also from a change that does not get ready."""
        self._check_actuation()
        configs = rollback_target(pipeline, self._record, to)
        state = replace(self._workload.read(pipeline), settled=True)
        return self._hand(pipeline, state).change(RequestedConfigs(configs, detail, by=by))

    def release(self, name: str) -> list[str]:
        """Give the pipeline's objects up, for another install to claim; the names of those that were ours."""
        return self._connection.release(self._pipeline(name))

    def page(self, pipeline: Pipeline, limit: int, before: str | None, *, applied_only: bool) -> DecisionPage:
        """Decisions in the store, newest first."""
        return page_of(self._record, pipeline.name, limit, before, applied_only=applied_only)

    @property
    def log(self) -> DecisionLog:
        """The store's."""
        return self._record

    def recorded_profiles(self, pipeline: Pipeline) -> Mapping[str, StageProfile]:
        """Those of the store: the service keeps there what it decides with."""
        return self._record.profiles(pipeline.name)

    def verify(self, pipeline: Pipeline, anchor: Head | None) -> Verified:
        """What the store's record holds; RecordError names the first entry that was changed since."""
        return self._record.verify(pipeline.name, anchor)

    def _check_actuation(self) -> None:
        if self.settings.actuation == "gitops":
            raise UsageError(
                "IPA_ACTUATION is gitops: the cluster is written by a GitOps tool, not from here",
                hint="Use --at with the manifest's FILE.yaml and commit it, or --at with the service's URL.",
            )

    def _hand(self, pipeline: Pipeline, state: WorkloadState | None = None) -> OneShotApply:
        return OneShotApply(
            pipeline, self._workload, self._store, self._store, self.clock, self.settings, state
        )
