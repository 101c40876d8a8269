"""The order in which the parts of a split pipeline are written: every prefix of every change."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.section import SeldonRun, SeldonTarget, Shape
from tests.amounts import many

Configs = tuple[StageConfig, ...]
STAGES = ("a", "b", "c")


def variants() -> tuple[Variant, ...]:
    return tuple(Variant(name, {"seldon": SeldonRun(f"registry.example/{name}:1")}) for name in "sml")


LAYOUT = layout_of(
    Pipeline(
        "ordered",
        chain([Stage(name, variants()) for name in STAGES]),
        Sla(1.0),
        {"default": Objective()},
        targets={"seldon": SeldonTarget("ordered", shape=Shape.SPLIT, image="registry.example/ipa:1")},
    )
)


def configs() -> st.SearchStrategy[Configs]:
    one = st.tuples(
        st.sampled_from("sml"),
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from([0.5, 1.0, 2.0]),
        st.integers(1, 6),
    )
    return st.tuples(one, one, one).map(
        lambda rows: tuple(StageConfig(name, *row) for name, row in zip(STAGES, rows, strict=True))
    )


def capacity(config: StageConfig) -> float:
    """Any rate that grows with batch and cores; by variant as it likes."""
    each = {"s": 5.0, "m": 3.0, "l": 1.0}[config.variant]
    return config.replicas * each * config.batch_size**0.4 * config.cores**0.8


def only(now: StageConfig, then: StageConfig, *, grows: bool) -> bool:
    low, high = (now, then) if grows else (then, now)
    return now.variant == then.variant and low.cores <= high.cores and low.replicas <= high.replicas


@settings(max_examples=many(100), deadline=None)
@given(configs(), configs())
def test_every_prefix_of_a_change_is_safe(running: Configs, wanted: Configs) -> None:
    """Each stage carries the less of before and after, and none only shrinks before others have grown."""
    objects = {body["metadata"]["name"]: body for body in LAYOUT.render(running)}
    states, has_shrunk = [running], False
    for name, changed in LAYOUT.changes(objects, wanted).items():
        objects[name] = changed
        states.append(LAYOUT.observe(objects).configs)
        (stage,) = (each for each in STAGES if f"-{each}-" in name)
        at = STAGES.index(stage)
        if name.endswith("-model"):
            assert not (has_shrunk and only(running[at], wanted[at], grows=True))
            has_shrunk = has_shrunk or only(running[at], wanted[at], grows=False)
            assert states[-1] == tuple(
                replace(wanted[at], batch_size=it.batch_size) if it.stage == stage else it
                for it in states[-2]
            )
    assert states[-1] == wanted
    for state in states:
        for now, before, after in zip(state, running, wanted, strict=True):
            assert capacity(now) >= min(capacity(before), capacity(after)) * (1 - 1e-12)
            assert now.batch_size in (before.batch_size, after.batch_size)
            assert now.cores * now.replicas <= max(before.total_cores, after.total_cores) + 1e-12
