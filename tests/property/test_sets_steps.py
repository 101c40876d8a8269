"""The way from any set to any other: whole shares, no requests where nothing serves, within the budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ipa.control.engine.transition import safe_step
from ipa.model.overhead import Overhead
from ipa.model.parts import in_order, paired, parts_of, share_faults, share_of
from ipa.model.pipeline import Bounds
from ipa.model.plan import StageConfig
from ipa.model.rolling import DEPLOYMENT, SIDE_BY_SIDE, change_peak
from tests.fakes.set_rows import sets

Configs = tuple[StageConfig, ...]
BESIDE = Overhead(0.5)


@given(sets(), sets())
def test_predictors_serve_before_they_are_sent_requests_and_the_set_is_reached(
    running: Configs, wanted: Configs
) -> None:
    bounds = Bounds(cores=80.0, overhead=BESIDE)
    for _ in range(2):
        if running == wanted:
            break
        before = {part[0].variant: part[0] for part in parts_of(running)}
        step = safe_step(running, wanted, DEPLOYMENT, bounds)
        assert step.configs != running and share_faults(step.configs) == []
        is_alone = len(parts_of(running)) == len(parts_of(step.configs)) == 1
        for (config,) in parts_of(step.configs):
            old = before.get(config.variant)
            # One alone is replaced by its Deployment, which keeps the old pods till the new ones serve.
            assert old is not None or config.share_percent == 0 or is_alone
            if old is not None and config.share_percent > old.share_percent:
                # More requests come only where no pods are still to grow.
                assert config.total_cores <= old.total_cores
        assert change_peak(running, step.configs, DEPLOYMENT, Bounds(overhead=BESIDE)).cpu_cores <= 80.0
        running = step.configs
    assert running == wanted


@given(sets(), sets(), st.sampled_from([12.0, 16.0, 24.0]))
def test_side_by_side_a_set_is_reached_at_once_or_not_at_all(
    running: Configs, wanted: Configs, cores: float
) -> None:
    step = safe_step(running, wanted, SIDE_BY_SIDE, Bounds(cores=cores, overhead=BESIDE))
    peak_cores = change_peak(running, wanted, SIDE_BY_SIDE, Bounds(overhead=BESIDE)).cpu_cores
    most_cores = max(cores, BESIDE.cores(running))
    if len(parts_of(running)) > 1 or len(parts_of(wanted)) > 1:
        assert step.configs == (wanted if peak_cores <= most_cores + 1e-9 else running)
        assert (step.lacking.cpu_cores > 0) == (peak_cores > most_cores + 1e-9)


@given(sets(), sets())
def test_pairs_are_of_every_part_once(running: Configs, wanted: Configs) -> None:
    pairs = paired(running, wanted)
    assert in_order([new for _, new in pairs if new is not None]) == wanted
    assert in_order([old for old, _ in pairs if old is not None]) == running
    assert sum(share_of(new) for _, new in pairs if new) == 100
