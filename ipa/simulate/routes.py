"""The routes of requests through a pipeline's graph: branches, items, joins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ipa.model.pipeline import Edge, Pipeline, StageKind
from ipa.simulate.columns import Bools, Floats, Ints, RowTable

# The uses of the streams of random numbers; 0 is for service times.
BRANCH, ROUNDING = 1, 2
# Columns of a request that several branches may end.
ENDS_LEFT, HAS_ENDED = ("ends left",), ("has ended",)


@dataclass(frozen=True, slots=True)
class Link:
    """An edge of the graph by numbers: from stage `parent` to stage `child`, the `place`-th before that."""

    parent: int
    child: int
    place: int
    edge: Edge


class Routes:
    """The route of each request by its id: drawn at its arrival, updated on its way, forgotten at its end."""

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
        # Branch: the child that a router chose. Left: parents that a join still waits for.
        self._table = RowTable(
            {("branch", at): 0 for at in self._routers}
            | {("rounding", *key): 0.0 for key in self._rounding_rngs}
            | {("left", at): 0 for at in self._joins}
            | {("items", at): 1 for at in range(len(stages)) if self.has_items}
            | {
                ("sent", at, link.place): -1
                for at in self._joins
                for link in self.before[at]
                if self.has_items
            }
            | ({ENDS_LEFT: 0, HAS_ENDED: False} if self._forks else {})
        )

    def draw(self, ids: Ints) -> None:
        """Draw the routes of the next requests."""
        if not self._table.columns:
            return
        count = len(ids)
        if not count:
            return
        self._table.reach(int(ids[-1]) + 1)
        columns = self._table.columns
        visits: list[Bools] = []
        for at in self._routers:
            links = self.links[at]
            shares = np.cumsum([link.edge.share for link in links])
            place = np.searchsorted(shares / shares[-1], self._branch_rngs[at].random(count), side="right")
            children = np.array([link.child for link in links])
            columns["branch", at][ids] = children[np.minimum(place, len(links) - 1)]
        for key, rng in self._rounding_rngs.items():
            columns["rounding", *key][ids] = rng.random(count)
        for at, before in enumerate(self.before):
            live = np.array([visits[link.parent] & self._takes(link, ids) for link in before], dtype=np.bool_)
            visits.append(np.asarray(live.any(axis=0)) if before else np.ones(count, dtype=np.bool_))
            if at in self._joins:
                columns["left", at][ids] = live.sum(axis=0)
        if self._forks:
            columns[ENDS_LEFT][ids] = np.sum([visits[at] for at in self._ends], axis=0)

    def takes(self, link: Link, ids: Ints) -> Bools | None:
        """True for those of these requests that go along the link; None: all."""
        return self._takes(link, ids) if link.parent in self._routers else None

    def _takes(self, link: Link, ids: Ints) -> Bools:
        if link.parent not in self._routers:
            return np.ones(len(ids), dtype=np.bool_)
        return np.asarray(self._table.columns["branch", link.parent][ids] == link.child)

    def send(self, link: Link, ids: Ints, variants: Sequence[str], server: Ints) -> None:
        """Note the items that these requests, served by these replicas, bring along the link."""
        if not self.has_items:
            return
        columns = self._table.columns
        fan_out = link.edge.fan_out
        if isinstance(fan_out, Mapping):
            by_server = np.array([*(fan_out.get(name, 0.0) for name in variants), 0.0])
            exact = columns["items", link.parent][ids] * by_server[server]
        else:
            exact = columns["items", link.parent][ids] * float(fan_out)
        key = (link.child, link.place)
        whole = np.floor(exact + 1e-9)
        if key in self._rounding_rngs:
            whole += columns["rounding", *key][ids] < exact - whole
        goes_to = ("sent", *key) if link.child in self._joins else ("items", link.child)
        columns[goes_to][ids] = whole.astype(np.int64)

    def arrive(self, at: int, ids: Ints, times_s: Floats) -> Ints | slice:
        """The places, in order of time, of those of the requests sent to a stage that begin there now.

        At a join that is the last of each; ids may repeat in the input.
        """
        if at not in self._joins or not len(ids):
            return slice(None)
        order = np.argsort(times_s, kind="stable")
        rows, columns = ids[order], self._table.columns
        left = columns["left", at]
        np.subtract.at(left, rows, 1)
        _, last = np.unique(rows[::-1], return_index=True)
        places = np.sort(len(rows) - 1 - last)
        places = places[left[rows[places]] == 0]
        if self.has_items:
            begun = rows[places]
            for link in reversed(self.before[at]):
                sent = columns["sent", at, link.place][begun]
                columns["items", at][begun[sent >= 0]] = sent[sent >= 0]
        begun_at: Ints = order[places]
        return begun_at

    def items(self, at: int, ids: Ints) -> Ints | None:
        """The number of items that these requests bring to a stage; None: one each."""
        return self._table.columns["items", at][ids] if self.has_items else None

    def end(self, ids: Ints, lost: Bools) -> Bools:
        """True for those, in order of time, that end their request: at its last stage, or its first loss."""
        if not self._forks:
            return np.ones(len(ids), dtype=np.bool_)
        ends_left, has_ended = self._table.columns[ENDS_LEFT], self._table.columns[HAS_ENDED]
        np.subtract.at(ends_left, ids[~lost], 1)
        ends = np.zeros(len(ids), dtype=np.bool_)
        _, last = np.unique(ids[::-1], return_index=True)
        places = len(ids) - 1 - last
        ends[places[(ends_left[ids[places]] == 0) & ~lost[places]]] = True
        places = np.flatnonzero(lost)
        _, first = np.unique(ids[places], return_index=True)
        ends[places[first]] = True
        ends &= ~has_ended[ids]
        has_ended[ids[ends]] = True
        return ends


def _is_whole(fan_out: float | Mapping[str, float]) -> bool:
    values = fan_out.values() if isinstance(fan_out, Mapping) else (fan_out,)
    return all(float(value).is_integer() for value in values)
