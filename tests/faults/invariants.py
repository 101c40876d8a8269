"""Invariants after every step, judged from the cluster's own objects, not from reports of them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ipa.control.ports import PipelineControl
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import StageConfig
from ipa.targets.seldon.section import seldon_of
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube
from tests.fakes.kube.api import Request
from tests.fakes.kube.cluster import is_ready, is_scheduled
from tests.fakes.kube.store import ApiError, Json, copied
from tests.fakes.store import FakeStore

BATCH = "MLSERVER_MODEL_MAX_BATCH_SIZE"
OURS_ENV = (BATCH, "MLSERVER_MODEL_MAX_BATCH_TIME")
# The token of the client, and what the fake's error answers carry.
TOKEN = "canary-token-5f1c"
BODY = "secret inside"
ROUNDING = 1e-6

Configs = tuple[StageConfig, ...]
NONE_LOST: Mapping[str, int] = {}


def configs_of(pipeline: Pipeline, sdep: Json) -> Configs | None:
    """The configuration that a SeldonDeployment asks for, by its containers' names; None for none of ours."""
    predictor = sdep["spec"]["predictors"][0]
    made = []
    for stage in pipeline.served:
        matches = [
            (component, container)
            for component in predictor["componentSpecs"]
            for container in component["spec"]["containers"]
            if container["name"] == (stage.container or stage.name)
        ]
        if len(matches) != 1:
            return None
        component, container = matches[0]
        env = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
        variant = _variant(stage, container, env)
        levels = (component.get("replicas"), predictor.get("replicas"), sdep["spec"].get("replicas"))
        replicas = next((level for level in levels if level is not None), 1)
        made.append(StageConfig(stage.name, variant, int(env.get(BATCH) or 1), cores_of(container), replicas))
    return tuple(made)


def cores_of(container: Json) -> float:
    cpu = str(container["resources"]["requests"]["cpu"])
    return float(cpu.removesuffix("m")) / (1000 if cpu.endswith("m") else 1)


def _variant(stage: Stage, container: Json, env: Json) -> str:
    for one in stage.variants:
        assert seldon_of(one) is not None
        if seldon_of(one).image == container.get("image") and seldon_of(one).env.items() <= env.items():
            return one.name
    return "(none)"


def foreign(pipeline: Pipeline, sdep: Json) -> Any:
    """The object without what is the service's to change."""
    rest = json.loads(json.dumps(sdep))
    rest.pop("status", None)
    for key in ("resourceVersion", "generation", "managedFields"):
        rest["metadata"].pop(key, None)
    for key in list(rest["metadata"].get("annotations") or {}):
        if key.startswith("ipa-serving/"):
            del rest["metadata"]["annotations"][key]
    names = {stage.container or stage.name: stage for stage in pipeline.served}
    for predictor in rest["spec"]["predictors"]:
        for component in predictor["componentSpecs"]:
            for container in component["spec"]["containers"]:
                stage = names.get(container["name"])
                if stage is None:
                    continue
                component.pop("replicas", None)
                container.pop("image", None)
                own = {name for one in stage.variants if seldon_of(one) for name in seldon_of(one).env} | {
                    *OURS_ENV
                }
                container["env"] = [entry for entry in container["env"] if entry["name"] not in own]
                for kind in ("requests", "limits"):
                    (container["resources"].get(kind) or {}).pop("cpu", None)
    return rest


def is_lost(pod: Json) -> bool:
    """True if the pod is not ready, and says that it will not be by itself."""
    status = pod["status"]
    is_waiting = any("waiting" in one["state"] for one in status.get("containerStatuses", []))
    return not is_ready(pod) and (is_waiting or not is_scheduled(pod))


class Heard(logging.Handler):
    """Every line of the service's log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@dataclass
class Invariants:
    """The checker of one world: `violations` in words, `counts` by invariant, the largest of each figure."""

    pipeline: Pipeline
    kube: FakeKube
    clock: VirtualClock
    store: FakeStore
    blind: bool = False
    standby: bool = False
    # Another hand changed it, and no write of ours has landed since: its sizes and timing are theirs.
    touched: bool = False
    violations: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    overshoot_cores: float = 0.0
    longest_mixed_s: float = 0.0
    writes: list[tuple[float, Configs]] = field(default_factory=list)
    _in_flight: Configs | None = None
    # The pods of each stage that were lost before that write, and that it does not replace.
    _lost: dict[str, int] = field(default_factory=dict)
    # What each write of ours was to replace.
    _ran: set[Configs] = field(default_factory=set)
    _mixed_since_s: float | None = None
    _heard: Heard = field(default_factory=Heard)
    _read_lines: int = 0
    _pods_at: int = -1
    _pods: list[Json] = field(default_factory=list)

    def watch(self) -> None:
        """From now on see every request that is served, and every line of the log."""
        serve = self.kube.api.serve

        def watched(request: Request) -> tuple[int, Json]:
            is_write = request.verb in ("update", "patch") and request.resource == "seldondeployments"
            if not is_write or request.is_dry_run:
                return serve(request)
            before = self.kube.store.get("seldondeployments", request.namespace, request.name)
            answer = serve(request)
            self._wrote(before, self.kube.store.get("seldondeployments", request.namespace, request.name))
            return answer

        self.kube.api.serve = watched  # type: ignore[method-assign]
        logging.getLogger("ipa").addHandler(self._heard)

    def close(self) -> None:
        """Hear no more."""
        logging.getLogger("ipa").removeHandler(self._heard)

    def _wrong(self, invariant: str, words: str) -> None:
        self.counts[invariant] += 1
        if len(self.violations) < 50:
            self.violations.append(f"{invariant} at {self.clock.monotonic_s():g} s: {words}")

    def _control(self) -> PipelineControl:
        return self.store.controls.get(self.pipeline.name, self.store.default)

    def _wrote(self, before: Json, after: Json) -> None:
        """A write of ours was just kept."""
        if before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]:
            return
        # What a webhook makes of each write is its own doing.
        mutate = self.kube.api.mutate
        expected = mutate(copied(before)) if mutate else before
        if foreign(self.pipeline, expected) != foreign(self.pipeline, after):
            self._wrong("I10", "a field of other people changed")
        was, configs = configs_of(self.pipeline, before), configs_of(self.pipeline, after)
        if configs is None or was is None:
            self._wrong("I1", "written to an object that is not as the pipeline says")
            return
        applied = next((one for one in reversed(self.store.recorded) if one.action is Action.APPLY), None)
        if applied is None or applied.configs != configs:
            self._wrong("I7", f"written without its record: {_words(configs)}")
        is_rollback = applied is not None and applied.reason is ReasonCode.ROLLBACK
        self._check_domain(configs, is_rollback)
        self._check_authority(was, configs, is_rollback)
        if self.blind and _cores(configs) < _cores(was) and not is_rollback:
            self._wrong("I4", f"lowered without data: {_words(was)} to {_words(configs)}")
        if self._in_flight is not None and not is_rollback and not self.touched:
            self._wrong("I5", f"{_words(self._in_flight)} was still rolling out")
        self._ran.add(was)
        self._lost = self._lost_before(was, configs)
        self._in_flight, self._mixed_since_s = configs, self.clock.monotonic_s()
        self.writes.append((self.clock.monotonic_s(), configs))

    def _check_domain(self, configs: Configs, is_rollback: bool) -> None:
        bounds = self.pipeline.bounds
        for stage, config in zip(self.pipeline.served, configs, strict=True):
            limits = stage.limits(bounds)
            known = {one.name for one in stage.variants}
            sizes = limits.batch_sizes or (config.batch_size,)
            if config.variant not in known or config.batch_size not in sizes or config.replicas < 1:
                self._wrong("I1", f"{config} is outside its domain")
            if config.replicas > (limits.max_replicas or config.replicas) and not is_rollback:
                self._wrong("I1", f"{config} has too many replicas")
        if bounds.cores is not None and _cores(configs) > bounds.cores + ROUNDING and not is_rollback:
            self._wrong("I2", f"{_cores(configs):g} cores were written, {bounds.cores:g} are allowed")

    def _check_authority(self, was: Configs, configs: Configs, is_rollback: bool) -> None:
        """People allow the write: the mode, no pause, no freeze, the leader.

        Guarded mode only adds replicas. It also takes back a change that failed, whichever mode that was
        decided in: that removes what it added, but leads nowhere but to what ran before.
        """
        control, now = self._control(), self.clock.now()
        if self.standby:
            self._wrong("I3", "written while another leads")
        if not control.mode.writes:
            self._wrong("I3", f"written in mode {control.mode.value}")
        if control.paused and (control.paused_until is None or now < control.paused_until):
            self._wrong("I3", "written while paused")
        if any(freeze.start <= now < freeze.end and not freeze.weekly for freeze in control.freezes):
            self._wrong("I3", "written within a freeze")
        adds_only = all(
            replace(new, replicas=old.replicas) == old and new.replicas >= old.replicas
            for old, new in zip(was, configs, strict=True)
        )
        if control.mode is Mode.GUARDED and not (configs in self._ran if is_rollback else adds_only):
            self._wrong("I3", f"guarded, yet more than added: {_words(was)} to {_words(configs)}")

    def stepped(self) -> None:
        """The cluster moved a step."""
        live = self._live()
        if live is None:
            return
        used = self.cores_present()
        budget = self.pipeline.bounds.most_cores
        if budget is not None and not self.touched and used > budget + ROUNDING:
            self.overshoot_cores = max(self.overshoot_cores, used - budget)
            self._wrong("I2", f"{used:g} cores of pods are there, {budget:g} are allowed")
        if self.is_settled(live, self._lost if self._in_flight is not None else NONE_LOST):
            if self._in_flight is not None and configs_of(self.pipeline, live) == self._in_flight:
                self.touched = False
            self._in_flight, self._mixed_since_s = None, None
        elif self._mixed_since_s is not None and not self.touched:
            self.longest_mixed_s = max(self.longest_mixed_s, self.clock.monotonic_s() - self._mixed_since_s)

    def ticked(self, decision: Decision) -> None:
        """The loop made a tick."""
        if decision.action is Action.HOLD and not decision.detail:
            self._wrong("I13", f"{decision.reason.value} without a word why")
        texts = [repr(decision), *self._heard.lines[self._read_lines :]]
        self._read_lines = len(self._heard.lines)
        for text in texts:
            if TOKEN in text or BODY in text:
                self._wrong("I12", f"a secret was told: {text[:200]}")

    def forget_lines(self) -> None:
        """Forget the lines of the log that were looked at."""
        self._heard.lines.clear()
        self._read_lines = 0

    def hand(self) -> None:
        """Another hand is at it now."""
        self.touched, self._in_flight, self._mixed_since_s = True, None, None

    def cores_present(self) -> float:
        """Cores of the stages' containers in all pods there are, old and new."""
        names = {stage.container or stage.name for stage in self.pipeline.served}
        return sum(
            cores_of(container)
            for pod in self.pods()
            for container in pod["spec"]["containers"]
            if container["name"] in names
        )

    def pods(self) -> list[Json]:
        """All pods; not to be changed."""
        with self.kube.store.lock:
            if self._pods_at != self.kube.store.version:
                self._pods_at, self._pods = self.kube.store.version, self.kube.store.everything("pods")
        return self._pods

    def _lost_before(self, was: Configs, configs: Configs) -> dict[str, int]:
        """The pods of each stage that a write to `configs` leaves, and that will not be ready by themselves.

        No change can mend or wait for them: it is over when all others are ready.
        """
        lost = {}
        for stage, old, new in zip(self.pipeline.served, was, configs, strict=True):
            if replace(new, replicas=old.replicas) == old:
                kept = [pod for runs, pod in self._pods_of(stage) if runs == replace(old, replicas=1)]
                lost[stage.name] = sum(map(is_lost, kept))
        return lost

    def _pods_of(self, stage: Stage) -> list[tuple[StageConfig, Json]]:
        """The pods of the stage, each with what its container is as one replica."""
        made = []
        for pod in self.pods():
            for container in pod["spec"]["containers"]:
                if container["name"] == (stage.container or stage.name):
                    env = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
                    variant, batch_size = _variant(stage, container, env), int(env.get(BATCH) or 1)
                    made.append((StageConfig(stage.name, variant, batch_size, cores_of(container), 1), pod))
        return made

    def is_settled(self, sdep: Json | None = None, lost: Mapping[str, int] = NONE_LOST) -> bool:
        """True if the running pods are what the object asks for, and no others: judged from pods alone.

        So many of each stage may be `lost`.
        """
        sdep = sdep or self._live()
        configs = configs_of(self.pipeline, sdep) if sdep else None
        if configs is None:
            return False
        for stage, config in zip(self.pipeline.served, configs, strict=True):
            own = self._pods_of(stage)
            if len(own) != config.replicas or any(runs != replace(config, replicas=1) for runs, _ in own):
                return False
            # What was lost is not waited for.
            crashing = self.kube.cluster.crashing
            missing = sum(not is_ready(pod) and pod["metadata"]["name"] not in crashing for _, pod in own)
            if missing > lost.get(stage.name, 0):
                return False
        return True

    def _live(self) -> Json | None:
        assert seldon_of(self.pipeline) is not None
        with self.kube.store.lock:
            try:
                return self.kube.store.get(
                    "seldondeployments", seldon_of(self.pipeline).namespace, seldon_of(self.pipeline).name
                )
            except ApiError:
                return None


def _cores(configs: Configs) -> float:
    return sum(config.cores * config.replicas for config in configs)


def _words(configs: Configs) -> str:
    return ", ".join(str(config) for config in configs)
