"""Sets of up to four variants of one stage, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from ipa.model.parts import Configs, in_order, with_share
from ipa.model.plan import StageConfig


@st.composite
def sets(draw: st.DrawFn) -> Configs:
    names = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True))
    cuts = sorted(draw(st.lists(st.integers(1, 99), min_size=len(names) - 1, max_size=len(names) - 1)))
    shares = [high - low for low, high in zip([0, *cuts], [*cuts, 100], strict=True)]
    cores = [draw(st.sampled_from([1.0, 2.0, 4.0, 8.0])) for _ in names]
    return in_order(
        [
            with_share((StageConfig("classify", name, 1, each, 1),), share)
            for name, each, share in zip(names, cores, shares, strict=True)
        ]
    )


@st.composite
def parts_of_two_stages(draw: st.DrawFn) -> Configs:
    """One to three configurations of two stages side by side; two may be of the same variants."""
    count = draw(st.integers(1, 3))
    cuts = sorted(draw(st.lists(st.integers(1, 99), min_size=count - 1, max_size=count - 1, unique=True)))
    shares = [high - low for low, high in zip([0, *cuts], [*cuts, 100], strict=True)]
    parts = [
        tuple(
            StageConfig(
                stage,
                draw(st.sampled_from(["small", "large"])),
                draw(st.sampled_from([1, 4])),
                draw(st.sampled_from([1.0, 2.0])),
                draw(st.integers(1, 5)),
            )
            for stage in ("detect", "classify")
        )
        for _ in range(count)
    ]
    return in_order([with_share(part, share) for part, share in zip(parts, shares, strict=True)])
