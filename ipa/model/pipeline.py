"""What a pipeline owner writes down: a graph of stages, their variants, an SLA and what is worth what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import zip_longest
from types import MappingProxyType

from ipa.model.errors import NotFoundError
from ipa.model.overhead import NO_OVERHEAD, Overhead
from ipa.model.slowdown import AS_MEASURED, Slowdowns

EMPTY: Mapping[str, str] = MappingProxyType({})
UNBATCHED = (1,)


class AccuracyRule(StrEnum):
    """How the accuracies of the stages make the accuracy term of the objective.

    A rank is i/(|M|-1) by rising accuracy, 1 for a lone variant (IPA, PAS').
    """

    PRODUCT = "product"
    SUM = "sum"
    MEAN = "mean"
    RANK_SUM = "rank-sum"
    RANK_PRODUCT = "rank-product"


class Goal(StrEnum):
    """What the best plan is.

    `weighted`: most α·accuracy − β·cores − δ·Σ batch sizes. `lexicographic`: most accuracy, of those the
    fewest cores, of those the smallest batches. `cheapest-at-accuracy`: the fewest cores at the accuracy
    floor, of those the most accuracy.
    """

    WEIGHTED = "weighted"
    LEXICOGRAPHIC = "lexicographic"
    CHEAPEST = "cheapest-at-accuracy"


@dataclass(frozen=True, slots=True)
class Objective:
    """What is worth what: α·accuracy − β·cores − δ·Σ batch sizes, and the settings that go with it."""

    name: str = "default"
    goal: Goal = Goal.WEIGHTED
    alpha: float = 1.0
    beta: float = 0.1
    delta: float = 1e-6
    accuracy_rule: AccuracyRule = AccuracyRule.PRODUCT
    # The lowest variant's rank is raised to this; without it a rank product is zeroed by one lowest variant.
    rank_floor: float | None = None
    # Added to measured latency and throughput before planning, as ratios: 1.0 doubles, -0.5 halves.
    latency_margin_ratio: float = 0.0
    throughput_margin_ratio: float = 0.0
    # Base allocation (IPA): the least cores at which one replica carries this rate inside the stage's SLA.
    threshold_rps: float = 1.0
    max_batch_size: int | None = None
    max_replicas: int | None = None
    # Replaces the pipeline's SLA where given.
    sla_s: float | None = None
    # What a plan may cost at most; unlike `bounds.cores`, a change to it may cost more for a while.
    max_cost_cores: float | None = None
    # Lost for each core of a pod that a change would start: worth is lost while old and new run side by side.
    transition_per_core: float = 0.0


@dataclass(frozen=True, slots=True)
class Pin:
    """What an owner has fixed of a stage's configuration; None is free."""

    variant: str | None = None
    batch_size: int | None = None
    cores: float | None = None
    replicas: int | None = None


@dataclass(frozen=True, slots=True)
class StageBounds:
    """Limits of one stage, beside those of the pipeline. None is no limit of its own."""

    min_replicas: int | None = None
    max_replicas: int | None = None
    batch_sizes: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits that no plan may cross. None is no limit.

    `cores` and `memory_gib` hold at every moment, old and new replicas of a change together; for cores
    `transition_cores` says how many they may be while a change rolls out, where that may be more.
    """

    cores: float | None = None
    memory_gib: float | None = None
    min_replicas: int = 1
    max_replicas: int | None = None
    batch_sizes: tuple[int, ...] | None = None
    accuracy_floor: float | None = None
    transition_cores: float | None = None
    # Where the pipeline runs now (`at_cluster`), never what a file says; it counts within `cores`.
    overhead: Overhead = NO_OVERHEAD

    @property
    def most_cores(self) -> float | None:
        """Cores that may be used at any moment of a change."""
        return self.cores if self.transition_cores is None else self.transition_cores


@dataclass(frozen=True, slots=True)
class SeldonRun:
    """How a variant runs on Seldon: the container's image and env, and the model it loads."""

    image: str | None = None
    model_uri: str | None = None
    implementation: str | None = None
    env: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    memory_gib: float | None = None


@dataclass(frozen=True, slots=True)
class LocalRun:
    """How a variant runs on this machine.

    `implementation` and `parameters` fill MLServer's model-settings.json. `command` starts one replica;
    the words {python}, {port} and {model_dir} in it are replaced. Empty means MLServer.
    """

    implementation: str
    parameters: Mapping[str, str] = field(default_factory=lambda: EMPTY)
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=lambda: EMPTY)


@dataclass(frozen=True, slots=True)
class Variant:
    """One model that can do a stage's task. Its accuracy, latency and cores are in the profile."""

    name: str
    seldon: SeldonRun | None = None
    local: LocalRun | None = None


class StageKind(StrEnum):
    """What a stage is in Seldon's graph.

    A router sends each request to one of the stages after it, a combiner answers with what it makes of all
    stages before it; either may be without variants where the pipeline's own router does it.
    """

    MODEL = "model"
    TRANSFORMER = "transformer"
    OUTPUT_TRANSFORMER = "output-transformer"
    ROUTER = "router"
    COMBINER = "combiner"


class CombineRule(StrEnum):
    """What the accuracy of a combiner's input is, from the accuracies of what it combines."""

    PRODUCT = "product"
    MEAN = "mean"
    MAX = "max"


class OutputRows(StrEnum):
    """How many rows a stage answers for one item.

    `per-item`: one, so that rows count items. `varying`: more, fewer or none, as its output `fan_out` says.
    """

    PER_ITEM = "per-item"
    VARYING = "varying"


@dataclass(frozen=True, slots=True)
class Edge:
    """Where a stage's input comes from.

    `fan_out` is how many items it receives for each item that the parent handles, by the parent's variant
    where it is a mapping; `share` the share of a router's requests.
    """

    parent: str
    fan_out: float | Mapping[str, float] = 1.0
    share: float = 1.0

    def items(self, variant: str) -> float:
        """Items for each one that the parent handles with that variant."""
        return self.fan_out[variant] if isinstance(self.fan_out, Mapping) else self.fan_out


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
    # The container's name in the SeldonDeployment; never changed, since renaming it makes a new Deployment.
    container: str = ""
    batch_timeout_s: float = 0.1
    # None: `varying` where an edge to a stage after it has a fan-out other than 1, else `per-item`.
    output_rows: OutputRows | None = None
    # Why it runs without batching where the pipeline runs now (`at_cluster`), never what a file says.
    unbatched: str = ""

    def limits(self, bounds: Bounds) -> StageBounds:
        """What holds for this stage: the tighter of its own bounds and those of the pipeline."""
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
        """Its own bounds where the pipeline runs: with batch size 1 only if it must not batch there."""
        return replace(self.bounds, batch_sizes=UNBATCHED) if self.unbatched else self.bounds

    def variant(self, name: str) -> Variant:
        """The variant of that name; NotFoundError names those there are."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(variant.name for variant in self.variants)
        raise NotFoundError(f"stage {self.name!r} has no variant {name!r}", hint=f"It has: {known}")


def chain(stages: Sequence[Stage], fan_outs: Sequence[float | Mapping[str, float]] = ()) -> tuple[Stage, ...]:
    """The stages, each after the one before it alone.

    `fan_outs` are those of the stages in order, as far as given: what each sends on for an item it handles.
    """
    first, *others = stages
    edges = (Edge(before.name, 1.0 if k is None else k) for before, k in zip_longest(stages, fan_outs))
    return (
        replace(first, after=()),
        *(replace(it, after=(e,)) for it, e in zip(others, edges, strict=False)),
    )


@dataclass(frozen=True, slots=True)
class Sla:
    """The latency a plan must meet, at a percentile of the requests."""

    latency_s: float
    percentile: float = 99.0


@dataclass(frozen=True, slots=True)
class Fallback:
    """What is planned for once the load was not seen for `after_ticks` ticks: at least `rate_rps`.

    It only ever adds capacity, and ends after the load was seen for `recover_ticks` ticks in a row.
    """

    rate_rps: float
    after_ticks: int = 30
    recover_ticks: int = 3


class Shape(StrEnum):
    """How a pipeline is made into SeldonDeployments.

    `single`: one for all stages, each batching by itself, with Seldon's orchestrator. `split`: our router,
    and for each stage our queue and its model, each a SeldonDeployment of its own.
    """

    SINGLE = "single"
    SPLIT = "split"


# That of kubectl where none is named.
DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True, slots=True)
class SeldonTarget:
    """Where the pipeline's SeldonDeployment lives, and what it takes beside the stages' replicas.

    `orchestrator_cores` are those of Seldon's orchestrator, or of our router; it has a pod of its own
    unless `separate_orchestrator` is false: then each replica of the first stage has one. `queue_cores` are
    those of each stage's queue, `image` that of router and queues (both for shape split).
    """

    name: str
    namespace: str = DEFAULT_NAMESPACE
    predictor: str = "default"
    shape: Shape = Shape.SINGLE
    image: str | None = None
    # The operator gives its orchestrator 500m.
    orchestrator_cores: float = 0.5
    separate_orchestrator: bool = True
    queue_cores: float = 0.5


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A graph of stages, each after those it receives from, its SLA, bounds and objectives by name.

    `sets`: several variants of its one stage may run at once, each with a share of the load (InfAdapter).
    `max_predictors`: how many configurations of the whole graph may run at once, each with a share.
    """

    name: str
    stages: tuple[Stage, ...]
    sla: Sla
    objectives: Mapping[str, Objective]
    bounds: Bounds = Bounds()
    default_objective: str = "default"
    seldon: SeldonTarget | None = None
    description: str = ""
    sets: bool = False
    max_predictors: int = 1
    # Requests older than this when they reach the head of a queue are dropped, one by one.
    drop_after_s: float | None = None
    # Without one, what runs is kept for as long as the load is not seen.
    fallback: Fallback | None = None
    # How its variants do where it runs now (`ipa.control.engine.correction`), never what a file says.
    slowdowns: Slowdowns = AS_MEASURED

    @property
    def served(self) -> tuple[Stage, ...]:
        """The stages that run as replicas: all but routers and combiners without variants."""
        return tuple(stage for stage in self.stages if stage.variants)

    @property
    def namespace(self) -> str:
        """Whose the pipeline is: who may read or change it is said by namespace, also off a cluster."""
        return self.seldon.namespace if self.seldon else DEFAULT_NAMESPACE

    @property
    def is_chain(self) -> bool:
        """Whether each stage passes all that it makes to the next alone: no fork, join, router, combiner."""
        befores = (None, *(stage.name for stage in self.stages))
        return all(
            [edge.parent for edge in stage.after] == ([] if before is None else [before])
            and stage.kind not in {StageKind.ROUTER, StageKind.COMBINER}
            for before, stage in zip(befores, self.stages, strict=False)
        )

    def stage(self, name: str) -> Stage:
        """The stage of that name; NotFoundError names those there are."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        known = ", ".join(stage.name for stage in self.stages)
        raise NotFoundError(f"pipeline {self.name!r} has no stage {name!r}", hint=f"It has: {known}")

    def objective(self, name: str | None = None) -> Objective:
        """The objective of that name (the default one for None); NotFoundError names those there are."""
        wanted = name or self.default_objective
        if wanted not in self.objectives:
            known = ", ".join(self.objectives)
            raise NotFoundError(
                f"pipeline {self.name!r} has no objective {wanted!r}", hint=f"It has: {known}"
            )
        return self.objectives[wanted]
