"""The pods of a pipeline: how they start, replace each other, wait for room, and what they cost.

Pure: times are given, nothing is slept. Rolling changes follow `ipa.model.rolling`: side by side, as local
processes are replaced, or as a Kubernetes Deployment does it with a surge and maxUnavailable 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, inf

from ipa.control.ports import Rollout, RolloutPhase, StageState
from ipa.model.errors import ConflictError
from ipa.model.overhead import NO_OVERHEAD, Overhead
from ipa.model.plan import StageConfig
from ipa.model.rolling import DEPLOYMENT, ROUNDING, SIDE_BY_SIDE, Rolling

# Of a configuration, whose `replicas` do not count.
Seconds = Callable[[StageConfig], float]


# Templates with the configuration and number of their pods.
Serving = tuple[tuple[str, StageConfig], ...]


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """How the cluster behaves. `capacity_cores` None is without end; a pod that finds no room is pending.

    `rebatch_restarts`: another batch size needs new pods, as where the model server batches; else the stage's
    queue is told. A pod of a `broken` (stage, variant) never gets ready, which is seen after
    `gives_up_after_s`.
    """

    rolling: Rolling = SIDE_BY_SIDE
    capacity_cores: float | None = None
    rebatch_restarts: bool = False
    broken: frozenset[tuple[str, str]] = frozenset()
    gives_up_after_s: float = 30.0


# Pods on Seldon, whose model servers batch.
KUBERNETES = ClusterSettings(rolling=DEPLOYMENT, rebatch_restarts=True)


@dataclass(slots=True, eq=False)
class Pod:
    """One replica of a template. Pending until `placed_s`, serving from `ready_s` on, gone at `gone_s`.

    One that drains serves no more, and is gone once it has done what it had begun.
    """

    config: StageConfig
    template: str
    number: int
    created_s: float
    cores: float
    placed_s: float = inf
    ready_s: float = inf
    is_ready: bool = False
    is_draining: bool = False
    gone_s: float = inf


@dataclass(slots=True)
class StagePods:
    """What a stage shall run, the batch size its queue was told, and its pods, oldest first."""

    wanted: StageConfig
    told: int
    pods: list[Pod] = field(default_factory=list)

    def live(self) -> list[Pod]:
        """Those that do not drain."""
        return [pod for pod in self.pods if not pod.is_draining]


class Cluster:
    """The pods of all stages of one pipeline, from its first ones, which are ready at once.

    `startup_s` says how long a replica of a configuration takes until it serves. When one that is told to
    stop has done what it had begun is said from outside, with `drained`; until then it is there and paid.
    `overhead` is paid beside the replicas.
    """

    def __init__(
        self,
        configs: Sequence[StageConfig],
        settings: ClusterSettings,
        *,
        startup_s: Seconds,
        overhead: Overhead = NO_OVERHEAD,
        at_s: float = 0.0,
    ) -> None:
        self.settings = settings
        self.revision = 1
        self._startup_s, self._overhead = startup_s, overhead
        self._numbers = 0
        self._paid_core_s, self._paid_until_s = 0.0, at_s
        self._cores = overhead.fixed_cores
        self._stages = {config.stage: StagePods(config, config.batch_size) for config in configs}
        for run in self._stages.values():
            for pod in [self._create(run, at_s) for _ in range(run.wanted.replicas)]:
                self._place(pod, at_s)
                pod.ready_s, pod.is_ready = at_s, True

    @property
    def cores(self) -> float:
        """Cores that are held now, with what runs beside the replicas."""
        return self._cores

    def core_seconds(self, at_s: float) -> float:
        """Core-seconds held until then: each pod from the moment it is placed until it is gone."""
        return self._paid_core_s + self._cores * (at_s - self._paid_until_s)

    def configs(self) -> tuple[StageConfig, ...]:
        """What is wanted of each stage."""
        return tuple(run.wanted for run in self._stages.values())

    def states(self) -> tuple[StageState, ...]:
        """What is wanted of each stage, and how many of its replicas are ready."""
        return tuple(
            StageState(run.wanted, sum(pod.is_ready for pod in self._current(run)))
            for run in self._stages.values()
        )

    def serving(self, stage: str) -> Serving:
        """The templates that serve with the configuration and the number of their pods, the oldest first.

        Where another batch size needs no restart all take that of the stage, from the moment on that one of
        the wanted variant and cores serves.
        """
        run = self._stages[stage]
        found: dict[str, StageConfig] = {}
        for pod in run.live():
            if pod.is_ready:
                before = found.get(pod.template, replace(pod.config, replicas=0))
                batch_size = before.batch_size if self.settings.rebatch_restarts else run.told
                found[pod.template] = replace(before, batch_size=batch_size, replicas=before.replicas + 1)
        return tuple(found.items())

    def draining(self) -> tuple[tuple[str, str], ...]:
        """Stage and template of each pod that was told to stop and of which `drained` was not said yet."""
        return tuple(
            (pod.config.stage, pod.template) for pod in self._pods() if pod.is_draining and pod.gone_s == inf
        )

    def drained(self, stage: str, template: str, end_s: float) -> None:
        """One of the template's pods that were told to stop is gone by then."""
        for pod in self._stages[stage].pods:
            if pod.is_draining and pod.gone_s == inf and pod.template == template:
                pod.gone_s = end_s
                return

    def change(self, configs: Sequence[StageConfig], revision: str, at_s: float) -> str:
        """The new revision; the pods follow. ConflictError where it is at another revision already."""
        if revision != str(self.revision):
            raise ConflictError(f"the pipeline is at revision {self.revision}, not {revision}")
        if [config.stage for config in configs] != list(self._stages):
            raise ConflictError(f"the change has other stages than {', '.join(self._stages)}")
        self.revision += 1
        for config in configs:
            self._stages[config.stage].wanted = config
        self._follow(at_s)
        return str(self.revision)

    def next_event_s(self) -> float:
        """When a pod is ready or gone next; infinite where none is under way."""
        moments = (
            pod.gone_s if pod.is_draining else inf if pod.is_ready else pod.ready_s for pod in self._pods()
        )
        return min(moments, default=inf)

    def advance(self, at_s: float) -> None:
        """Pods that are ready or gone by then are so, and what follows from it begins.

        Not to be called for a time after the next event.
        """
        for run in self._stages.values():
            for pod in list(run.pods):
                if pod.is_draining:
                    if pod.gone_s <= at_s:
                        self._remove(run, pod, at_s)
                elif pod.ready_s <= at_s:
                    pod.is_ready = True
        self._follow(at_s)

    def kill(self, stage: str, count: int, at_s: float) -> tuple[str, ...]:
        """The templates of so many of the stage's serving pods, which are gone; others take their place."""
        run = self._stages[stage]
        dead = [pod for pod in run.live() if pod.is_ready][:count]
        for pod in dead:
            self._remove(run, pod, at_s)
        self._follow(at_s)
        return tuple(pod.template for pod in dead)

    @property
    def settled(self) -> bool:
        """Whether what is wanted runs, and nothing else."""
        return all(self._is_settled(run) for run in self._stages.values())

    def rollout(self, at_s: float) -> Rollout:
        """How far it is from what is wanted, in words."""
        open_stages = [run for run in self._stages.values() if not self._is_settled(run)]
        if not open_stages:
            return Rollout(RolloutPhase.READY)
        waits: list[str] = []
        failed: list[str] = []
        pending = 0
        for run in open_stages:
            current = self._current(run)
            name, ready = run.wanted.stage, sum(pod.is_ready for pod in current)
            waits.append(f"{name}: {ready} of {run.wanted.replicas} replicas ready")
            pending += sum(pod.placed_s > at_s for pod in current)
            if any(self._gave_up(pod, at_s) for pod in current):
                failed.append(f"{name}: {run.wanted.variant} ends before it is ready")
        if failed:
            return Rollout(RolloutPhase.FAILED, "; ".join(failed))
        if pending:
            waits.append(f"{pending} pods find no room")
        return Rollout(RolloutPhase.PROGRESSING, "; ".join(waits), lacks_room=pending > 0)

    def _gave_up(self, pod: Pod, at_s: float) -> bool:
        is_broken = (pod.config.stage, pod.config.variant) in self.settings.broken
        return is_broken and not pod.is_ready and at_s - pod.placed_s >= self.settings.gives_up_after_s

    def _is_settled(self, run: StagePods) -> bool:
        live = run.live()
        return len(live) == run.wanted.replicas and all(
            pod.is_ready and self._is_current(run, pod) for pod in live
        )

    def _template(self, config: StageConfig) -> str:
        """A replica's variant and cores, and its batch size where another one needs a restart."""
        batch = f" b{config.batch_size}" if self.settings.rebatch_restarts else ""
        return f"{config.variant} {config.cores!r}{batch}"

    def _is_current(self, run: StagePods, pod: Pod) -> bool:
        return pod.template == self._template(run.wanted)

    def _current(self, run: StagePods) -> list[Pod]:
        return [pod for pod in run.live() if self._is_current(run, pod)]

    def _pods(self) -> Iterator[Pod]:
        for run in self._stages.values():
            yield from run.pods

    def _follow(self, at_s: float) -> None:
        """Start and stop pods as the way of rolling has it, until nothing more follows at this moment."""
        for run in self._stages.values():
            if self.settings.rolling.shrinks_first:
                self._roll(run, at_s)
            else:
                self._replace(run, at_s)
            if any(pod.is_ready for pod in self._current(run)):
                run.told = run.wanted.batch_size
        self._place_pending(at_s)

    def _replace(self, run: StagePods, at_s: float) -> None:
        """All new ones beside all old ones; the old ones go once the new ones are ready."""
        wanted, current = run.wanted.replicas, self._current(run)
        for _ in range(wanted - len(current)):
            self._create(run, at_s)
        keep = [pod for pod in self._current(run) if pod.is_ready][:wanted]
        if len(keep) == wanted:
            for pod in [pod for pod in run.live() if pod not in keep]:
                self._stop(run, pod, at_s)

    def _roll(self, run: StagePods, at_s: float) -> None:
        """As a Deployment's controller: never fewer than wanted are ready, unless fewer were."""
        wanted, live = run.wanted.replicas, run.live()
        current = self._current(run)
        old = [pod for pod in live if pod not in current]
        if not old:
            for _ in range(wanted - len(current)):
                self._create(run, at_s)
            # Those that are not ready go first, then the youngest.
            for pod in sorted(current, key=lambda pod: (pod.is_ready, -pod.number))[
                : max(0, len(current) - wanted)
            ]:
                self._stop(run, pod, at_s)
            return
        surge = ceil(self.settings.rolling.surge_ratio * wanted - ROUNDING)
        for _ in range(min(wanted - len(current), wanted + surge - len(live))):
            self._create(run, at_s)
        current = self._current(run)
        coming = sum(not pod.is_ready for pod in current)
        most = len(old) + len(current) - wanted - coming
        for pod in sorted(old, key=lambda pod: (pod.is_ready, -pod.number)):
            ready = sum(other.is_ready for other in run.live())
            if most <= 0 or (pod.is_ready and ready <= wanted):
                break
            self._stop(run, pod, at_s)
            most -= 1
        current = self._current(run)
        is_short = len(run.live()) < wanted + surge and len(current) < wanted
        # Back to what ran before with fewer: once the others are gone these are too many.
        is_over = len(current) > wanted and len(current) == len(run.live())
        if is_short or is_over:
            self._roll(run, at_s)

    def _create(self, run: StagePods, at_s: float) -> Pod:
        self._numbers += 1
        config = replace(run.wanted, replicas=1)
        pod = Pod(config, self._template(config), self._numbers, at_s, self._overhead.held(config).cores)
        run.pods.append(pod)
        return pod

    def _place_pending(self, at_s: float) -> None:
        """Give room to those that wait for it, the oldest first; a smaller one may overtake."""
        limit = self.settings.capacity_cores
        for pod in sorted(self._pods(), key=lambda pod: pod.number):
            if pod.placed_s == inf and (limit is None or self._cores + pod.cores <= limit + ROUNDING):
                self._place(pod, at_s)

    def _place(self, pod: Pod, at_s: float) -> None:
        self._hold(pod.cores, at_s)
        pod.placed_s = at_s
        if (pod.config.stage, pod.config.variant) not in self.settings.broken:
            pod.ready_s = at_s + self._startup_s(pod.config)

    def _stop(self, run: StagePods, pod: Pod, at_s: float) -> None:
        """Let it finish what it has begun; one that does not serve yet is gone at once."""
        if pod.is_ready:
            pod.is_draining = True
        else:
            self._remove(run, pod, at_s)

    def _remove(self, run: StagePods, pod: Pod, at_s: float) -> None:
        run.pods.remove(pod)
        if pod.placed_s <= at_s:
            self._hold(-pod.cores, at_s)

    def _hold(self, cores: float, at_s: float) -> None:
        self._paid_core_s = self.core_seconds(at_s)
        self._paid_until_s = at_s
        self._cores += cores
