"""The order in which the parts of a split pipeline are written: every prefix of every change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from ipa.model.plan import StageConfig
from ipa.targets.seldon.layouts import PartRole, steps

Configs = tuple[StageConfig, ...]


def capacity(config: StageConfig) -> float:
    """Any rate that grows with batch and cores; by variant as it likes."""
    each = {"s": 5.0, "m": 3.0, "l": 1.0}[config.variant]
    return config.replicas * each * config.batch_size**0.4 * config.cores**0.8


def prefixes(running: Configs, wanted: Configs) -> Iterator[Configs]:
    """The running configuration after each write."""
    then = {config.stage: config for config in wanted}
    now = {config.stage: config for config in running}
    for role, stage in steps(running, wanted):
        new, old = then[stage], now[stage]
        if role is PartRole.QUEUE:
            now[stage] = replace(old, batch_size=new.batch_size)
        else:
            now[stage] = replace(new, batch_size=old.batch_size)
        yield tuple(now.values())


CONFIG = st.builds(
    StageConfig,
    st.just(""),
    st.sampled_from("sml"),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(1, 6),
)
PAIR = st.lists(st.tuples(CONFIG, CONFIG), min_size=1, max_size=3).map(
    lambda pairs: tuple(
        tuple(replace(one, stage=f"s{at}") for at, one in enumerate(side))
        for side in zip(*pairs, strict=True)
    )
)


@given(PAIR)
def test_after_every_write_each_stage_carries_the_less_of_before_and_after(
    pair: tuple[Configs, Configs],
) -> None:
    running, wanted = pair
    states = [running, *prefixes(running, wanted)]
    assert states[-1] == wanted
    for state in states:
        for now, before, after in zip(state, running, wanted, strict=True):
            assert capacity(now) >= min(capacity(before), capacity(after)) * (1 - 1e-12)
            assert now.batch_size in (before.batch_size, after.batch_size)
            assert now.cores * now.replicas <= max(before.total_cores, after.total_cores) + 1e-12


@given(PAIR)
def test_no_stage_only_shrinks_before_every_other_has_grown(pair: tuple[Configs, Configs]) -> None:
    running, wanted = pair
    grown = [
        (role, stage)
        for role, stage in steps(running, wanted)
        if role is PartRole.MODEL and _only(running, wanted, stage, grows=True)
    ]
    shrunk = [
        (role, stage)
        for role, stage in steps(running, wanted)
        if role is PartRole.MODEL and _only(running, wanted, stage, grows=False)
    ]
    order = list(steps(running, wanted))
    assert all(order.index(one) < order.index(other) for one, other in product(grown, shrunk))


def _only(running: Configs, wanted: Configs, stage: str, *, grows: bool) -> bool:
    now, then = (next(c for c in side if c.stage == stage) for side in (running, wanted))
    low, high = (now, then) if grows else (then, now)
    return now.variant == then.variant and low.cores <= high.cores and low.replicas <= high.replicas
