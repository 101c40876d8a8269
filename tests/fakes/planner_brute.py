"""A brute force that goes by the words of the model and shares no search with the planner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, inf, prod, sqrt

from ipa.model.pipeline import AccuracyRule
from ipa.model.plan import StageConfig
from ipa.model.profile import OperatingPoint
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.optimize.timing import Chosen as Timed
from ipa.optimize.timing import times_of
from tests.fakes.planner_graphs import MODEL, ROUTER, shapes

Chosen = tuple[OperatingPoint, int] | None


@dataclass(frozen=True, slots=True)
class Tried:
    """One configuration within the limits, and its figures."""

    chosen: tuple[Chosen, ...]
    weighted: float
    term: float
    cores: float
    cost: float

    def configs(self, problem: PlanningProblem) -> tuple[StageConfig, ...]:
        """The configuration of each stage; none for what the pipeline's own router does."""
        return tuple(
            StageConfig(stage.name, one[0].variant, one[0].batch_size, one[0].cores, one[1])
            for stage, one in zip(problem.stages, self.chosen, strict=True)
            if one is not None
        )


def size(problem: PlanningProblem) -> int:
    """The number of configurations to try, about: each stage for the most items it may get."""
    brute = _Brute(problem)
    items = [_most_items(problem, at) for at in range(len(problem.stages))]
    return prod(max(1, len(brute.choices(at, items[at]))) for at in range(len(items)))


def brute_force(problem: PlanningProblem) -> float | None:
    """The best objective over all configurations; None where none is feasible."""
    return max((one.weighted for one in every_configuration(problem)), default=None)


def every_configuration(problem: PlanningProblem) -> Iterator[Tried]:
    return _Brute(problem).configurations()


def _most_items(problem: PlanningProblem, at: int) -> float:
    """The most items of a request at the stage."""
    sent = []
    for edge in problem.stages[at].after:
        parent = next(i for i, stage in enumerate(problem.stages) if stage.name == edge.parent)
        variants = {point.variant for point in problem.stages[parent].points} or {""}
        sent.append(_most_items(problem, parent) * max(edge.items(name) for name in variants))
    return max(sent, default=1.0)


class _Brute:
    """Stage after stage every point with every number of replicas, judged by what the limits say."""

    def __init__(self, problem: PlanningProblem) -> None:
        self._problem = problem
        self._names = [stage.name for stage in problem.stages]
        self._parents = [
            [(self._names.index(edge.parent), edge) for edge in stage.after] for stage in problem.stages
        ]
        self._reach = [_reach(problem, at) for at in range(len(self._names))]
        self._before = {config.stage: config for config in problem.running}
        self._ranks = [_ranks(problem, stage) for stage in problem.stages]
        self._shape = shape_of(problem)
        self._times: dict[tuple[int, int, int, float], tuple[float, float]] = {}
        self._known: dict[tuple[int, float], list[Chosen]] = {}
        stages = problem.stages
        self._sizes = {each.batch_size for it in stages for each in it.points if problem.allows(it, each)}

    def configurations(self) -> Iterator[Tried]:
        """Depth first; what a stage alone rules out is not gone into."""
        yield from self._deeper((), ())

    def _deeper(self, configs: tuple[Chosen, ...], items: tuple[float, ...]) -> Iterator[Tried]:
        at = len(configs)
        if at == len(self._names):
            one = self._try(configs, items)
            if one is not None:
                yield one
            return
        sent = []
        for parent, edge in self._parents[at]:
            before = configs[parent]
            sent.append(items[parent] * edge.items(before[0].variant if before else ""))
        assert all(abs(each - sent[0]) < 1e-9 for each in sent)
        here = sent[0] if sent else 1.0
        for one in self.choices(at, here):
            yield from self._deeper((*configs, one), (*items, here))

    def choices(self, at: int, items: float) -> list[Chosen]:
        """The points that are allowed, with every number of replicas that carries the load and may help."""
        if (at, items) in self._known:
            return self._known[at, items]
        problem, stage = self._problem, self._problem.stages[at]
        choices: list[Chosen] = []
        if not stage.points:
            choices = [None] if stage.kind is not MODEL else []
        for point in stage.points:
            if not problem.allows(stage, point):
                continue
            load = problem.rate_rps * self._reach[at] * items / point.capacity_rps
            for n in range(max(1, ceil(load - 1e-9)), self._enough(stage, point, load, items) + 1):
                if self._within(stage, n):
                    choices.append((point, n))
        self._known[at, items] = choices
        return choices

    def _enough(self, stage: StageProblem, point: OperatingPoint, load: float, items: float) -> int:
        """More replicas take no time off: all batches run at once, or by the rule none waits."""
        problem = self._problem
        batches = ceil(items / point.batch_size - 1e-9)
        fewest = max(1, problem.bounds.min_replicas, stage.bounds.min_replicas or 1)
        if problem.compat is not Compat.TAIL:
            return max(ceil(load - 1e-9), batches, fewest, stage.pin.replicas or 1)
        least = max(1, ceil(load - 1e-9))
        least = max(least + (load > least - 1e-9), fewest)
        return max(least + ceil(3 * sqrt(least)) + 3, batches, stage.pin.replicas or 1)

    def _within(self, stage: StageProblem, replicas: int) -> bool:
        if stage.pin.replicas is not None:
            return replicas == stage.pin.replicas
        problem = self._problem
        most = [problem.bounds.max_replicas, problem.objective.max_replicas, stage.bounds.max_replicas]
        least = max(1, problem.bounds.min_replicas, stage.bounds.min_replicas or 1)
        return replicas >= least and all(limit is None or replicas <= limit for limit in most)

    def _stage_times(self, at: int, one: tuple[OperatingPoint, int], items: float) -> tuple[float, float]:
        key = (at, id(one[0]), one[1], items)
        if key not in self._times:
            self._times[key] = self._timed(at, *one, items)
        return self._times[key]

    def _timed(self, at: int, point: OperatingPoint, n: int, items: float) -> tuple[float, float]:
        """The mean and the excess over it: by the papers' formulas, written out, or by the planner's tail."""
        problem, stage = self._problem, self._problem.stages[at]
        if problem.compat is Compat.TAIL:
            (times,) = times_of(problem, [Timed(at, point, n, items)])
            return times.mean_s, times.excess_s
        rate_rps = problem.rate_rps * self._reach[at] * items
        if problem.compat is Compat.IPA_ARTIFACT:
            names = {each.variant for each in stage.points}
            wait_s = -len(names) * (len(self._sizes) - 1) / rate_rps
        else:
            wait_s = min((point.batch_size - 1) / rate_rps, stage.batch_timeout_s or inf)
        sequence = max(1, ceil(items / (n * point.batch_size) - 1e-9))
        return point.latency_s * sequence + wait_s, 0.0

    def _try(self, configs: tuple[Chosen, ...], items: tuple[float, ...]) -> Tried | None:
        problem, objective, bounds = self._problem, self._problem.objective, self._problem.bounds
        means, spreads = [0.0] * len(configs), [0.0] * len(configs)
        overhead = bounds.overhead
        cores = peak = overhead.fixed_cores
        started = batch = 0.0
        others = {"memory": bounds.memory_gib, **bounds.accelerators}
        prices = dict(problem.prices.each)
        held, most = dict.fromkeys({**others, **prices}, 0.0), dict.fromkeys(others, 0.0)
        for at, (stage, one) in enumerate(zip(problem.stages, configs, strict=True)):
            if one is None:
                continue
            point, n = one
            # What a replica takes with what runs beside it.
            beside = dict(overhead.each_cores).get(stage.name, 0.0)
            each = point.cores + beside
            means[at], spreads[at] = self._stage_times(at, one, items[at])
            cores, batch = cores + n * each, batch + point.batch_size
            old = self._before.get(stage.name)
            for name in held:
                held[name] += n * _amount(point, name)
            for name in others:
                most[name] += self._most_of(name, stage, point, n, old)
            if old is None:
                peak += n * each
                continue
            if self._stays(point, old):
                peak += _stage_cost(n, each, old.replicas, old.cores + beside)
                started += max(0, n - old.replicas) * each
            else:
                peak += self._both(n, each, old, old.cores + beside, point.cores)
                started += n * each
        if self._beyond(cores, peak) or self._above(others, held, most) or self._late(means, spreads):
            return None
        pas = _accuracy(self._shape, [one[0].accuracy if one else 1.0 for one in configs])
        if bounds.accuracy_floor is not None and pas < bounds.accuracy_floor * (1 - 1e-9):
            return None
        term = self._term(configs)
        cost = prices.pop("cores", 0.0) * cores + sum(price * held[name] for name, price in prices.items())
        weighted = objective.alpha * term - objective.beta * cost - objective.delta * batch
        if problem.running:
            weighted -= objective.transition_per_core * started
        return Tried(configs, weighted, term, cores, cost)

    def _stays(self, point: OperatingPoint, old: StageConfig) -> bool:
        """True if old replicas go on: as they are, with other batches, or where variants are switched."""
        rolling = self._problem.rolling
        if old.stage in rolling.switches:
            as_many_threads = rolling.resizes and ceil(old.cores) == ceil(point.cores)
            return as_many_threads or old.cores == point.cores
        is_batch = rolling.rebatches or old.batch_size == point.batch_size
        return is_batch and (old.variant, old.cores) == (point.variant, point.cores)

    def _most_of(
        self, name: str, stage: StageProblem, point: OperatingPoint, n: int, old: StageConfig | None
    ) -> float:
        """The most that the stage has of a resource while it changes."""
        new = _amount(point, name)
        if old is None:
            return n * new
        before = _amount_of(stage, old.variant, name)
        if self._stays(point, old):
            return _stage_cost(n, new, old.replicas, before)
        return self._both(n, new, old, before, point.cores)

    def _above(self, limits: dict[str, float | None], held: dict[str, float], most: dict[str, float]) -> bool:
        """True if a resource ends above its limit, or passes it on the way by more than runs already."""
        problem = self._problem
        for name, limit in limits.items():
            if limit is None:
                continue
            now = sum(
                config.replicas * _amount_of(stage, config.variant, name)
                for stage in problem.stages
                for config in problem.running
                if config.stage == stage.name
            )
            if held[name] > limit + 1e-9 or most[name] > max(limit, now) + 1e-9:
                return True
        return False

    def _both(self, n: int, new: float, old: StageConfig, before: float, cores: float) -> float:
        """The most that old and new replicas have together, step by step as a rolling update goes."""
        rolling = self._problem.rolling
        if not rolling.shrinks_first:
            return n * new + old.replicas * before
        wanted = n
        if n < old.replicas:
            # As many stay as fit the cores of the larger end.
            larger = max(n * cores, old.replicas * old.cores)
            wanted = max(k for k in range(n, old.replicas + 1) if k == n or k * cores <= larger + 1e-9)
        room = wanted + ceil(rolling.surge_ratio * wanted)
        # As many new ones as there is room for beside the old that must stay, and the other way round.
        during = max(k * before + (room - k) * new for k in range(room - wanted, wanted + 1))
        return max(during, old.replicas * before)

    def _beyond(self, cores: float, peak: float) -> bool:
        """True if a limit of cores is passed by more than runs already."""
        problem, bounds = self._problem, self._problem.bounds
        beside = dict(bounds.overhead.each_cores)
        now = bounds.overhead.fixed_cores + sum(
            config.replicas * (config.cores + beside.get(config.stage, 0.0)) for config in problem.running
        )
        limits = (
            (cores, bounds.cores, 0.0),
            (peak, bounds.most_cores if problem.running else bounds.cores, now),
            (cores, problem.objective.max_cost_cores, 0.0),
        )
        return any(limit is not None and value > max(limit, least) + 1e-9 for value, limit, least in limits)

    def _late(self, means: list[float], spreads: list[float]) -> bool:
        after = [
            [child for child, parents in enumerate(self._parents) if any(at == each for each, _ in parents)]
            for at in range(len(means))
        ]

        def ends(at: int, mean: float, spread: float) -> float:
            mean, spread = mean + means[at], spread + spreads[at] ** 2
            return max((ends(child, mean, spread) for child in after[at]), default=mean + sqrt(spread))

        # A queue that grows for ever has no time at all.
        return not ends(0, 0.0, 0.0) <= self._problem.sla_s * (1 + 1e-9)

    def _term(self, configs: tuple[Chosen, ...]) -> float:
        rule = self._problem.objective.accuracy_rule
        ranked = rule in (AccuracyRule.RANK_SUM, AccuracyRule.RANK_PRODUCT)
        own = [
            1.0 if one is None else self._ranks[at][one[0].variant] if ranked else one[0].accuracy
            for at, one in enumerate(configs)
        ]
        if rule in (AccuracyRule.PRODUCT, AccuracyRule.RANK_PRODUCT):
            return _accuracy(self._shape, own)
        shares = [self._reach[at] if one else 0.0 for at, one in enumerate(configs)]
        total = sum(share * each for share, each in zip(shares, own, strict=True))
        return total / sum(shares) if rule is AccuracyRule.MEAN else total


def _stage_cost(n: int, new: float, n_old: int, old: float) -> float:
    """The most that replicas have that go on: each has the larger amount for a while."""
    unchanged = min(n, n_old)
    return max(new, old) * unchanged + new * (n - unchanged) + old * (n_old - unchanged)


def _amount(point: OperatingPoint, name: str) -> float:
    """The memory or accelerators of a kind that a replica has."""
    return point.memory_gib if name == "memory" else point.accelerators.get(name, 0.0)


def _amount_of(stage: StageProblem, variant: str, name: str) -> float:
    return next((_amount(point, name) for point in stage.points if point.variant == variant), 0.0)


def _ranks(problem: PlanningProblem, stage: StageProblem) -> dict[str, float]:
    """i/(|M| − 1) by rising accuracy, the lowest raised to the floor; 1 for a lone variant."""
    accuracy = {point.variant: point.accuracy for point in stage.points}
    rising = sorted(accuracy, key=lambda name: accuracy[name])
    if len(rising) == 1:
        return {rising[0]: 1.0}
    floor = problem.objective.rank_floor or 0.0
    return {
        name: max(place / (len(rising) - 1), 0.0 if place else floor) for place, name in enumerate(rising)
    }


def _shape(problem: PlanningProblem) -> str:
    return next(
        name
        for name, nodes in shapes().items()
        if [(stage.kind, stage.combine, [int(e.parent[1:]) for e in stage.after]) for stage in problem.stages]
        == nodes
    )


def shape_of(problem: PlanningProblem) -> str:
    """The name of the problem's kind of graph; "chain" for any other row of stages."""
    try:
        return _shape(problem)
    except StopIteration:
        return "chain"


def _reach(problem: PlanningProblem, at: int) -> float:
    names = [stage.name for stage in problem.stages]
    if not problem.stages[at].after:
        return 1.0
    parts = [_reach(problem, names.index(edge.parent)) * edge.share for edge in problem.stages[at].after]
    # Branches of a router add up again; the branches of a fork are the same requests.
    merges = any(
        problem.stages[names.index(edge.parent)].kind is not ROUTER for edge in problem.stages[at].after
    )
    return sum(parts) if merges and len(parts) > 1 and _after_router(problem, at) else max(parts)


def _after_router(problem: PlanningProblem, at: int) -> bool:
    names = [stage.name for stage in problem.stages]
    parents = [names.index(edge.parent) for edge in problem.stages[at].after]
    return any(problem.stages[parent].kind is ROUTER or _after_router(problem, parent) for parent in parents)


def _accuracy(shape: str, own: list[float]) -> float:
    """The accuracy of each kind of graph, written out."""
    match shape:
        case "router":
            return own[0] * (0.3 * own[1] + 0.7 * own[2] * own[3])
        case "mean":
            return own[0] * (own[1] + own[2]) / 2 * own[3]
        case "max":
            return own[0] * max(own[1], own[2]) * own[3]
        case "nested":
            return own[0] * own[1] * (0.3 * own[2] + 0.7 * own[3]) * own[4]
        case _:
            return prod(own)
