"""The pods of a pipeline: their start, replacement, scheduling, and cost.

Pure: times are arguments. Rolling changes follow `ipa.model.rolling`: side by side, as local processes are
replaced, or with a surge and maxUnavailable 0, as Kubernetes Deployments are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import ceil, inf

from ipa.control.ports import Rollout, RolloutPhase, StageState
from ipa.model.errors import ConflictError
from ipa.model.measured import is_lighter
from ipa.model.parts import Configs, order_of, paired, parts_of, share_of, with_share
from ipa.model.pipeline import Bounds
from ipa.model.plan import StageConfig
from ipa.model.resources import CORES, NO_RESOURCES, Resources, total
from ipa.model.rolling import DEPLOYMENT, ROUNDING, SIDE_BY_SIDE, Rolling, threads_of

# Seconds of a configuration, whatever its `replicas`.
Seconds = Callable[[StageConfig], float]
# Templates with the configuration and number of their pods.
Serving = tuple[tuple[str, StageConfig], ...]
# The slot of the configuration that runs alone at the start.
FIRST = 1
UNBOUNDED = Bounds()


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """The cluster's behaviour. A pod that finds no room is pending.

    `capacity_cores` None is unlimited, as is a resource without an entry, by name, in `capacity`.

    `rebatch_restarts`: a new batch size needs new pods, as with a batching model server; otherwise it is sent
    to the stage's queue. A pod of a `broken` (stage, variant) never becomes ready, and the rollout fails
    after `gives_up_after_s`.
    """

    rolling: Rolling = SIDE_BY_SIDE
    capacity_cores: float | None = None
    rebatch_restarts: bool = False
    broken: frozenset[tuple[str, str]] = frozenset()
    gives_up_after_s: float = 30.0
    capacity: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def limits(self) -> dict[str, float]:
        """The capacity of each limited resource by name."""
        return dict(self.capacity) | ({} if self.capacity_cores is None else {CORES: self.capacity_cores})


# Pods of Deployments, whose model servers batch.
KUBERNETES = ClusterSettings(rolling=DEPLOYMENT, rebatch_restarts=True)


@dataclass(slots=True, eq=False)
class Pod:
    """One replica of a template. Pending until `placed_s`, serving from `ready_s` on, gone at `gone_s`.

    A draining pod takes no more requests, and is gone once its work is done.
    """

    config: StageConfig
    template: str
    number: int
    held: Resources
    placed_s: float = inf
    ready_s: float = inf
    is_ready: bool = False
    is_draining: bool = False
    gone_s: float = inf


@dataclass(slots=True)
class StagePods:
    """A stage's desired configuration, the one sent to its queue, and its pods, oldest first.

    The queue knows batch size, resident variant, and cores that are given in place. The wanted variant was
    requested at `requested_s`.
    """

    wanted: StageConfig
    sent: StageConfig
    pods: list[Pod] = field(default_factory=list)
    requested_s: float = -inf

    def live(self) -> list[Pod]:
        """The pods that do not drain."""
        return [pod for pod in self.pods if not pod.is_draining]


class PartPods:
    """The slot of one part: all its stages, and the percentage of requests sent to it now.

    `is_going`: the part is being removed. It gets no requests, and its slot is free once its pods are gone.
    """

    def __init__(self, part: Sequence[StageConfig], share_percent: int) -> None:
        self.share_percent = share_percent
        self.is_going = False
        self.runs = {config.stage: StagePods(config, config) for config in part}

    @property
    def wanted(self) -> Configs:
        """The part, with its desired share."""
        return tuple(run.wanted for run in self.runs.values())

    def want(self, part: Sequence[StageConfig]) -> None:
        """Set the part that the slot is to run."""
        self.is_going = False
        for config in part:
            self.runs[config.stage].wanted = config

    def leave(self) -> None:
        """Remove the slot's part."""
        self.is_going = True
        for run in self.runs.values():
            (run.wanted,) = with_share((run.wanted,), 0)


class SimCluster:
    """The pods of all stages of one pipeline; the first ones are ready at once.

    `startup_s` gives the time until a replica of a configuration serves. A terminating pod keeps its
    resources until the caller reports it drained with `drained()`. `bounds` give the resources and the
    overhead of a replica; they limit nothing. Each of several parts has a slot. Side by side, requests keep
    their old shares until the whole new configuration serves; with predictors of Deployments, the new shares
    hold at once.

    Pods of stages that the rolling `switches` stay when variant or batch size change: they switch to a less
    accurate variant at once, to another once all its pods are ready. If the rolling `resizes`, they are also
    given more cores at once if there is room, and fewer once all pods are ready.
    """

    def __init__(
        self,
        configs: Sequence[StageConfig],
        settings: ClusterSettings,
        *,
        startup_s: Seconds,
        bounds: Bounds = UNBOUNDED,
    ) -> None:
        self.settings = settings
        self.revision = 1
        self._startup_s, self._bounds = startup_s, bounds
        self._numbers = 0
        self._paid, self._paid_until_s = NO_RESOURCES, 0.0
        self._held = NO_RESOURCES
        self._fixed = Resources(cpu_cores=bounds.overhead.fixed_cores)
        self._slots: dict[int, PartPods] = {}
        for part in parts_of(configs):
            self._open(part, share_of(part), 0.0)
        for run in self._runs():
            for pod in [self._create(run) for _ in range(run.wanted.replicas)]:
                self._place(pod, 0.0)
                pod.ready_s, pod.is_ready = 0.0, True

    @property
    def cores(self) -> float:
        """Cores held now, overhead included."""
        return self._held.cpu_cores

    def resource_seconds(self, at_s: float) -> Resources:
        """Resources times seconds held until then: each pod from its placement to its end."""
        return self._paid + self._held * (at_s - self._paid_until_s)

    def states(self) -> tuple[StageState, ...]:
        """The desired configuration of each stage, and its ready replicas; parts, by slot, in their order."""
        active = [(number, slot) for number, slot in self._slots.items() if not slot.is_going]
        return tuple(
            StageState(run.wanted, self._ready(run), part=str(number))
            for number, slot in sorted(active, key=lambda each: order_of(each[1].wanted))
            for run in slot.runs.values()
        )

    def shares(self) -> dict[int, int]:
        """The percentage of the requests sent to each slot now; a configuration alone starts in slot 1."""
        return {number: slot.share_percent for number, slot in self._slots.items()}

    def is_going(self, slot: int) -> bool:
        """True if the part in that slot is being removed, and its pods still exist."""
        return slot in self._slots and self._slots[slot].is_going and not self._slots[slot].share_percent

    def serving(self, stage: str, slot: int = FIRST) -> Serving:
        """The serving templates, each with its configuration and number of pods, the oldest first.

        If a new batch size needs no restart, all use that of the stage as soon as one pod with the desired
        variant and cores serves.
        """
        templates: dict[str, StageConfig] = {}
        if slot not in self._slots:
            return ()
        run = self._slots[slot].runs[stage]
        for pod in run.live():
            if pod.is_ready:
                before = templates.get(pod.template, replace(pod.config, replicas=0))
                if self._switches(stage):
                    before = replace(before, variant=run.sent.variant)
                restarts = self.settings.rebatch_restarts and not self._switches(stage)
                batch_size = before.batch_size if restarts else run.sent.batch_size
                templates[pod.template] = replace(before, batch_size=batch_size, replicas=before.replicas + 1)
        return tuple(templates.items())

    def draining(self) -> tuple[tuple[str, str], ...]:
        """Stage and template of each terminating pod that has not been reported drained yet."""
        return tuple(
            (pod.config.stage, pod.template) for pod in self._pods() if pod.is_draining and pod.gone_s == inf
        )

    def drained(self, stage: str, template: str, end_s: float, slot: int = FIRST) -> None:
        """Report one of the template's terminating pods as drained; it is gone at that time."""
        for pod in self._slots[slot].runs[stage].pods:
            if pod.is_draining and pod.gone_s == inf and pod.template == template:
                pod.gone_s = end_s
                return

    def change(self, configs: Sequence[StageConfig], revision: str, at_s: float) -> str:
        """Set the desired configuration; return the new revision. ConflictError if it has changed since."""
        if revision != str(self.revision):
            raise ConflictError(f"the pipeline is at revision {self.revision}, not {revision}")
        stages = [config.stage for config in self._active()[0].wanted]
        if not configs or any([it.stage for it in part] != stages for part in parts_of(configs)):
            raise ConflictError(f"the change has other stages than {', '.join(stages)}")
        self.revision += 1
        before = [(run, run.wanted, self._template(run.wanted)) for run in self._runs()]
        self._assign(configs, at_s)
        for run, old, template in before:
            if run.wanted.variant != old.variant:
                run.requested_s = at_s
            # A Deployment's controller first scales the old pods to the wanted number.
            is_scaled = self.settings.rolling.shrinks_first and self._template(run.wanted) != template
            if is_scaled and any(pod.template == template for pod in run.live()):
                for _ in range(run.wanted.replicas - len(run.live())):
                    self._create(run, old)
        self._follow(at_s)
        return str(self.revision)

    def _is_broken(self, run: StagePods) -> bool:
        """True if no pod of the wanted variant will ever serve."""
        return (run.wanted.stage, run.wanted.variant) in self.settings.broken

    def _switches(self, stage: str) -> bool:
        """True if the stage's pods switch between variants in place."""
        return stage in self.settings.rolling.switches

    def _awaits_variant(self, run: StagePods) -> bool:
        """True if some pods have not switched to the wanted variant yet."""
        return run.sent.variant != run.wanted.variant and self._switches(run.wanted.stage)

    def _awaits_change(self, run: StagePods) -> bool:
        """True if some pods do not have the wanted variant or cores yet."""
        return self._awaits_variant(run) or any(
            pod.config.cores != run.wanted.cores for pod in self._staying(run)
        )

    def _resizes(self, stage: str) -> bool:
        """True if the stage's pods can be given other cores in place."""
        return self.settings.rolling.resizes and self._switches(stage)

    def _staying(self, run: StagePods) -> list[Pod]:
        """The pods that stay and may get other cores, ready ones first."""
        if not self._resizes(run.wanted.stage):
            return []
        return sorted(self._current(run), key=lambda pod: not pod.is_ready)[: run.wanted.replicas]

    def _assign(self, configs: Sequence[StageConfig], at_s: float) -> None:
        """Give each part the slot of the one that it replaces, or a free one."""
        active = self._active()
        free = list(active)
        for before, after in paired([config for slot in active for config in slot.wanted], configs):
            slot = next((slot for slot in free if slot.wanted == before), None)
            if slot is not None:
                free.remove(slot)
            if after is None:
                assert slot is not None
                slot.leave()
            elif slot is not None:
                slot.want(after)
            else:
                self._open(after, 0, at_s)

    def _open(self, part: Sequence[StageConfig], share_percent: int, at_s: float) -> None:
        """Open a slot for the part: the slot of a part of the same variants that is going, or a free one."""
        variants = [config.variant for config in part]
        for slot in self._slots.values():
            if slot.is_going and [config.variant for config in slot.wanted] == variants:
                slot.want(part)
                return
        number = next(number for number in count(FIRST) if number not in self._slots)
        self._slots[number] = PartPods(part, share_percent)
        self._hold(self._fixed, at_s)

    def next_event_s(self) -> float:
        """The time at which the next pod is ready or gone; infinite without one."""
        moving = (pod for pod in self._pods() if pod.is_draining or not pod.is_ready)
        return min((pod.gone_s if pod.is_draining else pod.ready_s for pod in moving), default=inf)

    def advance(self, at_s: float) -> None:
        """Process the pods that become ready or end by that time, and the steps that follow.

        Not to be called for a time after the next event.
        """
        for run in self._runs():
            for pod in list(run.pods):
                if pod.is_draining:
                    if pod.gone_s <= at_s:
                        self._remove(run, pod, at_s)
                elif pod.ready_s <= at_s:
                    pod.is_ready = True
        self._follow(at_s)

    def kill(self, stage: str, count: int, at_s: float) -> tuple[tuple[int, str], ...]:
        """Kill `count` serving pods of the stage; return slot and template of each. Replacements start."""
        runs = [(number, slot.runs[stage]) for number, slot in self._slots.items()]
        dead = [(number, run, pod) for number, run in runs for pod in run.live() if pod.is_ready][:count]
        for _, run, pod in dead:
            self._remove(run, pod, at_s)
        self._follow(at_s)
        return tuple((number, pod.template) for number, _, pod in dead)

    @property
    def settled(self) -> bool:
        """True if exactly the desired configuration is running."""
        return not any(self._open_runs())

    def rollout(self, at_s: float) -> Rollout:
        """The progress of the rollout, in words."""
        open_runs = list(self._open_runs())
        if not open_runs:
            return Rollout(RolloutPhase.READY)
        waits: list[str] = []
        failed: list[str] = []
        pending = 0
        for run in open_runs:
            current = self._current(run)
            name, ready = run.wanted.stage, self._ready(run)
            name = name if len(self._slots) == 1 else f"{name}={run.wanted.variant}"
            waits.append(f"{name}: {ready} of {run.wanted.replicas} replicas ready")
            pending += sum(pod.placed_s > at_s for pod in current) + self._lacks_room(run)
            since_s = [pod.placed_s for pod in current if not pod.is_ready]
            since_s += [run.requested_s] if self._awaits_variant(run) else []
            if self._is_broken(run) and since_s and at_s - min(since_s) >= self.settings.gives_up_after_s:
                failed.append(f"{name}: {run.wanted.variant} ends before it is ready")
        if failed:
            return Rollout(RolloutPhase.FAILED, "; ".join(failed))
        if pending:
            waits.append(f"{pending} pods find no room")
        return Rollout(RolloutPhase.PROGRESSING, "; ".join(waits), lacks_room=pending > 0)

    def _open_runs(self) -> Iterator[StagePods]:
        """The stages whose pods differ from the desired ones."""
        for slot in self._slots.values():
            for run in slot.runs.values():
                is_settled = len(run.live()) == run.wanted.replicas == self._ready(run)
                if run.live() if slot.is_going else not is_settled:
                    yield run

    def _ready(self, run: StagePods) -> int:
        """The number of its pods that serve the wanted configuration."""
        return 0 if self._awaits_change(run) else sum(pod.is_ready for pod in self._current(run))

    def _template(self, config: StageConfig) -> str:
        """A replica's cores, its variant if it cannot switch, its batch size if a new one needs a restart.

        The threads in place of the cores if these can change.
        """
        if self._resizes(config.stage):
            return f"{threads_of(config.cores)} threads"
        if self._switches(config.stage):
            return f"{config.cores!r}"
        batch = f" b{config.batch_size}" if self.settings.rebatch_restarts else ""
        return f"{config.variant} {config.cores!r}{batch}"

    def _current(self, run: StagePods) -> list[Pod]:
        """Its pods of the desired template."""
        template = self._template(run.wanted)
        return [pod for pod in run.live() if pod.template == template]

    def _active(self) -> list[PartPods]:
        return [slot for slot in self._slots.values() if not slot.is_going]

    def _runs(self) -> Iterator[StagePods]:
        for slot in self._slots.values():
            yield from slot.runs.values()

    def _pods(self) -> Iterator[Pod]:
        for run in self._runs():
            yield from run.pods

    def _follow(self, at_s: float) -> None:
        """Start and stop pods by the rolling strategy, until nothing more follows at this moment."""
        for run in [run for slot in self._active() for run in slot.runs.values()]:
            if self._may_configure_queue(run):
                run.sent = run.wanted
                for pod in self._staying(run):
                    # Given other cores in place.
                    before, pod.config = pod.held, replace(pod.config, cores=run.wanted.cores)
                    pod.held = self._bounds.replica(pod.config)
                    if pod.placed_s < inf and pod.held != before:
                        self._hold(pod.held - before, at_s)
            if self.settings.rolling.shrinks_first:
                self._roll(run, at_s)
            else:
                self._replace(run, at_s)
        if self.settings.rolling.shrinks_first or self._all_serve():
            self._share_out(at_s)
        # Pending pods find room, the oldest first; a smaller one may overtake.
        for pod in sorted(self._pods(), key=lambda pod: pod.number):
            if pod.placed_s == inf and not (self._held + pod.held).exceeded(self.settings.limits):
                self._place(pod, at_s)

    def _may_configure_queue(self, run: StagePods) -> bool:
        """True if the queue may receive the wanted configuration without a loss of capacity."""
        ready = sum(pod.is_ready for pod in self._current(run))
        old, new, staying = run.sent, run.wanted, self._staying(run)
        if self._lacks_room(run):
            return False
        if any(pod.config.cores > new.cores for pod in staying):
            return ready >= new.replicas and not self._is_broken(run)
        if not self._awaits_variant(run):
            return ready > 0
        is_relief = is_lighter(self._bounds, old.stage, old.variant, new.variant)
        waits_for = 1 if is_relief else new.replicas
        return ready >= waits_for and not self._is_broken(run)

    def _lacks_room(self, run: StagePods) -> bool:
        """True if its pods are to have more cores in place, and there is no room for them."""
        placed = [pod for pod in self._staying(run) if pod.placed_s < inf]
        growing = [pod for pod in placed if pod.config.cores < run.wanted.cores]
        if not growing:
            return False
        more = self._bounds.replica(run.wanted) * len(growing) - total(pod.held for pod in growing)
        return bool((self._held + more).exceeded(self.settings.limits))

    def _all_serve(self) -> bool:
        """True if all desired replicas serve in every part."""
        return all(
            self._ready(run) >= run.wanted.replicas for slot in self._active() for run in slot.runs.values()
        )

    def _share_out(self, at_s: float) -> None:
        """Apply the desired shares from now on; the pods of removed parts may stop."""
        for number, slot in list(self._slots.items()):
            slot.share_percent = share_of(slot.wanted)
            if slot.is_going:
                for run in slot.runs.values():
                    for pod in run.live():
                        self._stop(run, pod, at_s)
                if not any(run.pods for run in slot.runs.values()):
                    del self._slots[number]
                    self._hold(self._fixed * -1, at_s)

    def _replace(self, run: StagePods, at_s: float) -> None:
        """Start all new pods beside all old ones; stop the old ones once all new ones are ready."""
        wanted, current = run.wanted.replicas, self._current(run)
        for _ in range(wanted - len(current)):
            self._create(run)
        if self._awaits_change(run):
            return
        keep = [pod for pod in self._current(run) if pod.is_ready][:wanted]
        if len(keep) == wanted and (len(self._slots) == 1 or self._all_serve()):
            for pod in [pod for pod in run.live() if pod not in keep]:
                self._stop(run, pod, at_s)

    def _roll(self, run: StagePods, at_s: float) -> None:
        """Roll as a Deployment's controller: never fewer ready pods than desired, unless there were fewer."""
        wanted, live = run.wanted.replicas, run.live()
        current = self._current(run)
        old = [pod for pod in live if pod not in current]
        if not old:
            for _ in range(wanted - len(current)):
                self._create(run)
            surplus = 0 if self._awaits_change(run) else max(0, len(current) - wanted)
            # Pods that are not ready go first, then the youngest.
            for pod in sorted(current, key=lambda pod: (pod.is_ready, -pod.number))[:surplus]:
                self._stop(run, pod, at_s)
            return
        surge = ceil(self.settings.rolling.surge_ratio * wanted - ROUNDING)
        for _ in range(min(wanted - len(current), wanted + surge - len(live))):
            self._create(run)
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
        # After a return to the earlier configuration with fewer replicas, too many may be left.
        is_over = len(current) > wanted and len(current) == len(run.live())
        if is_short or is_over:
            self._roll(run, at_s)

    def _create(self, run: StagePods, config: StageConfig | None = None) -> Pod:
        """Create a pod of that configuration, or of the desired one; it is not placed yet."""
        self._numbers += 1
        config = replace(config or run.wanted, replicas=1)
        pod = Pod(config, self._template(config), self._numbers, self._bounds.replica(config))
        run.pods.append(pod)
        return pod

    def _place(self, pod: Pod, at_s: float) -> None:
        self._hold(pod.held, at_s)
        pod.placed_s = at_s
        if (pod.config.stage, pod.config.variant) not in self.settings.broken:
            pod.ready_s = at_s + self._startup_s(pod.config)

    def _stop(self, run: StagePods, pod: Pod, at_s: float) -> None:
        """Let the pod finish its work; one that does not serve yet is gone at once."""
        if pod.is_ready:
            pod.is_draining = True
        else:
            self._remove(run, pod, at_s)

    def _remove(self, run: StagePods, pod: Pod, at_s: float) -> None:
        run.pods.remove(pod)
        if pod.placed_s <= at_s:
            self._hold(pod.held * -1, at_s)

    def _hold(self, more: Resources, at_s: float) -> None:
        self._paid = self.resource_seconds(at_s)
        self._paid_until_s = at_s
        self._held += more
