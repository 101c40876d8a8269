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
