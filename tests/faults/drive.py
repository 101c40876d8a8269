"""Faults carried out in a world: each begins and ends at its moments of the virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

from ipa.control.ports import Freeze, Signals
from ipa.model.decision import Mode
from ipa.model.errors import UnavailableError
from ipa.model.observation import LoadHistory, Measured, Missing, MissingReason
from tests.fakes.kube import FaultKind, Trouble
from tests.fakes.kube.faults import Fault
from tests.fakes.kube.store import Json
from tests.fakes.looped import troubled
from tests.faults.world import KubeWorld

FOR_EVER = 10**9

BAD: dict[str, Callable[[Signals], Signals]] = {
    "absent": lambda signals: replace(signals, arrival_rate_rps=Missing(MissingReason.ABSENT)),
    "unreachable": lambda signals: replace(signals, load=Missing(MissingReason.UNREACHABLE)),
    "nan": lambda signals: replace(signals, arrival_rate_rps=Measured(float("nan"))),
    "negative": lambda signals: replace(signals, arrival_rate_rps=Measured(-1.0)),
    "infinite": lambda signals: replace(
        signals, load=Measured(LoadHistory(1.0, (float("inf"), float("nan"), -1.0)))
    ),
    "stale": lambda signals: replace(signals, load=replace(signals.load, age_s=600.0)),
    "ended": lambda signals: replace(signals, load=Measured(LoadHistory(1.0, (9.0, *[None] * 30)))),
    "invalid": lambda signals: replace(signals, load=Missing(MissingReason.INVALID, "no number")),
}


@dataclass(frozen=True)
class Entry:
    """A fault, begun at a moment: for so many requests or seconds, and again every so many until a moment."""

    time_s: float
    target: str
    effect: str
    verb: str = ""
    resource: str = ""
    times: int | None = None
    for_s: float | None = None
    every_s: float | None = None
    until_s: float | None = None
    dry_run: bool | None = None
    status: int | None = None
    delay_s: float | None = None
    stage: str = ""
    variant: str = ""
    replicas: int | None = None
    batch_size: int | None = None
    cores: float | None = None
    rate_rps: float | None = None
    jump_s: float | None = None
    mode: str = ""
    annotation: str = ""

    def moments_s(self) -> list[float]:
        if self.every_s is None or self.until_s is None:
            return [self.time_s]
        count = int((self.until_s - self.time_s) // self.every_s) + 1
        return [self.time_s + at * self.every_s for at in range(count)]

    @property
    def end_s(self) -> float:
        """When it is over, as far as time ends it."""
        return self.moments_s()[-1] + (self.for_s or 0.0)


def drive(world: KubeWorld, entries: Iterable[Entry]) -> None:
    """Let the faults happen; their times count from now."""
    now_s = world.clock.monotonic_s()
    for entry in entries:
        for at_s in entry.moments_s():
            # Both are bound now: the loop goes on.
            world.clock.at(now_s + at_s, lambda entry=entry: _begin(world, entry))  # type: ignore[misc]


def _begin(world: KubeWorld, entry: Entry) -> None:
    match entry.target:
        case "kube":
            _kube(world, entry)
        case "prometheus":
            _prometheus(world, entry)
        case "hand":
            hand(world, entry)
        case "pods":
            trouble = None if entry.effect == "none" else Trouble[entry.effect.upper().replace("-", "_")]
            world.kube.cluster.trouble_of = troubled(trouble, entry.variant)
        case "cluster":
            _cluster(world, entry)
        case "load":
            assert entry.rate_rps is not None
            world.rate_rps = entry.rate_rps
        case "store":
            world.store.failing = UnavailableError("disk full")
            _after(world, entry, lambda: setattr(world.store, "failing", None))
        case "clock":
            assert entry.jump_s is not None
            world.clock.set_wall(world.clock.now() + timedelta(seconds=entry.jump_s))
        case "people":
            _people(world, entry)
        case "service":
            _service(world, entry)
        case _:
            raise ValueError(f"there is no target {entry.target!r} of faults")


def _after(world: KubeWorld, entry: Entry, do: Callable[[], None]) -> None:
    if entry.for_s is not None:
        world.clock.at(world.clock.monotonic_s() + entry.for_s, do)


def _kube(world: KubeWorld, entry: Entry) -> None:
    if entry.effect == "stale":
        assert world.pool is not None
        world.pool.stale_reads = entry.times or FOR_EVER
        world.pool.stale_at = world.kube.store.version
        _after(world, entry, lambda: setattr(world.pool, "stale_reads", 0))
        return
    if entry.effect == "delay":
        pool, delay_s = world.pool, entry.delay_s or 0.0
        assert pool is not None
        before = pool.delay
        pool.delay = lambda request: (delay_s, 0.0)
        _after(world, entry, lambda: setattr(pool, "delay", before))
        return
    fault = Fault(
        FaultKind[entry.effect.upper().replace("-", "_")],
        verb=entry.verb,
        resource=entry.resource,
        status=entry.status or 500,
        times=entry.times or FOR_EVER,
        is_dry_run=entry.dry_run,
    )
    world.kube.faults.add(fault)

    def over() -> None:
        if fault in world.kube.faults.faults:
            world.kube.faults.faults.remove(fault)

    _after(world, entry, over)


def _prometheus(world: KubeWorld, entry: Entry) -> None:
    world.metrics.fault = lambda now_s, signals: BAD[entry.effect](signals)
    world.invariants.blind = True

    def over() -> None:
        world.metrics.fault, world.invariants.blind = None, False

    _after(world, entry, over)


def hand(world: KubeWorld, entry: Entry) -> None:
    """The act of another hand, at once."""
    index = [stage.name for stage in world.pipeline.served].index(entry.stage) if entry.stage else 0

    def change(sdep: Json) -> None:
        predictor = sdep["spec"]["predictors"][0]
        component = predictor["componentSpecs"][index]
        container = component["spec"]["containers"][0]
        match entry.effect:
            case "label":
                sdep["metadata"]["labels"]["moved"] = f"{world.clock.monotonic_s():g}-{entry.times or 0}"
            case "scale":
                component["replicas"] = entry.replicas
            case "batch":
                sizes = [one for one in container["env"] if one["name"] == "MLSERVER_MODEL_MAX_BATCH_SIZE"]
                sizes[0]["value"] = str(entry.batch_size)
            case "reorder":
                component["spec"]["containers"].reverse()
            case "rename":
                rename(predictor["graph"], container["name"], f"{container['name']}-v2")
                container["name"] = f"{container['name']}-v2"

    if entry.effect == "recreate":
        world.recreate()
    elif entry.effect == "revert":
        world.recall()
    elif entry.effect == "label":
        # It touches nothing that is ours.
        world.kube.edit("default", "pages", change)
    else:
        world.hand(change)


def rename(node: Json, name: str, new: str) -> None:
    """Give the graph node another name."""
    if node["name"] == name:
        node["name"] = new
    for child in node.get("children", []):
        rename(child, name, new)


def _cluster(world: KubeWorld, entry: Entry) -> None:
    cluster = world.kube.cluster
    if entry.effect == "capacity":
        cluster.capacity_cores = entry.cores
        _after(world, entry, lambda: setattr(cluster, "capacity_cores", None))
    elif entry.effect == "stuck-status":
        cluster.stuck_status = True
        _after(world, entry, lambda: setattr(cluster, "stuck_status", False))
    else:

        def mutate(sdep: Json) -> Json:
            sdep["metadata"].setdefault("annotations", {})["hook"] = entry.annotation
            return sdep

        world.kube.api.mutate = mutate
        _after(world, entry, lambda: setattr(world.kube.api, "mutate", None))


def _people(world: KubeWorld, entry: Entry) -> None:
    if entry.effect in ("pause", "resume"):
        world.say(paused=entry.effect == "pause")
        _after(world, entry, lambda: world.say(paused=False))
    elif entry.effect == "mode":
        world.say(mode=Mode(entry.mode))
    else:
        now = world.clock.now()
        freeze = Freeze(now, now + timedelta(seconds=entry.for_s or 0.0), "the fair")
        world.say(freezes=(freeze,))


def _service(world: KubeWorld, entry: Entry) -> None:
    if entry.effect == "restart":
        world.start_service()
        return
    world.invariants.standby = True
    _after(world, entry, lambda: setattr(world.invariants, "standby", False))
