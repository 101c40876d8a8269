"""The routes of requests through a pipeline's graph: branches, items, joins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ipa.model.pipeline import Edge, Pipeline, StageKind
from ipa.simulate.columns import Bools, Floats, Ints, T, grown

# The uses of the streams of random numbers; 0 is for service times.
BRANCH, ROUNDING = 1, 2


@dataclass(frozen=True, slots=True)
class Link:
    """An edge of the graph by numbers: from stage `parent` to stage `child`, the `place`-th before that."""

    parent: int
    child: int
    place: int
    edge: Edge


class Routes:
    """The route of each request by its id: drawn at its arrival, updated on its way."""

    def __init__(self, pipeline: Pipeline, seed: int) -> None:
        stages = pipeline.stages
        number = {stage.name: at for at, stage in enumerate(stages)}
        links = [
            Link(number[edge.parent], at, place, edge)
            for at, stage in enumerate(stages)
            for place, edge in enumerate(stage.after)
        ]
        self.links = tuple(tuple(link for link in links if link.parent == at) for at in range(len(stages)))
        self.before = tuple(tuple(link for link in links if link.child == at) for at in range(len(stages)))
        self._routers = [
            at
            for at, stage in enumerate(stages)
            if stage.kind is StageKind.ROUTER and len(self.links[at]) > 1
        ]
        self._joins = [at for at, before in enumerate(self.before) if len(before) > 1]
        # A request on several branches may be lost on each.
        self._forks = any(len(after) > 1 for at, after in enumerate(self.links) if at not in self._routers)
        self._forks |= sum(not before for before in self.before) > 1
        self._ends = [at for at, after in enumerate(self.links) if not after]
        self.has_items = any(link.edge.fan_out != 1.0 for link in links)
        self._branch_rngs = {at: np.random.default_rng((seed, BRANCH, at)) for at in self._routers}
        self._rounding_rngs = {
            (link.child, link.place): np.random.default_rng((seed, ROUNDING, link.child, link.place))
            for link in links
            if not _is_whole(link.edge.fan_out)
        }
        # By id. Branches: the child that a router chose. Left: parents that a join still waits for.
        self._branch = {at: np.empty(0, dtype=np.int64) for at in self._routers}
        self._rounding = {key: np.empty(0) for key in self._rounding_rngs}
        self._left = {at: np.empty(0, dtype=np.int64) for at in self._joins}
        self._items = {at: np.empty(0, dtype=np.int64) for at in range(len(stages)) if self.has_items}
        self._sent = {
            (link.child, link.place): np.empty(0, dtype=np.int64)
            for at in self._joins
            for link in self.before[at]
            if self.has_items
        }
        self._ends_left = np.empty(0, dtype=np.int64)
        self._ended = np.empty(0, dtype=np.bool_)

    def draw(self, first: int, count: int) -> None:
        """Draw the routes of the next requests, `first` to first + count - 1."""
        stop = first + count
        new = slice(first, stop)
        visits: list[Bools] = []
        for at in self._routers:
            links = self.links[at]
            shares = np.cumsum([link.edge.share for link in links])
            place = np.searchsorted(shares / shares[-1], self._branch_rngs[at].random(count), side="right")
            children = np.array([link.child for link in links])
            _put(self._branch, at, new, children[np.minimum(place, len(links) - 1)])
        for key, rng in self._rounding_rngs.items():
            _put(self._rounding, key, new, rng.random(count))
        for at, before in enumerate(self.before):
            live = np.array([visits[link.parent] & self._takes(link, new) for link in before], dtype=np.bool_)
            visits.append(np.asarray(live.any(axis=0)) if before else np.ones(count, dtype=np.bool_))
            if at in self._left:
                _put(self._left, at, new, live.sum(axis=0))
        for at in self._items:
            _put(self._items, at, new, 1)
        for key in self._sent:
            _put(self._sent, key, new, -1)
        if self._forks:
            self._ends_left = grown(self._ends_left, stop)
            self._ends_left[new] = np.sum([visits[at] for at in self._ends], axis=0)
            self._ended = grown(self._ended, stop)
            self._ended[new] = False

    def takes(self, link: Link, ids: Ints) -> Bools | None:
        """True for those of these requests that go along the link; None: all."""
        return self._branch[link.parent][ids] == link.child if link.parent in self._branch else None

    def _takes(self, link: Link, new: slice) -> Bools:
        if link.parent not in self._branch:
            return np.ones(new.stop - new.start, dtype=np.bool_)
        return np.asarray(self._branch[link.parent][new] == link.child)

    def send(self, link: Link, ids: Ints, variants: Sequence[str], server: Ints) -> None:
        """Note the items that these requests, served by these replicas, bring along the link."""
        if not self.has_items:
            return
        fan_out = link.edge.fan_out
        if isinstance(fan_out, Mapping):
            by_server = np.array([*(fan_out.get(name, 0.0) for name in variants), 0.0])
            exact = self._items[link.parent][ids] * by_server[server]
        else:
            exact = self._items[link.parent][ids] * float(fan_out)
        key = (link.child, link.place)
        whole = np.floor(exact + 1e-9)
        if key in self._rounding:
            whole += self._rounding[key][ids] < exact - whole
        counts = whole.astype(np.int64)
        if key in self._sent:
            self._sent[key][ids] = counts
        else:
            self._items[link.child][ids] = counts

    def arrive(self, at: int, ids: Ints, times_s: Floats) -> tuple[Ints, Floats]:
        """Of the requests sent to a stage, in order of time, those that begin there now: ids, times.

        At a join that is the last of each; ids may repeat in the input.
        """
        if at not in self._left or not len(ids):
            return ids, times_s
        order = np.argsort(times_s, kind="stable")
        ids, times_s = ids[order], times_s[order]
        left = self._left[at]
        np.subtract.at(left, ids, 1)
        _, last = np.unique(ids[::-1], return_index=True)
        places = np.sort(len(ids) - 1 - last)
        places = places[left[ids[places]] == 0]
        ids, times_s = ids[places], times_s[places]
        if self.has_items:
            for link in reversed(self.before[at]):
                sent = self._sent[at, link.place][ids]
                self._items[at][ids[sent >= 0]] = sent[sent >= 0]
        return ids, times_s

    def items(self, at: int, ids: Ints) -> Ints | None:
        """The number of items that these requests bring to a stage; None: one each."""
        return self._items[at][ids] if self.has_items else None

    def end(self, ids: Ints, lost: Bools) -> Bools:
        """True for those, in order of time, that end their request: at its last stage, or its first loss."""
        if not self._forks:
            return np.ones(len(ids), dtype=np.bool_)
        np.subtract.at(self._ends_left, ids[~lost], 1)
        ends = np.zeros(len(ids), dtype=np.bool_)
        _, last = np.unique(ids[::-1], return_index=True)
        places = len(ids) - 1 - last
        ends[places[(self._ends_left[ids[places]] == 0) & ~lost[places]]] = True
        places = np.flatnonzero(lost)
        _, first = np.unique(ids[places], return_index=True)
        ends[places[first]] = True
        ends &= ~self._ended[ids]
        self._ended[ids[ends]] = True
        return ends


def _put(columns: dict[Any, NDArray[T]], key: Any, new: slice, values: ArrayLike) -> None:
    columns[key] = grown(columns[key], new.stop)
    columns[key][new] = values


def _is_whole(fan_out: float | Mapping[str, float]) -> bool:
    values = fan_out.values() if isinstance(fan_out, Mapping) else (fan_out,)
    return all(float(value).is_integer() for value in values)
