"""A pipeline as its owner specifies it: a graph of stages, their variants, an SLA and objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import reduce
from itertools import zip_longest
from typing import Annotated, Any, Literal

from ipa.model.errors import NotFoundError
from ipa.model.forms import (
    Accelerators,
    BatchSize,
    BatchSizes,
    Count,
    Duration,
    Fraction,
    Line,
    Margin,
    Name,
    NonNegative,
    PositiveDuration,
    PositiveMemory,
    PositiveNumber,
    PositiveRate,
    Rate,
    ValueForm,
    VariantName,
)
from ipa.model.parts import NO_OVERHEAD, FrontCores, Overhead
from ipa.model.plan import StageConfig
from ipa.model.probe import PipelineProbe
from ipa.model.profile import AS_MEASURED, Slowdowns
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


@dataclass(frozen=True, slots=True)
class Objective:
    """The weights of α·accuracy − β·cores − δ·Σ batch sizes, and the settings that go with them."""

    name: str = "default"
    # Records have it since there were others.
    goal: Annotated[Literal["weighted"], ValueForm({"enum": ["weighted"]})] = "weighted"
    """The optimisation goal: weighted."""
    alpha: NonNegative = 1.0
    """Weight of the accuracy term; 1 if absent."""
    beta: NonNegative = 0.1
    """Weight of a core, or of a USD an hour; 0.1 if absent."""
    delta: NonNegative = 1e-6
    """Weight of the sum of batch sizes; 1e-6 if absent."""
    accuracy_rule: AccuracyRule = AccuracyRule.PRODUCT
    # Without it one lowest-ranked variant makes a product of ranks zero.
    rank_floor: Fraction | None = None
    """The lowest variant's rank is raised to this."""
    latency_margin_ratio: Margin = 0.0
    """Added to measured latency: 1 doubles it."""
    throughput_margin_ratio: Margin = 0.0
    """Added to measured throughput: -0.5 halves it."""
    threshold_rps: Rate = 1.0
    """Base allocation: the least rate one replica must carry."""
    max_batch_size: Count | None = None
    """Larger batches are not planned."""
    max_replicas: Count | None = None
    """Of each stage."""
    sla_s: PositiveDuration | None = None
    """Replaces the pipeline's SLA."""
    max_cost_cores: PositiveNumber | None = None
    """The maximum cost of a plan; a change to it may exceed it for a while."""
    transition_per_core: NonNegative = 0.0
    """Lost for each core of a pod that a change would start; 0 if absent."""


@dataclass(frozen=True, slots=True)
class Pin:
    """The parts of a stage's configuration that an owner fixed; None is free."""

    variant: VariantName | None = None
    batch_size: BatchSize | None = None
    cores: PositiveNumber | None = None
    replicas: Count | None = None


@dataclass(frozen=True, slots=True)
class StageBounds:
    """Limits of one stage, in addition to the pipeline's. None is no limit."""

    min_replicas: Count | None = None
    max_replicas: Count | None = None
    batch_sizes: BatchSizes | None = None


@dataclass(frozen=True, slots=True)
class MeasuredVariant:
    """The profile's figures of a variant: accuracy, and a replica's resources other than cores.

    `item_core_s` are the fewest core seconds for an item, `batch_core_s` those for the first item of a batch
    and for each further one; 0 if they are unknown. `assumed_ratio` is that of the profile.
    """

    accuracy: float
    beside: Resources = NO_RESOURCES
    item_core_s: float = 0.0
    batch_core_s: tuple[float, float] = (0.0, 0.0)
    assumed_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of every plan. None is no limit; a kind of accelerator without an entry has none."""

    cores: PositiveNumber | None = None
    """Of all replicas of all stages together, at every moment, those of a change included."""
    memory_gib: PositiveMemory | None = None
    """As cores."""
    min_replicas: Count = 1
    """Of each stage; 1 if absent."""
    max_replicas: Count | None = None
    """Of each stage."""
    batch_sizes: BatchSizes | None = None
    """The only batch sizes a plan may use."""
    accuracy_floor: Fraction | None = None
    """Least accuracy of the whole pipeline, a fraction."""
    transition_cores: PositiveNumber | None = None
    """Of old and new replicas together while a change rolls out, if that may be more than cores."""
    # Set by the target that the pipeline runs on (`Target.shape`), never read from a file; counts within
    # `cores`.
    overhead: Overhead = NO_OVERHEAD
    # Likewise; the cores that it takes count beside `cores`.
    front: FrontCores | None = field(default=None, metadata=UNLESS_DEFAULT)
    accelerators: Accelerators = field(default_factory=dict, hash=False, metadata=UNLESS_DEFAULT)
    """As cores; a kind without an entry is not limited."""
    # By stage and variant, from the profiles (`ipa.model.measured`), never read from a file.
    measured: Mapping[tuple[str, str], MeasuredVariant] = field(
        default_factory=dict, hash=False, metadata=NEVER
    )

    # True while it is open how a plan is reached (`ipa.policies.base.constrained`), never read from a file.
    any_change: bool = field(default=False, metadata=NEVER)

    @property
    def limits(self) -> dict[str, float]:
        """The upper bounds on resources by name; a resource without a bound is missing."""
        scalars = {CORES: self.cores} | {each.name: getattr(self, each.attribute) for each in BESIDE_CORES}
        named = scalars | dict(self.accelerators)
        return {name: most for name, most in named.items() if most is not None}

    def limited(self, name: str, most: float | None) -> Bounds:
        """The same bounds with that limit of a resource; None removes it."""
        if name == CORES:
            return replace(self, cores=most)
        if name in BY_NAME:
            return replace(self, **{BY_NAME[name].attribute: most})  # type: ignore[arg-type]
        others = {kind: count for kind, count in self.accelerators.items() if kind != name}
        return replace(self, accelerators=others if most is None else {**others, name: most})

    def within(self, cores: float) -> Bounds:
        """The same bounds with at most this many cores, also during a change."""
        most, change = (None if it is None else min(it, cores) for it in (self.cores, self.transition_cores))
        return replace(self, cores=cores if most is None else most, transition_cores=change)

    @property
    def change_limits(self) -> dict[str, float]:
        """The upper bounds on resources at any moment of a change."""
        if self.any_change:
            return {}
        return self.limits if self.most_cores is None else self.limits | {CORES: self.most_cores}

    def beside(self, config: StageConfig) -> Resources:
        """The resources of one replica of the configuration other than cores, as far as they are known."""
        measured = self.measured.get((config.stage, config.variant))
        return NO_RESOURCES if measured is None else measured.beside

    def replica(self, config: StageConfig) -> Resources:
        """The resources of one replica of the configuration, its overhead included."""
        return Resources(cpu_cores=self.overhead.with_overhead(config).cores) + self.beside(config)

    def held(self, configs: Sequence[StageConfig]) -> Resources:
        """The resources of all replicas of all stages, overhead included."""
        beside = total(self.beside(config) * config.replicas for config in configs)
        return beside + Resources(cpu_cores=self.overhead.cores(configs))

    def exceeded(self, configs: Sequence[StageConfig]) -> tuple[str, ...]:
        """Every bound on resources that the configurations exceed, in words."""
        return self.held(configs).exceeded(self.limits)

    @property
    def most_cores(self) -> float | None:
        """The upper bound on cores at any moment of a change."""
        if self.any_change:
            return None
        return self.cores if self.transition_cores is None else self.transition_cores


@dataclass(frozen=True, slots=True)
class Variant:
    """A model that can do a stage's task. Its accuracy, latency and cores are in the profile.

    `targets` maps each target's section key in the file to the variant's settings there.
    """

    name: VariantName
    targets: Mapping[str, Any] = field(default_factory=dict, hash=False, metadata=BESIDE_OTHERS)

    @property
    def requested(self) -> Resources:
        """The most of each resource, other than cores, that a section of the file gives a replica."""
        return reduce(Resources.maximum, map(beside_of, self.targets.values()), NO_RESOURCES)


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
    """The number of rows with which a stage answers one item.

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

    @property
    def fan_outs(self) -> tuple[float, ...]:
        """The fan-out by each variant of the parent, or the one for all."""
        return tuple(self.fan_out.values()) if isinstance(self.fan_out, Mapping) else (self.fan_out,)

    def items(self, variant: str) -> float:
        """The items for each item that the parent handles with that variant."""
        return self.fan_out[variant] if isinstance(self.fan_out, Mapping) else self.fan_out


# `resident: all`.
ALL_VARIANTS = "all"


@dataclass(frozen=True, slots=True)
class Stage:
    """One task of a pipeline. Without `after` its input is the request itself."""

    name: Name
    variants: tuple[Variant, ...]
    after: tuple[Edge, ...] = ()
    kind: StageKind = StageKind.MODEL
    combine: CombineRule = CombineRule.PRODUCT
    bounds: StageBounds = StageBounds()
    """Limits of this stage, beside those of the pipeline."""
    pin: Pin = Pin()
    """The fixed parts of this stage's configuration; absent keys are free."""
    container: Name = ""
    """That serves it on a cluster; the stage's name if absent. Never change it."""
    batch_timeout_s: Duration = 0.1
    """Longest wait for a batch to fill; 100ms if absent."""
    output_rows: OutputRows | None = None
    """Rows it answers for one item: per-item (one) or varying; varying if it has another fan_out than
    1. If replicas batch by themselves, a varying stage and the one after it do not."""
    # Set by the target (`Target.shape`), never read from a file; an `Unbatched`, or empty.
    unbatched: str = ""
    # Set by the target likewise: each replica batches the requests that were spread to it.
    in_replica: bool = field(default=False, metadata=UNLESS_DEFAULT)
    # Set by the target too: the time of a request on its way to the stage and back, beside the stage's own.
    hop_s: float = field(default=0.0, metadata=UNLESS_DEFAULT)
    # Set by the target as well: the time of a core for each request of a batch that forms in a replica.
    request_s: float = field(default=0.0, metadata=UNLESS_DEFAULT)
    resident: int | str = field(default=1, metadata=UNLESS_DEFAULT)
    """Variants that each replica keeps loaded, to switch between them in place: all, or a number, which are
    the running one and its neighbours by accuracy. It takes the memory of the largest of that number. 1
    if absent: another variant takes new replicas."""

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
        """Its own bounds on its target: only batch size 1 if it must not batch there."""
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

    `fan_outs` has for each stage in order the items that it sends on for each item; the rest send one.
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

    latency_s: PositiveDuration
    """End to end, what a plan must meet."""
    percentile: float = 99.0
    """Of the requests; 99 if absent."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """The rate to plan for once the load has been missing for a while; it only adds capacity."""

    rate_rps: PositiveRate
    """Planned for at least, until the load is observed again."""
    after_ticks: Count = 30
    """Ticks in a row without the load before it begins; 30 if absent."""
    recover_ticks: Count = 3
    """Ticks in a row with the load before it ends; 3 if absent."""


@dataclass(frozen=True, slots=True)
class Canary:
    """The trial of a new configuration: beside the running one, with a small share of the requests."""

    share_percent: int = 5
    """Of the requests, 1 to 5; 5 if absent."""
    measure_s: PositiveDuration = 120.0
    """The time for which its requests are watched before it takes all; 2min if absent."""


# The most configurations that a plan has side by side.
MOST_PARTS = 3
# The default of kubectl.
DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A graph of stages, each after the stages it receives from, its SLA, bounds and objectives by name.

    `sets`: several variants of its single stage may run at once, each with a share of the load (InfAdapter).
    `targets` maps each target's section key in the file to where and how the pipeline runs there. A pipeline
    that is not `runnable` is only planned and rendered; `not_runnable_because` tells why.
    """

    name: Name
    """Also the name of the folder the file lies in."""
    stages: tuple[Stage, ...]
    """The variants of a stage do the same task: one runs, with the replicas that the load needs."""
    sla: Sla
    """The end-to-end latency that this percentage of the requests must meet."""
    objectives: Mapping[str, Objective]
    """The objective to maximise: alpha x accuracy - beta x cores - delta x sum of batch sizes."""
    bounds: Bounds = Bounds()
    """Limits no plan may cross, old and new replicas of a change together; none if absent."""
    default_objective: Name = "default"
    """The objective used when none is named; 'default' if absent."""
    targets: Mapping[str, Any] = field(default_factory=dict, hash=False, metadata=BESIDE_OTHERS)
    description: str = ""
    sets: bool = False
    """True to let several variants of the only stage share the load; false if absent."""
    # Records have it since pipelines could ask for more; it is 1.
    max_predictors: int = 1
    drop_after_s: PositiveDuration | None = None
    """Requests older than this at the head of a queue are dropped, one by one; than the SLA if absent."""
    fallback: Fallback | None = None
    """The rate to plan for once the load was missing for a while; it only adds capacity. If absent, nothing
    changes then."""
    # Observed slowdown of its variants (`ipa.control.engine.correction`), never read from a file.
    slowdowns: Slowdowns = AS_MEASURED
    prices: Prices = field(default=IN_CORES, metadata=UNLESS_DEFAULT)
    """In USD an hour. The cost in the objective is then money; without it, the cores."""
    probe: PipelineProbe | None = field(default=None, metadata=UNLESS_DEFAULT)
    """The smoke request of `ipa probe`, and what follows if it fails after a rollout; none if absent."""
    canary: Canary | None = field(default=None, metadata=UNLESS_DEFAULT)
    """Try a configuration with a new variant on a few requests before it takes all; none if absent."""
    # For people alone: no decision depends on it or its reason.
    runnable: bool = field(default=True, metadata=NEVER)
    """False for a pipeline that is only planned, since something that it runs with is missing; true if
    absent."""
    not_runnable_because: Line = field(default="", metadata=NEVER)
    """The reason in words; required if runnable is false."""

    @property
    def served(self) -> tuple[Stage, ...]:
        """The stages that run as replicas: all but routers and combiners without variants."""
        return tuple(stage for stage in self.stages if stage.variants)

    @property
    def namespace(self) -> str:
        """The pipeline's namespace, which also decides access, on any target."""
        placed = (place.namespace for place in self.targets.values() if hasattr(place, "namespace"))
        return next(placed, DEFAULT_NAMESPACE)

    @property
    def deadline_s(self) -> float:
        """The age at which requests are dropped: the SLA unless the file sets another."""
        return self.sla.latency_s if self.drop_after_s is None else self.drop_after_s

    @property
    def is_chain(self) -> bool:
        """True if each stage passes all its output to the next alone: no fork, join, router or combiner."""
        if any(stage.kind in {StageKind.ROUTER, StageKind.COMBINER} for stage in self.stages):
            return False
        parents = [[edge.parent for edge in stage.after] for stage in self.stages]
        return parents == [[], *([stage.name] for stage in self.stages[:-1])]

    def stage(self, name: str) -> Stage:
        """The stage of that name; NotFoundError lists the existing ones."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        known = ", ".join(stage.name for stage in self.stages)
        raise NotFoundError(f"pipeline {self.name!r} has no stage {name!r}", hint=f"It has: {known}")

    def usd_per_hour(self, configs: Sequence[StageConfig]) -> float | None:
        """The price of all resources, overhead included; None without prices or measured resources."""
        known = all((config.stage, config.variant) in self.bounds.measured for config in configs)
        return self.prices.cost(self.bounds.held(configs)) if self.prices.is_money and known else None

    def objective(self, name: str | None = None) -> Objective:
        """The named objective (None: the default); NotFoundError lists the existing ones."""
        wanted = name or self.default_objective
        if wanted not in self.objectives:
            known = ", ".join(self.objectives)
            raise NotFoundError(
                f"pipeline {self.name!r} has no objective {wanted!r}", hint=f"It has: {known}"
            )
        return self.objectives[wanted]
