"""The Workload port in memory: changes become ready after a while, or never; writes are guarded and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ipa.control.ports import Rollout, RolloutPhase, StageState, WorkloadState
from ipa.model.decision import Change
from ipa.model.errors import ConflictError, IpaError, UnavailableError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.rolling import SIDE_BY_SIDE
from tests.fakes.clock import VirtualClock


@dataclass(frozen=True)
class Write:
    """A write as the world saw it."""

    at_s: float
    change: Change
    accepted: bool


class FakeWorkload:
    """Runs `configs`. A write is ready `readiness_s` later unless its variants are in `broken`.

    `errors` are raised by the next calls of a verb, one each. `lose_answers` writes are applied and then
    answered with UnavailableError. `before_write` is called with each change that arrives.
    """

    rolling = SIDE_BY_SIDE

    def __init__(self, clock: VirtualClock, configs: Sequence[StageConfig], readiness_s: float = 2.0) -> None:
        self.clock, self.readiness_s = clock, readiness_s
        self.desired = self.serving = tuple(configs)
        self.revision, self.ready_at_s = 1, 0.0
        self.broken: set[tuple[str, str]] = set()
        self.errors: dict[str, list[IpaError]] = {"read": [], "write": [], "rollout": []}
        self.lose_answers = 0
        self.lacks_room = False
        self.before_write: Callable[[Change], None] = lambda change: None
        self.writes: list[Write] = []

    @property
    def accepted(self) -> list[Change]:
        return [write.change for write in self.writes if write.accepted]

    @property
    def ready(self) -> bool:
        bad = any((config.stage, config.variant) in self.broken for config in self.desired)
        if not bad and self.clock.monotonic_s() >= self.ready_at_s:
            self.serving = self.desired
        return self.serving == self.desired

    def read(self, pipeline: Pipeline) -> WorkloadState:
        self._raise("read")
        ready = self.ready
        serving = {config.stage: config for config in self.serving}
        stages = tuple(StageState(config, serving[config.stage].replicas) for config in self.desired)
        return WorkloadState(str(self.revision), stages, settled=ready)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        self.before_write(change)
        now_s = self.clock.monotonic_s()
        fresh = change.revision == str(self.revision)
        try:
            self._raise("write")
            if not fresh:
                raise ConflictError(f"revision is {self.revision}, not {change.revision}")
        except IpaError:
            self.writes.append(Write(now_s, change, accepted=False))
            raise
        self.writes.append(Write(now_s, change, accepted=True))
        self._set(change.configs, now_s + self.readiness_s)
        if self.lose_answers:
            self.lose_answers -= 1
            raise UnavailableError("connection reset after the request was sent")
        return str(self.revision)

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        self._raise("rollout")
        if self.ready:
            return Rollout(RolloutPhase.READY)
        return Rollout(RolloutPhase.PROGRESSING, "waiting for replicas", self.lacks_room)

    def by_another_hand(self, stage: str, **changed: object) -> None:
        """Change a stage behind the loop's back, at once."""
        configs = tuple(
            replace(config, **changed) if config.stage == stage else config  # type: ignore[arg-type]
            for config in self.desired
        )
        self._set(configs, self.clock.monotonic_s())

    def _set(self, configs: Sequence[StageConfig], ready_at_s: float) -> None:
        self.desired, self.ready_at_s = tuple(configs), ready_at_s
        self.revision += 1

    def _raise(self, verb: str) -> None:
        if self.errors[verb]:
            raise self.errors[verb].pop(0)
