"""Parts that share the load in virtual time: the split of requests, and each part's requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ipa.simulate.cluster import Serving
from ipa.simulate.columns import Floats, Ints
from ipa.simulate.graph import PipelineSim
from ipa.simulate.queue import Pods

# The use of the stream of random numbers; those of `routes` are counted from 0.
SHARES = 3


class TrafficSplit:
    """Splits arriving requests, each at random by the present percentages, as an ingress does.

    So the requests of each part are random too, and its percentage holds up to chance.
    """

    def __init__(self, times_s: Floats, seed: int) -> None:
        self._times_s = times_s
        self._rng = np.random.default_rng((seed, SHARES))
        self._next = 0

    def until(self, until_s: float, shares: Mapping[int, int]) -> dict[int, tuple[Ints, Floats]]:
        """The requests since the last call and before `until_s`: ids and times, by slot."""
        first, self._next = self._next, int(np.searchsorted(self._times_s, until_s))
        ids, times_s = np.arange(first, self._next), self._times_s[first : self._next]
        if not len(ids):
            return {}
        taking = [slot for slot, percent in shares.items() if percent]
        if len(taking) == 1:
            return {taking[0]: (ids, times_s)}
        ends = np.cumsum([shares[slot] for slot in taking])
        places = np.searchsorted(ends, self._rng.random(len(ids)) * ends[-1], side="right")
        return {slot: (ids[places == place], times_s[places == place]) for place, slot in enumerate(taking)}


class SplitPart:
    """A part's own stages and queues. `pas` is the accuracy of the serving pods, or of the last ones.

    `is_emptying`: the part is being removed, and still serves the requests inside.
    """

    def __init__(self, sim: PipelineSim) -> None:
        self.sim = sim
        self.serving: dict[str, Serving] = {}
        self.pods: dict[str, list[Pods]] = {}
        self.pas = 0.0
        self.is_emptying = False

    def run(self, until_s: float) -> tuple[Ints, Floats, Floats]:
        """Advance; return the requests answered before then, with times, and the times of losses."""
        finished = self.sim.run(until_s)
        answered = ~finished.lost
        return finished.ids[answered], finished.done_s[answered], finished.done_s[finished.lost]


def in_time(pieces: Sequence[tuple[Ints, Floats]]) -> tuple[Ints, Floats]:
    """Concatenate the pieces, in order of time."""
    if len(pieces) == 1:
        return pieces[0]
    ids, done_s = (np.concatenate(column) for column in zip(*pieces, strict=True))
    order = np.argsort(done_s, kind="stable")
    return ids[order], done_s[order]
