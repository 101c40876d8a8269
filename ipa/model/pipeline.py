"""A pipeline as its owner specifies it: a graph of stages, their variants, an SLA and objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import reduce
from itertools import zip_longest
from typing import Any, Protocol, runtime_checkable

from ipa.model.errors import NotFoundError
from ipa.model.overhead import NO_OVERHEAD, FrontCores, Overhead
from ipa.model.plan import StageConfig
from ipa.model.probe import PipelineProbe
from ipa.model.recording import BESIDE_OTHERS, NEVER, UNLESS_DEFAULT
from ipa.model.resources import (
    BESIDE_CORES,
    BY_NAME,
    CORES,
    IN_CORES,
    NO_RESOURCES,
    Prices,
    Resources,
    beside_of,
    total,
)
from ipa.model.slowdown import AS_MEASURED, Slowdowns

UNBATCHED = (1,)


class AccuracyRule(StrEnum):
    """The rule that combines the stages' accuracies into the objective's accuracy term.

    A rank is i/(|M|-1) by rising accuracy, 1 for a lone variant (IPA, PAS').
    """

    PRODUCT = "product"
    SUM = "sum"
    MEAN = "mean"
    RANK_SUM = "rank-sum"
    RANK_PRODUCT = "rank-product"


class Goal(StrEnum):
    """The criterion for the best plan.

    `weighted`: most α·accuracy − β·cores − δ·Σ batch sizes. `lexicographic`: most accuracy, then fewest
    cores, then smallest batches. `cheapest-at-accuracy`: fewest cores at the accuracy floor, then most
    accuracy.
    """

    WEIGHTED = "weighted"
    LEXICOGRAPHIC = "lexicographic"
    CHEAPEST = "cheapest-at-accuracy"


@dataclass(frozen=True, slots=True)
class Objective:
    """The weights of α·accuracy − β·cores − δ·Σ batch sizes, and the settings that go with them."""

    name: str = "default"
    goal: Goal = Goal.WEIGHTED
    alpha: float = 1.0
    beta: float = 0.1
    delta: float = 1e-6
    accuracy_rule: AccuracyRule = AccuracyRule.PRODUCT
    # Least rank of a variant; without it one lowest-ranked variant makes a product of ranks zero.
    rank_floor: float | None = None
    # Margins added to measured latency and throughput before planning, as ratios: 1.0 doubles, -0.5 halves.
    latency_margin_ratio: float = 0.0
    throughput_margin_ratio: float = 0.0
    # Base allocation (IPA): the fewest cores at which one replica carries this rate within the stage's SLA.
    threshold_rps: float = 1.0
    max_batch_size: int | None = None
    max_replicas: int | None = None
    # Replaces the pipeline's SLA if given.
    sla_s: float | None = None
    # Upper bound on a plan's cores; unlike `bounds.cores`, a rollout may exceed it for a while.
    max_cost_cores: float | None = None
    # Worth lost for each core of a pod that a change starts, since old and new run side by side.
    transition_per_core: float = 0.0


@dataclass(frozen=True, slots=True)
class Pin:
    """The parts of a stage's configuration that an owner fixed; None is free."""

    variant: str | None = None
    batch_size: int | None = None
    cores: float | None = None
    replicas: int | None = None


@dataclass(frozen=True, slots=True)
class StageBounds:
    """Limits of one stage, beside those of the pipeline. None is no limit."""

    min_replicas: int | None = None
    max_replicas: int | None = None
    batch_sizes: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class MeasuredVariant:
    """The profile's figures of a variant: accuracy, and the resources of a replica beside its cores.

    `item_core_s` are the least core seconds that it takes for an item, `batch_core_s` those for the first
    item of a batch and for each further one; 0 if they are unknown.
    """

    accuracy: float
    beside: Resources = NO_RESOURCES
    item_core_s: float = 0.0
    batch_core_s: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of every plan. None is no limit, nor is a kind of accelerator without an entry.

    `cores`, `memory_gib` and `accelerators` hold at every moment, for old and new replicas of a change
    together; `transition_cores`, if given, replaces `cores` while a change rolls out.
    """

    cores: float | None = None
    memory_gib: float | None = None
    min_replicas: int = 1
    max_replicas: int | None = None
    batch_sizes: tuple[int, ...] | None = None
    accuracy_floor: float | None = None
    transition_cores: float | None = None
    # Set by the target that the pipeline runs on (`Target.shape`), never read from a file; counts within
    # `cores`.
    overhead: Overhead = NO_OVERHEAD
    # Likewise; the cores that it takes count beside `cores`.
    front: FrontCores | None = field(default=None, metadata=UNLESS_DEFAULT)
    accelerators: Mapping[str, float] = field(default_factory=dict, hash=False, metadata=UNLESS_DEFAULT)
    # By stage and variant, from the profiles (`ipa.model.measured`), never read from a file.
    measured: Mapping[tuple[str, str], MeasuredVariant] = field(
        default_factory=dict, hash=False, metadata=NEVER
    )

    # True while it is open how a plan is reached (`ipa.policies.base.constrained`), never read from a file.
    any_change: bool = field(default=False, metadata=NEVER)

    @property
    def limits(self) -> dict[str, float]:
        """The upper bounds on resources by name; what has no bound is missing."""
        scalars = {CORES: self.cores} | {each.name: getattr(self, each.attribute) for each in BESIDE_CORES}
        named = scalars | dict(self.accelerators)
        return {name: most for name, most in named.items() if most is not None}

    def limited(self, name: str, most: float | None) -> Bounds:
        """The same bounds with that limit of a resource; None: without one."""
        if name == CORES:
            return replace(self, cores=most)
        if name in BY_NAME:
            return replace(self, **{BY_NAME[name].attribute: most})  # type: ignore[arg-type]
        others = {kind: count for kind, count in self.accelerators.items() if kind != name}
        return replace(self, accelerators=others if most is None else {**others, name: most})

    def within(self, cores: float) -> Bounds:
        """The same bounds with at most so many cores, while a change rolls out too."""
        most, change = (None if it is None else min(it, cores) for it in (self.cores, self.transition_cores))
        return replace(self, cores=cores if most is None else most, transition_cores=change)

    @property
    def change_limits(self) -> dict[str, float]:
        """The upper bounds on resources at any moment of a change."""
        if self.any_change:
            return {}
        return self.limits if self.most_cores is None else self.limits | {CORES: self.most_cores}

    def beside(self, config: StageConfig) -> Resources:
        """The resources of one replica of the configuration beside its cores, as far as they are known."""
        measured = self.measured.get((config.stage, config.variant))
        return NO_RESOURCES if measured is None else measured.beside

    def replica(self, config: StageConfig) -> Resources:
        """The resources of one replica of the configuration, its overhead included."""
        return Resources(cpu_cores=self.overhead.held(config).cores) + self.beside(config)

    def held(self, configs: Sequence[StageConfig]) -> Resources:
        """The resources of all replicas of all stages, overhead included."""
        beside = total(self.beside(config) * config.replicas for config in configs)
        return beside + Resources(cpu_cores=self.overhead.cores(configs))

    def exceeded(self, configs: Sequence[StageConfig]) -> tuple[str, ...]:
        """Every bound on resources that the configurations exceed, in words."""
        return self.held(configs).exceeded(self.limits)

    @property
    def most_cores(self) -> float | None:
        """Upper bound on cores at any moment of a change."""
        if self.any_change:
            return None
        return self.cores if self.transition_cores is None else self.transition_cores


@runtime_checkable
class Placed(Protocol):
    """A target's section of a pipeline that says in which namespace the pipeline runs."""

    namespace: str


@dataclass(frozen=True, slots=True)
class Variant:
    """A model that can do a stage's task. Its accuracy, latency and cores are in the profile.

    `targets` has for each target, by the key of its section in the file, how the variant runs there.
    """

    name: str
    targets: Mapping[str, Any] = field(default_factory=dict, hash=False, metadata=BESIDE_OTHERS)

    @property
    def requested(self) -> dict[str, float]:
        """The most of each resource other than cores that a target's section gives a replica, by name."""
        given = [beside_of(run) for run in self.targets.values()]
        return reduce(Resources.maximum, given, NO_RESOURCES).amounts


class StageKind(StrEnum):
    """The role of a stage in the graph.

    A router sends each request to one of the stages after it, a combiner merges the answers of all stages
    before it; either may be without variants if the pipeline's own router does the work.
    """

    MODEL = "model"
    TRANSFORMER = "transformer"
    OUTPUT_TRANSFORMER = "output-transformer"
    ROUTER = "router"
    COMBINER = "combiner"


class CombineRule(StrEnum):
    """The rule that combines the accuracies of a combiner's inputs."""

    PRODUCT = "product"
    MEAN = "mean"
    MAX = "max"


class OutputRows(StrEnum):
    """The number of rows that a stage answers for one item.

    `per-item`: one, so that rows count items. `varying`: any number, given by its output `fan_out`.
    """

    PER_ITEM = "per-item"
    VARYING = "varying"


@dataclass(frozen=True, slots=True)
class Edge:
    """The source of a stage's input.

    `fan_out` is the number of items it receives for each item that the parent handles, by the parent's
    variant if it is a mapping; `share` is its share of a router's requests.
    """

    parent: str
    fan_out: float | Mapping[str, float] = 1.0
    share: float = 1.0

    def items(self, variant: str) -> float:
        """Items for each item that the parent handles with that variant."""
        return self.fan_out[variant] if isinstance(self.fan_out, Mapping) else self.fan_out


# `resident: all`.
ALL_VARIANTS = "all"


@dataclass(frozen=True, slots=True)
class Stage:
    """One task of a pipeline. Without `after` its input is the request itself."""

    name: str
    variants: tuple[Variant, ...]
    after: tuple[Edge, ...] = ()
    kind: StageKind = StageKind.MODEL
    combine: CombineRule = CombineRule.PRODUCT
    bounds: StageBounds = StageBounds()
    pin: Pin = Pin()
    # Name of its container on a cluster; never changed, since a new name makes a new Deployment.
    container: str = ""
    batch_timeout_s: float = 0.1
    # None: `varying` if an edge to a later stage has a fan-out other than 1, else `per-item`.
    output_rows: OutputRows | None = None
    # Set by the target (`Target.shape`), never read from a file; an `Unbatched`, or empty.
    unbatched: str = ""
    # Set by the target likewise: each replica batches the requests that were spread to it.
    in_replica: bool = field(default=False, metadata=UNLESS_DEFAULT)
    # Set by the target too: the time of a request on its way to the stage and back, beside the stage's own.
    hop_s: float = field(default=0.0, metadata=UNLESS_DEFAULT)
    # The number of variants that each replica keeps loaded, or `ALL_VARIANTS`; it runs one of them at a time.
    resident: int | str = field(default=1, metadata=UNLESS_DEFAULT)
    # Set by the target too: the variants that a replica has loaded for good, in groups; empty: as `resident`
    # says of the one that runs, and others are loaded while it serves.
    resident_groups: tuple[tuple[str, ...], ...] = field(default=(), metadata=UNLESS_DEFAULT)

    @property
    def residents(self) -> int:
        """The number of variants that each replica keeps loaded."""
        most = len(self.variants)
        return most if self.resident == ALL_VARIANTS else min(int(self.resident), most)

    def limits(self, bounds: Bounds) -> StageBounds:
        """Limits of this stage: the tighter of its own bounds and the pipeline's."""
        own = self.bounds
        most = [limit for limit in (bounds.max_replicas, own.max_replicas) if limit is not None]
        sizes = bounds.batch_sizes if own.batch_sizes is None else own.batch_sizes
        if sizes is not None and bounds.batch_sizes is not None:
            sizes = tuple(size for size in sizes if size in bounds.batch_sizes)
        if self.unbatched:
            sizes = UNBATCHED if sizes is None else tuple(size for size in sizes if size in UNBATCHED)
        return StageBounds(max(1, bounds.min_replicas, own.min_replicas or 1), min(most, default=None), sizes)

    @property
    def own_bounds(self) -> StageBounds:
        """Its own bounds on its target: batch size 1 only if it must not batch there."""
        return replace(self.bounds, batch_sizes=UNBATCHED) if self.unbatched else self.bounds

    def variant(self, name: str) -> Variant:
        """The variant of that name; NotFoundError lists the existing ones."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(variant.name for variant in self.variants)
        raise NotFoundError(f"stage {self.name!r} has no variant {name!r}", hint=f"It has: {known}")


def chain(stages: Sequence[Stage], fan_outs: Sequence[float | Mapping[str, float]] = ()) -> tuple[Stage, ...]:
    """The stages as a chain, each after the one before it.

    `fan_outs` are those of the stages in order, as far as given: the items that each sends on for one it
    handles.
    """
    first, *others = stages
    edges = (Edge(before.name, 1.0 if k is None else k) for before, k in zip_longest(stages, fan_outs))
    return (
        replace(first, after=()),
        *(replace(it, after=(e,)) for it, e in zip(others, edges, strict=False)),
    )


@dataclass(frozen=True, slots=True)
class Sla:
    """The latency that a plan must meet, at a percentile of the requests."""

    latency_s: float
    percentile: float = 99.0


@dataclass(frozen=True, slots=True)
class Fallback:
    """The plan's rate once the load was missing for `after_ticks` ticks: at least `rate_rps`.

    The fallback only adds capacity, and ends once the load was observed for `recover_ticks` ticks in a row.
    """

    rate_rps: float
    after_ticks: int = 30
    recover_ticks: int = 3


@dataclass(frozen=True, slots=True)
class Canary:
    """The trial of a new configuration: beside the running one, with a small share of the requests.

    It is measured for `measure_s` with `share_percent` of the requests before it takes all.
    """

    share_percent: int = 5
    measure_s: float = 120.0


# The most configurations that a plan has side by side.
MOST_PARTS = 3
# The default of kubectl.
DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A graph of stages, each after the stages it receives from, its SLA, bounds and objectives by name.

    `sets`: several variants of its single stage may run at once, each with a share of the load (InfAdapter).
    `targets` has for each target, by the key of its section in the file, where and how the pipeline runs.
    A pipeline that is not `runnable` is only planned and rendered; `not_runnable_because` says why.
    """

    name: str
    stages: tuple[Stage, ...]
    sla: Sla
    objectives: Mapping[str, Objective]
    bounds: Bounds = Bounds()
    default_objective: str = "default"
    targets: Mapping[str, Any] = field(default_factory=dict, hash=False, metadata=BESIDE_OTHERS)
    description: str = ""
    sets: bool = False
    # Records have it since pipelines could ask for more; it is 1.
    max_predictors: int = 1
    # Age at which requests are dropped, one by one, when they reach the head of a queue; see `deadline_s`.
    drop_after_s: float | None = None
    # Without a fallback the running configuration is kept while the load is missing.
    fallback: Fallback | None = None
    # Observed slowdown of its variants (`ipa.control.engine.correction`), never read from a file.
    slowdowns: Slowdowns = AS_MEASURED
    # The cost in the objective is their sum over a plan's resources.
    prices: Prices = field(default=IN_CORES, metadata=UNLESS_DEFAULT)
    probe: PipelineProbe | None = field(default=None, metadata=UNLESS_DEFAULT)
    # Without one a new configuration takes all requests at once.
    canary: Canary | None = field(default=None, metadata=UNLESS_DEFAULT)
    # For people alone: no decision depends on them.
    runnable: bool = field(default=True, metadata=NEVER)
    not_runnable_because: str = field(default="", metadata=NEVER)

    @property
    def served(self) -> tuple[Stage, ...]:
        """The stages that run as replicas: all but routers and combiners without variants."""
        return tuple(stage for stage in self.stages if stage.variants)

    @property
    def namespace(self) -> str:
        """The pipeline's namespace, which also decides access, on a cluster or not."""
        placed = (place.namespace for place in self.targets.values() if isinstance(place, Placed))
        return next(placed, DEFAULT_NAMESPACE)

    @property
    def deadline_s(self) -> float:
        """The age at which requests are dropped; the SLA unless the file says another: later is no use."""
        return self.sla.latency_s if self.drop_after_s is None else self.drop_after_s

    @property
    def is_chain(self) -> bool:
        """True if each stage passes all its output to the next alone: no fork, join, router or combiner."""
        befores = (None, *(stage.name for stage in self.stages))
        return all(
            [edge.parent for edge in stage.after] == ([] if before is None else [before])
            and stage.kind not in {StageKind.ROUTER, StageKind.COMBINER}
            for before, stage in zip(befores, self.stages, strict=False)
        )

    def stage(self, name: str) -> Stage:
        """The stage of that name; NotFoundError lists the existing ones."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        known = ", ".join(stage.name for stage in self.stages)
        raise NotFoundError(f"pipeline {self.name!r} has no stage {name!r}", hint=f"It has: {known}")

    def usd_per_hour(self, configs: Sequence[StageConfig]) -> float | None:
        """The price of all resources, overhead included; None without prices, or if they are not measured."""
        known = all((config.stage, config.variant) in self.bounds.measured for config in configs)
        return self.prices.cost(self.bounds.held(configs)) if self.prices.is_money and known else None

    def objective(self, name: str | None = None) -> Objective:
        """The objective of that name (the default for None); NotFoundError lists the existing ones."""
        wanted = name or self.default_objective
        if wanted not in self.objectives:
            known = ", ".join(self.objectives)
            raise NotFoundError(
                f"pipeline {self.name!r} has no objective {wanted!r}", hint=f"It has: {known}"
            )
        return self.objectives[wanted]
