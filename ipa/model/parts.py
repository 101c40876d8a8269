"""Several configurations of a pipeline side by side, each for a whole percent of its requests (a set).

They are kept as one row of stage configurations: each *part* has every stage in order, with the part's share
in each of them. A part for 0 % runs and waits for requests. A single configuration is one part for 100 %.
Containers other than the replicas, such as an orchestrator, run once for each part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ipa.model.plan import WHOLE_PERCENT, StageConfig

Configs = tuple[StageConfig, ...]


def parts_of(configs: Sequence[StageConfig]) -> tuple[Configs, ...]:
    """The configurations of each part; a new part begins with each repetition of the first stage."""
    starts = [at for at, config in enumerate(configs) if config.stage == configs[0].stage]
    stops = [*starts[1:], len(configs)] if starts else []
    return tuple(tuple(configs[start:stop]) for start, stop in zip(starts, stops, strict=True))


def is_shared(configs: Sequence[StageConfig]) -> bool:
    """True if several parts run side by side."""
    return bool(configs) and sum(config.stage == configs[0].stage for config in configs) > 1


def share_of(part: Sequence[StageConfig]) -> int:
    """The percentage of requests that a part takes."""
    return part[0].share_percent


def variants_of(part: Sequence[StageConfig]) -> frozenset[tuple[str, str]]:
    """(stage, variant) of each configuration."""
    return frozenset((config.stage, config.variant) for config in part)


def with_share(part: Sequence[StageConfig], percent: int) -> Configs:
    """Return the part with that percentage of the requests."""
    return tuple(replace(config, share_percent=percent) for config in part)


def in_order(parts: Sequence[Sequence[StageConfig]]) -> Configs:
    """Return the parts as one tuple, the largest share first, so that equal sets are equal tuples."""
    return tuple(config for part in sorted(parts, key=order_of) for config in part)


def order_of(part: Sequence[StageConfig]) -> tuple[object, ...]:
    """The sort key of a part."""
    places = [(config.variant, config.batch_size, config.cores, config.replicas) for config in part]
    return -share_of(part), places


def paired(
    old: Sequence[StageConfig], new: Sequence[StageConfig]
) -> tuple[tuple[Configs | None, Configs | None], ...]:
    """Pair each new part with the old one that it replaces (None: added), then list the old ones to remove.

    A part replaces the one that differs only in its share, else one of the same variants. One configuration
    alone replaces another alone.
    """
    olds, news = list(parts_of(old)), parts_of(new)
    if len(olds) == len(news) == 1:
        return ((olds[0], news[0]),)
    alike = {
        at: each for at, part in enumerate(news) for each in olds if with_share(each, share_of(part)) == part
    }
    taken = list(alike.values())
    pairs: list[tuple[Configs | None, Configs | None]] = []
    for at, part in enumerate(news):
        same = alike.get(at)
        if same is None:
            same = next(
                (each for each in olds if each not in taken and variants_of(each) == variants_of(part)), None
            )
        if same is not None:
            olds.remove(same)
        pairs.append((same, part))
    return (*pairs, *((gone, None) for gone in olds))


def stage_pairs(
    old: Sequence[StageConfig], new: Sequence[StageConfig]
) -> Iterator[tuple[StageConfig | None, StageConfig]]:
    """Each new configuration in order, with the old one of its stage that it replaces; None without one."""
    for before, after in paired(old, new):
        was = {config.stage: config for config in before or ()}
        for config in after or ():
            yield was.get(config.stage), config


def gone_parts(old: Sequence[StageConfig], new: Sequence[StageConfig]) -> tuple[Configs, ...]:
    """The old parts that no new part replaces."""
    return tuple(before for before, after in paired(old, new) if before is not None and after is None)


def only_shares(old: Sequence[StageConfig], new: Sequence[StageConfig]) -> bool:
    """True if the same parts run and only their shares change."""
    return all(
        before is not None and after is not None and with_share(before, share_of(after)) == after
        for before, after in paired(old, new)
    )


def share_faults(configs: Sequence[StageConfig]) -> list[str]:
    """Errors in the shares, in words: each must be a whole percent, and they must sum to 100."""
    faults = [
        f"{config}: a share is 0 to {WHOLE_PERCENT} %"
        for config in configs
        if not 0 <= config.share_percent <= WHOLE_PERCENT
    ]
    for part in parts_of(configs):
        if len({config.share_percent for config in part}) > 1:
            faults.append(f"the stages of one part have different shares: {', '.join(map(str, part))}")
    total = sum(share_of(part) for part in parts_of(configs))
    if configs and total != WHOLE_PERCENT:
        faults.append(f"the shares are {total} % together, not {WHOLE_PERCENT} %")
    return faults


@dataclass(frozen=True, slots=True)
class Overhead:
    """Cores beside each part (`fixed_cores`), and beside each replica of some stages, by name.

    One configuration alone is one part; of several side by side each has an orchestrator of its own.
    """

    fixed_cores: float = 0.0
    each_cores: tuple[tuple[str, float], ...] = ()

    def each(self, stage: str) -> float:
        """Overhead cores of each replica of the stage."""
        return next((cores for name, cores in self.each_cores if name == stage), 0.0)

    def with_overhead(self, config: StageConfig) -> StageConfig:
        """Return the configuration with the overhead included in its cores per replica."""
        beside = self.each(config.stage)
        return replace(config, cores=config.cores + beside) if beside else config

    def cores(self, configs: Sequence[StageConfig]) -> float:
        """Cores of all replicas of all stages, overhead included."""
        parts = max(1, len(parts_of(configs)))
        return parts * self.fixed_cores + sum(self.with_overhead(config).total_cores for config in configs)


NO_OVERHEAD = Overhead()


@dataclass(frozen=True, slots=True)
class FrontCores:
    """Router and queues that share a machine with the replicas: `request_s` is their CPU time a request.

    `machine_cores` are the cores that all of them share.
    """

    machine_cores: float
    request_s: float

    def left_cores(self, rate_rps: float) -> float:
        """The cores that remain for the replicas at that rate."""
        return max(0.0, self.machine_cores - self.request_s * rate_rps)
